"""``min``: pointwise minimum mutual information, r = min(i(x; y1), i(x; y2)) (pointwise form of Barrett, 2015)."""

from __future__ import annotations

import torch
from torch import Tensor


def minimum(f1: Tensor, f2: Tensor) -> Tensor:
    """Elementwise minimum of f(1) [*] and f(2) [*]; negative where a concept misleads."""
    return torch.minimum(f1, f2)
