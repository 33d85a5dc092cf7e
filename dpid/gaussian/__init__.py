"""Partial information decomposition of jointly Gaussian vectors M (target), X and Y (sources), in bits by default.

I(M; X) = R + U_X, I(M; Y) = R + U_Y, I(M; X, Y) = R + U_X + U_Y + S. Four measures of the redundancy R:

- ``tilde``            BROJA over Gaussian couplings (docs/theory.md, eq. (47); :mod:`dpid.gaussian.tilde`).
- ``delta``            deficiency (docs/theory.md, eq. (48); :mod:`dpid.gaussian.deficiency`).
- ``delta-surrogate``  deficiency with an upper bound on it by a convex surrogate (docs/theory.md, eq. (50)).
- ``mmi``              the smaller of I(M; X) and I(M; Y) (Barrett, 2015), with which all agree when M is a scalar.

>>> import numpy as np
>>> from dpid import gaussian
>>> gaussian.pid([[1, 1, 1], [1, 2, 2], [1, 2, 3]], dims=(1, 1, 1)).redundancy  # Y = X + noise, so R = I(M; Y)
0.2924812503605781
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import digamma

from dpid.checks import count, nats_in
from dpid.gaussian import deficiency, sdp, tilde
from dpid.gaussian.channels import Array, Channels, as_array, check_dims, standardise

__all__ = ["MEASURES", "GaussianPID", "fit", "information_bias", "pid"]

Minimum = Callable[[Channels], float]


def _from_union(union: Minimum) -> Minimum:
    """The redundancy I_X + I_Y - I_∪ as a function of the channels."""
    return lambda c: c.information[0] + c.information[1] - union(c)


def _from_deficiency(delta: Minimum) -> Minimum:
    """The redundancy of docs/theory.md, eq. (48), as a function of the channels."""
    return lambda c: min(c.information[0] - delta(c), c.information[1] - delta(c.swapped()))


# Redundancy in nats: {measure: {solver: function}}.
MEASURES: dict[str, dict[str, Minimum]] = {
    "tilde": {"own": _from_union(tilde.union), "sdp": _from_union(sdp.union)},
    "delta": {"own": _from_deficiency(deficiency.exact), "sdp": _from_deficiency(sdp.exact)},
    "delta-surrogate": {"own": _from_deficiency(deficiency.surrogate)},
    "mmi": {"own": lambda c: min(c.information[:2])},
}


@dataclass(frozen=True)
class GaussianPID:
    """The decomposition of I(M; X, Y) that :func:`pid` returns, all numbers in ``unit``.

    Attributes
    ----------
    redundancy, synergy : R, S
    unique : U_X, U_Y
    information : I(M; X), I(M; Y), I(M; X, Y)
    measure, unit : the arguments of :func:`pid`
    """

    redundancy: float
    unique: tuple[float, float]
    synergy: float
    information: tuple[float, float, float]
    measure: str
    unit: str

    def __str__(self) -> str:
        i_x, i_y, i_xy = self.information
        return (
            f"{self.measure} ({self.unit}): redundancy {self.redundancy:.6f}, "
            f"unique X {self.unique[0]:.6f}, unique Y {self.unique[1]:.6f}, synergy {self.synergy:.6f}; "
            f"I(M; X) {i_x:.6f}, I(M; Y) {i_y:.6f}, I(M; X, Y) {i_xy:.6f}"
        )


def pid(
    cov: ArrayLike, dims: Sequence[int], measure: str = "tilde", unit: str = "bits", solver: str = "own"
) -> GaussianPID:
    """Redundancy, uniqueness and synergy of a Gaussian target M and sources X and Y with covariance ``cov``.

    R is clipped to its range in exact arithmetic: [max(0, I_X + I_Y - I_XY), min(I_X, I_Y)] for ``tilde`` and ``mmi``,
    [0, min(I_X, I_Y)] for the two measures of deficiency. The error is below 1e-7 bits times d, unless ``cov`` is so
    close to singular that the rounding of its float64 entries changes the result by more.

    Parameters
    ----------
    cov : covariance [d, d], variables in the order M, X, Y; may be singular as long as no information is infinite
    dims : (dm, dx, dy), d = dm + dx + dy
    measure : ``tilde``, ``delta``, ``delta-surrogate`` or ``mmi``
    unit : ``bits`` or ``nats``
    solver : ``own``, or ``sdp``: an independent solution with CVXPY, slow above ten dimensions (extra ``gaussian``)

    Raises
    ------
    ValueError
        An unknown name; ``cov`` or ``dims`` of the wrong kind or size; a covariance that is not finite, symmetric and
        positive semi-definite; an infinite information (the message says between which variables).
    RuntimeError
        ``solver="sdp"`` without CVXPY, or a minimum that was not reached.
    """
    nats = nats_in(unit)
    if measure not in MEASURES:
        raise ValueError(f"measure: found {measure!r}, allowed are {', '.join(MEASURES)}")
    if solver not in MEASURES[measure]:
        raise ValueError(f"solver: found {solver!r}, {measure} allows {', '.join(MEASURES[measure])}")
    c = standardise(cov, dims)
    i_x, i_y, i_xy = c.information
    least = max(0.0, i_x + i_y - i_xy) if measure in ("tilde", "mmi") else 0.0
    r = float(np.clip(MEASURES[measure][solver](c), least, min(i_x, i_y)))
    return GaussianPID(
        r / nats,
        ((i_x - r) / nats, (i_y - r) / nats),
        (i_xy - i_x - i_y + r) / nats,
        (i_x / nats, i_y / nats, i_xy / nats),
        measure,
        unit,
    )


def fit(samples: ArrayLike, dims: Sequence[int]) -> Array:
    """The sample covariance [d, d] (divisor n - 1) of ``samples`` [n, d], columns in the order M, X, Y.

    The mutual informations of a sample covariance are too large by :func:`information_bias`, about dm dx / 2n nats for
    I(M; X), and so are uniqueness and synergy. There is no correction of the atoms in closed form.

    Raises
    ------
    ValueError
        Not [n, d] with d the sum of ``dims``; NaN; fewer than d + 1 samples, whose covariance is singular and makes
        every information infinite.
    """
    size = sum(check_dims(dims))
    matrix = as_array("samples", samples, f"(n, {size})")
    if matrix.shape[1] != size:
        raise ValueError(f"samples: found {matrix.shape[1]} columns, expected {size}, the sum of dims")
    if len(matrix) <= size:
        raise ValueError(f"samples: found {len(matrix)}, {size} variables need at least {size + 1}")
    centred = matrix - matrix.mean(0)
    cov: Array = centred.T @ centred / (len(matrix) - 1)
    return cov


def information_bias(n: int, dims: Sequence[int], unit: str = "bits") -> tuple[float, float, float]:
    """The biases of I(M; X), I(M; Y) and I(M; X, Y) computed from :func:`fit`'s covariance of ``n`` samples.

    Exact, in ``unit``, to be subtracted (docs/theory.md, eq. (51)).

    Raises
    ------
    ValueError
        ``n`` no whole number, or at most the sum of ``dims``, where the expectation is infinite; wrong ``dims``; an
        unknown unit.
    """
    (dm, dx, dy), nats, n = check_dims(dims), nats_in(unit), count(1, 2**63 - 1)("n", n)
    if n <= dm + dx + dy:
        raise ValueError(f"n: found {n}, {dm + dx + dy} variables need at least {dm + dx + dy + 1}")

    def entropy(d: int) -> float:
        return float(digamma((n - np.arange(1, d + 1)) / 2).sum() - d * np.log((n - 1) / 2)) / 2

    def bias(d: int) -> float:
        return (entropy(dm) + entropy(d) - entropy(dm + d)) / nats

    return bias(dx), bias(dy), bias(dx + dy)


def __getattr__(name: str) -> Any:
    if name == "rate":  # imported on first use, since it imports PyTorch
        return import_module("dpid.gaussian.rate")
    raise AttributeError(f"module 'dpid.gaussian' has no attribute {name!r}")
