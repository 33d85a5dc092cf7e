"""Every word of a prompt: ``dpid explain IMAGE PROMPT`` without concepts."""

from __future__ import annotations

import re
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dpid.cli.outputs import Pictures, finish, write
from dpid.cli.tables import show_words
from dpid.options import Budget, Options

if TYPE_CHECKING:
    from dpid.results.words import WordsResult

_UNITS = {"": 1, "s": 1, "m": 60, "min": 60, "h": 3600}


def check_words(samples: int | None, time: str | None, pairs: bool, options: dict[str, Any]) -> dict[str, Any]:
    """The options of :meth:`dpid.Explainer.words` from those of the command line; errors name what is not allowed."""
    from dpid.words import allowed

    if pairs:
        raise ValueError("pairs: is for concepts; give two to eight with -c")
    own = {name: options[name] for name in _given(options)}
    for name in own:
        try:
            allowed({name: own[name]})
        except TypeError:
            raise ValueError(f"{name}: is for concepts; give two to eight with -c") from None
    Options(**own)
    budget = Budget(Budget.samples if samples is None else samples, _seconds(time))
    return own | {"samples": budget.samples, "seconds": budget.seconds}


def _given(options: dict[str, Any]) -> list[str]:
    """The names of ``options`` that are not as they are by default."""
    return [field.name for field in fields(Options) if options.get(field.name, field.default) != field.default]


def _seconds(time: str | None) -> float | None:
    """The seconds in "10s", "2m" or "1.5h"; ``ValueError`` for what is none."""
    if time is None:
        return None
    found = re.fullmatch(r"\s*(\d+\.?\d*)\s*([a-z]*)\s*", time)
    if not found or found[2] not in _UNITS or not float(found[1]):
        raise ValueError(f"time: found {time!r}, expected a time such as 10s, 2m or 1h")
    return float(found[1]) * _UNITS[found[2]]


def explain_words(explainer: Any, image: Any, prompt: str, out: Path, **options: Any) -> None:
    """Write words.json, words.safetensors and words.png into ``out``, and print a table."""

    def pictures(result: WordsResult) -> Pictures:
        return {out / "words.png": result.plot}

    stream = partial(explainer.stream_words, image, prompt, **options)
    finish(stream, partial(write, out=out, name="words"), pictures, partial(show_words, out=out), out)
