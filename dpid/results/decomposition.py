"""The partial information decomposition by one estimator: of the image, of every latent pixel, and over log-SNR."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.pid import Antichain, Atoms, PriorWarning, decompose_replicates
from dpid.prompts.plan import Subset, subsets_of
from dpid.results.by_subset import ByName, BySubset
from dpid.results.intervals import Estimate, estimates
from dpid.results.maps import Maps, displayed
from dpid.results.profile import Profile


def antichain_name(antichain: Antichain) -> str:
    """``antichain`` as a string: "{cow}{giraffe+tree}" for (("cow",), ("giraffe", "tree"))."""
    return "".join("{" + "+".join(subset) + "}" for subset in antichain)


@dataclass(frozen=True, eq=False)
class Method(Comparable):
    """The concepts and the settings of their decomposition; see :class:`dpid.options.Options`.

    ``priors``: {subset S: h(y_S)}, nats, where the measure needs them; ``frames``: of a video, whose replicates have
    them one below the other.
    """

    concepts: tuple[str, ...]
    measure: str
    level: str
    smooth: int
    priors: Mapping[Subset, float] | None
    frames: int | None = None


def atoms_of(
    f: Tensor, method: Method, *, corrected: bool = False, coarse: bool = True, total: bool = False
) -> tuple[Atoms, Atoms]:
    """The atoms of replicates ``f`` [G,S,*] and their standard errors.

    ``corrected``: whether for the bias of the minimum, docs/theory.md, eq. (23); ``coarse``: whether only redundancy,
    uniqueness and synergy; ``total``: whether summed over the numbers.
    """
    by_subset = {s: f[:, i] for i, s in enumerate(subsets_of(method.concepts)[1:])}
    parts = f[0, 0].numel()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # single pixels often do; the result's remarks say it once
        return decompose_replicates(
            by_subset, method.measure, method.priors, pixels=parts, corrected=corrected, coarse=coarse, total=total
        )


@dataclass(frozen=True, eq=False, repr=False)
class Decomposition(Comparable):
    """The partial information decomposition by one estimator; every number and map is computed when it is asked for.

    Only numbers of the image are corrected for the bias of the minimum, docs/theory.md, eq. (23). At almost every pixel
    the values of two concepts differ by less than their noise: there the correction adds more variance than it removes
    bias, and with it uniqueness maps separate the two things of a held-out scene less well.

    Attributes
    ----------
    replicates : f(S) [G,S,h,w] of the non-empty subsets, nats
    profiles : f(S) of the image [A,S,L] in L bins of log-SNR, nats
    edges : of the bins, [L+1]
    sampled : bool [L], of :class:`Profile`
    method : its ``level`` says whether the measure acts on the image, on every bin of log-SNR or on every latent pixel
    positive : bool [S], which f(S) are integrals of squares
    towards : replicates towards which smoothed maps are shrunk, or None; see :mod:`dpid.results.maps`
    rest : [G,S] what their sums exceed those of ``replicates`` by, if ``replicates`` have that moved alike, or None
    """

    replicates: Tensor
    profiles: Tensor
    edges: Tensor
    sampled: Tensor
    method: Method
    positive: Sequence[bool]
    towards: Tensor | None
    rest: Tensor | None = None

    @cached_property
    def information(self) -> BySubset[Estimate]:
        """i(x; y_S) of every non-empty subset S, nats."""
        found = estimates(self.replicates.double().sum((-2, -1)), self.positive)
        return BySubset(dict(zip(subsets_of(self.method.concepts)[1:], found, strict=True)))

    @property
    def redundancy(self) -> Estimate:
        """Redundancy of the image, nats: what two or more concepts tell each by itself; docs/theory.md, eq. (33)."""
        return self._estimate(*(atoms.redundancy for atoms in self._image))

    @property
    def unique(self) -> dict[str, Estimate]:
        """{concept: its uniqueness}, nats: what it tells of the image and no other concept does."""
        value, error = self._image
        return ByName({c: self._estimate(value.unique[c], error.unique[c]) for c in value.unique})

    @property
    def synergy(self) -> Estimate:
        """Synergy of the image, nats: what no single concept tells."""
        return self._estimate(*(atoms.synergy for atoms in self._image))

    @cached_property
    def atoms(self) -> dict[Antichain, Estimate]:
        """{antichain: atom}, nats; for two concepts these are redundancy, the two uniquenesses and synergy."""
        value, error = self._image
        return {a: self._estimate(atom, error[a]) for a, atom in value.items()}

    @property
    def maps(self) -> Maps:
        """The same per latent pixel, as a copy, which may be changed."""
        return deepcopy(self._maps)

    @cached_property
    def _maps(self) -> Maps:
        value, error = atoms_of(self.displayed(), self.method)
        return Maps(*_parts(value), stderr=Maps(*_parts(error)))

    @property
    def profile(self) -> Profile:
        """The same over log-SNR, as a copy."""
        return deepcopy(self._profile)

    @cached_property
    def _profile(self) -> Profile:
        profiles = self.profiles.double()
        width = (self.edges[1:] - self.edges[:-1]).to(profiles)
        value, error = (_parts(atoms, width) for atoms in atoms_of(profiles, self.method))
        dof = len(profiles) - 1
        return Profile(self.edges, self.sampled, *value, dof, Profile(self.edges, self.sampled, *error, dof))

    @cached_property
    def _image(self) -> tuple[Atoms, Atoms]:
        """The atoms of the image, and their standard errors."""
        method = self.method
        # For five concepts and more there is an algorithm for all atoms only if the measure consists of minima.
        coarse = len(method.concepts) > 4 and (method.level != "image" or method.measure not in ("min", "ppid"))
        if method.level == "pixel":  # sums of pixels vary as those of the replicates do
            return atoms_of(replace(self, rest=None).displayed(), method, coarse=coarse, total=True)
        if method.level == "logsnr":
            return atoms_of(self.profiles.double(), method, corrected=True, coarse=coarse, total=True)
        return atoms_of(self.replicates.double().sum((-2, -1)), method, corrected=True, coarse=coarse)

    def displayed(self) -> Tensor:
        """The replicates as maps show them, float64 [G,S,h,w], of a video [G,S,T,h,w]."""
        towards = None if self.towards is None else self.towards.double()
        return displayed(self.replicates.double(), self.method.smooth, towards, self.method.frames, self.rest)

    def _estimate(self, value: Tensor, error: Tensor) -> Estimate:
        acted = self.profiles if self.method.level == "logsnr" else self.replicates
        return Estimate(float(value), float(error), len(acted) - 1)

    def to_dict(self) -> dict[str, Any]:
        """The image-level numbers, ready for JSON; subsets are "cow+giraffe", antichains "{cow}{giraffe}"."""
        return {
            "redundancy": self.redundancy.to_dict(),
            "unique": {c: e.to_dict() for c, e in self.unique.items()},
            "synergy": self.synergy.to_dict(),
            "information": {"+".join(s): e.to_dict() for s, e in self.information.items()},
            "atoms": {antichain_name(a): e.to_dict() for a, e in self.atoms.items()},
        }

    def told(self) -> str:
        """Redundancy, uniqueness and synergy in a line."""
        unique = ", ".join(f"unique[{c!r}] {e}" for c, e in self.unique.items())
        return f"redundancy {self.redundancy}, {unique}, synergy {self.synergy}"

    def __repr__(self) -> str:
        return f"Decomposition({self.told()})"


def _parts(atoms: Atoms, unit: Tensor | float = 1.0) -> tuple[BySubset[Tensor], Tensor, dict[str, Tensor], Tensor]:
    """Information, redundancy, uniqueness and synergy of ``atoms`` in float32, divided by ``unit``."""
    return (
        BySubset({s: (value / unit).float() for s, value in atoms.information.items()}),
        (atoms.redundancy / unit).float(),
        ByName({c: (value / unit).float() for c, value in atoms.unique.items()}),
        (atoms.synergy / unit).float(),
    )
