"""Triton kernel of ``dpid.ops.add_layer_norm``: a residual sum and its LayerNorm, which is read from memory once.

A program has a row. Deviations are those from the row's own mean: E[x²] - E[x]² would cancel where the mean is large.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor


@triton.jit
def _add_layer_norm_kernel(x, y, weight, bias, total, out, Y_ROWS, D, eps, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    d = tl.arange(0, BLOCK)
    mask = d < D
    values = tl.load(x + row * D + d, mask=mask, other=0.0).to(tl.float32)
    values += tl.load(y + row % Y_ROWS * D + d, mask=mask, other=0.0).to(tl.float32)
    tl.store(total + row * D + d, values.to(total.dtype.element_ty), mask=mask)
    distance = tl.where(mask, values - tl.sum(values) / D, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(distance * distance) / D + eps)
    w = tl.load(weight + d, mask=mask, other=0.0).to(tl.float32)
    normed = distance * scale * w + tl.load(bias + d, mask=mask, other=0.0).to(tl.float32)
    tl.store(out + row * D + d, normed.to(out.dtype.element_ty), mask=mask)


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y and LayerNorm(x + y), [k·M,T,D] each; arguments as checked by ``dpid.ops``."""
    x, y = x.contiguous(), y.contiguous()
    total, out = torch.empty_like(x), torch.empty_like(x)
    d = x.shape[-1]
    if x.numel():
        block = triton.next_power_of_2(d)
        _add_layer_norm_kernel[(x.numel() // d,)](
            x, y, weight.contiguous(), bias.contiguous(), total, out, y.numel() // d, d, eps, BLOCK=block
        )
    return total, out
