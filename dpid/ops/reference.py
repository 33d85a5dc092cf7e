"""Every op in plain torch, readable and slow: the truth that the other backends are tested against."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor
from torch.nn import functional

_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
_WEYL = (0x9E3779B9, 0xBB67AE85)
_MASK = 0xFFFFFFFF


def _multiply(constant: int, word: Tensor) -> tuple[Tensor, Tensor]:
    """The high and the low 32 bits of ``constant * word``; products of 16-bit halves fit int64."""
    low = (constant & 0xFFFF) * word
    high = (constant >> 16) * word + (low >> 16)
    return high >> 16, ((high & 0xFFFF) << 16) | (low & 0xFFFF)


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Random words [..., 4] of Philox4x32-10 (Salmon et al., 2011), int64 < 2³², for counter [..., 4], key [..., 2]."""
    c0, c1, c2, c3 = counter.unbind(-1)
    k0, k1 = key.unbind(-1)
    for _ in range(10):
        (h0, l0), (h1, l1) = _multiply(_MULTIPLIERS[0], c0), _multiply(_MULTIPLIERS[1], c2)
        c0, c1, c2, c3 = h1 ^ c1 ^ k0, l1, h0 ^ c3 ^ k1, l0
        k0, k1 = (k0 + _WEYL[0]) & _MASK, (k1 + _WEYL[1]) & _MASK
    return torch.stack((c0, c1, c2, c3), -1)


def normal(seed: int, sample_id: Tensor, elements: int) -> Tensor:
    """The noise ε [N, elements] float64 of every image under ``sample_id`` int64 [N]; docs/theory.md, eq. (4).

    counter = (element // 4, 0, id low, id high), key = (seed low, seed high), lane = element % 4; the words
    (0, 1) and (2, 3) of a block make a pair each. A negative id is the antithetic partner: ε(~id) = -ε(id).
    """
    device = sample_id.device
    magnitude = torch.where(sample_id < 0, ~sample_id, sample_id).view(-1, 1)
    block = torch.arange((elements + 3) // 4, device=device).view(1, -1)
    parts = (block, torch.zeros_like(block), magnitude & _MASK, magnitude >> 32)
    counter = torch.stack(torch.broadcast_tensors(*parts), -1)
    key = torch.tensor([seed & _MASK, (seed >> 32) & _MASK], device=device).expand(*counter.shape[:-1], 2)
    words = philox4x32(counter, key).unflatten(-1, (2, 2))
    # u in (0, 1] is rounded to fp32 as in the kernels: below 2⁻⁸ this changes ε by more than its last digit.
    u = (words[..., 0].to(torch.float32) * 2.0**-32 + 2.0**-33).to(torch.float64)
    angle = words[..., 1].to(torch.float64) * (2 * torch.pi / 2**32)
    radius = (-2 * u.log()).sqrt()
    eps = torch.stack((radius * angle.cos(), radius * angle.sin()), -1).flatten(1)[:, :elements]
    sign = torch.where(sample_id < 0, -1.0, 1.0).to(torch.float64).view(-1, 1)
    return sign * eps


def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    """z [N,B,C,H,W] = √σ(λ) x + √σ(-λ) ε in the dtype of ``x`` [B,C,H,W]; docs/theory.md, eq. (1)."""
    precise = logsnr.to(torch.float64).view(-1, *[1] * x.ndim)
    eps = normal(seed, sample_id, prod(x.shape[1:])).view(-1, 1, *x.shape[1:])
    return (precise.sigmoid().sqrt() * x.to(torch.float64) + (-precise).sigmoid().sqrt() * eps).to(x.dtype)


def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> Tensor:  # fmt: skip
    """Sums [N,2K+P,B] over CHW: ½ (ε - ε̂_k)² of K residuals, ½ (ε̂_i - ε̂_j)² of P pairs, K products ½ ε̂_k (ε - ε̂_k).

    Also adds the squares, weighted and summed over C only, to ``residuals`` [G,K,B,H,W] and ``gaps`` [G,P,B,H,W].
    ``ValueError`` for indices out of range.
    """
    n, k, _, *shape = eps_hat.shape
    for name, value, stop in (("pairs", pairs, k), ("replicate", replicate, len(gaps))):
        if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < stop:
            raise ValueError(f"{name}: found values {int(value.min())}…{int(value.max())}, allowed are 0…{stop - 1}")
    e = eps_hat.to(torch.float64)
    eps = normal(seed, sample_id, prod(shape)).view(n, 1, 1, *shape)
    rows = 0.5 * torch.cat((eps - e, e[:, pairs[:, 0]] - e[:, pairs[:, 1]]), 1).square().sum(3)  # [N,K+P,B,H,W]
    products = 0.5 * (e * (eps - e)).sum((-3, -2, -1))
    squares = torch.cat((rows.sum((-2, -1)), products), 1).to(gaps.dtype)
    rows *= weight.to(torch.float64).view(-1, 1, 1, 1, 1)
    total = rows.new_zeros(len(gaps), *rows.shape[1:]).index_add_(0, replicate, rows).to(gaps.dtype)
    residuals += total[:, :k]
    gaps += total[:, k:]
    return squares


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, added: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(GroupNorm(x + added)), or without SiLU, for x [B,C,H,W] and ``added`` [B',C]; repeats the shorter one.

    The channels of ``skip`` follow those of x. The result has the dtype of ``weight``.
    """
    if skip is not None:
        x = torch.cat((x, skip), 1)
    if added is not None:
        x = repeated_sum(x, added[:, :, None, None])
    y = functional.group_norm(x.to(weight.dtype), groups, weight, bias, eps)
    return functional.silu(y, inplace=True) if silu else y


def add_maps(x: Tensor, y: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """x + y + bias, [k·M,C,H,W] for x and y [k·M,…] or [M,…], where the shorter is repeated, and a bias [C]."""
    total = x if y is None else repeated_sum(x, y)
    return total if bias is None else total + bias[:, None, None]


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x) over the last dimension, [..., D]."""
    return functional.layer_norm(x, x.shape[-1:], weight, bias, eps)


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y and LayerNorm(x + y), [k·M,T,D] each, for x [k·M,T,D] and y [M,T,D], which is repeated."""
    total = repeated_sum(x, y)
    return total, layer_norm(total, weight, bias, eps)


def repeated_sum(x: Tensor, y: Tensor) -> Tensor:
    """x + y, where the shorter of both [k·M, …] and [M, …] is repeated k times."""
    m = min(len(x), len(y))
    total: Tensor = x.unflatten(0, (-1, m)) + y.unflatten(0, (-1, m))
    return total.flatten(0, 1)


def geglu(x: Tensor) -> Tensor:
    """First half of the last dimension times GELU of the second (Shazeer, 2020): [..., D] for x [..., 2D]."""
    value, gate = x.chunk(2, -1)
    return functional.gelu(gate).mul_(value)
