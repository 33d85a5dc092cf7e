"""Writes the documentation's pages and tables of measurements: ``python benchmarks/measurements.py [--check]``.

``docs/measurements.md``, ``docs/ledger.md`` and the table of results in the README are rendered from the templates in
``benchmarks/templates`` (Jinja), which name rows of the ledger in place of numbers. With ``--check`` nothing is
written, and the exit code is 1 if a page is out of date.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import groupby
from pathlib import Path
from typing import Annotated

import jinja2
import ledger
import typer
from ledger import Row

ROOT = Path(__file__).parents[1]
_ABOUT = ("benchmark", "command", "machine", "versions", "commit", "weights", "date")
_TABLE = re.compile(r"(?<=<!-- results -->\n).*(?=<!-- /results -->)", re.DOTALL)


def finder(rows: list[Row]) -> Callable[..., Row]:
    """A function that finds the row of given keys; of several, that with the most values, then the newest.

    It raises ``LookupError`` if there is none.
    """

    def find(benchmark: str, case: str, metric: str, command: str = "", device: str = "CPU") -> Row:
        found = [
            row for row in rows
            if (row["benchmark"], row["case"], row["metric"], ledger.key(row)[-1]) == (benchmark, case, metric, device)
            and row["command"].endswith(command)
        ]  # fmt: skip
        if not found:
            raise LookupError(f"no row of {benchmark}; {case}; {metric}; {command}; {device}")
        return max(found, key=lambda row: (int(row["n"]), row["date"]))

    return find


def starting(rows: list[Row]) -> Callable[[str, str, str], Row]:
    """A function that gives the row of a benchmark and case whose metric starts with a text, of most repeats."""

    def find(benchmark: str, case: str, start: str) -> Row:
        found = [r for r in rows if (r["benchmark"], r["case"]) == (benchmark, case) and r["metric"].startswith(start)]
        if not found:
            raise LookupError(f"no row of {benchmark}; {case}; {start}…")
        return max(found, key=lambda row: (int(row["n"]), row["date"]))

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


def pages() -> dict[Path, str]:
    """{path: up-to-date text} of every generated page."""
    rows = ledger.read()
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), undefined=jinja2.StrictUndefined,
        keep_trailing_newline=True, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {"num": number, "pm": error, "ci": interval, "percent": percent}
    environment.globals |= {"row": finder(rows), "starting": starting(rows), "percent": percent, "runs": runs(rows)}

    def render(name: str) -> str:
        text = environment.get_template(f"{name}.md.jinja").render()
        return "".join(f"{line.rstrip()}\n" for line in text.splitlines())

    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    table = render("readme")
    return {
        ROOT / "docs" / "measurements.md": render("measurements"),
        ROOT / "docs" / "ledger.md": render("ledger"),
        readme: _TABLE.sub(lambda _: table, text),
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
