"""Families: adapters to the kinds of diffusers pipelines, one file a family, found by the class of the pipeline."""

from __future__ import annotations

from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from dpid.denoisers.families.family import FAMILIES, Family

__all__ = ["FAMILIES", "Family", "family_of"]

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")


def family_of(pipe: Any) -> Family:
    """``pipe`` wrapped by the family that is registered for its class or the nearest of its base classes.

    Raises
    ------
    ValueError
        No family is registered for it, or the pipeline lacks a component or needs more input than texts.
    """
    for kind in type(pipe).__mro__:
        if kind.__name__ in FAMILIES:
            return FAMILIES[kind.__name__](pipe)
    raise ValueError(f"pipe: found {type(pipe).__name__}, expected a {', '.join(FAMILIES)}")
