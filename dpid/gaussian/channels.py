"""From the covariance of (M, X, Y) to the input of every measure: the canonical correlations of M with X and with Y.

M, X and Y are whitened, without the directions that have no variance (docs/theory.md, eq. (45)). A redundancy that
depends on the pairs (M, X) and (M, Y) alone depends on ρ_X, ρ_Y and V_XᵀV_Y alone.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]

# At unit variances. Rounding makes a zero eigenvalue about 1e-16 d; eigenvalues below NULL are taken for zero.
NULL = 1e-13
# Least 1 - ρ²: below, the rounding of ρ in float64 changes the information by more than 1e-4.
NOISELESS = 1e-12
# Largest asymmetry and negative eigenvalue: those of a covariance rounded to 8 digits.
ROUNDED = 1e-8


@dataclass(frozen=True)
class Channels:
    """The whitened pairs (M, X) and (M, Y); D is the rank of Σ_M, R_X and R_Y those of the cross-covariances.

    Attributes
    ----------
    rho_x, rho_y : canonical correlations [D], descending, zero in directions of M without correlation
    overlap : V_XᵀV_Y [D, D], orthogonal
    information : I(M; X), I(M; Y), I(M; X, Y), nats
    """

    rho_x: Array
    rho_y: Array
    overlap: Array
    information: tuple[float, float, float]

    def swapped(self) -> Channels:
        """The same with X and Y exchanged."""
        i_x, i_y, i_xy = self.information
        return Channels(self.rho_y, self.rho_x, self.overlap.T, (i_y, i_x, i_xy))

    def gains(self) -> tuple[Array, Array]:
        """The gains H_X [R_X, D] and H_Y [R_Y, D] in the basis V_X of M: X = H_X M + N(0, I), and Y likewise."""
        seen_x, seen_y = self.rho_x > 0, self.rho_y > 0
        return np.diag(gain(self.rho_x))[seen_x], gain(self.rho_y)[seen_y, None] * self.overlap.T[seen_y]


def gain(rho: Array) -> Array:
    """The gain ρ/√(1-ρ²) of the channel with unit noise and correlation ρ."""
    return rho / np.sqrt((1 - rho) * (1 + rho))


def check_dims(dims: Sequence[int]) -> tuple[int, int, int]:
    """``dims`` as three integers of at least 1; ``ValueError`` otherwise."""
    try:
        sizes = tuple(operator.index(d) for d in dims)
    except TypeError:
        sizes = ()
    if len(sizes) != 3 or min(sizes) < 1:
        raise ValueError(f"dims: found {dims!r}, expected three whole numbers (dm, dx, dy) of at least 1")
    return sizes[0], sizes[1], sizes[2]


def as_array(name: str, value: ArrayLike, expected: str, ndim: int = 2) -> Array:
    """``value`` as a finite real float64 array of ``ndim`` dimensions; ``ValueError`` naming ``name`` otherwise.

    ``expected`` is what the message says of its shape.
    """
    try:
        found: NDArray[Any] = np.asarray(value)
        array = found.astype(np.float64, casting="same_kind" if found.dtype.kind in "fc" else "unsafe")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name}: found {type(value).__name__}, expected real numbers of shape {expected}") from error
    if array.ndim != ndim:
        raise ValueError(f"{name}: found shape {array.shape}, expected {expected}")
    if not np.isfinite(array).all():
        raise ValueError(f"{name}: found {int((~np.isfinite(array)).sum())} NaN or infinite entries, expected none")
    return array


def _covariance(cov: ArrayLike, size: int) -> Array:
    """The correlation matrix of ``cov``, exactly symmetric, with zeros for variables of variance zero.

    ``ValueError`` unless ``cov`` is a covariance [size, size].
    """
    matrix = as_array("cov", cov, f"({size}, {size})")
    if matrix.shape != (size, size):
        raise ValueError(f"cov: found shape {matrix.shape}, expected ({size}, {size}) for dims that add up to {size}")
    variance = np.diag(matrix)
    if variance.min() < 0:
        raise ValueError(f"cov: not positive semi-definite, found the variance {variance.min():.6g}")
    scale = np.sqrt(np.where(variance > 0, variance, 1.0))
    matrix = matrix / scale[:, None] / scale
    asymmetry = np.abs(matrix - matrix.T).max()
    if asymmetry > ROUNDED:
        raise ValueError(f"cov: not symmetric, entries differ from the transposed by {asymmetry:.2g} at unit variances")
    matrix = (matrix + matrix.T) / 2
    smallest = np.linalg.eigvalsh(matrix)[0]
    if smallest < -ROUNDED * size:
        raise ValueError(f"cov: not positive semi-definite, smallest eigenvalue {smallest:.6g} at unit variances")
    return matrix


def _whitener(block: Array) -> Array:
    """A matrix W [d, r] with Wᵀ ``block`` W = I, r the numerical rank of the covariance ``block`` [d, d]."""
    values, vectors = np.linalg.eigh(block)
    kept = values > NULL * max(values[-1], 1.0)
    whitener: Array = vectors[:, kept] / np.sqrt(values[kept])
    return whitener


def _canonical(cross: Array, name: str) -> tuple[Array, Array, float]:
    """Canonical correlations ρ [D], V [D, D] and information (nats) from a cross-covariance [D, R] of white variables.

    ``ValueError``, which calls the source ``name``, where the information is infinite.
    """
    vectors, values, _ = np.linalg.svd(cross)
    rho = np.zeros(len(cross))
    rho[: len(values)] = np.where(values > NULL, values, 0.0)
    noise = (1 - rho) * (1 + rho)
    if rho.size and noise.min() < NOISELESS:
        raise ValueError(
            f"cov: Σ_{name}|M is singular, since a combination of {name} is one of M without noise (canonical "
            f"correlation 1): I(M; {name}) is infinite"
        )
    return rho, vectors, float(-0.5 * np.log(noise).sum())


def standardise(cov: ArrayLike, dims: Sequence[int]) -> Channels:
    """The canonical correlations and informations of ``cov`` [d, d], variables in the order M, X, Y.

    Raises
    ------
    ValueError
        ``dims`` or ``cov`` of the wrong kind or size; NaN; not symmetric; not positive semi-definite; a combination of
        X, of Y or of both that is a function of M without noise. Singular Σ_M, Σ_X, Σ_Y are otherwise allowed.
    """
    dm, dx, dy = check_dims(dims)
    scaled = _covariance(cov, dm + dx + dy)
    m, x, y, xy = slice(dm), slice(dm, dm + dx), slice(dm + dx, None), slice(dm, None)
    white_m = _whitener(scaled[m, m])

    def canonical(part: slice, name: str) -> tuple[Array, Array, float]:
        return _canonical(white_m.T @ scaled[m, part] @ _whitener(scaled[part, part]), name)

    rho_x, v_x, i_x = canonical(x, "X")
    rho_y, v_y, i_y = canonical(y, "Y")
    i_xy = canonical(xy, "XY")[2]
    return Channels(rho_x, rho_y, v_x.T @ v_y, (i_x, i_y, max(i_xy, i_x, i_y)))
