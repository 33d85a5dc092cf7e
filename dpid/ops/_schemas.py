"""Schemas, fakes and device kernels of all ops, registered as ``torch.ops.dpid.*``."""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.ops import native

torch.library.define("dpid::noisy_channel", "(Tensor x, Tensor logsnr, Tensor sample_id, int seed) -> Tensor")
torch.library.define(
    "dpid::accumulate",
    "(Tensor(a!) gaps, Tensor(b!) residuals, Tensor eps_hat, Tensor weight, Tensor replicate, Tensor pairs, "
    "Tensor sample_id, int seed) -> ()",
)


@torch.library.register_fake("dpid::noisy_channel")
def _(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    return x.new_empty((logsnr.shape[0], *x.shape))


@torch.library.register_fake("dpid::accumulate")
def _(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> None:  # fmt: skip
    return None


DEVICES = ("cpu", "cuda") if native.HAS_CUDA else ("cpu",)
torch.library.register_kernel("dpid::noisy_channel", DEVICES, native.noisy_channel)
torch.library.register_kernel("dpid::accumulate", DEVICES, native.accumulate)
