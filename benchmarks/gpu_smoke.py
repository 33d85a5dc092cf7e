"""Runs both ops in every dtype and odd sizes, eagerly and in a CUDA graph; small enough for compute-sanitizer.

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


for dtype in (torch.float32, torch.float16, torch.bfloat16):
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
