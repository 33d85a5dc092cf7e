"""The command line as a user meets it, in a process of its own, and files to give it."""

import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image

from dpid.denoisers.loading import embedded_path


@pytest.fixture(scope="session")
def entry():
    """The words that start ``dpid`` as a process."""
    return [sys.executable, "-c", "from dpid.cli import main; main()"]


@pytest.fixture(scope="session")
def dpid(entry):
    """Runs ``dpid`` as a process in the folder ``cwd``."""

    def run(*arguments, cwd):
        return subprocess.run(
            [*entry, *map(str, arguments)],
            capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "200"},
        )  # fmt: skip

    return run


@pytest.fixture(scope="session")
def bad(tmp_path_factory):
    """A folder of everything that can be wrong with a file."""
    root = tmp_path_factory.mktemp("bad")
    Image.new("RGB", (64, 64), "white").save(root / "good.png")
    whole = (root / "good.png").read_bytes()
    noisy = Image.effect_noise((64, 64), 90).convert("RGB")
    noisy.save(root / "noisy.png")
    (root / "truncated.png").write_bytes((root / "noisy.png").read_bytes()[:600])
    (root / "text.png").write_text("cow")
    (root / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(root / "pixel.png")
    Image.new("RGBA", (64, 64)).save(root / "clear.png")
    (root / "folder").mkdir()
    model = root / "pickled"
    shutil.copytree(embedded_path("emoji"), model)
    (model / "unet/diffusion_pytorch_model.safetensors").rename(model / "unet/diffusion_pytorch_model.bin")
    (root / "file").write_bytes(whole)
    (root / "custom").mkdir()
    (root / "custom/model_index.json").write_text('{"_class_name": "MyPipeline"}')
    return root
