"""Deficiency δ(M: X \\ Y) of two Gaussian channels, exactly and by the published convex surrogate.

δ(M: X \\ Y) = min over channels Y → X' of E_M KL(P_X|M ‖ P_X'|M) (Raginsky, 2011; as a PID: Banerjee et al., 2018;
Gaussian: Venkatesh & Schamberg, 2022), here over X' = T Y + N(0, Σ_T). All at unit noise and M ~ N(0, I).

Exact. Write the precision of X' given M as Λ = L Lᵀ and Λ T = L R; that X' is a channel from Y says ‖R‖₂ ≤ 1. Then
2 KL = ‖L‖² + ‖LᵀH_X - R H_Y‖² - 2 log det L - R_X. With A = I + H_X H_Xᵀ, Z = A^½ L and B = A^-½ H_X H_Yᵀ the minimum
over Z is in closed form: Z has the singular vectors of B Rᵀ, and its singular values solve z - 1/z = ω for those, ω, of
B Rᵀ. What is left depends on E = RᵀR alone:

    2 δ = log det A - R_X + min { tr(E H_Y H_Yᵀ) + tr h(B E Bᵀ) : 0 ⪯ E ⪯ I },  h(ω²) = 1 - z ω - 2 log z,

a convex problem, since h is convex.

Surrogate (Venkatesh & Schamberg): T = Σ_X^½ R Σ_Y^-½, Σ_T = Σ_X - T Σ_Y Tᵀ with the R, ‖R‖₂ ≤ 1, that minimises
‖R C_YM - C_XM‖_F, the C standardised cross-covariances. The KL of this channel is an upper bound on δ.
"""

from __future__ import annotations

import numpy as np

from dpid.gaussian.channels import Array, Channels, gain
from dpid.gaussian.interior_point import minimise
from dpid.gaussian.tilde import union

_ITERATIONS = 100_000  # of projected gradients; hundreds in practice


def _seen(channels: Channels) -> tuple[Array, Array, Array]:
    """ρ_X [R_X], ρ_Y [R_Y] and V_XᵀV_Y [R_X, R_Y] of the directions of M that are seen."""
    x, y = channels.rho_x > 0, channels.rho_y > 0
    return channels.rho_x[x], channels.rho_y[y], channels.overlap[np.ix_(x, y)]


def exact(channels: Channels) -> float:
    """δ(M: X \\ Y) in nats, to a duality gap of 1e-9, or of 1e-7 a dimension where rounding allows no better.

    ``RuntimeError`` where it does not allow that: gains above a thousand, 10 bits a dimension, can bring that about.
    """
    # δ is at most U_X of ``tilde``: for its coupling I(M; X | Y) = E KL(P_X|MY ‖ P_X|Y), and P_X|Y is a channel from Y.
    if union(channels) - channels.information[1] < 1e-9:
        return 0.0
    rho_x, rho_y, overlap = _seen(channels)
    value = minimise(gain(rho_y) ** 2, rho_x[:, None] * overlap * gain(rho_y), tolerance=1e-9)
    return float(np.clip(channels.information[0] + (value - len(rho_x)) / 2, 0.0, channels.information[0]))


def _contraction(rho: Array, target: Array) -> Array:
    """R diag(rho) of the R, ‖R‖₂ ≤ 1, with the least ‖R diag(rho) - target‖_F: accelerated projected gradients.

    Restarted where the momentum points uphill (O'Donoghue & Candès, 2015); until a step moves R diag(rho) by 1e-13.
    """
    r = ahead = np.zeros_like(target)
    momentum = 1.0
    for _ in range(_ITERATIONS):
        u, values, vt = np.linalg.svd(ahead - (ahead * rho - target) * rho / rho[0] ** 2, full_matrices=False)
        last, r = r, (u * np.minimum(values, 1.0)) @ vt
        if ((ahead - r) * (r - last)).sum() > 0:
            momentum = 1.0
        moved = np.abs((r - ahead) * rho).max()
        if moved < 1e-13:
            channel: Array = r * rho
            return channel
        previous, momentum = momentum, (1 + np.sqrt(1 + 4 * momentum**2)) / 2
        ahead = r + (previous - 1) / momentum * (r - last)
    raise RuntimeError(f"delta-surrogate: the last of {_ITERATIONS} steps still moved the channel by {moved:.2g}")


def surrogate(channels: Channels) -> float:
    """The surrogate's upper bound on δ(M: X \\ Y) in nats; ``RuntimeError`` if its minimum is not reached."""
    rho_x, rho_y, overlap = _seen(channels)
    if not len(rho_x) or not len(rho_y):
        return channels.information[0]
    cross = rho_x[:, None] * overlap
    channel = _contraction(rho_y, cross)
    seen, mixed = channel @ channel.T, cross @ channel.T
    noise = np.eye(len(rho_x)) - seen
    # E_M KL(N(C_XM M, I - C_XM C_MX) ‖ N(R C_YM M, noise)); the mean square of the difference is added to the first.
    ratio = np.linalg.solve(noise, np.eye(len(rho_x)) - mixed - mixed.T + seen)
    log_det = np.linalg.slogdet(noise)[1] - np.log1p(-(rho_x**2)).sum()
    return float(max(0.5 * (np.trace(ratio) - len(rho_x) + log_det), 0.0))
