"""Rule "learning": every round of samples is placed by what all rounds before it have shown; docs/theory.md, eq. (17a).

Whatever was learnt, a round is unbiased, as long as its density does not depend on its own noise and positions. So a
round takes noise and positions that no round before it has had.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from dpid.estimation.grid import cells
from dpid.estimation.sampling import Samples

_NODES = 65  # at which the squares are kept
_WIDTH = 0.5  # standard deviation of the kernel in log-SNR; the integrands change over about one
_PRIOR, _LEAST_EVEN = 32, 0.1  # samples that the start is worth, and the least share that it keeps; eq. (17b)


@dataclass(frozen=True, eq=False)
class Learnt:
    """What rule "learning" knows of where the integrands lie: nothing at first, more after every round of samples.

    Attributes
    ----------
    power : mean squares of the integrands, at even steps over the range of log-SNR, [M] float64; None at first
    samples, rounds : how many evaluations of a condition, in how many rounds, it is known from
    ends : of the range of log-SNR
    state : the token of the model's state, see :class:`dpid.denoisers.protocol.Conditions`
    """

    power: Tensor | None = None
    samples: int = 0
    rounds: int = 0
    ends: tuple[float, float] | None = None
    state: object = None

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"state": None}  # a token means nothing to a copy of the model

    def of(self, grid: Tensor, state: object) -> Learnt:
        """The same for a model of this ``grid`` and ``state``; what another model has taught is forgotten."""
        found = float(grid[0]), float(grid[-1])
        same = self.ends in (None, found) and (self.state is None or self.state is state)
        return replace(self if same else Learnt(), ends=found, state=state)

    def after(self, samples: Samples, f: Tensor, antithetic: bool) -> Learnt:
        """What is known after a round: docs/theory.md, eq. (17a).

        ``f`` [N,S] are the integrands at ``samples``, of all subsets by the signed estimators.
        """
        at, weight, f = samples.logsnr, samples.weight.double(), f.double()
        if antithetic:  # the mean over both signs of a noise counts, for both
            f = f.unflatten(0, (-1, 2)).mean(1).repeat_interleave(2, 0)
        squares = f.square()
        squares = (squares / (weight @ squares + 1e-24)).sum(1)
        near = -((self._nodes()[:, None] - at) / _WIDTH).square() / 2
        power = (near + weight.log()).softmax(1) @ squares
        power = power / power.mean().clamp(min=1e-24)
        total = self.samples + len(at)
        if self.power is not None:
            power = self.power + (power - self.power) * (len(at) / total)
        return replace(self, power=power, samples=total, rounds=self.rounds + 1)

    @classmethod
    def mean(cls, found: Sequence[Learnt]) -> Learnt:
        """What is known from several pictures, each explained from what was known before all of them."""
        known = [one for one in found if one.power is not None]
        if len(known) < 2:
            return found[-1]
        power = torch.stack([one.power for one in known if one.power is not None]).mean(0)
        longest = max(known, key=lambda one: one.samples)  # which had the noise and the positions of all others
        return replace(longest, power=power)

    def density(self, grid: Tensor, start: Tensor | None = None) -> Tensor:
        """The density [T] at the levels of ``grid`` for the next round: docs/theory.md, eq. (17b).

        ``start`` [T] is the one to start from, even if None.
        """
        start = torch.ones_like(grid) if start is None else start.double()
        if self.power is None:
            return start
        widths, even = cells(grid), max(_LEAST_EVEN, _PRIOR / (_PRIOR + self.samples))
        q = torch.from_numpy(np.interp(grid.numpy(), self._nodes().numpy(), self.power.sqrt().numpy()))
        q = (q + 1e-12) / ((q + 1e-12) @ widths)
        return (1 - even) * q + even * start / (start @ widths)

    def _nodes(self) -> Tensor:
        assert self.ends is not None
        return torch.linspace(*self.ends, _NODES, dtype=torch.float64, device="cpu")
