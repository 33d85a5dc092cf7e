"""Paths given by users, and writing that leaves files and folders as they were if it fails."""

from __future__ import annotations

import json
import os
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

PathLike = str | bytes | os.PathLike[str] | os.PathLike[bytes]

_TRIES, _PAUSE = 50, 0.02  # tries, and seconds between them, while a reader on Windows blocks a replacement


def as_path(path: PathLike, argument: str = "path") -> Path:
    """``path`` as a Path with "~" expanded; ``TypeError``, naming ``argument``, if it is no path."""
    try:
        return Path(os.path.expanduser(os.fsdecode(path)))
    except TypeError:
        raise TypeError(f"{argument}: found {type(path).__name__}, expected a path, as text or pathlib.Path") from None


@contextmanager
def atomic_write(path: Path) -> Iterator[Path]:
    """A context with a temporary path to write to, which replaces ``path`` at its end: readers never see half a file.

    Of several writers at once the last one wins. ``OSError``, naming ``path``, if nothing can be written there.
    """
    unfinished = _new_file(path)
    try:
        yield unfinished
        _replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


def write_json(path: Path, content: Any) -> None:
    """Write ``content`` to ``path`` as indented JSON, by :func:`atomic_write`; returns nothing."""
    text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
    with atomic_write(path) as unfinished:
        unfinished.write_bytes(text.encode(errors="replace"))  # the name of a file may be no text


def _new_file(path: Path) -> Path:
    """The path of a new empty file beside ``path``, with a random name and the user's default permissions."""
    unfinished = path.with_name(f".{secrets.token_hex(8)}.partial")
    try:
        unfinished.touch(exist_ok=False)  # tempfile would deny access to others
    except OSError as error:
        raise type(error)(error.errno, error.strerror, str(path)) from None
    return unfinished


def _replace(source: Path, target: Path) -> None:
    """Move ``source`` to ``target``; on Windows try again while a reader has ``target`` open."""
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
    """A context in which the folder ``out`` exists and is writable; if it fails, folders that it made are removed.

    ``ValueError`` if ``out`` cannot be written; nothing inside has run then.
    """
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
            with suppress(OSError):  # another process has written to it or removed it
                folder.rmdir()
        raise
