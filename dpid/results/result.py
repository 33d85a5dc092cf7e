"""The result of an explanation, and the ranking of results of pairs."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.checks import one_of, text
from dpid.equality import Comparable
from dpid.estimation.estimators import ESTIMATORS, SIGNED, are_squares
from dpid.files import PathLike
from dpid.pid import Atoms
from dpid.prompts.phrases import remarks_on
from dpid.prompts.plan import Subset, subsets_of
from dpid.results.by_subset import BySubset
from dpid.results.decomposition import Decomposition, Method, atoms_of
from dpid.results.diagnostics import Diagnostics, diagnose
from dpid.results.intervals import Estimate, estimates
from dpid.results.maps import Maps
from dpid.results.metadata import NOT_CORRECTED, Metadata, remarks_on_model
from dpid.results.profile import Profile
from dpid.results.shrinkage import shrinkage_weight, shrunk_profile, shrunk_sums

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure


def _holds_zero(interval: tuple[float, float]) -> bool:
    return interval[0] <= 0 <= interval[1]


def _below_zero(information: Mapping[Subset, Estimate]) -> list[Subset]:
    """The subsets that mislead: i(x; y_S) is negative in its whole 95 % interval."""
    return [subset for subset, estimate in information.items() if estimate.interval()[1] < 0]


@dataclass(frozen=True, eq=False, repr=False)
class PIDResult(Comparable):
    """The partial information decomposition of what the concepts of a prompt tell about a picture.

    Two results are equal if their metadata and all bits of their tensors are; they can be hashed, pickled and copied.

    Attributes
    ----------
    metadata : prompt, concepts, conditions, seed, model, evaluations of the network, …
    replicates : {estimator: float32 [G,S,h,w]}, f(S) of the non-empty subsets, smallest first, in nats per latent
        pixel; all numbers and maps are computed from these. Of a video [G,S,T·h,w], its frames one below the other
    profiles : {estimator: float32 [A,S,L]}, f(S) of the image in L bins of log-SNR, nats; A is 4 if that divides G,
        else G
    edges : of the bins, float64 [L+1]
    products : float32 [A,2,L], what :attr:`diagnostics` are computed from
    picture : uint8 [H, W, 3], or None when latents were explained. Of a video [T, H, W, 3], for every frame of its
        latents the last one of those that it stands for
    """

    metadata: Metadata
    replicates: Mapping[str, Tensor]
    profiles: Mapping[str, Tensor]
    edges: Tensor
    products: Tensor
    picture: Tensor | None = None

    @cached_property
    def estimates(self) -> dict[str, Decomposition]:
        """{estimator: the decomposition by it}, of "shrinkage", "rao-blackwell", "standard" and "orthogonal"."""
        chosen = self.metadata.estimator
        return {name: self.decomposition if name == chosen else self._decomposition(name) for name in ESTIMATORS}

    def _decomposition(self, estimator: str) -> Decomposition:
        rest = None
        if estimator == "shrinkage":
            quiet, noisy = (self.profiles[name].double() for name in SIGNED)
            f, profiles = self.replicates_by(estimator), shrunk_profile(quiet, noisy, self.shrinkage)
            rest = (1 - self.shrinkage) * self._missed
        else:  # as they are stored: in double precision they would take twice the memory
            f, profiles = self.replicates[estimator], self.profiles[estimator]
        # docs/theory.md, eq. (25)
        towards = self.replicates["standard"] if estimator in ("shrinkage", "rao-blackwell") else None
        sampled = (self.products[:, 1] != 0).any(0)
        return Decomposition(f, profiles, self.edges, sampled, self._method, self._squares(estimator), towards, rest)

    def replicates_by(self, estimator: str) -> Tensor:
        """Replicates of f(S) by any estimator, float64 [G,S,h,w] in nats per latent pixel, not smoothed.

        ``ValueError`` for what is no estimator.
        """
        one_of(lambda: ESTIMATORS)("estimator", estimator)
        if estimator != "shrinkage":
            return self.replicates[estimator].double()
        quiet, noisy = (self.replicates[name].double() for name in SIGNED)
        return shrunk_sums(quiet, noisy, self.replicates["orthogonal"], self.shrinkage)

    @cached_property
    def shrinkage(self) -> float:
        """w of "shrinkage", 0…1: the share of the squared difference of iʳ and iˢ that noise does not explain."""
        return shrinkage_weight(self._missed)

    @cached_property
    def _missed(self) -> Tensor:
        """D = iˢ - iʳ of the image in every replicate, [G,S] in nats: what iʳ misses of this picture, and noise."""
        quiet, noisy = (self.replicates[name].double().sum((-2, -1)) for name in SIGNED)
        return noisy - quiet

    def _squares(self, estimator: str) -> list[bool]:
        named = self.metadata.conditions
        conditions = [named.get("+".join(s)) for s in subsets_of(self.metadata.concepts)[1:]]
        return are_squares(estimator, conditions, self.metadata.reference)

    @property
    def _method(self) -> Method:
        metadata = self.metadata
        known = metadata.priors or {}
        priors = {s: known["+".join(s)] for s in subsets_of(metadata.concepts)[1:] if "+".join(s) in known} or None
        return Method(metadata.concepts, metadata.measure, metadata.level, metadata.smooth, priors, metadata.frames)

    def atom_maps(self) -> tuple[Atoms, Atoms]:
        """Maps of every atom of the lattice by ``metadata.estimator``, and maps of their standard errors.

        ``values, errors = result.atom_maps()``; ``values[("cow",), ("giraffe", "tree")]`` is a map float64 [h,w] in
        nats. Two concepts have 4 atoms, three 18, four 166; of more those are listed that are not zero everywhere.
        """
        return atoms_of(self.decomposition.displayed(), self._method, coarse=False)

    @cached_property
    def decomposition(self) -> Decomposition:
        """The decomposition by ``metadata.estimator``; the properties below are its fields."""
        return self._decomposition(self.metadata.estimator)

    @property
    def redundancy(self) -> Estimate:
        """Redundancy, nats: the information that two or more concepts share, each by itself."""
        return self.decomposition.redundancy

    @property
    def unique(self) -> dict[str, Estimate]:
        """{concept: its uniqueness}, nats: the information that no other concept has."""
        return self.decomposition.unique

    @property
    def synergy(self) -> Estimate:
        """Synergy, nats: the information that no single concept has."""
        return self.decomposition.synergy

    @property
    def information(self) -> BySubset[Estimate]:
        """i(x; y_S) of every non-empty subset S, nats: ``information["cow"]``, ``information["cow", "giraffe"]``."""
        return self.decomposition.information

    def given(self, concept: str, *, estimator: str | None = None) -> Estimate:
        """i(x; concept | all others) = i(x; all) - i(x; all without it), nats: what would be lost without ``concept``.

        By ``estimator``, or else ``metadata.estimator``. Its error is that of the difference, whose two terms have the
        same noise. ``ValueError`` for what is no concept, or no estimator.
        """
        concepts, by = self.metadata.concepts, self.metadata.estimator if estimator is None else estimator
        if text("concept", concept) not in concepts:
            raise ValueError(f"concept: found {concept!r}, allowed are {', '.join(concepts)}")
        others = subsets_of(concepts)[1:].index(tuple(c for c in concepts if c != concept))
        f = self.replicates_by(by)[:, [others, -1]].sum((-2, -1))
        # Where F is the text of all, this is by "rao-blackwell" an integral of squares.
        (lost,) = estimates(f[:, 1:] - f[:, :1], [by == "rao-blackwell" and self._squares(by)[-1]])
        return lost

    @property
    def maps(self) -> Maps:
        """Maps of the decomposition, [h,w] or, of a video, [T,h,w], in nats per latent pixel: a copy at every call."""
        return self.decomposition.maps

    @property
    def profile(self) -> Profile:
        """The decomposition over log-SNR, in nats per unit of log-SNR: a copy at every call."""
        return self.decomposition.profile

    @cached_property
    def diagnostics(self) -> Diagnostics:
        """Whether the model's predictions are posterior means, without which nats are no information."""
        noisy, whole = (self.replicates[name][:, -1].sum((-2, -1)) for name in ("standard", "orthogonal"))
        return diagnose(whole, noisy, self.products)

    @property
    def cross_term(self) -> BySubset[Estimate]:
        """The cross term iˢ - i° of every subset, nats; docs/theory.md, eq. (8).

        Its mean is zero if the network is optimal and y_S describes the picture. If it is far from zero, i° is not what
        the words tell about this picture.
        """
        return self._differences("standard", "orthogonal")

    def _differences(self, first: str, second: str) -> BySubset[Estimate]:
        difference = (self.replicates[first] - self.replicates[second]).double().sum((-2, -1))
        return BySubset(dict(zip(subsets_of(self.metadata.concepts)[1:], estimates(difference), strict=True)))

    def _disagreements(self) -> dict[Subset, Estimate]:
        """{subset: iʳ - iˢ} where the difference exceeds its error and its variation among pictures, nats.

        Pictures differ in it even if the network is optimal; docs/theory.md, eq. (12).
        """
        found = {}
        for subset, gap in self._differences("rao-blackwell", "standard").items():
            spread = math.sqrt(2 * max(0.0, self.estimates["orthogonal"].information[subset].value))
            if not _holds_zero(replace(gap, stderr=math.hypot(gap.stderr, spread)).interval()):
                found[subset] = gap
        return found

    def _rounding(self) -> list[str]:
        """What was corrected for rounding, if it is more than half a standard error; docs/theory.md, eq. (57)."""
        metadata = self.metadata
        if metadata.precision == "float32":
            return []
        if not metadata.correction:
            return [NOT_CORRECTED.format(metadata.precision)]
        name = "standard" if metadata.estimator == "shrinkage" else metadata.estimator
        changes = metadata.correction.get(name, {})
        found = [
            "{} by {:.2f} ± {:.2f}".format(" + ".join(subset), *change)
            for subset, estimate in self.estimates[name].information.items()
            if (change := changes.get("+".join(subset))) and abs(change[0]) > estimate.stderr / 2
        ]
        return [
            f"corrected for rounding in {metadata.precision} with {metadata.paired} samples in float32: "
            f"{', '.join(found[:4])} nats"
        ] if found else []  # fmt: skip

    def _limited_by_network(self) -> bool:
        """Whether the interval of i(x; all concepts) by "shrinkage" does not reach what "rao-blackwell" finds."""
        whole = self.metadata.concepts
        low, high = self.information[whole].interval()
        quiet = self.estimates["rao-blackwell"].information[whole].value
        return self.metadata.estimator == "shrinkage" and not low <= quiet <= high

    def relative_error(self) -> float:
        """Half the width of the 95 % interval of i(x; all concepts), relative to it; ``tolerance`` is its bound."""
        # Called after every round, so computed from the replicates, without the atoms.
        by = self.metadata.estimator
        (whole,) = estimates(self.replicates_by(by)[:, -1:].sum((-2, -1)), self._squares(by)[-1:])
        low, high = whole.interval()
        return (high - low) / 2 / max(abs(whole.value), 1e-300)

    def remarks(self) -> list[str]:
        """Where a concept misleads about this picture, where two estimators disagree, and what else to know."""
        distilled = self.metadata.distilled
        lines = remarks_on_model(distilled, self.metadata.caveat)
        lines += [] if distilled else self.diagnostics.remarks() + self._about_information()
        if any(map(remarks_on, (*self.metadata.conditions.values(), self.metadata.reference))):
            lines += remarks_on(self.metadata.prompt)
        lines += self._rounding()
        if self.metadata.broken:
            lines.append(self.metadata.broken)
        elif self.metadata.converged is False:
            lines.append("the tolerance was not reached: allow more samples, or accept the errors shown")
        return lines

    def _about_information(self) -> list[str]:
        """Where words mislead, where estimators disagree, and what exceeds its prior."""
        lines = []
        differ, standard = self._disagreements(), self.estimates["standard"].information
        signed, how = (standard, " by standard") if self.metadata.estimator == "orthogonal" else (self.information, "")
        for subset in _below_zero(signed):
            lines.append(
                f"{' + '.join(subset)!r} misleads about this picture: {signed[subset]} nats{how}, below zero "
                "beyond its error"
            )
        if differ:
            beyond = ", ".join(f"{' + '.join(s)} by {gap}" for s, gap in list(differ.items())[:4])
            # A wrong word among the concepts is part of F, by which iʳ takes for right what that word says.
            wrong = [s for s in _below_zero(standard) if s in differ]
            misled = ", ".join(f"{' + '.join(s)!r} misleads: {standard[s]}" for s in wrong[:4])
            trust = (
                f"by standard {misled} nats; trust that, or give a reference that is true of the picture" if wrong
                else "trust the maps for where, and standard for how much"
            )  # fmt: skip
            lines.append(
                f"rao-blackwell and standard disagree ({beyond} nats): {self.metadata.reference!r} does not describe "
                f"this picture as the model would; {trust}"
            )
        elif self._limited_by_network():
            quiet, noisy = (self.estimates[name].information[self.metadata.concepts].value for name in SIGNED)
            lines.append(
                f"the errors are those of sampling alone: of all concepts rao-blackwell tells {quiet:.2f} and standard "
                f"{noisy:.2f} nats, and noise explains {1 - self.shrinkage:.0%} of the square of such differences; the "
                "rest is of this picture, or what the network has not learned, and more samples will not tell which"
            )
        above = [
            "+".join(s) for s, e in self.information.items()
            if e.interval()[0] > (self.metadata.priors or {}).get("+".join(s), math.inf)
        ]  # fmt: skip
        if above:
            lines.append(
                f"i(x; y) exceeds the prior h(y) of {', '.join(above)}: words cannot tell that much, and the atoms of "
                f"{self.metadata.measure} mean less there"
            )
        return lines

    def to_dict(self) -> dict[str, Any]:
        """All numbers and metadata, for JSON."""
        metadata = asdict(self.metadata)
        return (
            {k: metadata.pop(k) for k in ("prompt", "concepts", "context", "unit", "estimator", "measure")}
            | self.decomposition.to_dict()
            | {"profile": self.profile.to_dict(self.metadata.unit)}
            | {"cross_term": {"+".join(s): e.to_dict() for s, e in self.cross_term.items()}}
            | {"estimators": {name: d.to_dict() for name, d in self.estimates.items()}}
            | {"diagnostics": self.diagnostics.to_dict()}
            | metadata
            | {"remarks": self.remarks()}
        )

    def tensors(self) -> dict[str, Tensor]:
        """The tensors of a file: replicates and profiles, which :meth:`load` reads, and the maps for other programs."""
        tensors = {f"replicates/{name}": f.float() for name, f in self.replicates.items()}
        tensors |= {f"profiles/{name}": f.float() for name, f in self.profiles.items()}
        tensors |= {"edges": self.edges, "products": self.products}
        if self.picture is not None:
            tensors["picture"] = self.picture
        found = self.maps
        assert found.stderr is not None
        for prefix, maps in (("maps", found), ("maps/stderr", found.stderr)):
            tensors |= {f"{prefix}/redundancy": maps.redundancy, f"{prefix}/synergy": maps.synergy}
            tensors |= {f"{prefix}/unique/{c}": t for c, t in maps.unique.items()}
            tensors |= {f"{prefix}/information/{'+'.join(s)}": t for s, t in maps.information.items()}
        return tensors

    def save(self, path: PathLike) -> None:
        """Write the result to a safetensors file: replicates, picture, maps, and metadata.

        The file is never incomplete; of several writers at once the last one wins. ``ValueError`` if ``path`` is a
        folder, or its folder does not exist.
        """
        from dpid.results.file_format import to_bytes, write

        write(path, lambda: to_bytes(self.metadata, self.tensors(), self.to_dict()))

    @classmethod
    def load(cls, path: PathLike) -> PIDResult:
        """The result that :meth:`save` wrote to ``path``; ``ValueError`` says what is wrong with any other file."""
        from dpid.results.file_format import from_bytes, read

        return read(path, lambda data: cls(**from_bytes(data)))

    def plot(self, kind: str = "overlay", ax: Any = None) -> Figure:
        """A figure of the maps over the picture, or of another kind; ``savefig`` writes PNG, SVG, PDF.

        Parameters
        ----------
        kind : "overlay": uniqueness, redundancy and synergy over the picture; "strip": the maps beside the picture,
            also in place of "overlay" for a video; "profile": i(x; y_S) and its decomposition over log-SNR; "graph":
            the concepts, what every two of them share, and what they tell only together
        ax : axes of matplotlib to draw into, whose figure is returned: "overlay" draws uniqueness alone, the panels of
            "strip" and "profile" share their place

        Raises
        ------
        ValueError
            There is no such kind.
        TypeError
            ``ax`` is no axes of matplotlib.
        """
        from dpid.results.plot import plot

        figure: Figure = plot(self, kind, ax)
        return figure

    def __repr__(self) -> str:
        return (
            f"PIDResult({self.metadata.prompt!r}, {self.metadata.estimator}, {self.metadata.unit}: "
            f"{self.decomposition.told()}; "
            f"{self.metadata.unet_evaluations} evaluations of the network)"
        )


def ranked(pairs: Mapping[tuple[str, str], PIDResult], by: str = "redundancy") -> list[tuple[str, str]]:
    """The pairs of :meth:`dpid.Explainer.explain_pairs`, sorted by "redundancy" or "synergy", the largest first."""
    if by not in ("redundancy", "synergy"):
        raise ValueError(f"by: found {by!r}, allowed are redundancy, synergy")
    return sorted(pairs, key=lambda pair: -getattr(pairs[pair], by).value)
