"""Ops of the UNet with a Triton kernel, measured to win on a GPU (``benchmarks/bench_ops.py``).

``backend=None``: the kernel on a GPU, where Triton works; else torch, as for float64, for tensors that want gradients
and with ``DPID_BACKEND=reference`` in the environment. ``"reference"``: torch. ``"triton"``: the kernel.
"""

from __future__ import annotations

import logging
from functools import cache
from types import ModuleType

import torch
from torch import Tensor

from dpid.ops import native, reference

_FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_LOG = logging.getLogger("dpid")


def load_triton() -> ModuleType:
    """The module of Triton kernels; ``RuntimeError`` where triton is not installed."""
    try:
        from dpid.ops import triton
    except ImportError as error:
        raise RuntimeError(f"backend: 'triton' is not installed ({error}); pip install triton") from error
    return triton


@cache
def _works(device: torch.device) -> bool:
    """Whether Triton is wanted, is there and compiles for ``device``; tried once."""
    if native.ENVIRONMENT == "reference":
        return False
    x = torch.ones(1, 2, 1, 1, device=device)
    try:
        triton = load_triton()
        triton.geglu(triton.group_norm_silu(x, 1, x.flatten(), x.flatten(), 1e-5, True).flatten(1)).sum().item()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no driver, an old GPU: Triton raises what it likes
        _LOG.info("without Triton's kernels: %s", (str(error).splitlines() or [type(error).__name__])[0])
        return False
    return True


def _implementation(backend: str | None, *tensors: tuple[str, Tensor]) -> ModuleType:
    if backend not in (None, "reference", "triton"):
        raise ValueError(f"backend: found {backend!r}, allowed are None, reference, triton")
    first = tensors[0][1]
    for name, tensor in tensors:
        if tensor.dtype not in _FLOATS or tensor.dtype != first.dtype or tensor.device != first.device:
            raise TypeError(
                f"{name}: found {tensor.dtype} on {tensor.device}, expected {first.dtype} on {first.device}"
            )
    if backend == "reference" or (backend is None and first.device.type != "cuda"):
        return reference
    graded = [name for name, tensor in tensors if tensor.requires_grad]
    if backend is None:
        suited = first.dtype != torch.float64 and not graded and _works(first.device)
        return load_triton() if suited else reference
    if first.dtype == torch.float64:
        raise TypeError(f"{tensors[0][0]}: found torch.float64; the kernels take float32, float16 and bfloat16")
    if graded:
        raise ValueError(f"{graded[0]}: requires_grad is set; the kernel has no gradient: pass {graded[0]}.detach()")
    return load_triton()


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, silu: bool = True, *,
    backend: str | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(GroupNorm(x)), without ``silu`` GroupNorm(x): x [B,C,H,W], weight and bias [C] -> [B,C,H,W].

    ``ValueError`` if groups do not divide C. The kernel returns channels-last memory.
    """
    if x.ndim != 4 or groups < 1 or x.shape[1] % groups:
        raise ValueError(f"x, groups: found {tuple(x.shape)}, {groups}; expected [B,C,H,W] with groups dividing C")
    if weight.shape != (x.shape[1],) or bias.shape != (x.shape[1],):
        raise ValueError(f"weight, bias: found {tuple(weight.shape)}, {tuple(bias.shape)}, expected ({x.shape[1]},)")
    chosen = _implementation(backend, ("x", x), ("weight", weight), ("bias", bias))
    out: Tensor = chosen.group_norm_silu(x, groups, weight, bias, eps, silu)
    return out


def geglu(x: Tensor, *, backend: str | None = None) -> Tensor:
    """First half of the last dimension times GELU of the second: x [..., 2D] -> [..., D]."""
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError(f"x: found {tuple(x.shape)}, expected an even last dimension")
    out: Tensor = _implementation(backend, ("x", x)).geglu(x)
    return out
