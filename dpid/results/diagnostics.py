"""Whether the predictions behind a result are posterior means, by docs/theory.md, eqs. (64) and (65)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpid.equality import Comparable
from dpid.results.intervals import Estimate, estimates

# A guidance that no trained model of ours has had of one picture that its words describe: for a remark the whole
# interval has to be above.
_GUIDED = 1.5


@dataclass(frozen=True, eq=False)
class Diagnostics(Comparable):
    """What tells a guided or a distilled model from one whose predictions are posterior means.

    Attributes
    ----------
    guidance : the guidance that the predictions contain, w = 2 i° / (i° + iˢ) of all concepts: near 1 if they are means
        and the concepts true of the picture. The values of single pictures vary about it: average i° and iˢ over many,
        each with a ``seed`` of its own, since pictures that share a seed share their noise, or else replicate by
        replicate. None unless the 95 % interval of i° + iˢ is above zero
    orthogonality : E ε̂·(ε - ε̂) / E ‖ε - ε̂‖² under the reference, both integrated over log-SNR: 0 for a mean, -½ for a
        draw from the posterior. It is below 0, too, where the picture is not one that the model would make, such as one
        that was drawn with guidance
    profile : the same ratio in every bin of log-SNR, and its standard errors, float32 [2,L]
    """

    guidance: Estimate | None
    orthogonality: Estimate
    profile: Tensor

    def remarks(self) -> list[str]:
        """What speaks, beyond its error, against predictions that are means, and what that would mean for nats."""
        # Orthogonality does not tell by one picture: one that was drawn with guidance, as most are, looks like a draw.
        if not self.guidance or self.guidance.interval()[0] <= _GUIDED:
            return []
        return [
            f"predictions look guided (w = {self.guidance}; means have 1): the model was distilled at guidance, and no "
            "number is in nats, those of rao-blackwell and orthogonal being about w² times too large, or the words do "
            "not describe this picture as it would, and standard alone tells nats"
        ]

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for JSON; null for guidance where there is none."""
        return {
            "guidance": self.guidance and self.guidance.to_dict(),
            "orthogonality": self.orthogonality.to_dict(),
            "orthogonality_profile": dict(zip(("value", "stderr"), self.profile.tolist(), strict=True)),
        }


def diagnose(orthogonal: Tensor, standard: Tensor, products: Tensor) -> Diagnostics:
    """What tells means from guided predictions and draws, of replicates of i° and iˢ [G] and ``products`` [A,2,L].

    i° and iˢ are of all concepts together.
    ``products`` are those of :func:`dpid.estimation.estimators.orthogonality`.
    """
    whole = (orthogonal + standard).double()
    (known,) = estimates(whole[:, None])
    guidance = _estimate(2 * orthogonal.double(), whole) if known.interval()[0] > 0 else None
    above, below = products.double().unbind(1)
    profile = torch.stack(_ratio(above, below)).float()
    return Diagnostics(guidance, _estimate(above.sum(1), below.sum(1)), profile)


def _estimate(above: Tensor, below: Tensor) -> Estimate:
    """The ratio of the means of ``above`` [G] and ``below`` [G]."""
    value, error = _ratio(above, below)
    return Estimate(float(value), float(error), len(above) - 1)


def _ratio(above: Tensor, below: Tensor) -> tuple[Tensor, Tensor]:
    """The ratio [*] of the means of ``above`` [G,*] and ``below`` [G,*], and its standard error to first order.

    Both are 0 where no sample was drawn.
    """
    g, mean = len(above), below.mean(0)
    scale = torch.where(mean == 0, torch.inf, mean)
    ratio = above.mean(0) / scale
    return ratio, (above - ratio * below).std(0) / g**0.5 / scale
