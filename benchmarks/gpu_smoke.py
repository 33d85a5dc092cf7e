"""Runs the compiled ops in every dtype and odd sizes, eagerly and in a CUDA graph; for compute-sanitizer.

``--eager``: without graphs, which need torch's cache of memory, and with the UNet's ops, which take too long under
racecheck, since Triton compiles them.
"""

import sys
from itertools import combinations

import torch

from dpid import ops

# Conditions and channels. Four channels, as latents have, are added in one step, and the noise of an antithetic partner
# is in another place than that of its sample; five take two steps. One warp compares 4 conditions, three compare 7; 18
# are more than a block compares.
SIZES = ((4, 4), (7, 4), (18, 5))


def call(x: torch.Tensor, ids: torch.Tensor, logsnr: torch.Tensor, k: int) -> tuple[torch.Tensor, ...]:
    """The sums and squares of one step of an explanation, with multiples of z in place of the UNet's output."""
    b, _, h, w = x.shape
    pairs = PAIRS[k]
    gaps = torch.zeros(2, len(pairs), b, h, w, device="cuda")
    residuals = torch.zeros(2, k, b, h, w, device="cuda")
    z = ops.noisy_channel(x, logsnr, ids, 5, backend="cuda")
    eps_hat = torch.stack([z * k for k in range(k)], 1)
    weight = torch.ones(len(ids), device="cuda")
    replicate = torch.arange(len(ids), device="cuda") // 4  # so many that each place in shared memory is used again
    squares = ops.accumulate(gaps, residuals, eps_hat, weight, replicate, pairs, ids, 5, backend="cuda")
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


def compiled_ops(x: torch.Tensor, k: int, eager_only: bool) -> None:
    """Run them on latents ``x`` and ``k`` conditions; ends the program if a graph gives other bits."""
    ids = torch.tensor([0, ~0, 3, ~3, 4, ~4, 7], device="cuda")
    logsnr = torch.zeros(len(ids), device="cuda", dtype=torch.float64)
    eager = call(x, ids, logsnr, k)
    torch.cuda.synchronize()
    if eager_only:
        return
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        captured = call(x, ids, logsnr, k)
    graph.replay()
    torch.cuda.synchronize()
    if not all(torch.equal(a, b) for a, b in zip(eager, captured, strict=True)):
        raise SystemExit(f"CUDA graph and eager differ for {x.dtype} {tuple(x.shape)}, K = {k}")


EAGER = "--eager" in sys.argv
PAIRS = {k: torch.tensor(list(combinations(range(k), 2)), device="cuda") for k, _ in SIZES}
for dtype in (torch.float32, torch.float16, torch.bfloat16):
    if EAGER:
        unet_ops(dtype)
    for k, channels in SIZES:
        for h, w in ((1, 1), (5, 7), (16, 16)):
            compiled_ops(torch.randn(2, channels, h, w, device="cuda", dtype=dtype), k, EAGER)
print("ok")
