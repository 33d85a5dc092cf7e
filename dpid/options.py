"""What :meth:`dpid.Explainer.explain` may be asked for, checked before anything is computed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from dpid.estimation.estimators import ESTIMATORS
from dpid.estimation.sampling import RULES as DRAWN
from dpid.pid import picture_measures
from dpid.pid.decomposition import find
from dpid.prompts.plan import Subset

RULES = ("auto", *DRAWN, "pilot")
LEVELS = ("image", "pixel", "logsnr")


@dataclass(frozen=True)
class Options:
    """Options of an explanation; ``ValueError`` names one that is out of range.

    Attributes
    ----------
    context : False, PID: words against the empty prompt. True, CPID: given the rest of the prompt
    reference : F of the Rao–Blackwellised estimator: "concepts" (all of them), "prompt", or a text
    estimator : whose numbers stand at the top: "rao-blackwell", "standard", "orthogonal"; all are computed
    measure : redundancy measure; see :func:`dpid.pid.decompose`
    priors : for measures that need them ("ppid", "i_sx"): {S: h(y_S) in nats}, "uniform", or "mlm:<model>"
    level : what the measure acts on for the numbers of the whole image: "image", the totals; "pixel", every latent
        pixel of the maps, whose sums the numbers then are; "logsnr", the image in every bin of log-SNR. A minimum is
        concave, so the redundancy of a finer level is the smaller one. Maps are always by pixel
    smooth : maps are means over smooth × smooth pixels, taken of i(x; y_S) before the measure acts, those of
        "rao-blackwell" then laid out like iˢ's where they differ beyond noise; 1 for neither
    samples : evaluations of every condition, rounded up to a multiple of 2 · ``replicates`` ("pilot": of 4 · …)
    replicates : repeats, from whose spread the errors come; None: eight, or four of fewer than 16 samples. Of the same
        samples eight tell an error of more degrees of freedom: in a 95 % interval 2.4 of them, of four 3.2
    rule : which log-SNRs, one of :mod:`dpid.estimation.sampling`; "adaptive" needs :attr:`dpid.Explainer.density`; "pilot" is
        "adaptive" with a density that the first half of the first round finds; "auto" is "adaptive" where there is a
        density, else "shifted-grid"
    antithetic : use each noise with both signs
    tolerance : add samples until the 95 % interval of i(x; all concepts) is within this fraction of it, looking after
        1, 2, 3, 4, 6, 8, 12, … rounds of ``samples``
    max_samples : where ``tolerance`` and :meth:`dpid.Explainer.stream` stop
    seed : of noise and log-SNRs, in [0, 2⁶³); the global random state is neither read nor changed
    max_batch_size : UNet evaluations in one call; None: as many as run fastest and fit the free memory
    """

    context: bool = False
    reference: str = "concepts"
    estimator: str = "rao-blackwell"
    measure: str = "min"
    priors: Mapping[Subset, Any] | str | None = None
    level: str = "image"
    smooth: int = 3
    samples: int = 32
    replicates: int | None = None
    rule: str = "auto"
    antithetic: bool = True
    tolerance: float | None = None
    max_samples: int = 1024
    seed: int = 0
    max_batch_size: int | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("estimator", ESTIMATORS), ("level", LEVELS), ("rule", RULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: found {getattr(self, name)!r}, allowed are {', '.join(allowed)}")
        for name, least in (
            ("samples", 1), ("replicates", 2), ("max_samples", 1), ("max_batch_size", 1), ("seed", 0), ("smooth", 1),
        ):  # fmt: skip
            count = getattr(self, name)
            if name in ("max_batch_size", "replicates") and count is None:
                continue
            if not isinstance(count, int) or isinstance(count, bool) or count < least:
                raise ValueError(f"{name}: found {count!r}, expected a whole number of at least {least}")
        if self.seed >= 2**63:
            raise ValueError(f"seed: found {self.seed}, allowed are 0…2⁶³ - 1")
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth: found {self.smooth}, expected an odd number of pixels")
        if self.tolerance is not None and not self.tolerance > 0:
            raise ValueError(f"tolerance: found {self.tolerance}, expected a positive fraction such as 0.05")
        if self.tolerance is not None and self.max_samples < self.samples:
            raise ValueError(f"max_samples: found {self.max_samples}, expected at least samples = {self.samples}")
        if not isinstance(self.reference, str):
            raise TypeError(f"reference: found {type(self.reference).__name__}, expected a text")
        if self.reference.lower() in ("concepts", "prompt") and self.reference != self.reference.lower():
            raise ValueError(f"reference: found {self.reference!r}, allowed are 'concepts', 'prompt', or a text")
        self._check_measure()

    def _check_measure(self) -> None:
        if self.measure not in picture_measures():
            allowed = ", ".join(picture_measures())
            raise ValueError(f"measure: found {self.measure!r}, allowed for one picture are {allowed}")
        needs = find(self.measure).priors
        if needs and self.priors is None:
            raise ValueError(f"priors: {self.measure!r} needs them: 'uniform', 'mlm:<model>', or {{subset: nats}}")
        if self.priors is not None and not needs:
            raise ValueError(f"priors: the measure {self.measure!r} takes none")

    @property
    def repeats(self) -> int:
        """Replicates."""
        return self.replicates or (8 if self.samples >= 8 * self._step else 4)

    @property
    def _step(self) -> int:
        """What the samples of a replicate are a multiple of."""
        return (2 if self.antithetic else 1) * (2 if self.rule == "pilot" else 1)

    @property
    def points(self) -> int:
        """Log-SNRs of a round."""
        return self.each // 2 if self.antithetic else self.each

    @property
    def per_replicate(self) -> int:
        """Samples of a replicate in a round."""
        return self._step * -(-self.samples // (self._step * self.repeats))

    @property
    def each(self) -> int:
        """Samples of a round."""
        return self.per_replicate * self.repeats

    def draws(self, turn: int) -> tuple[tuple[str, int], ...]:
        """(rule, samples of a replicate) of what round ``turn`` draws."""
        if self.rule != "pilot":
            return ((self.rule, self.per_replicate),)
        if turn == 0:
            return ("shifted-grid", self.per_replicate // 2), ("adaptive", self.per_replicate // 2)
        return (("adaptive", self.per_replicate),)

    @property
    def rounds(self) -> int:
        """The most rounds."""
        return max(1, self.max_samples // self.each)
