"""The partial information decomposition by one estimator: of the image, of every latent pixel, and over log-SNR."""

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
    """The partial information decomposition by one estimator.

    Attributes
    ----------
    information : i(x; y_S) of every non-empty subset S, nats
    redundancy, unique, synergy : of the image, nats; docs/theory.md, eq. (33)
    atoms : {antichain: atom}, nats; for two concepts these are redundancy, the two uniquenesses and synergy
    maps : the same per latent pixel
    profile : the same over log-SNR
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
    """``antichain`` as a string: "{cow}{giraffe+tree}" for (("cow",), ("giraffe", "tree"))."""
    return "".join("{" + "+".join(subset) + "}" for subset in antichain)


@dataclass(frozen=True)
class Method:
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
    f: Tensor, method: Method, parts: int, *, corrected: bool, coarse: bool = True, total: bool = False
) -> tuple[Atoms, Atoms]:
    """The atoms of replicates ``f`` [G,S,*], which have ``parts`` numbers each, and their standard errors.

    ``corrected``: whether for the bias of the minimum, docs/theory.md, eq. (23); ``coarse``: whether only redundancy,
    uniqueness and synergy; ``total``: whether summed over the numbers.
    """
    by_subset = {s: f[:, i] for i, s in enumerate(subsets_of(method.concepts)[1:])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # single pixels often do; the result's remarks say it once
        return decompose_replicates(
            by_subset, method.measure, method.priors, pixels=parts, corrected=corrected, coarse=coarse, total=total
        )


def decomposition(
    f: Tensor, profile: Tensor, edges: Tensor, method: Method, positive: Sequence[bool], towards: Tensor | None = None
) -> Decomposition:  # fmt: skip
    """The decomposition of replicates ``f`` [G,S,h,w] with ``profile`` [A,S,L] in bins of ``edges`` [L+1].

    ``method.level`` decides whether the measure acts on the image, on every bin of log-SNR or on every latent pixel;
    ``positive`` [S] says which f(S) are integrals of squares. Smoothed maps are shrunk towards ``towards``, if given;
    see :mod:`dpid.results.maps`.

    Only numbers of the image are corrected for the bias of the minimum, docs/theory.md, eq. (23). At almost every pixel
    the values of two concepts differ by less than their noise: there the correction adds more variance than it removes
    bias, and with it uniqueness maps separate the two things of a held-out scene less well.
    """
    smooth = displayed(f, method.smooth, towards, method.frames)
    pixels, bins = f.shape[-2] * f.shape[-1], profile.shape[-1]
    pixel, pixel_error = atoms_of(smooth, method, pixels, corrected=False)
    binned, binned_error = atoms_of(profile, method, bins, corrected=False)
    # For five concepts and more there is an algorithm for all atoms only if the measure consists of minima.
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
    """Information, redundancy, uniqueness and synergy of ``atoms`` in float32, divided by ``unit``."""
    return (
        {s: (value / unit).float() for s, value in atoms.information.items()},
        (atoms.redundancy / unit).float(),
        {c: (value / unit).float() for c, value in atoms.unique.items()},
        (atoms.synergy / unit).float(),
    )
