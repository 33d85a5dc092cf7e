"""The deficiency δ(M : X \\ Y) of two Gaussian channels, exactly and by the published convex surrogate.

It is the least divergence from X of a channel X' = T Y + N(0, Σ_T) of Y (docs/theory.md, eq. (48); Raginsky, 2011; as a
PID: Banerjee et al., 2018; of Gaussians: Venkatesh & Schamberg, 2022). Everything is at unit noise and M ~ N(0, I).

That eq. (49) follows is seen with the precision Λ = L Lᵀ of X' given M and Λ T = L R; X' is a channel from Y exactly if
‖R‖₂ ≤ 1. Then 2 KL = ‖L‖² + ‖LᵀH_X - R H_Y‖² - 2 log det L - R_X. With A and B as in eq. (49) and Z = A^½ L the minimum
over Z is in closed form: Z has the singular vectors of B Rᵀ, and its singular values z solve z - 1/z = ω for those, ω,
of B Rᵀ. What is left depends on E = RᵀR alone. The surrogate is that of eq. (50).
"""

from __future__ import annotations

import numpy as np

from dpid.gaussian.channels import Array, Channels, gain
from dpid.gaussian.interior_point import minimise
from dpid.gaussian.tilde import union

_ITERATIONS = 100_000  # most projected gradient steps; hundreds suffice in practice


def _correlated(channels: Channels) -> tuple[Array, Array, Array]:
    """ρ_X [R_X], ρ_Y [R_Y] and V_XᵀV_Y [R_X, R_Y], without the directions of M of correlation zero."""
    x, y = channels.rho_x > 0, channels.rho_y > 0
    return channels.rho_x[x], channels.rho_y[y], channels.overlap[np.ix_(x, y)]


def exact(channels: Channels) -> float:
    """The deficiency δ(M : X \\ Y) in nats (docs/theory.md, eq. (49)).

    To a duality gap of 1e-9, or of 1e-7 per dimension where rounding allows no better; ``RuntimeError`` where it does
    not allow that either, as can happen with gains above a thousand (10 bits per dimension).
    """
    # δ is at most U_X of ``tilde``: under its coupling U_X = I(M; X | Y) = E KL(P_X|MY ‖ P_X|Y), a channel from Y.
    if union(channels) - channels.information[1] < 1e-9:
        return 0.0
    rho_x, rho_y, overlap = _correlated(channels)
    value = minimise(gain(rho_y) ** 2, rho_x[:, None] * overlap * gain(rho_y), tolerance=1e-9)
    return float(np.clip(channels.information[0] + (value - len(rho_x)) / 2, 0.0, channels.information[0]))


def _contraction(rho: Array, target: Array) -> Array:
    """The product R diag(rho), R the matrix with ‖R‖₂ ≤ 1 of the least ‖R diag(rho) - target‖_F.

    By accelerated projected gradients, restarted where the momentum points uphill (O'Donoghue & Candès, 2015), until a
    step changes R diag(rho) by less than 1e-13; ``RuntimeError`` if ``_ITERATIONS`` are not enough.
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
    """An upper bound on δ(M : X \\ Y) in nats (docs/theory.md, eq. (50)); ``RuntimeError`` if it does not converge."""
    rho_x, rho_y, overlap = _correlated(channels)
    if not len(rho_x) or not len(rho_y):
        return channels.information[0]
    cross = rho_x[:, None] * overlap
    channel = _contraction(rho_y, cross)
    signal, mixed = channel @ channel.T, cross @ channel.T
    noise = np.eye(len(rho_x)) - signal
    # E_M KL(N(C_XM M, I - C_XM C_MX) ‖ N(R C_YM M, noise)); the mean square of the difference is added to the first.
    ratio = np.linalg.solve(noise, np.eye(len(rho_x)) - mixed - mixed.T + signal)
    log_det = np.linalg.slogdet(noise)[1] - np.log1p(-(rho_x**2)).sum()
    return float(max(0.5 * (np.trace(ratio) - len(rho_x) + log_det), 0.0))
