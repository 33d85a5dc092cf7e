"""Runs every op in every dtype and odd sizes, the compiled ones also in a CUDA graph; for compute-sanitizer.

``--eager``: without graphs, which need torch's cache of memory.
"""

import sys
from itertools import combinations

import torch

from dpid import ops

K = 18  # more conditions than a block of threads compares
PAIRS = torch.tensor(list(combinations(range(K), 2)), device="cuda")


def call(x: torch.Tensor, ids: torch.Tensor, logsnr: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """The sums and squares of one step of an explanation, with multiples of z in place of the UNet's output."""
    b, _, h, w = x.shape
    gaps = torch.zeros(2, len(PAIRS), b, h, w, device="cuda")
    residuals = torch.zeros(2, K, b, h, w, device="cuda")
    z = ops.noisy_channel(x, logsnr, ids, 5, backend="cuda")
    eps_hat = torch.stack([z * k for k in range(K)], 1)
    weight = torch.ones(len(ids), device="cuda")
    replicate = torch.arange(len(ids), device="cuda") // 2  # antithetic partners in one replicate
    squares = ops.accumulate(gaps, residuals, eps_hat, weight, replicate, PAIRS, ids, 5, backend="cuda")
    return gaps, residuals, *squares


def unet_ops(dtype: torch.dtype) -> None:
    """Run the UNet's Triton kernels, with channels and pixels that fill no block."""

    def randn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, device="cuda", dtype=dtype)

    x, y = (randn(2, 70, 5, 7).to(memory_format=torch.channels_last) for _ in range(2))
    w, b, wide, tokens = randn(70), randn(70), randn(140), randn(2, 35, 70)
    ops.group_norm_silu(x, 10, w, b, backend="triton")
    ops.group_norm_silu(x, 10, w, b, added=randn(2, 70), backend="triton")
    ops.group_norm_silu(x, 10, wide, wide, skip=y, backend="triton")
    ops.add_maps(x, y, b, backend="triton")
    ops.layer_norm(tokens, w, b, backend="triton")
    ops.add_layer_norm(tokens, tokens, w, b, backend="triton")
    ops.geglu(randn(2, 35, 140), backend="triton")


for dtype in (torch.float32, torch.float16, torch.bfloat16):
    unet_ops(dtype)
    for h, w in ((1, 1), (5, 7), (16, 16)):
        x = torch.randn(2, 5, h, w, device="cuda", dtype=dtype)  # more channels than a thread reads at once
        ids, logsnr = torch.tensor([0, ~0, 3], device="cuda"), torch.zeros(3, device="cuda", dtype=torch.float64)
        eager = call(x, ids, logsnr)
        torch.cuda.synchronize()
        if "--eager" in sys.argv:
            continue
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = call(x, ids, logsnr)
        graph.replay()
        torch.cuda.synchronize()
        if not all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True)):
            raise SystemExit(f"CUDA graph and eager differ for {dtype} at {h}x{w}")
print("ok")
