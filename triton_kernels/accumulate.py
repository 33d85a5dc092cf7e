"""gaps[g,p] += ½ w Σ_C (ε̂_i - ε̂_j)² and residuals[g,k] += ½ w Σ_C (ε - ε̂_k)², one program a block of pixels."""

import triton
import triton.language as tl
from dpid.triton_kernels.philox import normal
from torch import Tensor


@triton.jit
def _accumulate_kernel(
    gaps, residuals, eps_hat, weight, replicate, pairs, sample_id, seed, N, K, B, C, HW, P, BLOCK: tl.constexpr
):
    b = tl.program_id(0).to(tl.int64)
    h = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = h < HW
    for n in range(N):
        half = 0.5 * tl.load(weight + n)
        g = tl.load(replicate + n)
        sample = tl.load(sample_id + n)
        for k in range(K):
            total = tl.zeros([BLOCK], tl.float32)
            for c in range(C):
                at = (((n * K + k) * B + b) * C + c) * HW + h
                difference = normal(seed, sample, b, c * HW + h) - tl.load(eps_hat + at, mask=mask, other=0.0).to(
                    tl.float32
                )
                total += difference * difference
            to = residuals + ((g * K + k) * B + b) * HW + h
            tl.store(to, tl.load(to, mask=mask) + half * total, mask=mask)
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
            to = gaps + ((g * P + p) * B + b) * HW + h
            tl.store(to, tl.load(to, mask=mask) + half * total, mask=mask)


def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> None:  # fmt: skip
    """Shapes as in ``dpid.ops.accumulate``, which has checked them; samples are added in order."""
    n, k, b, c, height, width = eps_hat.shape
    if eps_hat.numel():
        grid = (b, triton.cdiv(height * width, 128))
        _accumulate_kernel[grid](
            gaps, residuals, eps_hat.contiguous(), weight.contiguous(), replicate.contiguous(), pairs.contiguous(),
            sample_id.contiguous(), seed, n, k, b, c, height * width, len(pairs), BLOCK=128,
        )  # fmt: skip
