"""The process of the command line: its streams, and what is said of an error."""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

# How dpid's own errors begin: with the arguments that are to be changed, "samples: …" or "prompt, concepts: …".
_NAMED = re.compile(r"[a-z]\w*(, [a-z]\w*)*: ")
_OWN = (ValueError, TypeError, ArithmeticError, RuntimeError, ImportError)
_REPORT = (
    "this is a fault of dpid; please report it with what --debug prints, see .github/ISSUE_TEMPLATE/unexpected-error.md"
)


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


def told(error: BaseException) -> tuple[str, int]:
    """What is said of an error, in a line, and the exit code: 2 where the input or the machine is to be changed, 1
    where dpid is, 130 of an interrupt. Nothing is said where nobody listens any more.
    """
    text = " ".join(str(error).split())
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", 130
    if isinstance(error, (BrokenPipeError, SystemExit)):  # rich makes the one the other
        return "", 0
    if isinstance(error, MemoryError) or re.search("out of memory|allocate memory", text, re.IGNORECASE):
        return f"not enough memory{text and f' ({text})'}; give fewer samples or concepts, or a larger device", 2
    if isinstance(error, Warning):
        return f"{type(error).__name__}: {text} (a warning that -W or PYTHONWARNINGS makes an error)", 2
    if isinstance(error, OSError) or (isinstance(error, _OWN) and _NAMED.match(text)):
        return text or type(error).__name__, 2
    return f"{type(error).__name__}{text and f': {text}'}; {_REPORT}", 1


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
