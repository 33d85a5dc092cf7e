"""Where over log-SNR samples are placed: the density of every rule, and one that is learnt from results."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from dpid.estimation.grid import cells, ends

_LOCATION, _SCALE = 1.0, 2.0  # of the logistic density, as ITD publishes it


def proposal(rule: str, grid: Tensor, widths: Tensor, density: Tensor | None) -> Tensor:
    """Probability [T] of every level of ``grid``, whose cells have ``widths``, by a rule of ``sampling``.

    ``ValueError`` for "adaptive" with a ``density`` that is missing, not positive, or of the wrong length.
    """
    if rule == "logistic":
        return logistic_density(grid)
    if rule != "adaptive":
        return widths / widths.sum()
    if density is None or density.shape != grid.shape or not (density > 0).all() or not density.isfinite().all():
        found = None if density is None else tuple(density.shape)
        raise ValueError(f"density: found {found}, expected {len(grid)} positive numbers, one a level")
    q = density.double() * widths
    return q / q.sum()


def logistic_density(grid: Tensor) -> Tensor:
    """Probability [T] of the levels of ``grid`` under ITD's logistic density, cut off at the ends of the grid."""
    mass = ((ends(grid) - _LOCATION) / _SCALE).sigmoid().diff()
    return mass / mass.sum()


def learn_density(profiles: Sequence[Tensor], edges: Tensor, grid: Tensor, even: float) -> Tensor:
    """Where "adaptive" samples, [T] at the levels of ``grid``, from i(x; y_S) over log-SNR of pictures seen before.

    Beside an ``even`` part it is the standard deviation over replicates: a grid integrates what all replicates share,
    so that the noise is what is left to place samples by. With s² the variance at a level, of mean one over the levels
    for each subset and picture alike, ∫ s²/q is that of an estimate, and its mean over them least for q ∝ √(mean s²):
    where few pictures are decided, but those with much noise, samples are missed most. It is smoothed over neighbouring
    bins: a jagged density loses what a grid gains.

    Parameters
    ----------
    profiles : [A,S,L] of every picture (and estimator), nats of A replicates and S subsets in L bins
    edges : of the bins, [L+1]
    even : share of the samples that is spread evenly, the larger the less the profiles can be relied on
    """
    squares = [f.double().var(0) for f in profiles]
    size = torch.stack([(s / (s.mean(1, keepdim=True) + 1e-24)).mean(0) for s in squares]).mean(0).sqrt()
    padded = torch.cat((size[:1], size, size[-1:]))
    size = (padded[:-2] + 2 * padded[1:-1] + padded[2:]) / 4 + 1e-12
    q = size[torch.bucketize(grid, edges[1:-1])]
    return (1 - even) * q / (q * cells(grid)).sum() + even / (grid[-1] - grid[0])
