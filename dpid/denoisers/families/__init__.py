"""Families: what one kind of pipeline does in its own way; one file each, found by the class of the pipeline."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from dpid.denoisers.families.family import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "family_of"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def family_of(pipe: Any) -> Family:
    """The family that explains ``pipe``, by the name of its class or of one that it derives from.

    Raises
    ------
    ValueError
        There is none; or the pipeline needs something that a family of its kind does not give.
    """
    for kind in type(pipe).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__](pipe)
    raise ValueError(f"pipe: found {type(pipe).__name__}, expected a {', '.join(FAMILIES)}")
