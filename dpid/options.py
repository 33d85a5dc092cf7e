"""What :meth:`dpid.Explainer.explain` may be asked for, checked before anything is computed."""

from __future__ import annotations

import operator
from collections.abc import Mapping
from dataclasses import dataclass, fields
from difflib import get_close_matches
from numbers import Real
from typing import Any

from dpid.estimation.estimators import ESTIMATORS
from dpid.estimation.sampling import RULES as DRAWN
from dpid.pid import picture_measures
from dpid.pid.decomposition import find
from dpid.prompts.plan import Subset

RULES = ("auto", *DRAWN, "pilot")
LEVELS = ("image", "pixel", "logsnr")
# The least and the most of every whole number. A million evaluations of a condition are a day on a fast GPU, and more
# replicates than that many only take memory; the maps of the largest models are 128 pixels a side.
_COUNTS = {
    "samples": (1, 2**20), "replicates": (2, 2**12), "max_samples": (1, 2**20), "max_batch_size": (1, 2**20),
    "seed": (0, 2**63 - 1), "smooth": (1, 99),
}  # fmt: skip
_OPTIONAL = ("replicates", "max_batch_size")
# What people know from the pipeline's own call, and expect here too.
_PIPELINE = {
    "clip_skip", "cross_attention_kwargs", "denoising_end", "eta", "generator", "guidance_rescale", "guidance_scale",
    "height", "ip_adapter_image", "negative_prompt", "negative_prompt_embeds", "num_images_per_prompt",
    "num_inference_steps", "output_type", "prompt_2", "prompt_embeds", "sigmas", "strength", "timesteps", "width",
}  # fmt: skip
_MODEL = {"device", "dtype", "precision", "torch_dtype"}


