"""Triton kernel of ``dpid.ops.geglu``; it computes in fp32, with the exact GELU (by erf)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

ROWS, WIDTH = 8, 256  # of a tile; the widths of Stable Diffusion's layers are multiples of 256


@triton.jit
def _geglu_kernel(x, out, COUNT, D, ROWS: tl.constexpr, WIDTH: tl.constexpr):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.program_id(1) * WIDTH + tl.arange(0, WIDTH)
    mask = (row < COUNT)[:, None] & (d < D)[None, :]
    at = row[:, None] * 2 * D + d[None, :]
    value = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    gate = tl.load(x + at + D, mask=mask, other=0.0).to(tl.float32)
    gelu = 0.5 * gate * (1.0 + tl.erf(gate * 0.7071067811865476))
    tl.store(out + row[:, None] * D + d[None, :], (value * gelu).to(out.dtype.element_ty), mask=mask)


def geglu(x: Tensor) -> Tensor:
    """First half of x [..., 2D] times GELU of the second: [..., D]; arguments as checked by ``dpid.ops``."""
    x = x.contiguous()
    d = x.shape[-1] // 2
    out = torch.empty((*x.shape[:-1], d), dtype=x.dtype, device=x.device)
    if out.numel():
        count = out.numel() // d
        _geglu_kernel[(triton.cdiv(count, ROWS), triton.cdiv(d, WIDTH))](x, out, count, d, ROWS=ROWS, WIDTH=WIDTH)
    return out
