"""Which log-SNRs, which noise, which weights.

The integral over log-SNR λ becomes a sum over the levels that the network was trained at, Σ_t Δ_t g(λ_t) with
trapezoid widths Δ_t: the noise level and the timestep given to the network then agree exactly. A rule draws level t
with probability q_t and weighs it by Δ_t / q_t, so that every replicate is an unbiased estimate of that sum:

- ``logistic``      independent levels from a logistic density, ITD's rule (Kong et al., 2023: location 1, scale 2)
- ``uniform``       independent levels, q_t ∝ Δ_t
- ``stratified``    one level in each of n equal strata, q_t ∝ Δ_t
- ``shifted-grid``  n equal steps with one random shift, q_t ∝ Δ_t
- ``adaptive``      a shifted grid in a density that was found before, see :func:`dpid.estimation.density.learn_density`

The replicates of the last two are interleaved: of R the r-th is shifted by u + r/R (mod 1) of a step, one random u for
all, so that together they make one grid R times as fine. Each alone is unbiased; their mean is more exact than that of
independent ones, by far where few points meet a smooth integrand. Their spread tells the noise of ε and, besides, how
far apart coarse grids of the same integrand are: where it is smooth, intervals are too wide rather than too narrow.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count

import torch
from torch import Tensor

from dpid.estimation.density import proposal
from dpid.estimation.grid import cells


@dataclass(frozen=True)
class Samples:
    """N evaluation points; Σ over a replicate's samples of weight · g(λ, ε) estimates ∫ E_ε g dλ.

    Attributes
    ----------
    logsnr : [N] float64
    weight : [N] float32
    replicate : [N] int64
    sample_id : [N] int64, see :func:`dpid.ops.noisy_channel`
    """

    logsnr: Tensor
    weight: Tensor
    replicate: Tensor
    sample_id: Tensor

    def __getitem__(self, part: slice) -> Samples:
        return Samples(self.logsnr[part], self.weight[part], self.replicate[part], self.sample_id[part])

    def to(self, device: torch.device) -> Samples:
        """The same samples on ``device``."""
        return Samples(*(t.to(device) for t in (self.logsnr, self.weight, self.replicate, self.sample_id)))


RULES = ("shifted-grid", "stratified", "uniform", "logistic", "adaptive")


def draw(
    rule: str, grid: Tensor, per_replicate: int, replicates: int, generator: torch.Generator, *,
    antithetic: bool = True, density: Tensor | None = None, first_id: int = 0, shift: float | None = None,
) -> Samples:  # fmt: skip
    """Replicates of one rule, each an unbiased estimate of the integral.

    Parameters
    ----------
    rule : one of ``RULES``
    grid : [T] float64, ascending log-SNRs
    per_replicate : samples of one replicate; even if ``antithetic``
    replicates : G, each with its own levels and its own noise; those of a grid are interleaved
    antithetic : use each noise with both signs, at the same level
    density : [T], with which "adaptive" draws levels, up to a factor; positive where the integrand is not zero
    first_id : the noise of the call is numbered from here on
    shift : of the grids, in steps; see :func:`shifts`. Drawn if left out

    Raises
    ------
    ValueError
        An unknown rule, an odd number of antithetic samples, a density missing, not positive, or of the wrong length.
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


def shifts(generator: torch.Generator) -> Iterator[float]:
    """Shifts u, u + φ, u + 2φ, … (mod 1) of the grids of round after round, u random, φ the golden ratio.

    Each is uniform, so that every round is unbiased. The rounds of a replicate fill its step as evenly as a sequence
    can that does not know its end (Kronecker's): of a smooth integrand its error, from which standard errors come,
    falls as 1 / rounds, that of independent shifts as the root of that. The finer grid that R interleaved replicates
    make together moves by Rφ (mod 1) of its own step, which for R = 8 is .944 and fills it more slowly; but that grid
    errs far less to begin with.
    """
    first = float(torch.rand(1, generator=generator, dtype=torch.float64))
    return ((first + turn * (5**0.5 - 1) / 2) % 1 for turn in count())
