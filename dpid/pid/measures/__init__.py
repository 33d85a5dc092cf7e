"""Redundancy measures, one in each file. Importing this package imports them all, and each registers itself.

A measure is a function of :class:`Given` that returns the redundancy r as a function of an antichain of masks. Where
r(α) is a minimum over the sets of α it returns :class:`Minima`, from which the atoms of up to eight concepts follow.
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import reduce
from importlib import import_module
from typing import Literal, get_args

import torch
from torch import Tensor

from dpid.checks import found, one_of, optional, text
from dpid.pid.lattice import Sets

Redundancy = Callable[[Sets], Tensor]
NeededPriors = Literal["subsets", "joint", "candidates"]
Axis = Literal["images", "candidates", "distribution"]


@dataclass(frozen=True)
class Given:
    """The input of a measure, in nats. Subsets S are bit masks, bit k for concept k; S | T is the union.

    Attributes
    ----------
    f : {S: i(x; y_S) [*]}; for a measure with an ``axis``, [B, *] (images) or [V_S, *] (candidates for y_S)
    h : {S: h(y_S) = -log p(y_S)}, which broadcast to ``f``; empty where the measure takes no priors
    weight : weights [B] of the images, which sum to 1; None for equal weights
    joint : p(y_1, …, y_n, x) for a measure with the ``axis`` "distribution"; ``f`` are averages [1] then
    """

    f: Mapping[int, Tensor]
    h: Mapping[int, Tensor]
    weight: Tensor | None = None
    joint: Tensor | None = None


@dataclass(frozen=True)
class Minima:
    """The redundancy r(α) = Σ_k sign_k min_{S ∈ α} g_k(S), a signed sum of minima; ``terms`` ((sign_1, g_1), …)."""

    terms: tuple[tuple[int, Mapping[int, Tensor]], ...]

    def __call__(self, sets: Sets) -> Tensor:
        lows = [sign * reduce(torch.minimum, [g[s] for s in sets]) for sign, g in self.terms]
        return reduce(torch.add, lows)


@dataclass(frozen=True)
class Measure:
    """A registered measure: its function, and the priors and axis that it needs as :func:`register` describes them."""

    rule: Callable[[Given], Redundancy]
    priors: NeededPriors | None
    axis: Axis | None


MEASURES: dict[str, Measure] = {}


def register(
    name: str, *, priors: NeededPriors | None = None, axis: Axis | None = None
) -> Callable[[Callable[[Given], Redundancy]], Callable[[Given], Redundancy]]:
    """A decorator that registers a function of :class:`Given` as the redundancy measure ``name``.

    A function that was registered before by that name is replaced. ``ValueError`` for a name of dpid's own measures,
    and ``ValueError`` or ``TypeError`` for what is not allowed.

    Parameters
    ----------
    priors : the h(y_S) that it needs: None; "subsets", of all S except all concepts together; "joint", of all S;
        "candidates", of every candidate for every y_S
    axis : None if it acts value by value; "images" or "candidates" if it averages over that leading axis;
        "distribution" if it needs all of p(y, x)
    """

    text("name", name)
    optional(one_of(lambda: get_args(NeededPriors)))("priors", priors)
    optional(one_of(lambda: get_args(Axis)))("axis", axis)

    def add(rule: Callable[[Given], Redundancy]) -> Callable[[Given], Redundancy]:
        if not callable(rule):
            raise TypeError(f"rule: found {found(rule)}, expected a function of Given")
        own = MEASURES[name].rule.__module__ if name in MEASURES else ""
        if own.startswith(f"{__name__}.") and rule.__module__ != own:
            raise ValueError(f"name: found {name!r}, which is a measure of dpid; choose another")
        MEASURES[name] = Measure(rule, priors, axis)
        return rule

    return add


for _module in pkgutil.iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
