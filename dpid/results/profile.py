"""Where over log-SNR the information lies."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.prompts.plan import Subset


def tail_share(edges: Tensor) -> float:
    """What decays as e^-λ, beyond the last of even bins with these ``edges`` [L+1], as a share of that in the last."""
    return 1 / math.expm1(float(edges[1] - edges[0]))


@dataclass(frozen=True, eq=False)
class Profile(Comparable):
    """Where over log-SNR the information lies: nats per unit of log-SNR, of the whole image, float32 [L] each.

    Attributes
    ----------
    edges : of the L bins, [L+1]
    information, redundancy, unique, synergy : as of :class:`Maps`, the measure acting on every bin
    stderr : the standard errors in the same form
    """

    edges: Tensor
    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    stderr: Profile | None = None

    @property
    def logsnr(self) -> Tensor:
        """Middles of the bins, [L]."""
        return (self.edges[1:] + self.edges[:-1]) / 2

    def tails(self, subset: Subset) -> tuple[float, float]:
        """About how much of i(x; y_S) lies below and above the trained log-SNRs, nats.

        Far out the integrand goes as e^λ below and e^-λ above (theory: the posterior mean is then linear in the
        signal, the score in the noise), so the part outside is the integrand at the end; it is taken from the outermost
        bins, where that decay may not have begun: an order of magnitude, not added to any number.
        """
        f, width = self.information[subset], float(self.edges[1] - self.edges[0])
        share = width * tail_share(self.edges)
        return float(f[0]) * share, float(f[-1]) * share

    def to_dict(self) -> dict[str, Any]:
        """i(x; y_S) over log-SNR, ready for JSON."""
        assert self.stderr is not None
        return {
            "logsnr": self.logsnr.tolist(),
            "unit": "nats per unit of log-SNR",
            "information": {
                "+".join(s): {"value": f.tolist(), "stderr": self.stderr.information[s].tolist()}
                for s, f in self.information.items()
            },
            "tails": {"+".join(s): self.tails(s) for s in self.information},
        }
