"""``dpid models``: which models can be explained, what each costs at its true size, and what is distilled."""

from __future__ import annotations

import json
from collections.abc import Sequence
from importlib.metadata import version
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from rich.console import Group
from rich.padding import Padding
from rich.table import Table

from dpid.cli.tables import table_console

# Written by benchmarks/measurements.py from the ledger: the figures are measured once, without weights.
_FIGURES = files("dpid.cli") / "models.json"
_COLUMNS = 200  # columns of a terminal from which on all columns of the table have room


def models() -> None:
    """Models that can be explained: their pipelines, size, cost of an evaluation, and distillation."""
    figures = json.loads(_FIGURES.read_text(encoding="utf-8"))
    console = table_console()
    console.print((_wide if console.width >= _COLUMNS else _narrow)(figures["models"]))
    newest, oldest = (" and ".join(f"{k} {v}" for k, v in figures[name].items()) for name in ("newest", "oldest"))
    installed = " and ".join(f"{name} {version(name)}" for name in figures["newest"])
    console.print(
        "bf16, fp32: the network's weights; activations, in bf16: the most that one evaluation holds beside them; "
        "saved: of TFLOP by cutting text to 10 tokens. Text encoders and the VAE come on top. Speeds, where measured, "
        f"are of random weights.\nTested with {newest}; Stable Diffusion 1, 2 and XL with {oldest} too. Installed: "
        f"{installed}.\nFor the embedded models see dpid info.",
        highlight=False,
    )


def _wide(listed: Sequence[dict[str, Any]]) -> Table:
    """The table with a column of everything."""
    table = _empty(("model", "pipeline"), ("TFLOP\nat 512²", "10⁹\nparameters", "saved"))
    for column in ("evaluations a second", "distilled"):
        table.add_column(column, overflow="fold")
    for model, pipeline in zip(listed, _pipelines(listed), strict=True):
        more = (_number(model["small"]), _number(model["parameters"]), _saved(model))
        table.add_row(_name(model), pipeline, *_numbers(model), *more, model["per_second"], model["distilled"])
    return table


def _narrow(listed: Sequence[dict[str, Any]]) -> Table:
    """The table with what has no room beside the numbers below the name of a model."""
    table = _empty(("model",), ())
    for model, pipeline in zip(listed, _pipelines(listed), strict=True):
        small, parameters = _number(model["small"]), _number(model["parameters"])
        lines = [pipeline, f"{parameters}·10⁹ parameters, {small} TFLOP at 512²"]
        lines += [f"saved: {_saved(model)}"] if _saved(model) else []
        lines += [model["per_second"].replace(":", " evaluations a second:", 1)] if model["per_second"] else []
        lines += [f"distilled: {model['distilled']}"] if model["distilled"] != "no" else []
        table.add_row(Group(_name(model), Padding("\n".join(lines), (0, 0, 0, 1))), *_numbers(model))
    return table


def _empty(names: Sequence[str], more: Sequence[str]) -> Table:
    """A table without rows: columns of names, of numbers, and of ``more`` numbers."""
    table = Table(title="One evaluation at the native size", title_justify="left")
    for column in names:
        table.add_column(column, overflow="fold")  # a name is to be copied whole
    for column in ("bf16\nGB", "fp32\nGB", "activa-\ntions GB", "TFLOP", *more):
        table.add_column(column, justify="right", overflow="fold")
    return table


def _pipelines(listed: Sequence[dict[str, Any]]) -> list[str]:
    """The pipelines of models, marked where the installed diffusers lacks them."""
    # The names of its classes are strings there; importing it takes seconds.
    found = find_spec("diffusers")
    known = Path(found.origin).read_text(encoding="utf-8") if found and found.origin else ""
    missing = f" (not in diffusers {version('diffusers')})"
    return [p if f'"{p}"' in known else p + missing for p in (model["pipeline"] for model in listed)]


def _name(model: dict[str, Any]) -> str:
    return f"{model['name']}, {model['side']}²"


def _numbers(model: dict[str, Any]) -> list[str]:
    return [_number(model[number]) for number in ("bfloat16", "float32", "activations", "tflop")]


def _saved(model: dict[str, Any]) -> str:
    return "" if model["saved"] is None else f"{100 * model['saved']:.1f} %"


def _number(value: float) -> str:
    return f"{value:.0f}" if value >= 1000 else f"{value:.3g}"
