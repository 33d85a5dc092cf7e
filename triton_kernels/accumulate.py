"""Triton kernel of ``dpid.ops.accumulate``: running sums of squared differences of predictions of the noise.

One program has a tile of pixels. It stores the unweighted sums of squares and products of its tile; a second kernel
adds up tiles.
"""

import triton
import triton.language as tl
from torch import Tensor

from dpid.triton_kernels.philox import normal

BLOCK = 128  # pixels a tile


@triton.jit
def _accumulate_kernel(
    gaps, residuals, tiles, eps_hat, weight, replicate, pairs, sample_id, seed, N, K, B, C, HW, P, BLOCK: tl.constexpr
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = h < HW
    for n in range(N):
        half = 0.5 * tl.load(weight + n)
        sample = tl.load(sample_id + n)
        squares = tiles + (tl.program_id(1).to(tl.int64) * N + n) * (2 * K + P) * B + b
        for k in range(K):
            total = tl.zeros([BLOCK], tl.float32)
            product = tl.zeros([BLOCK], tl.float32)  # zero outside, where predictions are
            for c in range(C):
                at = (((n * K + k) * B + b) * C + c) * HW + h
                prediction = tl.load(eps_hat + at, mask=mask, other=0.0).to(tl.float32)
                difference = normal(seed, sample, c * HW + h) - prediction
                total += difference * difference
                product += prediction * difference
            g = tl.load(replicate + n)  # where it is needed: Triton 3.1 has no register left to keep it
            to = residuals + ((g * K + k) * B + b) * HW + h
            tl.store(to, tl.load(to, mask=mask) + half * total, mask=mask)
            tl.store(squares + k * B, tl.sum(tl.where(mask, total, 0.0)))
            tl.store(squares + (K + P + k) * B, tl.sum(product))
        for p in range(P):
            i = tl.load(pairs + 2 * p)
            j = tl.load(pairs + 2 * p + 1)
            total = tl.zeros([BLOCK], tl.float32)
            for c in range(C):
                first = eps_hat + (((n * K + i) * B + b) * C + c) * HW + h
                second = eps_hat + (((n * K + j) * B + b) * C + c) * HW + h
                difference = tl.load(first, mask=mask, other=0.0).to(tl.float32) - tl.load(
                    second, mask=mask, other=0.0
                ).to(tl.float32)
                total += difference * difference
            g = tl.load(replicate + n)
            to = gaps + ((g * P + p) * B + b) * HW + h
            tl.store(to, tl.load(to, mask=mask) + half * total, mask=mask)
            tl.store(squares + (K + p) * B, tl.sum(tl.where(mask, total, 0.0)))


@triton.jit
def _sum_kernel(tiles, squares, TILES, SIZE, BLOCK: tl.constexpr):
    i = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = i < SIZE
    total = tl.zeros([BLOCK], tl.float64)  # there may be thousands of tiles
    for tile in range(TILES):
        total += tl.load(tiles + tile * SIZE + i, mask=mask, other=0.0).to(tl.float64)
    tl.store(squares + i, (0.5 * total).to(tl.float32), mask=mask)


def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> Tensor:  # fmt: skip
    """Half the sums [N,2K+P,B] of K residuals, P pairs and K products; arguments as checked by ``dpid.ops``."""
    n, k, b, c, height, width = eps_hat.shape
    sums, count = (n, 2 * k + len(pairs), b), triton.cdiv(height * width, BLOCK)
    # All memory is allocated before the launch, so that running out of it leaves gaps and residuals unchanged.
    squares, tiles = gaps.new_zeros(sums), gaps.new_empty(count, *sums)
    inputs = [t.contiguous() for t in (eps_hat, weight, replicate, pairs, sample_id)]
    if eps_hat.numel():
        _accumulate_kernel[(b, count)](
            gaps, residuals, tiles, *inputs, seed, n, k, b, c, height * width, len(pairs), BLOCK=BLOCK
        )
        _sum_kernel[(triton.cdiv(squares.numel(), BLOCK),)](tiles, squares, count, squares.numel(), BLOCK=BLOCK)
    return squares
