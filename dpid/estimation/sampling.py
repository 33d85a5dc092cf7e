"""Draws samples: the log-SNRs of an estimate, the ids of their noise, and their weights.

Log-SNRs are drawn from the levels that the network was trained at, docs/theory.md, eq. (14), by one of the rules in the
table there. The replicates of "shifted-grid" and "adaptive" are interleaved, docs/theory.md, eq. (15): for
few points of a smooth integrand their mean is far more exact than that of independent replicates, and the intervals are
too wide rather than too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from dpid.estimation.density import proposal
from dpid.estimation.grid import cells


@dataclass(frozen=True, eq=False)
class Samples:
    """N points (λ, ε) with weights w; Σ w g(λ, ε) over a replicate's points is an unbiased estimate of ∫ E_ε g dλ.

    Attributes
    ----------
    logsnr : λ, [N] float64
    weight : w, [N] float32
    replicate : index of the point's replicate, [N] int64
    sample_id : id of the point's noise, [N] int64; see :func:`dpid.ops.noisy_channel`
    """

    logsnr: Tensor
    weight: Tensor
    replicate: Tensor
    sample_id: Tensor

    def __getitem__(self, part: slice | Tensor) -> Samples:
        return Samples(self.logsnr[part], self.weight[part], self.replicate[part], self.sample_id[part])

    def same(self, other: Samples) -> bool:
        """Whether ``other`` are the same points with the same weights in the same replicates."""
        return all(torch.equal(mine, getattr(other, name)) for name, mine in vars(self).items())

    def to(self, device: torch.device) -> Samples:
        """The same samples on ``device``."""
        return Samples(*(t.to(device) for t in (self.logsnr, self.weight, self.replicate, self.sample_id)))


RULES = ("shifted-grid", "stratified", "uniform", "logistic", "adaptive")


def draw(
    rule: str, grid: Tensor, per_replicate: int, replicates: int, generator: torch.Generator, *,
    antithetic: bool = True, density: Tensor | None = None, first_id: int = 0, shift: float | None = None,
) -> Samples:  # fmt: skip
    """The samples of G replicates drawn by one rule; every replicate gives an unbiased estimate of the integral.

    Parameters
    ----------
    rule : one of ``RULES``
    grid : ascending log-SNRs, [T] float64
    per_replicate : number of samples of a replicate, even if ``antithetic``
    replicates : G, the number of replicates, which have different levels and independent noise
    generator : of the random positions
    antithetic : whether every noise is used with both signs, at the same level
    density : of rule "adaptive" at the levels, [T], positive; it need not be normalised
    first_id : the id of the first noise; the others follow it
    shift : v of docs/theory.md, eq. (15), in [0, 1), for the rules of a grid; drawn at random if None

    Raises
    ------
    ValueError
        The rule is unknown, the number of antithetic samples odd, or the density missing, not positive, or of the wrong
        length.
    """
    if rule not in RULES:
        raise ValueError(f"rule: found {rule!r}, allowed are {', '.join(RULES)}")
    if per_replicate < 1 or (antithetic and per_replicate % 2):
        raise ValueError(f"per_replicate: found {per_replicate}, expected a positive {'even ' * antithetic}number")
    points = per_replicate // 2 if antithetic else per_replicate
    widths = cells(grid)
    q = proposal(rule, grid, widths, density)
    if rule in ("shifted-grid", "adaptive"):
        first = torch.rand(1, generator=generator, dtype=torch.float64) if shift is None else shift
        u = (first + torch.arange(replicates, dtype=torch.float64)[:, None] / replicates) % 1
    else:
        u = torch.rand(replicates, points, generator=generator, dtype=torch.float64)
    if rule not in ("uniform", "logistic"):
        u = (torch.arange(points, dtype=torch.float64) + u) / points
    level = torch.searchsorted(q.cumsum(0), u.flatten()).clamp(max=len(grid) - 1)
    weight = (widths[level] / q[level] / per_replicate).float()
    noise = torch.arange(first_id, first_id + replicates * points)
    replicate = torch.arange(replicates).repeat_interleave(points)
    if not antithetic:
        return Samples(grid[level], weight, replicate, noise)
    pair = torch.stack((noise, ~noise), -1).flatten()
    return Samples(grid[level].repeat_interleave(2), weight.repeat_interleave(2), replicate.repeat_interleave(2), pair)


def shifts(generator: torch.Generator, independent: bool = False) -> Iterator[float]:
    """The shifts of the grids of rounds 0, 1, 2, … in [0, 1), docs/theory.md, eq. (16), with a random first one.

    ``independent``: every shift is random instead, as where the density of a round depends on the rounds before.

    Every shift is uniformly distributed, so every round is unbiased. As the shifts form a Kronecker sequence, the error
    of a replicate on a smooth integrand falls as 1 / rounds; with independent shifts it would fall as the root of that.
    The grid of all R interleaved replicates moves by R times the golden ratio (mod 1) of its own finer step, .944 for
    R = 8, which fills that step more slowly; but the error of that grid is far smaller to begin with.
    """
    positions = (float(torch.rand(1, generator=generator, dtype=torch.float64)) for _ in count())
    if independent:
        return positions
    first = next(positions)
    return ((first + turn * (5**0.5 - 1) / 2) % 1 for turn in count())
