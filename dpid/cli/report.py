"""``dpid report RESULT… --out page.html``: one page of results, to look at and to send."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpid.cli.parameters import at_home
from dpid.cli.process import printing, warn
from dpid.files import writable


def report(
    results: Annotated[list[Path], typer.Argument(help="Files of results (.safetensors), or folders that have some.")],
    out: Annotated[Path, typer.Option(help="The page.", callback=at_home)] = Path("report.html"),
) -> None:
    """Make one page of results: pictures, maps over them, numbers with errors, and how they were made.

    The page contains its pictures and needs no script. A file that is no result is named and left out; the exit code is
    then 1.
    """
    from dpid.report.results import read, write

    if out.is_dir():
        raise ValueError(f"out: {out} is a folder; give the name of a file, such as {out / 'report.html'}")
    found, problems = read(at_home(path) or path for path in results)
    if not found:
        raise ValueError(f"results: {'; '.join(problems)}")
    with writable(out.parent):
        write(found, out)
    for problem in problems:
        warn(f"left out: {problem}")
    with printing(str(out)):
        typer.echo(f"{out}: {len(found)} result{'s' if len(found) > 1 else ''}")
    if problems:
        raise typer.Exit(1)