@dataclass(frozen=True)
class Options:
    """Options of an explanation, kept as plain Python values.

    A number or text of NumPy, pandas or PyTorch counts as what it holds. ``ValueError`` or ``TypeError`` names an
    option that is out of range, or of another kind.

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
    rule : which log-SNRs, one of :mod:`dpid.estimation.sampling`; "adaptive" needs :attr:`dpid.Explainer.density`;
        "pilot" is "adaptive" with a density that the first half of the first round finds; "auto" is "adaptive" where
        there is a density, else "shifted-grid"
    antithetic : use each noise with both signs
    tolerance : add samples until the 95 % interval of i(x; all concepts) is within this fraction of it (0.05: 5 %),
        looking after 1, 2, 3, 4, 6, 8, 12, … rounds of ``samples``
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
        for field in fields(self):
            if field.name != "priors":  # their values are checked with the concepts that they are of
                object.__setattr__(self, field.name, _plain(field.name, getattr(self, field.name)))
        for name, allowed in (("estimator", ESTIMATORS), ("level", LEVELS), ("rule", RULES)):
            if getattr(self, name) not in allowed:
                raise ValueError(f"{name}: found {_said(getattr(self, name))}, allowed are {', '.join(allowed)}")
        if self.smooth % 2 == 0:
            raise ValueError(f"smooth: found {self.smooth}, expected an odd number of pixels")
        if self.tolerance is not None and self.max_samples < self.samples:
            raise ValueError(f"max_samples: found {self.max_samples}, expected at least samples = {self.samples}")
        if self.reference.lower() in ("concepts", "prompt") and self.reference != self.reference.lower():
            raise ValueError(f"reference: found {self.reference!r}, allowed are 'concepts', 'prompt', or a text")
        self._check_measure()

    def _check_measure(self) -> None:
        if self.measure not in picture_measures():
            allowed = ", ".join(picture_measures())
            raise ValueError(f"measure: found {_said(self.measure)}, allowed for one picture are {allowed}")
        if not isinstance(self.priors, (Mapping, str, type(None))):
            raise TypeError(f"priors: found {_said(self.priors)}, expected a text or {{subset: nats}}")
        needs = find(self.measure).priors
        if needs and self.priors is None:
            raise ValueError(f"priors: {self.measure!r} needs them: 'uniform', 'mlm:<model>', or {{subset: nats}}")
        if self.priors is not None and not needs:
            raise ValueError(f"priors: the measure {self.measure!r} takes none")

    @classmethod
    def from_keywords(cls, options: Mapping[str, Any]) -> Options:
        """The options that a caller named; ``TypeError`` says of a name that is none what may be meant."""
        known = [field.name for field in fields(cls)]
        for name in options:
            if name in known:
                continue
            if name in _PIPELINE:
                raise TypeError(
                    f"{name}: belongs to the pipeline's own call, dpid takes none: no picture is made, and the network "
                    "is asked with every condition as it is"
                )
            if name in _MODEL:
                raise TypeError(f"{name}: is chosen with the model, in dpid.Explainer(…) or its from_pretrained(…)")
            near = get_close_matches(name, known, 1)
            meant = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(known)}"
            raise TypeError(f"{name}: is no option; {meant}")
        return cls(**options)

    def check_maps(self, height: int, width: int) -> None:
        """``ValueError`` where maps of ``height`` × ``width`` latent pixels are smaller than ``smooth``."""
        if self.smooth > max(height, width, 3):  # which is the default, and fits any map
            raise ValueError(
                f"smooth: found {self.smooth}, expected at most the {max(height, width)} latent pixels of a side of "
                "the maps"
            )

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
        return self.per_round // 2 if self.antithetic else self.per_round

    @property
    def per_replicate(self) -> int:
        """Samples of a replicate in a round."""
        return self._step * -(-self.samples // (self._step * self.repeats))

    @property
    def per_round(self) -> int:
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
        return max(1, self.max_samples // self.per_round)


def _plain(name: str, value: Any) -> Any:
    """``value`` of the option ``name`` as a bool, int, float, str or None; an error names the option."""
    if getattr(value, "ndim", None) == 0 and hasattr(value, "item"):  # a number of NumPy or PyTorch
        try:
            value = value.item()
        except (RuntimeError, ValueError) as error:  # on the meta device, say
            raise TypeError(f"{name}: found {_said(value)}, which holds no value") from error
    if name in ("context", "antithetic"):
        if not isinstance(value, bool):
            raise TypeError(f"{name}: found {_said(value)}, expected True or False")
        return value
    if name in _COUNTS:
        return None if value is None and name in _OPTIONAL else _count(name, value)
    if name == "tolerance":
        return None if value is None else _fraction(name, value)
    if not isinstance(value, str):
        raise TypeError(f"{name}: found {_said(value)}, expected a text")
    return str.__str__(value)


def _count(name: str, value: Any) -> int:
    """``value`` as a whole number within its bounds."""
    least, most = _COUNTS[name]
    try:
        count = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        count = None
    if count is None or not least <= count <= most:
        end = "2⁶³ - 1" if name == "seed" else most
        raise ValueError(f"{name}: found {_said(value)}, expected a whole number from {least} to {end}")
    return count


def _fraction(name: str, value: Any) -> float:
    """``value`` as a number between 0 and 1."""
    if type(value) is bool or not issubclass(type(value), Real):
        raise TypeError(f"{name}: found {_said(value)}, expected a number such as 0.05 for 5 %")
    if not 0 < value < 1:
        percent = float(value) if 1 < value < 100 else 5
        raise ValueError(
            f"{name}: found {_said(value)}, expected a fraction between 0 and 1; {percent:g} % is {percent / 100:g}"
        )
    return float(value)


def _said(value: Any) -> str:
    """``repr`` of what was found, of a length that can be read, whatever it is."""
    try:
        text = " ".join(repr(value).split())
    except Exception:  # a number of 5000 digits; an object that breaks
        return f"a {type(value).__name__}"
    return text if len(text) <= 60 else f"{text[:59]}…"
