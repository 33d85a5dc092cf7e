"""Maps of the picture: how they are smoothed, and laid out by two estimators together."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpid.equality import Comparable
from dpid.pid import mean_stderr
from dpid.prompts.plan import Subset


@dataclass(frozen=True, eq=False)
class Maps(Comparable):
    """Nats per latent pixel, float32 [h, w] each; ``stderr`` holds the standard errors in the same shape."""

    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    stderr: Maps | None = None


def smoothed(f: Tensor, size: int) -> Tensor:
    """Maps [*, h, w] whose every pixel is shared evenly among its size × size neighbours; sums stay as they are."""
    if size == 1:
        return f
    height, width = (min(size, 2 * side - 1) for side in f.shape[-2:])  # with more, still only the map's own pixels
    column, row = f.new_ones(1, 1, height, 1), f.new_ones(1, 1, 1, width)

    def summed(maps: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(maps, column, padding=(height // 2, 0)), row, padding=(0, width // 2)
        )

    maps = f.reshape(-1, 1, *f.shape[-2:])
    return summed(maps / summed(torch.ones_like(maps[:1]))).reshape(f.shape)


def shrunk(f: Tensor, towards: Tensor, weight: float | None = None) -> Tensor:
    """Maps ``f`` [*, h, w] with their layout moved towards that of other maps; sums stay as they are.

    ``weight``: how far, 0…1; None: their :func:`shrinkage`.
    """
    return f + (shrinkage(f, towards) if weight is None else weight) * _layout(towards - f)


def shrinkage(f: Tensor, towards: Tensor) -> float:
    """How far the layout of maps ``f`` [G, S, h, w] is moved towards that of ``towards``, 0…1.

    For iʳ and iˢ, which have one mean over p(x | F): iʳ is the quieter, but pixel by pixel it repeats what the network
    has wrong about F. Of the square of how their layouts differ, the spread of replicates says how much is noise; what
    is left is real, and w = 1 - noise / square weighs one against the other (James and Stein's shrinkage of iˢ towards
    iʳ, its positive part): a few samples trust iʳ, many trust iˢ, and no constant is fitted to any model. One w for all
    subsets and pixels keeps the chain rule. Standard errors take w as known.
    """
    mean, error = mean_stderr(_layout(towards - f))
    square, noise = float(mean.square().mean()), float(error.square().mean())
    return 0.0 if square <= noise else 1 - noise / square


def _layout(maps: Tensor) -> Tensor:
    """``maps`` [*, h, w] less their means."""
    return maps - maps.mean((-2, -1), keepdim=True)


def displayed(f: Tensor, smooth: int, towards: Tensor | None = None) -> Tensor:
    """Replicates ``f`` [G, S, h, w] as maps show them: smoothed, and :func:`shrunk` towards others, if given.

    ``smooth``: pixels a side of the neighbourhood; of 1 nothing is done.
    """
    maps = smoothed(f, smooth)
    return maps if towards is None or smooth == 1 else shrunk(maps, smoothed(towards, smooth))
