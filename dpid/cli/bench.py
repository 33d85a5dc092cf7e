"""``dpid bench``: how fast, how large and how exact explanations are with a model on this machine."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from dpid.cli.parameters import CONTROL, Model, at_home, chosen, with_loading
from dpid.cli.process import printing
from dpid.cli.progress import activity
from dpid.cli.tables import note, table_console
from dpid.files import writable

if TYPE_CHECKING:
    from dpid.bench import Report, Row


# The ways to call a network that are compared are of pictures, and told no guidance and no control.
@partial(with_loading, without=("frames", "guidance", *CONTROL))
def bench(
    model: Model = "emoji",
    quick: Annotated[bool, typer.Option("--quick", help="Fewer runs, and nothing compiled by torch.")] = False,
    out: Annotated[Path, typer.Option(help="JSON file of all numbers.", callback=at_home)] = Path("bench.json"),
    compare: Annotated[
        Path | None, typer.Option(help="Such a file, with which this run is compared.", callback=at_home)
    ] = None,
    **loading: Any,
) -> None:
    """Measure a model on this machine: speed, memory, latency, and errors by the number of evaluations.

    The network is called by dpid, by diffusers, and with both compiled by torch; their predictions are compared.
    Interrupted, it keeps what it has measured.
    """
    from dpid.bench import FULL, QUICK, Bench, Report

    before = None if compare is None else Report.read(compare)
    if compare is not None and out.exists() and out.samefile(compare):
        raise ValueError(f"out, compare: both are {out}, which would be replaced; give another --out")
    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; name a file, such as bench.json")
    given = chosen(loading)
    with writable(out.parent):
        run = Bench(model, effort=QUICK if quick else FULL, **given)
        # Of what was given, the report has the size, type and device by itself.
        run.report.about |= {name: str(given[name]) for name in given.keys() - {"precision", "size", "device"}}
        try:
            with activity() as tell:
                run.run(tell, lambda report: report.write(out))
        finally:
            with printing(str(out)):
                show(run.report, before, out)


def show(report: Report, before: Report | None, out: Path) -> None:
    """Print what was measured and, beside it, what ``before`` has."""
    about = report.about
    title = f"{about['model']}, {about['precision']}, {about['pixels']} pixels, on {about['device']}"
    table = Table(title=title, title_justify="left")
    table.add_column("", overflow="fold")
    for column in ("now", "before", "now / before") if before else ("measured",):
        table.add_column(column, justify="right")
    old, ratios = ({row.metric: row for row in before.rows}, report.ratios(before)) if before else ({}, {})
    notes: dict[str, list[str]] = {}
    for row in report.rows:
        cells = [_number(row)]
        if before:
            was, ratio = old.get(row.metric), ratios.get(row.metric)
            cells += [_number(was) if was else "", "" if ratio is None else f"{ratio:.2f}"]
        table.add_row(row.metric, *cells)
        if row.note:
            notes.setdefault(row.note, []).append(row.metric)
    console = table_console()
    console.print(table)
    lines = [f"{', '.join(metrics)}: {text}" for text, metrics in notes.items()]
    for line in lines + (report.changed(before) if before else []):
        note(console, line)
    console.print(f"{'written' if report.whole else 'not all was measured; written'}: {out}", soft_wrap=True)


def _number(row: Row) -> str:
    """The number of a row as the table has it."""
    if row.value is None:
        return "–"
    shown = f"{row.value:.0f}" if 1000 <= row.value < 1e6 else f"{row.value:.3g}"
    return f"{shown} {row.unit}".rstrip()
