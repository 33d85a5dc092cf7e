"""Shrinkage between two estimators: the default moves iʳ towards iˢ as far as noise does not explain their difference.

D = iˢ - iʳ is what iʳ misses of this picture, plus noise. Of the square of D's mean, the spread of the replicates tells
how much is noise, and w = 1 - noise / square is the share that is real:

    f(S) = iʳ + w D,  0 ≤ w ≤ 1    (docs/theory.md, eq. (12a) of the image's sums, eq. (25) of the maps' layout).

This is the positive part of James and Stein's (1961) shrinkage of iˢ towards iʳ: few samples lean on iʳ, many on iˢ,
and no constant is fitted to a model. One w for all subsets keeps f a set function, and with it the chain rule.

Standard errors of sums are those of iˢ, whose spread the replicates keep: w is estimated too, and (1 - w) D may be
missing. An interval of the width of iˢ's around the shrunk value contains the truth at least as often as iˢ's around
iˢ (Hwang & Casella, 1982, of spheres in four dimensions and more; measured for three numbers by
``benchmarks/bench_truth.py``). Standard errors of maps take w as known.
"""

import torch
from torch import Tensor

from dpid.pid import mean_stderr


def shrinkage_weight(difference: Tensor) -> float:
    """The weight w, from 0 to 1: how much of replicates ``difference`` [G,*] of D is real; one for all numbers."""
    mean, error = mean_stderr(difference)
    square, noise = float(mean.square().mean()), float(error.square().mean())
    return 0.0 if square <= noise else 1 - noise / square


def shrunk_sums(quiet: Tensor, noisy: Tensor, gaps: Tensor, w: float) -> Tensor:
    """Replicates of maps [G,S,h,w] laid out like ``quiet``, whose sums are moved by ``w`` towards those of ``noisy``.

    What the sums differ by is spread over the pixels as :func:`_shares` of ``gaps`` [G,S,h,w], the replicates of i°.
    Sums vary among replicates as those of ``noisy`` do.
    """
    difference = (noisy - quiet).sum((-2, -1), keepdim=True)
    return quiet + (difference - (1 - w) * difference.mean(0)) * _shares(gaps)


def _shares(gaps: Tensor) -> Tensor:
    """The share [S,h,w] of every pixel in the sum of D(S), from ``gaps`` [G,S,h,w], the replicates of i°.

    At a pixel D is the product of ε̂_S - ε̂_∅, whose square is i°, and of ε - ε̂_F, which is about as large everywhere:
    docs/theory.md, eq. (25a). A pixel that y_S does not change has no share.
    """
    size = gaps.mean(0, dtype=torch.float64).clamp(min=0).sqrt()  # below zero only as far as rounding was corrected
    size = size + torch.finfo(size.dtype).tiny  # even where no pixel changes
    return size / size.sum((-2, -1), keepdim=True)


def shrunk_profile(quiet: Tensor, noisy: Tensor, w: float) -> Tensor:
    """Replicates [A,S,L] of the profile ``quiet`` moved by ``w`` towards ``noisy``, varying as that does."""
    return noisy - (1 - w) * (noisy - quiet).mean(0)


def shrunk_layout(quiet: Tensor, noisy: Tensor, w: float | None = None, rest: Tensor | None = None) -> Tensor:
    """Maps ``quiet`` [G,S,h,w] moved by ``w`` towards the layout of ``noisy``, with unchanged sums of their mean.

    Without ``w``, it is :func:`layout_weight`. The sums of :func:`shrunk_sums` still lack (1 - w) D, but the mean of it
    in all replicates: with ``rest`` [G,S], what it is in each, every pixel has the error of what is taken out.
    """
    difference = _centred(noisy - quiet)
    if w is None:
        w = shrinkage_weight(difference)
    if rest is not None:
        each = (rest - rest.mean(0)) / difference[0, 0].numel()
        difference = difference - each.view(*each.shape, *(1,) * (difference.ndim - 2))
    return quiet + w * difference


def layout_weight(quiet: Tensor, noisy: Tensor) -> float:
    """The weight w, from 0 to 1, by which the layout of maps ``quiet`` [G,S,h,w] moves towards that of ``noisy``."""
    return shrinkage_weight(_centred(noisy - quiet))


def _centred(maps: Tensor) -> Tensor:
    """``maps`` [G,S,h,w], or [G,S,T,h,w] of a video, minus their means over all of it."""
    return maps - maps.mean(tuple(range(2, maps.ndim)), keepdim=True)
