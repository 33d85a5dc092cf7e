"""What one word of a prompt tells about a picture, and the verdict on it; docs/theory.md, eqs. (67) to (69).

The PID of a word w has two sources, w and the rest of the prompt. Its redundancy R, uniqueness U and synergy S are sums
of the decomposition by pixel: words of other things in the picture tell of other pixels, so that they share little.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.pid import mean_stderr
from dpid.results.intervals import Estimate, estimates
from dpid.results.metadata import Metadata
from dpid.results.result import PIDResult

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure

REST = "the rest"  # the second source of a word's PID
VERDICTS = ("used", "redundant", "works only with others", "ignored", "misleading", "undecided")


@dataclass(frozen=True, eq=False, repr=False)
class Word(Comparable):
    """What one word or phrase of a prompt tells about a picture.

    Attributes
    ----------
    pid : the decomposition of what the word and the rest of the prompt tell; its second concept is "the rest"
    margin : what counts as nothing, as a share of what the prompt tells
    partner : the word that tells the same, or with which alone this one works; "" where no single one does
    outdated : whether it was asked beside a word that was found to mislead afterwards, and not asked again
    """

    pid: PIDResult
    margin: float
    partner: str = ""
    outdated: bool = False

    @property
    def text(self) -> str:
        """The word."""
        return self.pid.metadata.concepts[0]

    @property
    def alone(self) -> Estimate:
        """i(x; w), nats: what the word tells by itself."""
        return self.pid.information[(self.text,)]

    @cached_property
    def given_rest(self) -> Estimate:
        """i(x; w | rest) = i(x; prompt) - i(x; prompt without w), nats: what is lost without the word."""
        return self.pid.given(self.text)

    @cached_property
    def effect(self) -> Estimate:
        """iʳ(x; w | rest), nats: how much the word changes the model's predictions; docs/theory.md, eq. (68).

        It is never below zero, has little noise, and does not say whether the change is towards the picture, as
        :attr:`given_rest` does.
        """
        return self.pid.given(self.text, estimator="rao-blackwell")

    @property
    def unique(self) -> Estimate:
        """What the word tells by itself and the rest of the prompt does not, nats."""
        return self.pid.unique[self.text]

    @property
    def redundancy(self) -> Estimate:
        """What the word tells by itself and the rest of the prompt tells, too, nats."""
        return self.pid.redundancy

    @property
    def synergy(self) -> Estimate:
        """The synergy of the word and the rest of the prompt, nats: what neither tells without the other."""
        return self.pid.synergy

    @cached_property
    def co_information(self) -> Estimate:
        """:func:`co_information` of the word and the rest, nats: what it loses of what it tells alone, beside the rest.

        Below zero it tells more beside the rest than alone.
        """
        return co_information(self.pid)

    @property
    def map(self) -> Tensor:
        """i(x; w | rest) of every latent pixel, float32 [h,w], of a video [T,h,w], in nats: a copy."""
        return self._map[0].clone()

    @property
    def map_stderr(self) -> Tensor:
        """The standard error of :attr:`map`, in the same form."""
        return self._map[1].clone()

    @cached_property
    def _map(self) -> tuple[Tensor, Tensor]:
        maps = self.pid.decomposition.displayed()
        value, error = mean_stderr(maps[:, 2] - maps[:, 1])
        return value.float(), error.float()

    @cached_property
    def nothing(self) -> float:
        """The margin in nats, docs/theory.md, eq. (69): numbers that are surely no larger count as zero."""
        names = "rao-blackwell", self.pid.metadata.estimator
        told = min(float(self.pid.replicates_by(name).sum((-2, -1)).mean(0).max()) for name in names)
        return self.margin * max(0.0, told)  # a prompt that misleads changes much and tells nothing

    @property
    def beside_wrong(self) -> bool:
        """Whether the rest of the prompt misleads, so that what the word adds to it does not count."""
        return self._sign(self.pid.information[(REST,)]) == "below"

    @cached_property
    def verdict(self) -> str:
        """What the word does, one of ``VERDICTS``; docs/theory.md, section 16."""
        alone = self._sign(self.alone)
        if self.beside_wrong:
            return {"above": "used", "zero": "ignored", "below": "misleading", "open": "undecided"}[alone]
        if alone == "below" and self.given_rest.interval()[1] <= 1.5 * self.nothing:
            return "misleading"
        effect = self._sign(self.effect)
        if effect == "zero":
            return {"above": "redundant", "open": "undecided"}.get(alone, "ignored")
        if self._sign(self.given_rest) == "below":
            return "misleading"
        if effect == "open" or self.given_rest <= 0:
            return "undecided"
        low, high = self._lead
        own = (alone == "above" and (low + high > 0 or self.co_information <= 0)) or (alone == "open" and low > 0)
        return "used" if own else "works only with others"

    def _sign(self, number: Estimate) -> str:
        """ "zero" within the margin, "above" or "below" beyond it, "open" if the interval reaches too far over it."""
        (low, high), most = number.interval(), self.nothing
        if abs(number.value) > most:
            return "above" if low > most / 2 else "below" if high < -most / 2 else "open"
        return "zero" if -1.5 * most <= low and high <= 1.5 * most else "open"

    @cached_property
    def _lead(self) -> tuple[float, float]:
        """The 95 % interval of uniqueness less redundancy, if that is positive, as if their errors were independent."""
        unique, shared = self.unique, self.redundancy
        error = math.hypot(unique.stderr, shared.stderr)
        return Estimate(unique.value - max(0.0, shared.value), error, unique.dof).interval()

    @property
    def settled(self) -> bool:
        """Whether more samples would hardly change the verdict."""
        if self.outdated:
            return False
        if self.verdict not in ("used", "works only with others"):
            return self.verdict != "undecided"
        if self.beside_wrong:
            return True
        alone, (low, high), (least, most) = self._sign(self.alone), self._lead, self.co_information.interval()
        surely = alone in ("zero", "below") or low > 0 or (high < 0 and least > 0) or (alone == "above" and most <= 0)
        return surely and self.given_rest.interval()[0] > -self.nothing

    @property
    def told(self) -> str:
        """The verdict with the word that it is about: "redundant with couch"."""
        if self.verdict == "redundant":
            return f"redundant with {self.partner or REST}"
        return f"works only with {self.partner or REST}" if self.verdict == "works only with others" else self.verdict

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        names = ("alone", "given_rest", "effect", "unique", "redundancy", "synergy", "co_information")
        texts = self.pid.metadata.conditions
        return (
            {"verdict": self.verdict, "with": self.partner, "settled": self.settled, "margin": self.nothing}
            | {name: getattr(self, name).to_dict() for name in names}
            | {"conditions": {"alone": texts[self.text], REST: texts[REST], "all": texts[f"{self.text}+{REST}"]}}
            | {"samples": self.pid.metadata.samples}
        )

    def plot(self, kind: str = "overlay", ax: Any = None) -> Figure:
        """A figure of what the word and the rest of the prompt tell, as of :meth:`dpid.PIDResult.plot`."""
        return self.pid.plot(kind, ax)

    def __repr__(self) -> str:
        return f"Word({self.text!r}: {verdict(self, '?')}; alone {self.alone}, given the rest {self.given_rest})"


def verdict(word: Word, mark: str = " (not settled)") -> str:
    """What a word does, such as "used", and ``mark`` where more samples may change that; "undecided" says so itself."""
    return word.told if word.settled or word.verdict == "undecided" else word.told + mark


def co_information(pid: PIDResult) -> Estimate:
    """i(x; y1) + i(x; y2) - i(x; y1, y2) = R - S of the two concepts of ``pid``, nats, whatever measures R."""
    f = pid.replicates_by(pid.metadata.estimator).sum((-2, -1))
    (found,) = estimates((f[:, 0] + f[:, 1] - f[:, 2])[:, None])
    return found


def pooled(before: PIDResult, rounds: int, new: PIDResult) -> PIDResult:
    """The mean of ``rounds`` rounds of samples, which ``before`` is of, and of one more, ``new``, of equal size."""

    def mean(a: Tensor, b: Tensor) -> Tensor:
        return a + (b - a) / (rounds + 1)

    old, metadata = before.metadata, new.metadata
    return replace(
        new,
        metadata=replace(
            metadata, samples=old.samples + metadata.samples, paired=old.paired + metadata.paired,
            unet_evaluations=old.unet_evaluations + metadata.unet_evaluations, density=old.density,
            precision=old.precision if metadata.precision == "float32" else metadata.precision,
            correction=_pooled_changes(old, rounds, metadata),
        ),
        replicates={name: mean(f, new.replicates[name]) for name, f in before.replicates.items()},
        profiles={name: mean(f, new.profiles[name]) for name, f in before.profiles.items()},
        products=mean(before.products, new.products),
    )  # fmt: skip


def _pooled_changes(before: Metadata, rounds: int, new: Metadata) -> dict[str, dict[str, tuple[float, float]]] | None:
    """What was corrected for rounding on the average of all rounds, nothing in float32; {} if one is not known."""
    rounded = [(n, m.correction or {}) for n, m in ((rounds, before), (1, new)) if m.precision != "float32"]
    if not rounded:
        return None
    if not all(correction for _, correction in rounded):
        return {}
    total = rounds + 1
    return {
        name: {
            subset: (sum(n * c[name][subset][0] for n, c in rounded) / total,
                     math.hypot(*(n * c[name][subset][1] for n, c in rounded)) / total)
            for subset in changes
        }
        for name, changes in rounded[0][1].items()
    }  # fmt: skip
