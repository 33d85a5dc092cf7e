"""Ops of the UNet that have a Triton kernel. Until one is measured to win on a GPU, torch's own is the default.

``backend=None`` or ``"reference"``: torch. ``"triton"``: the kernel.
"""

from __future__ import annotations

from types import ModuleType

import torch
from torch import Tensor

from dpid.ops import reference

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def load_triton() -> ModuleType:
    """The module of Triton kernels; ``RuntimeError`` where triton is not installed."""
    try:
        from dpid.ops import triton
    except ImportError as error:
        raise RuntimeError(f"backend: 'triton' is not installed ({error}); pip install triton") from error
    return triton


def _implementation(backend: str | None, *tensors: tuple[str, Tensor]) -> ModuleType:
    if backend not in (None, "reference", "triton"):
        raise ValueError(f"backend: found {backend!r}, allowed are None, reference, triton")
    first = tensors[0][1]
    for name, tensor in tensors:
        if tensor.dtype not in _FLOATS or tensor.dtype != first.dtype or tensor.device != first.device:
            raise TypeError(
                f"{name}: found {tensor.dtype} on {tensor.device}, expected {first.dtype} on {first.device}"
            )
    if backend != "triton":
        return reference
    for name, tensor in tensors:
        if tensor.requires_grad:
            raise ValueError(f"{name}: requires_grad is set; the kernel has no gradient: pass {name}.detach()")
    return load_triton()


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str | None = None
) -> Tensor:
    """SiLU(GroupNorm(x)): x [B,C,H,W], weight and bias [C] -> [B,C,H,W]; ``ValueError`` if groups do not divide C."""
    if x.ndim != 4 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"x, groups: found {tuple(x.shape)}, {groups}; expected [B,C,H,W] with groups dividing C")
    if weight.shape != (x.shape[1],) or bias.shape != (x.shape[1],):
        raise ValueError(f"weight, bias: found {tuple(weight.shape)}, {tuple(bias.shape)}, expected ({x.shape[1]},)")
    chosen = _implementation(backend, ("x", x), ("weight", weight), ("bias", bias))
    out: Tensor = chosen.group_norm_silu(x, groups, weight, bias, eps)
    return out


def geglu(x: Tensor, *, backend: str | None = None) -> Tensor:
    """First half of the last dimension times GELU of the second: x [..., 2D] -> [..., D]."""
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError(f"x: found {tuple(x.shape)}, expected an even last dimension")
    out: Tensor = _implementation(backend, ("x", x)).geglu(x)
    return out


def condition_attention(q: Tensor, k: Tensor, v: Tensor, *, backend: str | None = None) -> Tensor:
    """softmax(q kᵀ / √D) v: q [K,M,heads,D] (all samples of a condition), k and v [K,L,heads,D] -> [K,M,heads,D]."""
    if q.ndim != 4 or k.shape != v.shape or k.ndim != 4 or (k.shape[0], *k.shape[2:]) != (q.shape[0], *q.shape[2:]):
        found = ", ".join(str(tuple(t.shape)) for t in (q, k, v))
        raise ValueError(f"q, k, v: found {found}; expected [K,M,heads,D], [K,L,heads,D], [K,L,heads,D]")
    if k.shape[1] < 1:
        raise ValueError("k: found no token, expected L of at least 1")
    out: Tensor = _implementation(backend, ("q", q), ("k", k), ("v", v)).condition_attention(q, k, v)
    return out
