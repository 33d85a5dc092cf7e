"""``dpid info``: what is installed, what it runs on, and what the embedded models know."""

from __future__ import annotations

import json
import platform

from rich.table import Table

from dpid.cli.tables import table_console


def info() -> None:
    """Versions, build, devices and embedded models."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from dpid import __version__
    from dpid.denoisers.loading import EMBEDDED, embedded_path
    from dpid.device import gpu_names
    from dpid.ops.compiled import CUDA_ARCHITECTURES, HAS_CUDA

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    table = Table(show_header=False, box=None)
    table.add_row("dpid", __version__)
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("torch", "diffusers", "transformers", "triton"):
        table.add_row(package, installed(package))
    table.add_row("CUDA in this build", f"yes, {CUDA_ARCHITECTURES}" if HAS_CUDA else "no")
    devices = gpu_names()
    table.add_row("devices", ", ".join([f"CPU ({torch.get_num_threads()} threads)", *devices]))
    # The embedded models have one world, and so the same words.
    words = json.loads((embedded_path(EMBEDDED[0]) / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
    known = sorted(w for w in words if w.isalpha())
    table.add_row(f"models {', '.join(EMBEDDED)}", f"{len(known)} words: {', '.join(known)}")
    table_console().print(table)
