"""``dpid models``: which models can be explained, what each costs at its true size, and what is distilled."""

from __future__ import annotations

import json
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from dpid.cli.tables import table_console

# Written by benchmarks/measurements.py from the ledger: the figures are measured once, without weights.
_FIGURES = files("dpid.cli") / "models.json"
_WIDE = 160  # columns of a terminal from which on all columns of the table have room


def models() -> None:
    """Models that can be explained: their pipelines, size, cost of an evaluation, and distillation."""
    figures = json.loads(_FIGURES.read_text(encoding="utf-8"))
    # The names of its classes are strings there; importing it takes seconds.
    found = find_spec("diffusers")
    known = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    missing = f"not in diffusers {version('diffusers')}"
    console = table_console()
    wide = console.width >= _WIDE
    table = Table(title="One evaluation at the native size", title_justify="left")
    for column in ("model", "pipeline") if wide else ("model",):
        table.add_column(column, overflow="fold")  # a name is to be copied whole
    for column in ("bf16\nGB", "fp32\nGB", "activa-\ntions GB", "TFLOP"):
        table.add_column(column, justify="right", overflow="fold")
    for column in ("evaluations a second", "distilled") if wide else ():
        table.add_column(column, overflow="fold")
    for model in figures["models"]:
        name, pipeline = f"{model['name']}, {model['side']}²", model["pipeline"]
        pipeline = pipeline if f'"{pipeline}"' in known else f"{pipeline} ({missing})"
        numbers = [_number(model[number]) for number in ("bfloat16", "float32", "activations", "tflop")]
        if wide:
            table.add_row(name, pipeline, *numbers, model["per_second"], model["distilled"])
        else:
            table.add_row(_stacked(name, pipeline, model["per_second"], model["distilled"]), *numbers)
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


def _stacked(name: str, pipeline: str, per_second: str, distilled: str) -> Group:
    """The cell of a model in a table that is too narrow for a column of everything."""
    lines = [pipeline]
    lines += [per_second.replace(":", " evaluations a second:", 1)] if per_second else []
    lines += [f"distilled: {distilled}"] if distilled != "no" else []
    return Group(name, Padding("\n".join(lines), (0, 0, 0, 1)))


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
