"""What an explanation returns: numbers with errors, maps, one file that holds all of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.estimation.estimators import are_squares
from dpid.files import PathLike, as_path, whole
from dpid.pid import Atoms, mean_stderr
from dpid.prompts.plan import Subset, subsets_of
from dpid.results.decomposition import Decomposition, Method, atoms_of, decomposition
from dpid.results.intervals import Estimate
from dpid.results.maps import Maps, displayed
from dpid.results.profile import Profile

if TYPE_CHECKING:
    from dpid.results.drawing import Figure


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]


def _below_zero(information: Mapping[Subset, Estimate], level: float) -> list[Subset]:
    """The concepts that mislead beyond the error."""
    return [subset for subset, estimate in information.items() if estimate.interval(level)[1] < 0]


@dataclass(frozen=True, eq=False)
class Facts(Comparable):
    """How a result came about; see :class:`dpid.options.Options` for what was asked.

    ``conditions``: {"": null, "cow": …, "cow+giraffe": …}; ``reference``: the condition F; ``priors``: {"cow": nats}.
    ``rounding_bias``: {estimator: {"cow+giraffe": nats}}, how much more i(x; y_S) is in ``precision`` than in float32,
    measured on the first picture that the explainer saw. ``broken``: what ended a run before its tolerance.
    ``peak_memory`` in bytes: of the GPU, else of the process.
    """

    prompt: str
    concepts: tuple[str, ...]
    context: bool
    conditions: dict[str, str]
    reference: str
    estimator: str
    measure: str
    level: str
    smooth: int
    rule: str
    antithetic: bool
    priors: dict[str, float] | None
    samples: int
    replicates: int
    unet_evaluations: int
    logsnr_range: tuple[float, float]
    seed: int
    model: str
    precision: str
    version: str
    converged: bool | None = None
    broken: str = ""
    rounding_bias: dict[str, dict[str, float]] | None = None
    peak_memory: int | None = field(default=None, compare=False)  # says nothing about the numbers
    unit: str = field(default="nats", init=False)


@dataclass(frozen=True, eq=False, repr=False)
class PIDResult(Comparable):
    """Which word put what into the picture.

    Equal are results of equal facts and tensors, bit by bit; they can be hashed, pickled and copied.

    Attributes
    ----------
    facts : prompt, concepts, conditions, seed, model, UNet evaluations, …
    replicates : {estimator: float32 [G, S, h, w]}, f(S) of the non-empty subsets, smallest first, in nats per latent
        pixel; every number and map below is computed from these
    profiles : {estimator: float32 [A, S, L]}, the same of the whole image in L bins of log-SNR, nats; A is 4 where four
        divide G, else G
    edges : of the bins, float64 [L+1]
    picture : uint8 [H, W, 3], or None when latents were explained
    """

    facts: Facts
    replicates: Mapping[str, Tensor]
    profiles: Mapping[str, Tensor]
    edges: Tensor
    picture: Tensor | None = None

    @cached_property
    def estimates(self) -> dict[str, Decomposition]:
        """The decomposition by every estimator: "rao-blackwell", "standard", "orthogonal"."""
        return {
            name: decomposition(
                f.double(), self.profiles[name].double(), self.edges, self._method, self._squares(name),
                self._towards(name),
            )
            for name, f in self.replicates.items()
        }  # fmt: skip

    def _squares(self, estimator: str) -> list[bool]:
        named = self.facts.conditions
        conditions = [named.get("+".join(s)) for s in subsets_of(self.facts.concepts)[1:]]
        return are_squares(estimator, conditions, self.facts.reference)

    @property
    def _method(self) -> Method:
        facts = self.facts
        known = facts.priors or {}
        priors = {s: known["+".join(s)] for s in subsets_of(facts.concepts)[1:] if "+".join(s) in known} or None
        return Method(facts.concepts, facts.measure, facts.level, facts.smooth, priors)

    def _towards(self, estimator: str) -> Tensor | None:
        """Towards whose layout the maps of ``estimator`` are shrunk."""
        return self.replicates["standard"].double() if estimator == "rao-blackwell" else None

    def atom_maps(self) -> tuple[Atoms, Atoms]:
        """Every atom of the lattice per latent pixel by ``facts.estimator``, and the standard errors in the same form.

        ``values, errors = result.atom_maps()``; ``values[("cow",), ("giraffe", "tree")]`` is a map [h, w] in nats,
        float64, of what ``maps`` is made of. 4 atoms of two concepts, 18 of three, 166 of four. ``ValueError`` where
        those of five concepts and more do not fit the memory.
        """
        name = self.facts.estimator
        f = displayed(self.replicates[name].double(), self.facts.smooth, self._towards(name))
        return atoms_of(f, self._method, f[0, 0].numel(), corrected=False, coarse=False)

    @property
    def chosen(self) -> Decomposition:
        """The decomposition by ``facts.estimator``; the properties below are its fields."""
        return self.estimates[self.facts.estimator]

    @property
    def redundancy(self) -> Estimate:
        """What two or more concepts tell, each alone."""
        return self.chosen.redundancy

    @property
    def unique(self) -> dict[str, Estimate]:
        """What one concept tells and no other does."""
        return self.chosen.unique

    @property
    def synergy(self) -> Estimate:
        """What no concept tells alone."""
        return self.chosen.synergy

    @property
    def information(self) -> dict[Subset, Estimate]:
        """i(x; y_S) of every subset S."""
        return self.chosen.information

    @property
    def maps(self) -> Maps:
        """The same, per latent pixel."""
        return self.chosen.maps

    @property
    def profile(self) -> Profile:
        """The same, over log-SNR."""
        return self.chosen.profile

    @property
    def cross_term(self) -> dict[Subset, Estimate]:
        """iˢ - i° = ∫E[(ε - ε̂_S)·(ε̂_S - ε̂_∅)] dλ of every subset, nats.

        Zero on average where the network is optimal and y_S describes the picture (theory: ε - ε̂_S is then orthogonal
        to every function of x_λ and y_S); far from it, i° is not what the words tell about this picture.
        """
        return self._differences("standard", "orthogonal")

    def _differences(self, first: str, second: str) -> dict[Subset, Estimate]:
        difference = (self.replicates[first] - self.replicates[second]).double().sum((-2, -1))
        mean, error = mean_stderr(difference)
        return {
            s: Estimate(float(m), float(e), len(difference) - 1)
            for s, m, e in zip(subsets_of(self.facts.concepts)[1:], mean, error, strict=True)
        }

    def _disagreements(self, level: float) -> dict[Subset, Estimate]:
        """Where iʳ - iˢ is more than their errors, and than pictures of F differ in it even if the network is perfect.

        Over p(x | F) the two have one mean; of one picture the difference ∫E_ε[(ε - ε̂_F)·(ε̂_S - ε̂_∅)] dλ is, given ε
        a path of noise, a martingale of quadratic variation ∫‖ε̂_S - ε̂_∅‖² dλ = 2 i°(S); its mean over paths varies by
        no more.
        """
        found = {}
        for subset, gap in self._differences("rao-blackwell", "standard").items():
            spread = math.sqrt(2 * max(0.0, self.estimates["orthogonal"].information[subset].value))
            if not _holds_zero(replace(gap, stderr=math.hypot(gap.stderr, spread)).interval(level)):
                found[subset] = gap
        return found

    def rounding_matters(self) -> bool:
        """Whether rounding biases some i(x; y_S) by more than half its standard error."""
        bias = (self.facts.rounding_bias or {}).get(self.facts.estimator, {})
        # Asked of every round: from the replicates, without the atoms.
        _, errors = mean_stderr(self.replicates[self.facts.estimator].double().sum((-2, -1)))
        subsets = subsets_of(self.facts.concepts)[1:]
        return any(abs(bias.get("+".join(s), 0.0)) > e / 2 for s, e in zip(subsets, errors.tolist(), strict=True))

    def relative_error(self) -> float:
        """Half the 95 % interval of i(x; all concepts) over it, what ``tolerance`` is held against."""
        # Asked of every round: from the replicates, without the atoms.
        mean, error = mean_stderr(self.replicates[self.facts.estimator][:, -1].double().sum((-2, -1)))
        low, high = Estimate(float(mean), float(error), self.facts.replicates - 1).interval()
        return (high - low) / 2 / max(abs(float(mean)), 1e-300)

    def remarks(self, level: float = 0.95) -> list[str]:
        """Where a concept misleads about this picture, where two estimators disagree, and what else to know."""
        lines = []
        for subset in _below_zero(self.information, level):
            lines.append(
                f"{' + '.join(subset)!r} misleads about this picture: {self.information[subset]} nats, below zero "
                "beyond its error"
            )
        differ, standard = self._disagreements(level), self.estimates["standard"].information
        if differ:
            beyond = ", ".join(f"{' + '.join(s)} by {gap}" for s, gap in list(differ.items())[:4])
            # A wrong word among the concepts is part of F, by which iʳ takes for right what that word says.
            wrong = [s for s in _below_zero(standard, level) if s in differ]
            misled = ", ".join(f"{' + '.join(s)!r} misleads: {standard[s]}" for s in wrong[:4])
            trust = (
                f"by standard {misled} nats; trust that, or give a reference that is true of the picture" if wrong
                else "trust the maps for where, and standard for how much"
            )  # fmt: skip
            lines.append(
                f"rao-blackwell and standard disagree ({beyond} nats): {self.facts.reference!r} does not describe this "
                f"picture as the model would; {trust}"
            )
        above = [
            "+".join(s) for s, e in self.information.items()
            if e.interval(level)[0] > (self.facts.priors or {}).get("+".join(s), math.inf)
        ]  # fmt: skip
        if above:
            lines.append(
                f"i(x; y) exceeds the prior h(y) of {', '.join(above)}: words cannot tell that much, and the atoms of "
                f"{self.facts.measure} mean less there"
            )
        if self.rounding_matters():
            lines.append(
                f"rounding in {self.facts.precision} biases a number by more than half its standard error: use float32"
            )
        if self.facts.broken:
            lines.append(self.facts.broken)
        elif self.facts.converged is False:
            lines.append("the tolerance was not reached: allow more samples, or accept the errors shown")
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All numbers and facts, ready for JSON."""
        facts = asdict(self.facts)
        return (
            {k: facts.pop(k) for k in ("prompt", "concepts", "context", "unit", "estimator", "measure")}
            | self.chosen.to_dict()
            | {"profile": self.profile.to_dict()}
            | {"cross_term": {"+".join(s): e.to_dict() for s, e in self.cross_term.items()}}
            | {"estimators": {name: d.to_dict() for name, d in self.estimates.items()}}
            | facts
            | {"remarks": self.remarks()}
        )

    def save(self, path: PathLike) -> None:
        """Write a safetensors file: replicates, picture, the chosen maps, and all facts as metadata.

        The file is whole or not there, also where several write it at once: then the last one stays. ``ValueError``
        where there is no such folder.
        """
        from dpid.results.saved import to_bytes

        target = as_path(path)
        if not target.parent.is_dir():
            raise ValueError(f"path: found {target}, but there is no folder {target.parent}")
        if target.is_dir():
            raise ValueError(f"path: {target} is a folder; give the name of a file")
        with whole(target) as unfinished:
            unfinished.write_bytes(to_bytes(self))

    @classmethod
    def load(cls, path: PathLike) -> PIDResult:
        """Read what :meth:`save` wrote; ``ValueError`` names the path and what is wrong if the file is another."""
        from dpid.results.saved import from_bytes

        source = as_path(path)
        if not source.is_file():
            raise ValueError(f"path: {source} {'is no file' if source.exists() else 'does not exist'}")
        try:
            # In one piece: a memory map is opened twice, between which another writer may put another file there.
            data = source.read_bytes()
        except OSError as error:
            raise ValueError(f"path: {source} cannot be read ({error.strerror})") from error
        try:
            return from_bytes(data)
        except ValueError as error:
            raise ValueError(f"path: {source}: {error}") from error

    def plot(self) -> Figure:
        """The picture, R, every U and S side by side on one colour scale."""
        from dpid.results.plot import plot_maps

        return plot_maps(self)

    def plot_profile(self) -> Figure:
        """f(S) and the atoms over log-SNR, with bands of one standard error."""
        from dpid.results.plot import plot_profile

        return plot_profile(self)

    def __repr__(self) -> str:
        unique = ", ".join(f"unique[{c!r}] {e}" for c, e in self.unique.items())
        return (
            f"PIDResult({self.facts.prompt!r}, {self.facts.estimator}, {self.facts.unit}: "
            f"redundancy {self.redundancy}, {unique}, synergy {self.synergy}; "
            f"{self.facts.unet_evaluations} UNet evaluations)"
        )


def ranked(pairs: Mapping[tuple[str, str], PIDResult], by: str = "redundancy") -> list[tuple[str, str]]:
    """Pairs of :meth:`dpid.Explainer.explain_pairs`, the largest ``by`` ("redundancy" or "synergy") first."""
    if by not in ("redundancy", "synergy"):
        raise ValueError(f"by: found {by!r}, allowed are redundancy, synergy")
    return sorted(pairs, key=lambda pair: -getattr(pairs[pair], by).value)
