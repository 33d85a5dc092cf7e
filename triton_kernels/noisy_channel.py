"""Triton kernel of ``dpid.ops.noisy_channel``: z[n,b,e] = √σ(λ_n) x[b,e] + √σ(-λ_n) ε(seed, sample_id[n], e)."""

import torch
import triton
import triton.language as tl
from torch import Tensor

from dpid.triton_kernels.philox import normal


@triton.jit
def _noisy_channel_kernel(x, signal, noise, sample_id, z, seed, B, E, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)  # n * B + b
    e = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    n, b = row // B, row % B
    eps = normal(seed, tl.load(sample_id + n), e)
    value = tl.load(x + b * E + e, mask=e < E, other=0.0).to(tl.float32)
    mixed = tl.load(signal + n) * value + tl.load(noise + n) * eps
    tl.store(z + row * E + e, mixed.to(z.dtype.element_ty), mask=e < E)


def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    """Noised x, z [N,B,C,H,W], at every log-SNR; arguments as checked by ``dpid.ops``."""
    x, sample_id = x.contiguous(), sample_id.contiguous()
    precise = logsnr.to(torch.float64)
    signal, noise = precise.sigmoid().sqrt().float(), (-precise).sigmoid().sqrt().float()
    z = x.new_empty((len(logsnr), *x.shape))
    if z.numel():
        b, e = x.shape[0], x[0].numel()
        grid = (len(logsnr) * b, triton.cdiv(e, 1024))
        _noisy_channel_kernel[grid](x, signal, noise, sample_id, z, seed, b, e, BLOCK=1024)
    return z
