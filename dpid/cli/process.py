"""The process of the command line: its streams, and warnings."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress


def prepare() -> None:
    """Make the streams take whatever is printed, matplotlib draw into files, and the threads of torch share processors.

    To be called before torch and matplotlib are imported.
    """
    # A notebook's kernel hands its own backend on, which need not be installed here.
    os.environ["MPLBACKEND"] = "agg"
    # Threads that wait for each other by spinning take beside other processes several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed: what is opened next would get its number, and whatever libraries print
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115, it stays open
        else:
            stream.reconfigure(errors="replace")  # "±" on a terminal that has only ASCII


def warn(message: str) -> None:
    """Say what went wrong beside a run that is whole, in a line."""
    with suppress(OSError):
        print(f"dpid: warning: {' '.join(message.split())}", file=sys.stderr)


@contextmanager
def printing(written: str) -> Iterator[None]:
    """An error inside, of the terminal or of what is read from it, is a warning: the results are in ``written``."""
    try:
        yield
    except (Exception, SystemExit) as error:
        # What it could not write it would try to write again at the end.
        sys.stdout = open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115, it stays open
        if not isinstance(error, (BrokenPipeError, SystemExit)):
            warn(f"the table could not be printed: {error or type(error).__name__}; results are in {written}")
