"""The numbers of one estimator: atoms with errors of the whole image, of every pixel, and over log-SNR."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.conditions import Subset, subsets_of
from dpid.equality import Comparable
from dpid.pid import Antichain, Atoms, PriorWarning, decompose_replicates, mean_stderr


def interval(
    value: Tensor, stderr: Tensor, dof: int, level: float = 0.95, positive: Tensor | bool = False
) -> tuple[Tensor, Tensor]:
    """Ends of confidence intervals of ``value`` [*] by Student's t with ``dof`` degrees of freedom.

    Those of what is ``positive`` (bool [*]), an integral of squares, are even on the log scale, value · e^(±t·stderr /
    value) by the delta method: rare noise makes most of it, which a few replicates often miss and never find with the
    other sign, so that what is far too small is much more likely than what is far too large.
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a probability such as 0.95")
    half = float(stdtrit(dof, 0.5 + level / 2)) * stderr
    positive = (value > 0) & positive
    factor = (half / value.where(positive, torch.ones_like(value))).exp()
    return torch.where(positive, value / factor, value - half), torch.where(positive, value * factor, value + half)


def squares(f: Tensor, orthogonal: Tensor) -> Tensor:
    """Which f(S) of replicates ``f`` [G, S, h, w] are integrals of squares, bool [S]: those that are i°, as iʳ of F."""
    return (f == orthogonal).flatten(2).all(2).all(0)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in nats unless said; ``dof`` = replicates - 1.

    ``positive``: whether it is an integral of squares. As a number it is its value: ``float(e)``, ``f"{e:.3f}"``,
    ``e > 3``, ``sorted``; ``==`` is that of all four fields, and ``str(e)`` and ``f"{e}"`` have the error too.
    """

    value: float
    stderr: float
    dof: int
    positive: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval by Student's t; see :func:`dpid.estimates.interval`."""
        value, stderr = torch.tensor((self.value, self.stderr), dtype=torch.float64, device="cpu")
        low, high = interval(value, stderr, self.dof, level, self.positive)
        return float(low), float(high)

    def to_dict(self) -> dict[str, float]:
        """Value and standard error, ready for JSON."""
        return {"value": self.value, "stderr": self.stderr}

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __float__(self) -> float:
        return float(self.value)

    def __lt__(self, other: Any) -> Any:
        return self.value < _value(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= _value(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > _value(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= _value(other)


def _value(number: Any) -> Any:
    return number.value if isinstance(number, Estimate) else number


@dataclass(frozen=True, eq=False)
class Maps(Comparable):
    """Nats per latent pixel, float32 [h, w] each; ``stderr`` holds the standard errors in the same shape."""

    information: dict[Subset, Tensor]
    redundancy: Tensor
    unique: dict[str, Tensor]
    synergy: Tensor
    stderr: Maps | None = None


def beyond(edges: Tensor) -> float:
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
        share = width * beyond(self.edges)
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


def smoothed(f: Tensor, size: int) -> Tensor:
    """Maps [*, h, w] whose every pixel is shared evenly among its size × size neighbours; sums stay as they are."""
    if size == 1:
        return f
    height, width = (min(size, 2 * side - 1) for side in f.shape[-2:])  # with more, still only the map's own pixels
    column, row = f.new_ones(1, 1, height, 1), f.new_ones(1, 1, 1, width)

    def summed(maps: Tensor) -> Tensor:
        return functional.conv2d(
            functional.conv2d(maps, column, padding=(height // 2, 0)), row, padding=(0, width // 2)
        )

    maps = f.reshape(-1, 1, *f.shape[-2:])
    return summed(maps / summed(torch.ones_like(maps[:1]))).reshape(f.shape)


def arranged(f: Tensor, like: Tensor, w: float | None = None) -> Tensor:
    """Maps ``f`` [*, h, w], laid out a share ``w`` as ``like``, if not given their :func:`share`; sums stay."""
    return f + (share(f, like) if w is None else w) * _layout(like - f)


def share(f: Tensor, like: Tensor) -> float:
    """How far maps ``f`` [G, S, h, w] are to be laid out as ``like``, 0…1.

    For iʳ and iˢ, which have one mean over p(x | F): iʳ is the quieter, but pixel by pixel it repeats what the network
    has wrong about F. Of the square of how their layouts differ, the spread of replicates says how much is noise; what
    is left is real, and w = 1 - noise / square weighs one against the other (James and Stein's shrinkage of iˢ towards
    iʳ, its positive part): a few samples trust iʳ, many trust iˢ, and no constant is fitted to any model. One w for all
    subsets and pixels keeps the chain rule. Standard errors take w as known.
    """
    mean, error = mean_stderr(_layout(like - f))
    square, noise = float(mean.square().mean()), float(error.square().mean())
    return 0.0 if square <= noise else 1 - noise / square


def _layout(maps: Tensor) -> Tensor:
    """``maps`` [*, h, w] less their means."""
    return maps - maps.mean((-2, -1), keepdim=True)


@dataclass(frozen=True)
class How:
    """What to decompose, and how; see :class:`dpid.options.Options`. ``priors``: {S: h(y_S) in nats}."""

    concepts: tuple[str, ...]
    measure: str
    level: str
    smooth: int
    priors: Mapping[Subset, float] | None


def laid_out(f: Tensor, how: How, like: Tensor | None = None) -> Tensor:
    """Replicates ``f`` [G, S, h, w] as the maps show them: smoothed, then :func:`arranged` like ``like``, if given."""
    smooth = smoothed(f, how.smooth)
    return smooth if like is None or how.smooth == 1 else arranged(smooth, smoothed(like, how.smooth))


def atoms_of(
    f: Tensor, how: How, parts: int, *, corrected: bool, coarse: bool = True, total: bool = False
) -> tuple[Atoms, Atoms]:
    """Atoms of replicates ``f`` [G, S, *] of ``parts`` numbers each, and their errors; ``coarse``: R, U and S alone."""
    by_subset = {s: f[:, i] for i, s in enumerate(subsets_of(how.concepts)[1:])}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", PriorWarning)  # single pixels often do; the result's remarks say it once
        return decompose_replicates(
            by_subset, how.measure, how.priors, pixels=parts, corrected=corrected, coarse=coarse, total=total
        )


def decomposition(
    f: Tensor, profile: Tensor, edges: Tensor, how: How, positive: Sequence[bool], like: Tensor | None = None
) -> Decomposition:  # fmt: skip
    """Decompose replicates ``f`` [G, S, h, w] and ``profile`` [A, S, L]; ``how.level`` says where the measure acts.

    ``positive`` [S]: which f(S) are integrals of :func:`squares`. Maps that are smoothed are :func:`arranged` like
    those of ``like``, if given.

    Only sums over the image are corrected for the bias of the minimum. A pixel's two values lie within their noise of
    each other almost everywhere: there the correction adds more variance than it removes bias, and uniqueness maps tell
    the two things of a held-out scene apart less well with it than without.
    """
    smooth = laid_out(f, how, like)
    pixels, bins = f.shape[-2] * f.shape[-1], profile.shape[-1]
    pixel, pixel_error = atoms_of(smooth, how, pixels, corrected=False)
    binned, binned_error = atoms_of(profile, how, bins, corrected=False)
    # All atoms of five concepts and more: only where the measure is made of minima is there an algorithm for them.
    coarse = len(how.concepts) > 4 and (how.level != "image" or how.measure not in ("min", "ppid"))
    if how.level == "pixel":
        image, error = atoms_of(smooth, how, pixels, corrected=False, coarse=coarse, total=True)
    elif how.level == "logsnr":
        image, error = atoms_of(profile, how, bins, corrected=True, coarse=coarse, total=True)
    else:
        image, error = atoms_of(f.sum((-2, -1)), how, 1, corrected=True, coarse=coarse)
    dof = len(profile if how.level == "logsnr" else f) - 1

    def estimate(value: Tensor, err: Tensor) -> Estimate:
        return Estimate(float(value), float(err), dof)

    whole = zip(subsets_of(how.concepts)[1:], *mean_stderr(f.sum((-2, -1))), positive, strict=True)
    width = (edges[1:] - edges[:-1]).to(profile)
    return Decomposition(
        {s: Estimate(float(value), float(err), len(f) - 1, above) for s, value, err, above in whole},
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
