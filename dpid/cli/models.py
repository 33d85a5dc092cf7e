"""``dpid models``: which models can be explained, what each costs at its true size, and what is distilled."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rich.table import Table

from dpid.cli.tables import table_console

# Written by benchmarks/measurements.py from the ledger: the figures are measured once, without weights.
_FIGURES = files("dpid.cli") / "models.json"


def models() -> None:
    """Models that can be explained: their pipelines, size, cost of an evaluation, and distillation."""
    figures = json.loads(_FIGURES.read_text(encoding="utf-8"))
    # The names of its classes are strings there; importing it takes seconds.
    found = find_spec("diffusers")
    known = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    missing = f"not in diffusers {version('diffusers')}"
    table = Table(title="One evaluation at the native size", title_justify="left")
    for column in ("model", "pipeline"):
        table.add_column(column, overflow="fold")  # a name is to be copied whole
    for column in ("bf16\nGB", "fp32\nGB", "activations\nGB", "TFLOP"):
        table.add_column(column, justify="right", overflow="fold")
    for column in ("evaluations a second", "distilled"):
        table.add_column(column, overflow="fold")
    for model in figures["models"]:
        pipeline = model["pipeline"]
        table.add_row(
            f"{model['name']}, {model['side']}²",
            pipeline if f'"{pipeline}"' in known else f"{pipeline} ({missing})",
            *(_number(model[name]) for name in ("bfloat16", "float32", "activations", "tflop")),
            model["per_second"], model["distilled"],
        )  # fmt: skip
    console = table_console()
    console.print(table)
    newest, oldest = (" and ".join(f"{k} {v}" for k, v in figures[name].items()) for name in ("newest", "oldest"))
    installed = " and ".join(f"{name} {version(name)}" for name in figures["newest"])
    console.print(
        "bf16, fp32: the network's weights; activations, in bf16, are those of one evaluation. Text encoders and the "
        f"VAE come on top. Speeds, where measured, are of random weights.\nTested with {newest}; Stable Diffusion 1, 2 "
        f"and XL with {oldest} too. Installed: "
        f"{installed}.\nFor the embedded models see dpid info.",
        highlight=False,
    )


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
