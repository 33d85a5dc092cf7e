"""Files and folders that a failure leaves as they were."""

from __future__ import annotations

import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_TRIES, _PAUSE = 50, 0.02  # where readers keep a file from being replaced: of Windows


def as_path(path: PathLike, argument: str = "path") -> Path:
    """``path`` as a Path with "~" as the user's home; ``TypeError`` naming ``argument`` for what is no path."""
    try:
        return Path(os.path.expanduser(os.fsdecode(path)))
    except TypeError:
        raise TypeError(f"{argument}: found {type(path).__name__}, expected a path, as text or pathlib.Path") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """Another path to write to; what is there is moved to ``path`` at the end, so that nobody finds half a file.

    Each writer has its own, so that of several at once each file is whole and the last one stays. ``OSError`` names
    ``path`` where nothing can be written.
    """
    unfinished = _new_file(path)
    try:
        yield unfinished
        _replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def _new_file(path: Path) -> Path:
    """An empty file beside ``path`` that nobody else has, readable by whom files of this user are."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        unfinished.touch(exist_ok=False)  # tempfile would make one for its owner alone
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    return unfinished


def _replace(source: Path, target: Path) -> None:
    """Move ``source`` to ``target``; on Windows nobody may have ``target`` open, as readers do for a moment."""
    for left in reversed(range(_TRIES)):
        try:
            return os.replace(source, target)
        except PermissionError:
            if os.name != "nt" or not left:
                raise
            time.sleep(_PAUSE)
    return None


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make sure that ``out`` can be written before anything is computed; a failure inside leaves no folder behind."""
    made: list[Path] = []
    try:
        made += [folder for folder in (out, *out.parents) if not folder.exists()]
        out.mkdir(parents=True, exist_ok=True)
        _new_file(out / "probe").unlink()
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    except BaseException:
        for folder in made:
            with suppress(OSError):  # others have put something there, or have taken it away
                folder.rmdir()
        raise
