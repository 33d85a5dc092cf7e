"""A barrier method for the convex minimum of docs/theory.md, eq. (49): tr(E diag g) + tr h(B E Bᵀ), 0 ⪯ E ⪯ I.

h (η there, with h(ω²) = min_z z² - 2 z ω - 2 log z) is convex on (0, ∞), and its third derivative at λ is at most a
multiple of h''/λ. With the barrier -μ (log det E + log det(I - E)) Newton's method therefore takes few steps at every μ
(Nesterov & Nemirovskii, 1994). A product with the Hessian costs a few matrix products, and with its diagonal in the
eigenbasis of E as preconditioner few conjugate-gradient steps are needed. The duality gap, of the linearised problem
over 0 ⪯ E ⪯ I, follows from eigenvalues.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from dpid.gaussian.channels import NULL, Array

# Most Newton steps at one μ, and conjugate-gradient steps in one of these; tens and hundreds in practice.
_NEWTON, _CG = 300, 3000
_SHRINK = 0.1  # factor between one μ and the next


def _h(lam: Array) -> Array:
    """h of the eigenvalues ``lam`` = ω² [R], with z = (ω + √(ω² + 4)) / 2 and z² = 1 + z ω."""
    z_omega = lam * (1 + np.sqrt(1 + 4 / lam)) / 2
    value: Array = 1 - z_omega - 2 * np.log(z_omega) + np.log(lam)
    return value


def _h_slopes(lam: Array) -> tuple[Array, Array]:
    """The derivative h' = -z/ω [R] at the eigenvalues ``lam`` [R], and its divided differences [R, R]."""
    ratio = np.sqrt(1 + 4 / lam)
    return -(1 + ratio) / 2, 2 / (np.outer(lam, lam) * np.add.outer(ratio, ratio))


@dataclass(frozen=True)
class _Problem:
    """The minimum to be found: its coefficients."""

    g: Array  # [D]
    b: Array  # [R, D], rank R

    def value(self, e: Array) -> float:
        """The objective at ``e``; infinite unless B E Bᵀ is positive definite."""
        lam = np.linalg.eigvalsh(self.b @ e @ self.b.T).astype(np.float64)
        if lam[0] <= 0:
            return np.inf
        return float(np.diag(e) @ self.g + _h(lam).sum())

    def barrier(self, e: Array, mu: float) -> float:
        """The objective plus the barrier at ``e``; infinite unless 0 ≺ E ≺ I."""
        values = np.linalg.eigvalsh(e)
        if values[0] <= 0 or values[-1] >= 1:
            return np.inf
        return self.value(e) - mu * float(np.log(values).sum() + np.log1p(-values).sum())


def _conjugate_gradient(product: Callable[[Array], Array], right: Array, diagonal: Array) -> Array:
    """The solution x of product(x) = right to 1 %, preconditioned by ``diagonal``."""
    x, residual = np.zeros_like(right), right.copy()
    scaled = residual / diagonal
    direction, size = scaled, float((residual * scaled).sum())
    target = 1e-4 * size
    for _ in range(_CG):
        if size <= target:
            break
        image = product(direction)
        length = size / float((direction * image).sum())
        x = x + length * direction
        residual = residual - length * image
        scaled = residual / diagonal
        last, size = size, float((residual * scaled).sum())
        direction = scaled + size / last * direction
    return x


def _newton_step(problem: _Problem, e: Array, mu: float) -> tuple[Array, float, float]:
    """The next E, and at ``e`` the squared Newton decrement and the duality gap (of the problem without barrier)."""
    values, q = np.linalg.eigh(e)
    if values[0] <= 0 or values[-1] >= 1:  # possible by rounding alone
        return e, 0.0, np.inf
    lam, u = np.linalg.eigh(problem.b @ e @ problem.b.T)
    w = u.T @ problem.b @ q  # everything below in the eigenbasis of E
    slope, curvature = _h_slopes(lam)
    gradient = (q.T * problem.g) @ q + (w.T * slope) @ w
    gap = float(np.diag(gradient) @ values - np.minimum(np.linalg.eigvalsh(gradient), 0.0).sum())
    left = 1 - values
    barrier = mu * (1 / np.outer(values, values) + 1 / np.outer(left, left))

    def hessian(d: Array) -> Array:
        image: Array = barrier * d + w.T @ (curvature * (w @ d @ w.T)) @ w
        return image

    right = mu * np.diag(1 / values - 1 / left) - gradient
    step = _conjugate_gradient(hessian, right, barrier + (w * w).T @ curvature @ (w * w))
    decrement = float((right * step).sum())
    centred = decrement <= 1e-2 * mu  # a full step is then feasible and converges; rounding would fool a line search
    to_zero = -np.linalg.eigvalsh(step / np.sqrt(np.outer(values, values)))[0]
    to_one = np.linalg.eigvalsh(step / np.sqrt(np.outer(left, left)))[-1]
    length = 1.0 if centred else min(1.0, 0.95 / max(to_zero, to_one, 0.95))
    step = q @ step @ q.T
    step = (step + step.T) / 2
    before = problem.barrier(e, mu)
    while not centred and problem.barrier(e + length * step, mu) > before - 0.1 * length * decrement:
        length /= 2
        if length < 1e-10:  # rounding hides any further descent
            return e, 0.0, gap
    return e + length * step, decrement, gap


def minimise(g: Array, b: Array, tolerance: float) -> float:
    """The minimum in nats, for ``g`` [D] > 0, descending, and ``b`` [R, D], to a duality gap of ``tolerance``.

    Where rounding allows no better, a gap of 1e-7 per dimension is accepted; ``RuntimeError`` for a larger one.
    """
    _, singular, vt = np.linalg.svd(b, full_matrices=False)
    kept = singular > NULL * np.max(singular, initial=0.0)
    constant = float(len(b) - kept.sum())  # B E Bᵀ has that many zero eigenvalues for every E, and h(0) = 1
    if not kept.any():
        return constant
    problem = _Problem(g, singular[kept, None] * vt[kept])
    e, mu = 0.5 * np.eye(len(g)), max(1.0, g[0])
    best, gap = e, np.inf
    while gap > tolerance and mu > 1e-16 * g[0]:
        for _ in range(_NEWTON):
            ahead, decrement, found = _newton_step(problem, e, mu)
            if found < gap:
                best, gap = e, found
            if found <= 4 * mu * len(g) or decrement <= 0:  # on the central path the gap is at most mu D
                break
            e = ahead
        mu *= _SHRINK
    if gap > max(tolerance, 1e-7 * len(g)):
        raise RuntimeError(
            f"delta: float64 does not hold the minimum at gains this large; stopped at a duality gap of {gap:.2g} nats"
        )
    return problem.value(best) + constant
