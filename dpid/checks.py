"""Checks of single arguments: each gives the value back as plain Python, or raises an error that names the argument."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Sequence
from numbers import Real
from typing import Any

Check = Callable[[str, Any], Any]  # (name of the argument, value) -> value


def found(value: Any) -> str:
    """``repr`` of what was found, of a length that can be read, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of 5000 digits; an object that breaks
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:59]}…"


def _item(name: str, value: Any) -> Any:
    """What a number of NumPy or PyTorch holds; other values as they are."""
    if getattr(value, "ndim", None) != 0 or not hasattr(value, "item"):
        return value
    try:
        return value.item()
    except (RuntimeError, ValueError) as error:  # on the meta device, say
        raise TypeError(f"{name}: found {found(value)}, which holds no value") from error


def truth(name: str, value: Any) -> bool:
    """True or False; ``TypeError`` for anything else."""
    value = _item(name, value)
    if not isinstance(value, bool):
        raise TypeError(f"{name}: found {found(value)}, expected True or False")
    return value


def text(name: str, value: Any) -> str:
    """A text; ``TypeError`` for anything else."""
    value = _item(name, value)
    if not isinstance(value, str):
        raise TypeError(f"{name}: found {found(value)}, expected a text")
    return str.__str__(value)


def nats_in(unit: str) -> float:
    """The nats in a ``unit`` of information, "nats" or "bits"; ``ValueError`` for another."""
    nats = {"nats": 1.0, "bits": math.log(2)}
    if unit not in nats:
        raise ValueError(f"unit: found {unit!r}, allowed are {', '.join(nats)}")
    return nats[unit]


def fraction(name: str, value: Any) -> float:
    """A number between 0 and 1; ``TypeError`` for what is no number, ``ValueError`` for another."""
    value = _item(name, value)
    if type(value) is bool or not issubclass(type(value), Real):
        raise TypeError(f"{name}: found {found(value)}, expected a number such as 0.05 for 5 %")
    if not 0 < value < 1:
        percent = float(value) if 1 < value < 100 else 5
        raise ValueError(
            f"{name}: found {found(value)}, expected a fraction between 0 and 1; {percent:g} % is {percent / 100:g}"
        )
    return float(value)


def positive(name: str, value: Any) -> float:
    """A positive finite number; ``TypeError`` for what is no number, ``ValueError`` for another."""
    value = _item(name, value)
    if type(value) is bool or not issubclass(type(value), Real):
        raise TypeError(f"{name}: found {found(value)}, expected a number such as 10")
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}: found {found(value)}, expected a positive number")
    return float(value)


def count(least: int, most: int) -> Check:
    """The check for a whole number from ``least`` to ``most``, which raises ``ValueError``."""

    def check(name: str, value: Any) -> int:
        value = _item(name, value)
        try:
            number = None if isinstance(value, bool) else operator.index(value)
        except TypeError:
            number = None
        if number is None or not least <= number <= most:
            end = "2⁶³ - 1" if most == 2**63 - 1 else most
            raise ValueError(f"{name}: found {found(value)}, expected a whole number from {least} to {end}")
        return number

    return check


def one_of(allowed: Callable[[], Sequence[str]]) -> Check:
    """The check for one of the texts ``allowed()``."""

    def check(name: str, value: Any) -> str:
        chosen = text(name, value)
        if chosen not in allowed():
            raise ValueError(f"{name}: found {found(chosen)}, allowed are {', '.join(allowed())}")
        return chosen

    return check


def optional(check: Check) -> Check:
    """``check`` for what may also be None."""
    return lambda name, value: None if value is None else check(name, value)
