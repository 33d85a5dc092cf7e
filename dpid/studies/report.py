"""Writes the files of a study: tables as CSV and Parquet, figures as PNG, numbers as JSON, and a page of all studies.

An output folder has one folder for every study, and ``report.html``, which contains its figures. A number with its
standard error is {"value": …, "stderr": …} in a summary, and the two columns "auc" and "auc_stderr" in a table; the
page shows both as "0.93 ± 0.02".
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpid.files import atomic_write, write_json
from dpid.report.page import number, png, render
from dpid.studies.study import Row

if TYPE_CHECKING:
    import pyarrow

    from dpid.results.figure_style import Figure

_LOG = logging.getLogger("dpid")
ROWS = 100  # most rows of a table that the page shows
_ERROR = "_stderr"


def _check(numbers: Row, where: str) -> None:
    """Raise ``ValueError`` if one of ``numbers`` is NaN or infinite, which JSON cannot hold."""
    for name, value in numbers.items():
        parts = value if isinstance(value, list) else [value]  # the ends of an interval, or one number
        if any(isinstance(part, float) and not math.isfinite(part) for part in parts):
            raise ValueError(f"{where}.{name}: found {value}; a number that does not exist is None")


def _cells(table: pyarrow.Table) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """The columns (name, whether numeric) and the rows of texts that the page shows; a value and its error are one."""
    errors = {c for c in table.column_names if c.endswith(_ERROR) and c.removesuffix(_ERROR) in table.column_names}
    shown = [c for c in table.column_names if c not in errors]
    rows = table.slice(0, ROWS).to_pylist()
    header = [(c, any(isinstance(r[c], (int, float)) and not isinstance(r[c], bool) for r in rows)) for c in shown]
    return header, [[number(row[c], row.get(c + _ERROR)) for c in shown] for row in rows]


def _numbers(summary: Mapping[str, Any]) -> list[list[str]]:
    """A row of texts (name, value ± error, 95 % interval, measurements, target) of every number in a summary."""
    rows = []
    for name, entry in summary.items():
        if isinstance(entry, dict):
            interval = " to ".join(f"{end:.3g}" for end in entry["interval"] or ())
            shown = ("" if entry[key] is None else str(entry[key]) for key in ("n", "asked"))
            rows.append([name, number(entry["value"], entry["stderr"]), interval, *shown])
    return rows


def _facts(summary: Mapping[str, Any]) -> list[tuple[str, str]]:
    """(name, text) of whatever else the summary says."""
    return [
        (name, ", ".join(value) if isinstance(value, list) else value)
        for name, value in summary.items() if not isinstance(value, dict)
    ]  # fmt: skip


def _section(folder: Path) -> dict[str, Any]:
    """The variables of the page's template for one study, read from its files."""
    import pyarrow.parquet

    content = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    tables = []
    for name in content["tables"]:
        table = pyarrow.parquet.read_table(folder / f"{name}.parquet")
        header, rows = _cells(table)
        tables.append({"name": name, "header": header, "rows": rows, "count": table.num_rows})
    figures = [{"caption": f["caption"], "data": png((folder / f["file"]).read_bytes())} for f in content["figures"]]
    summary = content["summary"]
    shown = {"tables": tables, "figures": figures, "numbers": _numbers(summary), "facts": _facts(summary)}
    return {**content, **shown}


def write_page(out: Path) -> None:
    """Write ``report.html`` with all studies in ``out``, in the order in which they were first written."""
    sections = sorted((_section(out / name) for name in _orders(out)), key=lambda s: (s["order"], s["study"]))
    page = render("studies/report.html.jinja", sections=sections, shown=ROWS)
    with atomic_write(out / "report.html") as path:
        path.write_text(page, encoding="utf-8")


def check_installed() -> None:
    """Raise ``RuntimeError`` if pyarrow is missing, before a study is computed."""
    try:
        import pyarrow.parquet  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f'studies: a report needs pyarrow ({error}); pip install "dpid[studies]"') from error


def write_study(
    out: Path, study: str, *, title: str, about: str, finding: str, summary: Mapping[str, Any],
    tables: Mapping[str, Sequence[Row]], figures: Mapping[str, Figure],
) -> None:  # fmt: skip
    """Write a study into ``out``/``study``, and the page of all studies anew.

    Files are written atomically. A figure that cannot be drawn is left out and logged. A study that is written again
    keeps its place on the page.

    Parameters
    ----------
    title, about : heading, and a description in paragraphs separated by blank lines
    finding : what was found, in a sentence, with which the page begins
    summary : numbers as of :class:`dpid.studies.study.Study`, texts, and lists of texts; "summary" in ``summary.json``
    tables : {name: rows}, written to ``name.csv`` and ``name.parquet``
    figures : {caption: figure}, written to ``figure-1.png``, …

    Raises
    ------
    ValueError
        A number is NaN or infinite.
    RuntimeError
        pyarrow is not installed.
    """
    check_installed()
    for name, entry in summary.items():
        if isinstance(entry, dict):
            _check(entry, f"summary: {name}")
    for name, rows in tables.items():
        for i, row in enumerate(rows):
            _check(row, f"tables: {name}[{i}]")
    folder = out / study
    folder.mkdir(parents=True, exist_ok=True)
    _write_tables(folder, tables)
    content = {
        "study": study, "order": _order(out, study), "title": title, "about": about, "finding": finding,
        "summary": summary, "tables": list(tables), "figures": _write_figures(folder, figures),
    }  # fmt: skip
    write_json(folder / "summary.json", content)
    write_page(out)


def _write_tables(folder: Path, tables: Mapping[str, Sequence[Row]]) -> None:
    """Write ``tables`` {name: rows} into ``folder``, with every column that occurs in a row."""
    import pyarrow.csv
    import pyarrow.parquet

    for name, rows in tables.items():
        columns = dict.fromkeys(column for row in rows for column in row)
        table = pyarrow.Table.from_pydict({column: [row.get(column) for row in rows] for column in columns})
        with atomic_write(folder / f"{name}.csv") as path:
            pyarrow.csv.write_csv(table, path)
        with atomic_write(folder / f"{name}.parquet") as path:
            pyarrow.parquet.write_table(table, path)


def _write_figures(folder: Path, figures: Mapping[str, Figure]) -> list[dict[str, str]]:
    """File and caption of every figure that could be drawn, after writing it into ``folder``."""
    drawn = []
    for i, (caption, figure) in enumerate(figures.items(), 1):
        name = f"figure-{i}.png"
        try:
            with atomic_write(folder / name) as path:
                figure.savefig(path, format="png")
        except OSError:
            raise
        except Exception as error:  # a missing font or a setting of matplotlib must not lose the numbers
            _LOG.warning("%s could not be drawn: %s", folder / name, error)
        else:
            drawn.append({"file": name, "caption": caption})
    return drawn


def _order(out: Path, study: str) -> int:
    """The place of ``study`` on the page: its present one, or the last."""
    orders = _orders(out)
    return orders.get(study, max(orders.values(), default=0) + 1)


def _orders(out: Path) -> dict[str, int]:
    """{study: place on the page} of the studies in ``out``; folders with another summary.json are ignored."""
    found = {}
    for path in out.glob("*/summary.json"):
        with suppress(OSError, ValueError, KeyError, TypeError):
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["study"] == path.parent.name:
                found[path.parent.name] = int(content["order"])
    return found
