"""Pointwise quantities of a joint distribution p(y_1, …, y_n, x), float64 with x on the last axis."""

from __future__ import annotations

from torch import Tensor


def others(n: int, mask: int) -> list[int]:
    """The axes of the y that are not in ``mask``."""
    return [k for k in range(n) if not mask >> k & 1]


def marginal(p: Tensor, axes: list[int]) -> Tensor:
    """``p`` summed over ``axes``, which stay as length 1."""
    return p.sum(axes, keepdim=True) if axes else p  # torch takes no axes for all axes


def points(p: Tensor) -> tuple[dict[int, Tensor], dict[int, Tensor], Tensor]:
    """{S: i(x; y_S)} and {S: h(y_S)}, in nats, at the M points (y, x) that occur, and their probabilities; all [M]."""
    n = p.ndim - 1
    support = p > 0

    def log_at_support(values: Tensor) -> Tensor:
        return values.expand(p.shape)[support].log()

    log_x = log_at_support(marginal(p, others(n, 0)))
    f, h = {}, {}
    for s in range(1, 2**n):
        with_x = marginal(p, others(n, s))
        h[s] = -log_at_support(marginal(with_x, [n]))
        f[s] = log_at_support(with_x) + h[s] - log_x
    return f, h, p[support]
