"""The command line as a user meets it: a process, its files, its one-line errors."""

import json
import os
import shutil
import subprocess
import sys

import pytest
from PIL import Image
from safetensors import safe_open

from dpid.denoisers.loading import embedded_path

PROMPT = "a cow and a giraffe"


def dpid(*arguments, cwd):
    return subprocess.run(
        [sys.executable, "-c", "from dpid.cli import main; main()", *map(str, arguments)],
        capture_output=True, text=True, cwd=cwd, env={**os.environ, "COLUMNS": "200"},
    )  # fmt: skip


def test_demo_makes_a_picture_and_explains_it(tmp_path):
    done = dpid("demo", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "made").iterdir()} == {
        "picture.png", "maps.png", "profile.png", "result.json", "result.safetensors",
    }  # fmt: skip
    with Image.open(tmp_path / "made/picture.png") as picture:
        assert picture.size == (64, 64)
    assert "unique: giraffe" in done.stdout
    assert "iʳ" in done.stdout
    assert "iˢ" in done.stdout
    assert done.stderr == ""
    with safe_open(tmp_path / "made/result.safetensors", "pt") as f:
        assert {"maps/redundancy", "maps/unique/cow", "maps/stderr/synergy"} <= set(f.keys())


def test_explain(two_things, tmp_path):
    path, prompt, (first, second) = two_things
    done = dpid("explain", path, prompt, "-c", first, "-c", second, "--samples", 8, "--context", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "explained/result.json").read_text())
    assert result["unet_evaluations"] == 32
    assert result["context"] is True
    assert result["concepts"] == [first, second]


def test_info(tmp_path):
    done = dpid("info", cwd=tmp_path)
    assert done.returncode == 0
    assert "giraffe" in done.stdout


@pytest.fixture(scope="module")
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
    return root


def test_pairs_say_what_is_to_be_known_of_each(bad, tmp_path):
    words = ("-c", "cow", "-c", "giraffe", "-c", "pizza")
    tight = ("--pairs", "--samples", "8", "--tolerance", "1e-6", "--out", tmp_path)
    done = dpid("explain", "noisy.png", "a cow, a giraffe and a pizza", *words, *tight, cwd=bad)
    assert done.returncode == 0, done.stderr
    for pair in ("cow + giraffe", "cow + pizza", "giraffe + pizza"):
        assert f"note: {pair}: the tolerance was not reached" in done.stdout
        assert (tmp_path / pair.replace(" ", "") / "maps.png").is_file()


def test_brackets_and_dollars_are_text(bad, tmp_path):
    prompt = "a [cow] for $5 and a $10 100% giraffe, $6"
    done = dpid("explain", "noisy.png", prompt, "-c", "[cow]", "-c", "giraffe", "--samples", "8", "--out", tmp_path,
                cwd=bad)  # fmt: skip
    assert done.returncode == 2  # the model knows no brackets, and says so
    assert "does not know '[cow]'" in done.stderr
    done = dpid(
        "explain", "noisy.png", prompt, "-c", "cow", "-c", "giraffe", "--samples", "8", "--out", tmp_path, cwd=bad
    )
    assert done.returncode == 0, done.stderr
    assert prompt in done.stdout
    assert (tmp_path / "profile.png").is_file()


def test_without_a_command_there_is_help_and_nothing_else(tmp_path):
    done = dpid(cwd=tmp_path)
    assert "explain" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("image", "prompt", "concepts", "options", "message"),
    [
        ("good.png", PROMPT, ("cow", "dog"), (), "'dog' is not in the prompt; its words are a, cow, and, giraffe"),
        ("good.png", PROMPT, ("cow", "cow"), (), "each may be given once"),
        ("good.png", PROMPT, ("a cow", "cow"), (), "overlap"),
        ("good.png", PROMPT, ("cow",), (), "concepts: found 1 ('cow'), allowed are 2…8, each on its own"),
        ("good.png", "", ("cow", "dog"), (), "prompt: found an empty text"),
        ("good.png", "cow " * 20 + "dog", ("cow", "dog"), ("--context",), "would be cut: shorten it"),
        ("good.png", "a cow and a unicorn", ("cow", "unicorn"), (), "does not know 'unicorn'"),
        ("none.png", PROMPT, ("cow", "giraffe"), (), "none.png does not exist"),
        ("text.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("empty.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("truncated.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("folder", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("pixel.png", PROMPT, ("cow", "giraffe"), (), "1×1 pixels"),
        ("clear.png", PROMPT, ("cow", "giraffe"), (), "transparent"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./nowhere"), "nowhere is not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "nowhere"), "not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./folder"), "no model_index.json"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./pickled"), "pickle files"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "nobody/nothing"), "could not be loaded"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "cuda:99"), "device: 'cuda:99' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "gpu"), "device: 'gpu' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--reference", "Prompt"), "reference: found 'Prompt'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--out", "file"), "out: file cannot be written"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--out", "file/inside"), "cannot be written"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "0"), "samples: found 0"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "many"), "Invalid value for '--samples'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--precision", "int8"), "precision: found 'int8'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--estimator", "daam"), "estimator: found 'daam'"),
        ("good.png", PROMPT, (), (), "concept"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(bad, image, prompt, concepts, options, message):
    before = sorted(bad.rglob("*"))
    chosen = [x for c in concepts for x in ("-c", c)]
    done = dpid("explain", image, prompt, *chosen, *options, cwd=bad)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("dpid: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(bad.rglob("*")) == before, "nothing may be left half-written"
