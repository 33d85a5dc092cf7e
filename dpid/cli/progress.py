"""The bar that shows how far a run is."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)


@contextmanager
def bar(console: Console, description: str = "") -> Iterator[tuple[Progress, Any]]:
    """A bar on a terminal, and nothing elsewhere; with the task that it shows."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    progress = Progress(*columns, console=console, transient=True)
    with progress if console.is_terminal else nullcontext():  # rich before 14.3 ends a bar that is off with a new line
        yield progress, progress.add_task(description, total=None)


@contextmanager
def evaluations() -> Iterator[Callable[[int, int], None]]:
    """What :meth:`dpid.Explainer.explain` tells its progress to: a bar of evaluations of the network on stderr."""
    with bar(Console(stderr=True), "evaluations of the network") as (progress, task):
        yield lambda done, planned: progress.update(task, completed=done, total=planned)


@contextmanager
def activity() -> Iterator[Callable[[str], None]]:
    """A function that says on a terminal what is being done and for how long, in a line that the next call replaces."""
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}", markup=False), TimeElapsedColumn())
    progress = Progress(*columns, console=console, transient=True)
    task = progress.add_task("")
    with progress if console.is_terminal else nullcontext():
        yield lambda what: progress.reset(task, description=what)
