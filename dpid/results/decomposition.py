"""The numbers of one estimator: atoms with errors of the whole image, of every pixel, and over log-SNR."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from dpid.equality import Comparable
from dpid.pid import Antichain, Atoms, PriorWarning, decompose_replicates, mean_stderr
from dpid.prompts.plan import Subset, subsets_of
from dpid.results.intervals import Estimate
from dpid.results.maps import Maps, displayed
from dpid.results.profile import Profile


@dataclass(frozen=True, eq=False)
class Decomposition(Comparable):
    """PID by one estimator, whole image, per pixel, and over log-SNR.

    ``atoms``: every atom of the lattice by antichain; for two concepts the four that have names of their own.
    """

    information: dict[Subset, Estimate]
    redundancy: Estimate
    unique: dict[str, Estimate]
    synergy: Estimate
    atoms: dict[Antichain, Estimate]
    maps: Maps
    profile: Profile

    def to_dict(self) -> dict[str, Any]:
        """The image-level numbers, ready for JSON; subsets are "cow+giraffe", antichains "{cow}{giraffe}"."""
        return {
            "redundancy": self.redundancy.to_dict(),
            "unique": {c: e.to_dict() for c, e in self.unique.items()},
            "synergy": self.synergy.to_dict(),
            "information": {"+".join(s): e.to_dict() for s, e in self.information.items()},
            "atoms": {antichain_name(a): e.to_dict() for a, e in self.atoms.items()},
        }


def antichain_name(antichain: Antichain) -> str:
    """(("cow",), ("giraffe", "tree")) -> "{cow}{giraffe+tree}"."""
    return "".join("{" + "+".join(subset) + "}" for subset in antichain)


@dataclass(frozen=True)
class Method:
    """Concepts, and how they are decomposed; see :class:`dpid.options.Options`. ``priors``: {S: h(y_S) in nats}."""

    concepts: tuple[str, ...]
    measure: str
    level: str
    smooth: int
    priors: Mapping[Subset, float] | None


def atoms_of(
    f: Tensor, method: Method, parts: int, *, corrected: bool, coarse: bool = True, total: bool = False
) -> tuple[Atoms, Atoms]:
    """Atoms of replicates ``f`` [G, S, *] of ``parts`` numbers each, and their errors; ``coarse``: R, U and S alone."""
    by_subset = {s: f[:, i] for i, s in enumerate(subsets_of(method.concepts)[1:])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # single pixels often do; the result's remarks say it once
        return decompose_replicates(
            by_subset, method.measure, method.priors, pixels=parts, corrected=corrected, coarse=coarse, total=total
        )


def decomposition(
    f: Tensor, profile: Tensor, edges: Tensor, method: Method, positive: Sequence[bool], towards: Tensor | None = None
) -> Decomposition:  # fmt: skip
    """Decompose replicates ``f`` [G, S, h, w] and ``profile`` [A, S, L]; ``method.level`` says where the measure acts.

    ``positive`` [S]: which f(S) are integrals of squares. Maps that are smoothed are shrunk towards the layout of
    ``towards``, if given; see :mod:`dpid.results.maps`.

    Only sums over the image are corrected for the bias of the minimum. A pixel's two values lie within their noise of
    each other almost everywhere: there the correction adds more variance than it removes bias, and uniqueness maps tell
    the two things of a held-out scene apart less well with it than without.
    """
    smooth = displayed(f, method.smooth, towards)
    pixels, bins = f.shape[-2] * f.shape[-1], profile.shape[-1]
    pixel, pixel_error = atoms_of(smooth, method, pixels, corrected=False)
    binned, binned_error = atoms_of(profile, method, bins, corrected=False)
    # All atoms of five concepts and more: only where the measure is made of minima is there an algorithm for them.
    coarse = len(method.concepts) > 4 and (method.level != "image" or method.measure not in ("min", "ppid"))
    if method.level == "pixel":
        image, error = atoms_of(smooth, method, pixels, corrected=False, coarse=coarse, total=True)
    elif method.level == "logsnr":
        image, error = atoms_of(profile, method, bins, corrected=True, coarse=coarse, total=True)
    else:
        image, error = atoms_of(f.sum((-2, -1)), method, 1, corrected=True, coarse=coarse)
    dof = len(profile if method.level == "logsnr" else f) - 1

    def estimate(value: Tensor, err: Tensor) -> Estimate:
        return Estimate(float(value), float(err), dof)

    sums = zip(subsets_of(method.concepts)[1:], *mean_stderr(f.sum((-2, -1))), positive, strict=True)
    width = (edges[1:] - edges[:-1]).to(profile)
    return Decomposition(
        {s: Estimate(float(value), float(err), len(f) - 1, above) for s, value, err, above in sums},
        estimate(image.redundancy, error.redundancy),
        {c: estimate(value, error.unique[c]) for c, value in image.unique.items()},
        estimate(image.synergy, error.synergy),
        {a: estimate(value, error[a]) for a, value in image.items()},
        Maps(*_parts(pixel), stderr=Maps(*_parts(pixel_error))),
        Profile(edges, *_parts(binned, width), stderr=Profile(edges, *_parts(binned_error, width))),
    )


def _parts(atoms: Atoms, unit: Tensor | float = 1.0) -> tuple[dict[Subset, Tensor], Tensor, dict[str, Tensor], Tensor]:
    """Information, redundancy, unique, synergy, float32, in multiples of ``unit``."""
    return (
        {s: (value / unit).float() for s, value in atoms.information.items()},
        (atoms.redundancy / unit).float(),
        {c: (value / unit).float() for c, value in atoms.unique.items()},
        (atoms.synergy / unit).float(),
    )
