"""Maps of information over the picture, and their smoothing."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpid.equality import Comparable
from dpid.prompts.plan import Subset
from dpid.results.shrinkage import shrunk_layout


@dataclass(frozen=True, eq=False)
class Maps(Comparable):
    """Maps of i(x; y_S) and of its decomposition, float32 [h,w] each, of a video [T,h,w], in nats per latent pixel.

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
    """Maps ``f`` [*,h,w] averaged over size × size pixels, beyond the border over their mirror image.

    Sums over the picture stay as they are, and so do maps of one value; docs/theory.md, eq. (24).
    """
    for dim in (-2, -1):
        side, reach = f.shape[dim], size // 2
        if reach >= side:  # over all of the map and its image
            f = f.mean(dim, keepdim=True).expand_as(f)
            continue
        start, end = f.narrow(dim, 0, reach).flip(dim), f.narrow(dim, side - reach, reach).flip(dim)
        f = torch.cat((start, f, end), dim).unfold(dim, 2 * reach + 1, 1).mean(-1)
    return f


def displayed(
    f: Tensor, smooth: int, towards: Tensor | None = None, frames: int | None = None, rest: Tensor | None = None
) -> Tensor:
    """The maps of replicates ``f`` [G,S,h,w] as a result shows them: smoothed, and laid out like ``towards``, if given.

    ``smooth``: side of the smoothing window in latent pixels, odd; 1 leaves ``f`` unchanged. For ``towards`` and its
    ``rest`` [G,S] see :func:`dpid.results.shrinkage.shrunk_layout`. Of a video ``f`` has ``frames`` one below the
    other, [G,S,T·h,w], and the maps are [G,S,T,h,w], each frame smoothed by itself.
    """
    if frames is not None:
        f = f.unflatten(-2, (frames, -1))
        towards = towards if towards is None else towards.unflatten(-2, (frames, -1))
    maps = smoothed(f, smooth)
    return maps if towards is None or smooth == 1 else shrunk_layout(maps, smoothed(towards, smooth), rest=rest)
