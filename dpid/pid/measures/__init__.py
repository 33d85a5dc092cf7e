"""Redundancy measures, one a file. Every module of this folder is imported, and registers what it defines.

A measure is a function of :class:`Given` that returns r: antichain of masks → tensor. Where r(α) is a minimum over the
sets of α, it returns :class:`Minima`, and all atoms can be had for up to eight concepts.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Literal

import torch
from torch import Tensor

from dpid.pid.lattice import Sets

Redundancy = Callable[[Sets], Tensor]


@dataclass(frozen=True)
class Given:
    """What a measure sees, in nats. Subsets are masks, bit k for concept k; S | T is their union.

    Attributes
    ----------
    f : {S: i(x; y_S)}, [*]; with an ``axis`` [B, *] (images) or [V_S, *] (candidates for y_S)
    h : {S: h(y_S) = -log p(y_S)}, broadcastable to ``f``; empty where the measure takes no priors
    weight : of the images, [B], summing to 1; None for equal weights
    """

    f: Mapping[int, Tensor]
    h: Mapping[int, Tensor]
    weight: Tensor | None = None

    @property
    def atomic_write(self) -> int:
        """The mask of all concepts."""
        return max(self.f)


@dataclass(frozen=True)
class Minima:
    """r(α) = Σ_k sign_k min_{S ∈ α} g_k(S), ``terms`` = ((sign_1, g_1), …)."""

    terms: tuple[tuple[int, Mapping[int, Tensor]], ...]

    def __call__(self, sets: Sets) -> Tensor:
        lows = [sign * reduce(torch.minimum, [g[s] for s in sets]) for sign, g in self.terms]
        return reduce(torch.add, lows)


@dataclass(frozen=True)
class Measure:
    """A registered measure; see :func:`register`."""

    rule: Callable[[Given], Redundancy]
    priors: Literal["subsets", "joint", "candidates"] | None
    axis: Literal["images", "candidates"] | None


MEASURES: dict[str, Measure] = {}


def register(
    name: str,
    *,
    priors: Literal["subsets", "joint", "candidates"] | None = None,
    axis: Literal["images", "candidates"] | None = None,
) -> Callable[[Callable[[Given], Redundancy]], Callable[[Given], Redundancy]]:
    """Decorator that makes ``rule`` the measure ``name``.

    Parameters
    ----------
    priors : None; "subsets", h(y_S) of all S but the whole; "joint", of the whole too; "candidates", of every candidate
    axis : None, the measure acts on each value alone; "images" or "candidates", it averages over that leading axis
    """

    def add(rule: Callable[[Given], Redundancy]) -> Callable[[Given], Redundancy]:
        MEASURES[name] = Measure(rule, priors, axis)
        return rule

    return add


for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
