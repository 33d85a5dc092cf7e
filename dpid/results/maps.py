"""Maps of information over the picture: their smoothing, and the shrinkage of one estimator towards another."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from dpid.equality import Comparable
from dpid.prompts.plan import Subset
from dpid.results.shrinkage import shrinkage_weight


@dataclass(frozen=True, eq=False)
class Maps(Comparable):
    """Maps of i(x; y_S) and of its decomposition, float32 [h,w] each, in nats per latent pixel.

    Attributes
    ----------
    information : {subset S: map of i(x; y_S)}
    redundancy, unique, synergy : the measure applied to every latent pixel
    stderr : the standard errors in the same form
    """

    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    stderr: Maps | None = None


def smoothed(f: Tensor, size: int) -> Tensor:
    """Maps ``f`` [*,h,w] smoothed over size × size pixels, with unchanged sums; docs/theory.md, eq. (24)."""
    if size == 1:
        return f
    height, width = (min(size, 2 * side - 1) for side in f.shape[-2:])  # as far as the map reaches
    column, row = f.new_ones(1, 1, height, 1), f.new_ones(1, 1, 1, width)

    def summed(maps: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(maps, column, padding=(height // 2, 0)), row, padding=(0, width // 2)
        )

    maps = f.reshape(-1, 1, *f.shape[-2:])
    return summed(maps / summed(torch.ones_like(maps[:1]))).reshape(f.shape)


def shrunk(f: Tensor, towards: Tensor, weight: float | None = None) -> Tensor:
    """Maps ``f`` [*,h,w] moved towards the maps ``towards``, with unchanged sums; docs/theory.md, eq. (25).

    ``weight``: w of that equation, from 0 to 1; None estimates it by :func:`shrinkage`.
    """
    return f + (shrinkage(f, towards) if weight is None else weight) * _centred(towards - f)


def shrinkage(f: Tensor, towards: Tensor) -> float:
    """The weight w, from 0 to 1, of moving maps ``f`` [G,S,h,w] towards ``towards``; docs/theory.md, eq. (25).

    Few samples give a small w, which keeps iʳ; with many it approaches iˢ. No constant is fitted to a model.
    """
    return shrinkage_weight(_centred(towards - f))


def _centred(maps: Tensor) -> Tensor:
    """``maps`` [*,h,w] minus their means over the picture."""
    return maps - maps.mean((-2, -1), keepdim=True)


def displayed(f: Tensor, smooth: int, towards: Tensor | None = None) -> Tensor:
    """The maps of replicates ``f`` [G,S,h,w] as a result shows them: smoothed, and with ``towards`` :func:`shrunk`.

    ``smooth``: side of the smoothing window in latent pixels, odd; 1 leaves ``f`` unchanged.
    """
    maps = smoothed(f, smooth)
    return maps if towards is None or smooth == 1 else shrunk(maps, smoothed(towards, smooth))
