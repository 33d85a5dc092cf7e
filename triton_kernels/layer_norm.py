"""Triton kernel of ``dpid.ops.layer_norm`` and ``add_layer_norm``: a residual sum is read from memory once.

A program has a few rows. Deviations are those from a row's own mean: E[x²] - E[x]² would cancel where it is large.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

SIZE = 4096  # elements of a program; a row of a few hundred would be too little work


@triton.jit
def _layer_norm_kernel(
    x, y, weight, bias, total, out, COUNT, Y_ROWS, D, eps, ADD: tl.constexpr, ROWS: tl.constexpr, WIDTH: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    d = tl.arange(0, WIDTH)
    mask = (row < COUNT)[:, None] & (d < D)[None, :]
    at = row[:, None] * D + d[None, :]
    values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if ADD:
        values += tl.load(y + (row % Y_ROWS)[:, None] * D + d[None, :], mask=mask, other=0.0).to(tl.float32)
        tl.store(total + at, values.to(total.dtype.element_ty), mask=mask)
    distance = tl.where(mask, values - tl.sum(values, 1)[:, None] / D, 0.0)
    scale = 1.0 / tl.sqrt(tl.sum(distance * distance, 1) / D + eps)
    w = tl.load(weight + d, mask=d < D, other=0.0).to(tl.float32)
    b = tl.load(bias + d, mask=d < D, other=0.0).to(tl.float32)
    normed = distance * scale[:, None] * w[None, :] + b[None, :]
    tl.store(out + at, normed.to(out.dtype.element_ty), mask=mask)


def _launch(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, total: Tensor, eps: float, add: bool) -> Tensor:
    out, d = torch.empty_like(x), x.shape[-1]
    if x.numel():
        count, width = x.numel() // d, triton.next_power_of_2(d)
        rows = max(1, SIZE // width)
        _layer_norm_kernel[(triton.cdiv(count, rows),)](
            x, y, weight.contiguous(), bias.contiguous(), total, out, count, y.numel() // d, d, eps,
            ADD=add, ROWS=rows, WIDTH=width,
        )  # fmt: skip
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    """LayerNorm(x), [..., D]; arguments as checked by ``dpid.ops``."""
    x = x.contiguous()
    return _launch(x, x, weight, bias, x, eps, False)


def add_layer_norm(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """x + y and LayerNorm(x + y), [k·M,T,D] each; arguments as checked by ``dpid.ops``."""
    x, y = x.contiguous(), y.contiguous()
    total = torch.empty_like(x)
    return total, _launch(x, y, weight, bias, total, eps, True)
