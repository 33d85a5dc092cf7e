"""Triton kernels of ``dpid.ops.group_norm_silu`` for channels-last memory, which convolutions return; fp32 inside.

The first computes mean and squared deviations of every channel in every block of pixels, the second mean and scale of
every group, the third the result. The input is read twice and written once, along its channels. Deviations are those
from a block's own mean, merged by the formula of Chan, Golub and LeVeque (1983): E[x²] - E[x]² would cancel where the
mean is large. What is added to every pixel of a channel, such as a time embedding, is added while x is read. Channels
of a skip connection, which follow those of x, are read where they are.
"""

import torch
import triton
import triton.language as tl
from torch import Tensor

PIXELS, CHANNELS = 64, 64


@triton.jit
def _read(
    x, skip, added, b, h, c, HW, C, X_C, X_ROWS, ADDED_ROWS, ADDED: tl.constexpr, SKIP: tl.constexpr
):  # fmt: skip
    """The input [len(h), len(c)] of image b at pixels h and channels c, 0 outside."""
    mask = (h < HW)[:, None] & (c < C)[None, :]
    if SKIP:
        own = mask & (c < X_C)[None, :]
        values = tl.load(x + (b * HW + h)[:, None] * X_C + c[None, :], mask=own, other=0.0).to(tl.float32)
        at = (b * HW + h)[:, None] * (C - X_C) + (c - X_C)[None, :]
        values += tl.load(skip + at, mask=mask & (c >= X_C)[None, :], other=0.0).to(tl.float32)
    else:
        at = (b % X_ROWS * HW + h)[:, None] * C + c[None, :]
        values = tl.load(x + at, mask=mask, other=0.0).to(tl.float32)
    if ADDED:
        more = tl.load(added + b % ADDED_ROWS * C + c, mask=c < C, other=0.0).to(tl.float32)
        values = tl.where(mask, values + more[None, :], 0.0)
    return values


@triton.jit
def _group_norm_blocks_kernel(
    x, skip, added, means, squares, HW, C, X_C, X_ROWS, ADDED_ROWS, ADDED: tl.constexpr, SKIP: tl.constexpr,
    PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    b, block = tl.program_id(0).to(tl.int64), tl.program_id(1)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    h = block * PIXELS + tl.arange(0, PIXELS)
    mask = (h < HW)[:, None] & (c < C)[None, :]
    values = _read(x, skip, added, b, h, c, HW, C, X_C, X_ROWS, ADDED_ROWS, ADDED, SKIP)
    mean = tl.sum(values, 0) / tl.minimum(HW - block * PIXELS, PIXELS)
    distance = tl.where(mask, values - mean[None, :], 0.0)
    to = (b * tl.num_programs(1) + block) * C + c
    tl.store(means + to, mean, mask=c < C)
    tl.store(squares + to, tl.sum(distance * distance, 0), mask=c < C)


@triton.jit
def _group_norm_groups_kernel(
    means, squares, mean_out, scale_out, blocks, HW, C, groups, eps, PIXELS: tl.constexpr, WIDTH: tl.constexpr
):
    b, group = tl.program_id(0).to(tl.int64) // groups, tl.program_id(0) % groups
    size = C // groups
    total = tl.zeros([WIDTH], tl.float32)
    for first in range(0, blocks * size, WIDTH):
        i = first + tl.arange(0, WIDTH)
        pixels = tl.minimum(HW - i // size * PIXELS, PIXELS)
        at = (b * blocks + i // size) * C + group * size + i % size
        total += tl.load(means + at, mask=i < blocks * size, other=0.0) * pixels
    mean = tl.sum(total) / (size * HW)
    total = tl.zeros([WIDTH], tl.float32)
    for first in range(0, blocks * size, WIDTH):
        i = first + tl.arange(0, WIDTH)
        mask = i < blocks * size
        pixels = tl.minimum(HW - i // size * PIXELS, PIXELS)
        at = (b * blocks + i // size) * C + group * size + i % size
        distance = tl.load(means + at, mask=mask, other=0.0) - mean
        square = tl.load(squares + at, mask=mask, other=0.0) + distance * distance * pixels
        total += tl.where(mask, square, 0.0)
    tl.store(mean_out + b * groups + group, mean)
    tl.store(scale_out + b * groups + group, 1.0 / tl.sqrt(tl.sum(total) / (size * HW) + eps))


@triton.jit
def _group_norm_apply_kernel(
    x, skip, added, mean, scale, weight, bias, out, HW, C, X_C, X_ROWS, ADDED_ROWS, groups, SILU: tl.constexpr,
    ADDED: tl.constexpr, SKIP: tl.constexpr, PIXELS: tl.constexpr, CHANNELS: tl.constexpr,
):  # fmt: skip
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * PIXELS + tl.arange(0, PIXELS)
    c = tl.program_id(2) * CHANNELS + tl.arange(0, CHANNELS)
    group = b * groups + c // (C // groups)
    w = tl.load(weight + c, mask=c < C, other=0.0).to(tl.float32) * tl.load(scale + group, mask=c < C, other=0.0)
    shift = tl.load(bias + c, mask=c < C, other=0.0).to(tl.float32)
    centre = tl.load(mean + group, mask=c < C, other=0.0)
    at = (b * HW + h)[:, None] * C + c[None, :]
    mask = (h < HW)[:, None] & (c < C)[None, :]
    values = _read(x, skip, added, b, h, c, HW, C, X_C, X_ROWS, ADDED_ROWS, ADDED, SKIP)
    y = (values - centre[None, :]) * w[None, :] + shift[None, :]
    if SILU:
        y = y / (1.0 + tl.exp(-y))
    tl.store(out + at, y.to(out.dtype.element_ty), mask=mask)


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, added: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(GroupNorm(x + added)), or without SiLU, in channels-last memory and the dtype of ``weight``.

    Arguments as checked by ``dpid.ops``.
    """
    x = x.contiguous(memory_format=torch.channels_last)
    rows, own, h, w = x.shape
    c = len(weight)
    # Where nothing is read, some address.
    more = x if added is None else added.contiguous()
    rest = x if skip is None else skip.contiguous(memory_format=torch.channels_last)
    b = rows if added is None else max(rows, len(added))
    out = torch.empty((b, c, h, w), dtype=weight.dtype, device=x.device, memory_format=torch.channels_last)
    if out.numel():
        blocks = triton.cdiv(h * w, PIXELS)
        means, squares = x.new_empty((2, b, blocks, c), dtype=torch.float32)
        mean, scale = x.new_empty((2, b, groups), dtype=torch.float32)
        grid = b, blocks, triton.cdiv(c, CHANNELS)
        how = {"ADDED": added is not None, "SKIP": skip is not None, "PIXELS": PIXELS, "CHANNELS": CHANNELS}
        sizes = h * w, c, own, rows, len(more)
        _group_norm_blocks_kernel[grid](x, rest, more, means, squares, *sizes, **how)
        _group_norm_groups_kernel[(b * groups,)](
            means, squares, mean, scale, blocks, h * w, c, groups, eps, PIXELS=PIXELS, WIDTH=1024
        )
        _group_norm_apply_kernel[grid](
            x, rest, more, mean, scale, weight.contiguous(), bias.contiguous(), out, *sizes, groups, SILU=silu, **how
        )  # fmt: skip
    return out
