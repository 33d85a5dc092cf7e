"""The distribution of maximum entropy that has given marginals."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import torch
from scipy.optimize import linprog
from torch import Tensor

_SWEEPS, _STEPS = 30, 100
_NOTHING = 1e-14  # a probability that counts as none, so that no power of it underflows


def maximum_entropy(p: Tensor, margins: Iterable[set[int]]) -> Tensor:
    """The q of largest entropy of all distributions with the marginals of ``p`` over each set of axes in ``margins``.

    q = exp(Aᵀθ) on the points that some distribution with these marginals has: by iterative proportional fitting, then
    by Newton's method on the convex dual Σ q - Σ p log q, until marginals are right to about 1e-12. ``p`` [*] float64
    on the CPU sums to 1; q has its shape.

    Raises
    ------
    FloatingPointError
        The method did not converge.
    """
    kept, given = list(margins), np.where(p.numpy() < _NOTHING, 0, p.numpy())
    inside = np.ones(p.shape, bool)
    for axes in kept:
        inside &= _over(given, axes) > 0
    values = given[inside]
    rows = [_indicator(inside, axes) for axes in kept]
    possible = _possible(np.concatenate(rows), values > 0)
    q = _fitted(values[possible], [r[:, possible] for r in rows])
    found = np.zeros(p.shape)
    found[tuple(axis[possible] for axis in inside.nonzero())] = q
    return torch.from_numpy(found / found.sum())


def _fitted(p: np.ndarray, margins: list[np.ndarray]) -> np.ndarray:
    """q [points] with the sums of ``p`` [points] over the rows of each of ``margins`` [rows, points]."""
    log_q = np.zeros(len(p))
    for _ in range(_SWEEPS):
        for rows in margins:
            log_q += np.log(rows @ p / (rows @ np.exp(log_q))) @ rows
    every = np.concatenate(margins)
    for _ in range(_STEPS):
        q = np.exp(log_q)
        root = np.sqrt(q)
        # Newton's step solves (A Q Aᵀ) dθ = A (p - q): least squares keep small probabilities' digits.
        step = every.T @ np.linalg.lstsq((every * root).T, (p - q) / root, rcond=None)[0]
        slope = float((p - q) @ step)
        if slope < 1e-24:
            return q
        log_q += _damping(log_q, step, p, slope) * step
    raise FloatingPointError("joint: the distribution of maximum entropy was not found")


def _over(p: np.ndarray, axes: set[int]) -> np.ndarray:
    """The marginal over ``axes``, the others of length 1."""
    total: np.ndarray = p.sum(tuple(k for k in range(p.ndim) if k not in axes), keepdims=True)
    return total


def _indicator(inside: np.ndarray, axes: set[int]) -> np.ndarray:
    """[values of ``axes`` that occur, points]: which points of ``inside`` a marginal adds up."""
    places = np.array([axis for k, axis in enumerate(inside.nonzero()) if k in axes])
    _, which = np.unique(places, axis=1, return_inverse=True)
    return np.equal.outer(np.arange(which.max() + 1), which.ravel()).astype(float)


def _possible(rows: np.ndarray, positive: np.ndarray) -> np.ndarray:
    """Which points can be above zero without changing the marginals: a direction leads there from p.

    Linear programming: the largest Σ t, 0 ≤ t ≤ 1, with t ≤ v at the points where p is zero, and A v = 0.
    """
    if positive.all():
        return positive
    zeros = np.flatnonzero(~positive)
    below = np.zeros((len(zeros), len(positive)))
    below[np.arange(len(zeros)), zeros] = -1
    found = linprog(
        np.concatenate((np.zeros(len(positive)), -np.ones(len(zeros)))),
        A_ub=np.concatenate((below, np.eye(len(zeros))), 1), b_ub=np.zeros(len(zeros)),
        A_eq=np.concatenate((rows, np.zeros((len(rows), len(zeros)))), 1), b_eq=np.zeros(len(rows)),
        bounds=[(None, None)] * len(positive) + [(0, 1)] * len(zeros),
    )  # fmt: skip
    reached = positive.copy()
    reached[zeros] = found.x[len(positive) :] > 0.5  # the cone of directions has each t at 0 or 1
    return reached


def _damping(log_q: np.ndarray, step: np.ndarray, p: np.ndarray, slope: float) -> float:
    """The largest of 1, ½, ¼, … times ``step`` that lowers the dual by a quarter of what its ``slope`` says."""
    if slope < 1e-10:  # of the size of rounding: Newton's method has long been quadratic
        return 1.0

    def dual(at: np.ndarray) -> float:
        return float(np.exp(at).sum() - p @ at)

    size, start = 1.0, dual(log_q)
    with np.errstate(over="ignore"):
        while not dual(log_q + size * step) < start - size * slope / 4:
            size /= 2
    return size
