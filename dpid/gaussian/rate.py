"""Partial information rate decomposition (PIRD; Faes et al., 2025) of vector autoregressive processes.

X_t = Σ_k A_k X_{t-k} + U_t, U ~ N(0, Σ_U). The information rate of target and sources is decomposed at every frequency
and then integrated (docs/theory.md, eqs. (52) to (54)), which is not the decomposition of the integrated rates. Nats
per sample unless ``unit`` says otherwise; frequencies in cycles per sample.

>>> from dpid.gaussian import rate
>>> a = [[[0.8, 0, 0], [0, -0.8, 0], [1, 1, 0]]]  # the target is driven by a slow and a fast source
>>> pird = rate.pird(a, [[1, 0, 0], [0, 1, 0], [0, 0, 1]], target=2, sources=(0, 1))
>>> round(pird.redundancy, 4), round(pird.unique[0], 4), round(pird.synergy, 4)
(0.0645, 0.2672, 0.1643)
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.linalg import solve_discrete_lyapunov

from dpid.checks import count, nats_in
from dpid.gaussian.channels import Array, as_array
from dpid.pid import decompose
from dpid.prompts.plan import subsets_of

Spectrum = NDArray[np.complex128]
Sources = tuple[int, ...]
Antichain = tuple[Sources, ...]


@dataclass(frozen=True)
class RatePID:
    """The decomposition of information rates that :func:`pird` returns, in ``unit`` per sample.

    Sources are numbered 1, 2, 3 in the order of the argument.

    Attributes
    ----------
    frequency : frequencies [F] from 0 to ½, cycles per sample
    spectral : {antichain: atom at every frequency [F]}, for example ``((1,), (2, 3))``; 4 of two sources, 18 of three
    atoms : {antichain: 2 ∫_0^½ of its spectrum}
    spectral_information, information : {S: i_S [F]} and {S: I(Y; X_S)} (docs/theory.md, eq. (53))
    redundancy : sum of the atoms {1}{2}{3} and {i}{j}
    unique : for every source i, the sum of the atoms {i} and {i}{jk}
    synergy : sum of all other atoms
    unit : the argument of :func:`pird`
    """

    frequency: Array
    spectral: dict[Antichain, Array]
    atoms: dict[Antichain, float]
    spectral_information: dict[Sources, Array]
    information: dict[Sources, float]
    redundancy: float
    unique: tuple[float, ...]
    synergy: float
    unit: str

    def __str__(self) -> str:
        unique = ", ".join(f"unique {i} {value:.6f}" for i, value in enumerate(self.unique, 1))
        total = self.information[tuple(range(1, len(self.unique) + 1))]
        return (
            f"rates ({self.unit} per sample): redundancy {self.redundancy:.6f}, {unique}, "
            f"synergy {self.synergy:.6f}; information {total:.6f}"
        )


def _process(coefficients: ArrayLike, noise_cov: ArrayLike) -> tuple[Array, Array]:
    """Coefficients [p, d, d] and noise covariance [d, d]; ``ValueError`` unless they make a stable process."""
    a, noise = as_array("coefficients", coefficients, "[p, d, d]", 3), as_array("noise_cov", noise_cov, "[d, d]")
    if a.shape[1] != a.shape[2] or 0 in a.shape:
        raise ValueError(f"coefficients: found shape {a.shape}, expected [p, d, d]")
    if noise.shape != a.shape[1:]:
        raise ValueError(f"noise_cov: found shape {noise.shape}, expected {a.shape[1:]} as the coefficients have")
    if not np.allclose(noise, noise.T, rtol=1e-8, atol=1e-12 * np.abs(noise).max()):
        raise ValueError(f"noise_cov: not symmetric, entries differ by up to {np.abs(noise - noise.T).max():.2g}")
    smallest = float(np.linalg.eigvalsh(noise)[0])
    if smallest <= 1e-14 * np.abs(noise).max():
        raise ValueError(f"noise_cov: not positive definite, smallest eigenvalue {smallest:.6g}")
    radius = float(np.abs(np.linalg.eigvals(_companion(a))).max())
    if radius >= 1:
        raise ValueError(f"coefficients: unstable, the companion matrix has spectral radius {radius:.6g}, expected < 1")
    return a, noise


def _companion(a: Array) -> Array:
    """The companion matrix [p d, p d] of coefficients [p, d, d]: the process as one of order 1."""
    p, d = a.shape[:2]
    return np.vstack((np.concatenate(a, axis=1), np.eye((p - 1) * d, p * d)))


def _indices(name: str, value: int | Sequence[int], d: int) -> tuple[int, ...]:
    """``value``, one or several indices below ``d``, as a tuple; ``ValueError``, naming ``name``, otherwise."""
    try:
        found = tuple(map(operator.index, value if isinstance(value, Iterable) else (value,)))
    except TypeError as error:
        raise ValueError(f"{name}: found {value!r}, expected an index or a tuple of indices") from error
    if not found or min(found) < 0 or max(found) >= d:
        raise ValueError(f"{name}: found {value!r}, the process has indices 0 to {d - 1}")
    return found


def _roles(
    target: int | Sequence[int], sources: Sequence[int | Sequence[int]], d: int
) -> tuple[tuple[int, ...], list[tuple[int, ...]]]:
    """Indices of the target, and of every source; ``ValueError`` unless they are disjoint and two or three sources."""
    if not isinstance(sources, Collection) or len(sources) not in (2, 3):
        raise ValueError(f"sources: found {sources!r}, expected two or three, each an index or a tuple of indices")
    y = _indices("target", target, d)
    groups = [_indices("sources", source, d) for source in sources]
    used = [*y, *(i for group in groups for i in group)]
    if len(set(used)) < len(used):
        raise ValueError(f"target, sources: found {target!r}, {sources!r}, expected every index once")
    return y, groups


def spectrum(coefficients: ArrayLike, noise_cov: ArrayLike, frequency: ArrayLike) -> Spectrum:
    """The spectrum [F, d, d] at ``frequency`` [F] (docs/theory.md, eq. (52)); raises as :func:`pird`."""
    a, noise = _process(coefficients, noise_cov)
    lags = np.arange(1, len(a) + 1)
    phase = np.exp(-2j * np.pi * np.multiply.outer(as_array("frequency", frequency, "[F]", 1), lags))
    transfer = np.linalg.inv(np.eye(a.shape[1]) - np.tensordot(phase, a, axes=1))
    return (transfer @ noise @ transfer.conj().swapaxes(1, 2)).astype(np.complex128)


def stationary_covariance(coefficients: ArrayLike, noise_cov: ArrayLike) -> Array:
    """The covariance [d, d] of X_t, for :func:`dpid.gaussian.pid` if the target is first; raises as :func:`pird`."""
    a, noise = _process(coefficients, noise_cov)
    p, d = a.shape[:2]
    driven = np.zeros((p * d, p * d))
    driven[:d, :d] = noise
    cov: Array = solve_discrete_lyapunov(_companion(a), driven)[:d, :d]
    return (cov + cov.T) / 2


def pird(
    coefficients: ArrayLike,
    noise_cov: ArrayLike,
    target: int | Sequence[int],
    sources: Sequence[int | Sequence[int]],
    unit: str = "nats",
    n_freq: int = 4097,
) -> RatePID:
    """Redundancy, uniqueness and synergy of the information rate between two or three sources and a target.

    Parameters
    ----------
    coefficients : A_1 … A_p [p, d, d], of a stable process
    noise_cov : Σ_U [d, d], positive definite
    target : index of the target, or a tuple of indices
    sources : two or three indices or tuples of indices, disjoint; variables in none of them are unobserved
    unit : ``nats`` or ``bits``
    n_freq : number of frequencies from 0 to ½. The error of the trapezoid rule is of order ρ^(2 n_freq) for the
        informations, ρ the spectral radius, and n_freq⁻² for the atoms, whose spectra have kinks

    Raises
    ------
    ValueError
        Wrong shapes; NaN; no real numbers; an unstable process (the message has the spectral radius); a noise
        covariance that is not symmetric and positive definite; an index out of range or used twice; not two or three
        sources; an unknown unit.
    """
    nats = nats_in(unit)
    n_freq = count(2, 2**63 - 1)("n_freq", n_freq)
    _, noise = _process(coefficients, noise_cov)
    y, groups = _roles(target, sources, len(noise))
    frequency = np.linspace(0, 0.5, n_freq)
    s = spectrum(coefficients, noise_cov, frequency)

    def log_det(indices: tuple[int, ...]) -> Array:
        logs: Array = np.linalg.slogdet(s[:, indices][:, :, indices])[1]
        return logs

    names = [str(i) for i in range(1, len(groups) + 1)]
    information = {}
    for subset in subsets_of(names)[1:]:
        x = tuple(i for name in subset for i in groups[int(name) - 1])
        information[subset] = torch.from_numpy((log_det(y) + log_det(x) - log_det(y + x)) / (2 * nats))
    found = decompose(information, "min")
    spectral = {tuple(map(_numbers, alpha)): values.numpy() for alpha, values in found.items()}
    return RatePID(
        frequency,
        spectral,
        {alpha: _rate(values, frequency) for alpha, values in spectral.items()},
        {_numbers(subset): values.numpy() for subset, values in information.items()},
        {_numbers(subset): _rate(values.numpy(), frequency) for subset, values in information.items()},
        _rate(found.redundancy.numpy(), frequency),
        tuple(_rate(values.numpy(), frequency) for values in found.unique.values()),
        _rate(found.synergy.numpy(), frequency),
        unit,
    )


def _numbers(names: Sequence[str]) -> Sources:
    """The numbers of the sources, from the names under which they were decomposed."""
    return tuple(map(int, names))


def _rate(values: Array, frequency: Array) -> float:
    """2 ∫_0^½ of ``values`` [F] over ``frequency`` [F] by the trapezoid rule."""
    return float((values[1:] + values[:-1]) @ np.diff(frequency))


def fit_var(data: ArrayLike, order: int) -> tuple[Array, Array]:
    """Coefficients [p, d, d] and noise covariance [d, d] fitted to ``data`` [n, d] by least squares, with a constant.

    The covariance has the divisor n - p - d p - 1. Needs the extra ``rate`` (statsmodels).

    Raises
    ------
    ValueError
        ``data`` not [n, d]; NaN; no real numbers; an order below 1; fewer samples than there are unknowns.
    RuntimeError
        statsmodels is not installed.
    """
    series = as_array("data", data, "[n, d]")
    if series.shape[1] < 1:
        raise ValueError(f"data: found shape {series.shape}, expected [n, d]")
    order = count(1, 2**63 - 1)("order", order)
    n, d = series.shape
    least = order * (d + 1) + d + 1  # with one fewer the covariance of the residuals is singular
    if n < least:
        raise ValueError(f"data: found {n} samples, order {order} of {d} variables needs at least {least}")
    try:
        from statsmodels.tsa.api import VAR
    except ImportError as error:
        raise RuntimeError(f'fit_var needs statsmodels ({error}); pip install "dpid[rate]"') from error
    fitted = VAR(series).fit(order, trend="c")
    return np.asarray(fitted.coefs, dtype=np.float64), np.asarray(fitted.sigma_u, dtype=np.float64)
