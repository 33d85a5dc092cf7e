"""Triton kernel of ``dpid.ops.add_maps``: a sum of maps in channels-last memory, and a bias of their channels, in fp32.

torch adds a bias or a repeated map without vector loads there, and a residual in a pass of its own. The second map and
the bias may each be absent.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 64, 64


@triton.jit
def _add_maps_kernel(
    x, y, bias, out, HW, C, X_ROWS, Y_ROWS, SUM: tl.constexpr, BIAS: tl.constexpr, PIXELS: tl.constexpr,
    CHANNELS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    mask = (h < HW)[:, None] & (c < C)[None, :]
    total = tl.load(x + (b % X_ROWS * HW + h)[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if SUM:
        total += tl.load(y + (b % Y_ROWS * HW + h)[:, None] * C + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if BIAS:
        total += tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)[None, :]
    tl.store(out + (b * HW + h)[:, None] * C + c[None, :], total.to(out.dtype.element_ty), mask=mask)


def add_maps(x: Tensor, y: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    """x + y + bias in channels-last memory; arguments as checked by ``dpid.ops``."""
    x = x.contiguous(memory_format=torch.channels_last)
    # Where nothing is read, some address.
    other = x if y is None else y.contiguous(memory_format=torch.channels_last)
    channels = x if bias is None else bias.contiguous()
    b, (c, h, w) = max(len(x), len(other)), x.shape[1:]
    out = torch.empty((b, c, h, w), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        grid = b, triton.cdiv(h * w, PIXELS), triton.cdiv(c, CHANNELS)
        _add_maps_kernel[grid](
            x, other, channels, out, h * w, c, len(x), len(other), SUM=y is not None, BIAS=bias is not None,
            PIXELS=PIXELS, CHANNELS=CHANNELS,
        )  # fmt: skip
    return out
