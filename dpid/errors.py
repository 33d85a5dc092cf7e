"""What a user is told of an error."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

# How dpid's own errors begin: with the arguments that are to be changed, "samples: …" or "prompt, concepts: …".
_NAMED = re.compile(r"[a-z]\w*(, [a-z]\w*)*: ")
_OWN = (ValueError, TypeError, ArithmeticError, RuntimeError, ImportError)
_REPORT = "this is a fault of dpid; please report it with the command, its output with --debug, and that of dpid info"


@contextmanager
def naming(argument: str, *others: str) -> Iterator[None]:
    """A context whose errors name the ``argument``, where they name it as one of ``others``, as functions within do."""
    try:
        yield
    except (TypeError, ValueError) as error:
        names, _, wrong = str(error).partition(": ")
        renamed = ", ".join(argument if name in others else name for name in names.split(", "))
        if renamed == names:
            raise
        raise type(error)(f"{renamed}: {wrong}") from error


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
        # A batch was halved down to one evaluation before: neither samples nor concepts are what takes so much.
        spare = "give a smaller --size, fewer --frames of a video, a half --precision, or a device with more memory"
        return f"not enough memory{text and f' ({text})'}; {spare}", 2
    if isinstance(error, Warning):
        return f"{type(error).__name__}: {text} (a warning that -W or PYTHONWARNINGS makes an error)", 2
    if isinstance(error, OSError) or (isinstance(error, _OWN) and _NAMED.match(text)):
        return text or type(error).__name__, 2
    return f"{type(error).__name__}{text and f': {text}'}; {_REPORT}", 1
