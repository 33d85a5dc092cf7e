"""The minima of ``tilde`` and ``delta`` as semidefinite programmes: slow, to check the package's own solvers.

Everything is at unit noise and M ~ N(0, I). Precision is lost where an information exceeds about 8 bits. Needs the
extra ``gaussian`` (CVXPY and Clarabel).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from dpid.gaussian.channels import Channels


def _cvxpy() -> Any:
    """The module cvxpy; ``RuntimeError`` where it is not installed."""
    try:
        import cvxpy
    except ImportError as error:
        raise RuntimeError(f"solver: 'sdp' needs CVXPY ({error}); pip install \"dpid[gaussian]\"") from error
    return cvxpy


def _solve(cp: Any, objective: Any, constraints: list[Any]) -> None:
    """Solve for the variables of ``objective``, in place; ``RuntimeError`` where no optimum is found."""
    problem = cp.Problem(objective, constraints)
    problem.solve(solver=cp.CLARABEL)
    if problem.status not in (cp.OPTIMAL, cp.OPTIMAL_INACCURATE):
        raise RuntimeError(f"solver: the semidefinite programme ended as {problem.status}")


def union(channels: Channels) -> float:
    """The union information I_∪ of ``tilde`` in nats, minimised over couplings.

    It is the minimum over Σ, ‖Σ‖₂ ≤ 1, of ½ log det(I + Hᵀ K⁻¹ H), K = [[I, Σ], [Σᵀ, I]], H = [H_X; H_Y], written as
    max log det W with [[I - W, Hᵀ], [H, K + H Hᵀ]] ⪰ 0, since (I + Hᵀ K⁻¹ H)⁻¹ = I - Hᵀ (K + H Hᵀ)⁻¹ H.
    """
    cp = _cvxpy()
    h_x, h_y = channels.gains()
    if not len(h_x) or not len(h_y):
        return channels.information[0] + channels.information[1]
    h, d = np.vstack((h_x, h_y)), h_x.shape[1]
    sigma, w = cp.Variable((len(h_x), len(h_y))), cp.Variable((d, d), symmetric=True)
    k = cp.bmat([[np.eye(len(h_x)), sigma], [sigma.T, np.eye(len(h_y))]])
    _solve(cp, cp.Maximize(cp.log_det(w)), [k >> 0, cp.bmat([[np.eye(d) - w, h.T], [h, k + h @ h.T]]) >> 0])
    return float(-0.5 * np.linalg.slogdet(w.value)[1])


def exact(channels: Channels) -> float:
    """The deficiency δ(M : X \\ Y) in nats (docs/theory.md, eq. (48)).

    With the natural parameters Λ and N = Λ T of X' given Y the problem is convex: 2 δ = min tr Λ(I + H_X H_Xᵀ)
    - 2 tr(H_Xᵀ N H_Y) + tr(H_Yᵀ Nᵀ Λ⁻¹ N H_Y) - log det Λ - R_X over Λ ⪰ N Nᵀ.
    """
    cp = _cvxpy()
    h_x, h_y = channels.gains()
    if not len(h_x) or not len(h_y):
        return channels.information[0]
    precision, n = cp.Variable((len(h_x), len(h_x)), symmetric=True), cp.Variable((len(h_x), len(h_y)))
    objective = (
        cp.trace(precision @ (np.eye(len(h_x)) + h_x @ h_x.T)) - 2 * cp.sum(cp.multiply(h_x @ h_y.T, n))
        + cp.matrix_frac(n @ h_y, precision) - cp.log_det(precision) - len(h_x)
    )  # fmt: skip
    _solve(cp, cp.Minimize(objective), [cp.bmat([[precision, n], [n.T, np.eye(len(h_y))]]) >> 0])
    return float(objective.value / 2)
