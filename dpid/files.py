"""Files and folders that a failure leaves as they were."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Another path to write to; what is there is moved to ``path`` at the end, so that nobody finds half a file."""
    unfinished = path.with_name(f".{path.name}.partial")
    try:
        yield unfinished
        os.replace(unfinished, path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make sure that ``out`` can be written before anything is computed; a failure inside leaves no folder behind."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".dpid-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    except BaseException:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise
