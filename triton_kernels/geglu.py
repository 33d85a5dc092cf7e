"""Triton kernel of ``dpid.ops.geglu``; it computes in fp32, with the exact GELU (by erf)."""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _geglu_kernel(x, out, D, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = d < D
    value = tl.load(x + row * 2 * D + d, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + row * 2 * D + D + d, mask=mask, other=0.0).to(tl.float32)
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + row * D + d, (value * gelu).to(out.dtype.element_ty), mask=mask)


def geglu(x: Tensor) -> Tensor:
    """First half of x [..., 2D] times GELU of the second: [..., D]; arguments as checked by ``dpid.ops``."""
    x = x.contiguous()
    d = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], d), dtype=x.dtype, device=x.device)
    if out.numel():
        block = min(1024, triton.next_power_of_2(d))
        _geglu_kernel[(out.numel() // d, triton.cdiv(d, block))](x, out, d, BLOCK=block)
    return out
