"""Writes the documentation's pages and tables of measurements: ``python benchmarks/measurements.py [--check]``.

``docs/measurements.md``, ``docs/ledger.md`` and the tables in the README and ``docs/models.md`` are rendered from the
templates in ``benchmarks/templates`` (Jinja), which name rows of the ledger in place of numbers. What ``dpid models``
prints is in ``dpid/cli/models.json``. With ``--check`` nothing is written, and the exit code is 1 if a page is out of
date.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated, Any

import jinja2
import ledger
import typer
from ledger import Row
from true_sizes import MODELS, Model

ROOT = Path(__file__).parents[1]
_ABOUT = ("benchmark", "command", "machine", "versions", "commit", "weights", "date")


def finder(rows: list[Row]) -> Callable[..., Any]:
    """A function that finds the row of given keys; of several, that with the most values, then the newest.

    ``device`` is the start of its name. If there is none it raises ``LookupError``, or returns None if ``optional``.
    """

    def find(
        benchmark: str, case: str, metric: str, command: str = "", device: str = "CPU", optional: bool = False
    ) -> Row | None:
        found = [
            row for row in rows
            if (row["benchmark"], row["case"], row["metric"]) == (benchmark, case, metric)
            and ledger.key(row)[-1].startswith(device) and row["command"].endswith(command)
        ]  # fmt: skip
        if not found and optional:
            return None
        if not found:
            raise LookupError(f"no row of {benchmark}; {case}; {metric}; {command}; {device}")
        return best(found)

    return find


def best(found: list[Row]) -> Row:
    """The row of most repeats, of several the newest; of one day the last in the file."""
    return max(reversed(found), key=lambda row: (int(row["n"]), row["date"]))


def starting(rows: list[Row]) -> Callable[[str, str, str], Row]:
    """A function that gives the row of a benchmark and case whose metric starts with a text, of most repeats."""

    def find(benchmark: str, case: str, start: str) -> Row:
        found = [r for r in rows if (r["benchmark"], r["case"]) == (benchmark, case) and r["metric"].startswith(start)]
        if not found:
            raise LookupError(f"no row of {benchmark}; {case}; {start}…")
        return best(found)

    return find


def number(row: Row, digits: int = 2, scale: float = 1.0) -> str:
    """The value with ``digits`` decimals."""
    return f"{scale * float(row['value']):.{digits}f}"


def error(row: Row, digits: int = 3) -> str:
    """The value ± its standard error."""
    return f"{float(row['value']):.{digits}f} ± {float(row['stderr']):.{digits}f}"


def interval(row: Row, digits: int = 2, unit: str = "") -> str:
    """The value and its 95 % interval."""
    low, high = (f"{float(row[end]):.{digits}f}" for end in ("low", "high"))
    return f"{float(row['value']):.{digits}f}{unit} [{low}, {high}]"


def percent(*rows: Row) -> str:
    """The value as a percentage, or the range from the least to the largest of several."""
    values = sorted({f"{100 * float(row['value']):.0f}" for row in rows}, key=float)
    return f"{values[0]}–{values[-1]} %" if len(values) > 1 else f"{values[0]} %"


def runs(rows: list[Row]) -> list[tuple[dict[str, str], list[Row]]]:
    """(values that all rows of a run share, these rows) of every run."""

    def about(row: Row) -> tuple[str, ...]:
        return tuple(row[name] for name in _ABOUT)

    return [(dict(zip(_ABOUT, k, strict=True)), list(g)) for k, g in groupby(sorted(rows, key=about), about)]


def speed(row: Callable[..., Any], model: Model) -> str:
    """How many evaluations of ``model`` a GPU makes in a second, and of what; empty where it was not measured."""
    unet = row("unet", model.speed, "ours: evaluations a second", device="NVIDIA") if model.speed else None
    flow = row(
        "transformers", f"{model.name} 1024x1024 K=4 bfloat16", "batches: evaluations a second", device="NVIDIA",
        optional=True,
    )  # fmt: skip
    if unet:
        return f"{number(unet, 0)}: fp16, 512², {unet['machine']}"
    return f"{number(flow, 1)}: bf16, 1024², {flow['machine']}" if flow else ""


def models(row: Callable[..., Any]) -> list[dict[str, Any]]:
    """Name, pipeline and figures of every model at its true size, in the order in which they are shown."""
    found = []
    for model in MODELS:

        def figure(metric: str, case: str = model.name) -> float:
            return float(row("models", case, metric)["value"])

        where, numbers = f"{model.side}x{model.side}", figure("numbers stored")
        tflop = figure(f"FLOPs, {where}")
        entry = {
            "name": model.name, "pipeline": model.pipeline, "distilled": model.distilled, "side": model.side,
            "tokens": model.tokens, "parameters": figure("parameters"), "bfloat16": 2 * numbers, "float32": 4 * numbers,
            "activations": figure(f"activations, {where}"), "tflop": tflop,
            "small": figure("FLOPs, 512x512"), "per_second": speed(row, model),
            "saved": 1 - figure(f"FLOPs, {where}, short text") / tflop if model.cut else None,
        }  # fmt: skip
        found.append({k: float(f"{v:.4g}") if isinstance(v, float) else v for k, v in entry.items()})
    return found


def versions() -> dict[str, dict[str, str]]:
    """{newest, oldest: {library of models: the version that the tests run with}}."""
    files = {"newest": ROOT / "constraints.txt", "oldest": ROOT / ".ci" / "lowest.txt"}
    return {
        which: {
            name: re.findall(rf"^{name}==([\d.]+)", path.read_text(encoding="utf-8"), re.MULTILINE)[0]
            for name in ("diffusers", "transformers")
        }
        for which, path in files.items()
    }


def pages() -> dict[Path, str]:
    """{path: up-to-date text} of every generated page."""
    rows = ledger.read()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"num": number, "pm": error, "ci": interval, "percent": percent}
    environment.globals |= {"row": finder(rows), "starting": starting(rows), "percent": percent, "runs": runs(rows)}
    sizes, tested = models(finder(rows)), versions()
    environment.globals |= {"models": sizes, **tested}

    def render(name: str) -> str:
        text = environment.get_template(f"{name}.md.jinja").render()
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    def with_table(path: Path, mark: str, name: str) -> str:
        table = re.compile(rf"(?<=<!-- {mark} -->\n).*(?=<!-- /{mark} -->)", re.DOTALL)
        return table.sub(lambda _: render(name), path.read_text(encoding="utf-8"))

    figures = json.dumps({**tested, "models": sizes}, ensure_ascii=False, indent=1)
    readme, of_models = ROOT / "README.md", ROOT / "docs" / "models.md"
    return {
        ROOT / "docs" / "measurements.md": render("measurements"),
        ROOT / "docs" / "ledger.md": render("ledger"),
        readme: with_table(readme, "results", "readme"),
        of_models: with_table(of_models, "costs", "models"),
        ROOT / "dpid" / "cli" / "models.json": f"{figures}\n",
    }


def main(check: Annotated[bool, typer.Option(help="Write nothing; fail if a page is out of date.")] = False) -> None:
    """Write the pages that are out of date, or list them."""
    stale = {p: text for p, text in pages().items() if not p.exists() or p.read_text(encoding="utf-8") != text}
    for path, text in stale.items():
        if check:
            print(f"{path.relative_to(ROOT)} is not what the ledger says: run python benchmarks/measurements.py")
        else:
            path.write_text(text, encoding="utf-8")
    if check and stale:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
