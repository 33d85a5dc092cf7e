"""Families: adapters to the kinds of diffusers pipelines, one file a family, found by the class of the pipeline."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from dpid.denoisers.families.discrete import DiscreteFamily
from dpid.denoisers.families.family import FAMILIES, Family
from dpid.denoisers.families.flow import FlowFamily
from dpid.denoisers.families.patches import PatchFamily
from dpid.denoisers.families.video import VideoFamily

__all__ = ["FAMILIES", "DiscreteFamily", "Family", "FlowFamily", "PatchFamily", "VideoFamily", "family_of", "unknown"]

_HOW = "docs/extending.md says how to add a pipeline"

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
    parts = getattr(pipe, "components", {}).values()
    raise ValueError(f"model: found {unknown(type(pipe).__name__, (type(part).__name__ for part in parts))}")


def unknown(pipeline: str, parts: Iterable[str]) -> str:
    """What there is to say of a ``pipeline`` that no family handles: whose network it has among its ``parts``, if any.

    Both are names of classes.
    """
    known = set(parts)
    takers = {family for family in FAMILIES.values() if known & set(family.networks)}
    if not takers:
        supported = ", ".join(sorted({family.pipelines[0] for family in FAMILIES.values()}))
        return f"{pipeline}; supported are {supported}; {_HOW}"
    network = (known & set().union(*(family.networks for family in takers))).pop()
    named = sorted(f"{family.__name__} ({', '.join(family.pipelines)})" for family in takers)
    return f"{pipeline}, which is not supported; its {network} is, in the family {' or '.join(named)}; {_HOW}"
