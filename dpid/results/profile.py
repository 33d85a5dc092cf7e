"""Information as a function of log-SNR."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.prompts.plan import Subset
from dpid.results.intervals import interval


def tail_share(edges: Tensor) -> float:
    """The factor 1 / (e^δ - 1) of docs/theory.md, eq. (28), for bins of equal width δ with ``edges`` [L+1]."""
    width = float(edges[1] - edges[0])
    return math.exp(-width) / -math.expm1(-width)  # which does not overflow


@dataclass(frozen=True, eq=False)
class Profile(Comparable):
    """i(x; y_S) of the image and its decomposition in bins of log-SNR, float32 [L] each, in nats per unit of log-SNR.

    Attributes
    ----------
    edges : of the L bins, [L+1]
    sampled : bool [L], whether a sample fell into the bin. All numbers of others are 0 and say nothing of the model: a
        density leaves out where little was found before
    information : {subset S: i(x; y_S)}
    redundancy, unique, synergy : the measure applied to every bin
    dof : degrees of freedom of intervals: 3 as a rule, of four groups of replicates
    stderr : the standard errors in the same form
    """

    edges: Tensor
    sampled: Tensor
    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    dof: int
    stderr: Profile | None = None

    @property
    def logsnr(self) -> Tensor:
        """The centres of the bins, [L]."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def shown(self, values: Tensor) -> Tensor:
        """``values`` [L] with NaN in bins that were not sampled, as plots leave them out."""
        return values.where(self.sampled, math.nan)

    def tails(self, subset: Subset) -> tuple[float, float]:
        """Estimates of the parts of i(x; y_S) below and above the trained log-SNRs, nats; docs/theory.md, eq. (28).

        They are orders of magnitude, since the exponential decay may not have begun in the outermost bins, and are not
        added to any number.
        """
        f, width = self.information[subset], float(self.edges[1] - self.edges[0])
        share = width * tail_share(self.edges)
        return float(f[0]) * share, float(f[-1]) * share

    def to_dict(self, unit: str) -> dict[str, Any]:
        """i(x; y_S) over log-SNR with errors, 95 % intervals and tails in ``unit``, for JSON.

        Bins that were not sampled have None.
        """
        assert self.stderr is not None
        return {
            "logsnr": self.logsnr.tolist(),
            "unit": f"{unit} per unit of log-SNR",
            "information": {
                "+".join(s): self._with_errors(f, self.stderr.information[s]) for s, f in self.information.items()
            },
            "tails": {"+".join(s): self.tails(s) for s in self.information},
        }

    def _with_errors(self, value: Tensor, error: Tensor) -> dict[str, Any]:
        ends = zip(*map(self._listed, interval(value, error, self.dof)), strict=True)
        return {
            "value": self._listed(value), "stderr": self._listed(error),
            "interval95": [None if low is None else [low, high] for low, high in ends],
        }  # fmt: skip

    def _listed(self, values: Tensor) -> list[float | None]:
        return [None if math.isnan(value) else value for value in self.shown(values).tolist()]
