"""Registers all ops as ``torch.ops.dpid.*`` for ``torch.compile``: schemas, fakes, kernels by automatic choice."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpid.ops._table import DEVICES, TABLE, automatic

_CHANNELS_LAST = ("group_norm_silu", "add_maps")  # ops that return such memory

for schema in (
    "noisy_channel(Tensor x, Tensor logsnr, Tensor sample_id, int seed) -> Tensor",
    "accumulate(Tensor(a!) gaps, Tensor(b!) residuals, Tensor eps_hat, Tensor weight, Tensor replicate, Tensor pairs, "
    "Tensor sample_id, int seed) -> Tensor",
    "group_norm_silu(Tensor x, int groups, Tensor weight, Tensor bias, float eps, bool silu, Tensor? added=None, "
    "Tensor? skip=None) -> Tensor",
    "add_maps(Tensor x, Tensor? y=None, Tensor? bias=None) -> Tensor",
    "layer_norm(Tensor x, Tensor weight, Tensor bias, float eps) -> Tensor",
    "add_layer_norm(Tensor x, Tensor y, Tensor weight, Tensor bias, float eps) -> (Tensor, Tensor)",
    "geglu(Tensor x) -> Tensor",
):
    name, signature = schema.split("(", 1)
    torch.library.define(f"dpid::{name}", f"({signature}")


@torch.library.register_fake("dpid::noisy_channel")
def _(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    return x.new_empty((logsnr.shape[0], *x.shape))


@torch.library.register_fake("dpid::accumulate")
def _(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> Tensor:  # fmt: skip
    n, k, b = eps_hat.shape[:3]
    return gaps.new_empty((n, 2 * k + pairs.shape[0], b))


@torch.library.register_fake("dpid::group_norm_silu")
def _(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float, silu: bool, added: Tensor | None = None,
    skip: Tensor | None = None,
) -> Tensor:  # fmt: skip
    b = x.shape[0] if added is None else max(x.shape[0], added.shape[0])
    return weight.new_empty((b, weight.shape[0], *x.shape[2:])).contiguous(memory_format=torch.channels_last)


@torch.library.register_fake("dpid::add_maps")
def _(x: Tensor, y: Tensor | None = None, bias: Tensor | None = None) -> Tensor:
    b = x.shape[0] if y is None else max(x.shape[0], y.shape[0])
    return x.new_empty((b, *x.shape[1:])).contiguous(memory_format=torch.channels_last)


@torch.library.register_fake("dpid::layer_norm")
def _(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.register_fake("dpid::add_layer_norm")
def _(x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    return x.new_empty(x.shape), x.new_empty(x.shape)


@torch.library.register_fake("dpid::geglu")
def _(x: Tensor) -> Tensor:
    return x.new_empty((*x.shape[:-1], x.shape[-1] // 2))


def _register(op: str) -> None:
    """Let ``torch.ops.dpid`` call the kernel of ``op`` that is chosen for the tensors' device."""

    @torch.library.register_kernel(f"dpid::{op}", DEVICES)
    def _(first: Tensor, *rest: Any) -> Any:
        found = automatic(op, first.device)(first, *rest)
        # As the fake promises, and Triton's kernel does.
        return found.contiguous(memory_format=torch.channels_last) if op in _CHANNELS_LAST else found


for op in TABLE:
    _register(op)
