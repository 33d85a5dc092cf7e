"""Checks that the fused network computes what the pipeline's own network computes, on a small random input.

The output of the pipeline's own network for that input also shows whether the pipeline has changed since the last call.
"""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.denoisers.families import Family
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.levels import Levels
from dpid.denoisers.modes import relative_difference

Inputs = tuple[Tensor, Tensor, dict[str, Tensor]]


def small_input(family: Family, levels: Levels) -> Inputs:
    """Random latents [2,C,h,w] of the smallest size, times [2] and encoded conditions {argument: [2,…]}.

    The first condition is the empty text, the second has random numbers in its place.
    """
    generator = torch.Generator().manual_seed(0)
    side, count = 2 * family.step, len(levels.grid)
    shape = (2, family.latent_shape[0], side * (family.latent_frames or 1), side)
    x = torch.randn(shape, generator=generator, dtype=torch.float32)
    t = levels.time(levels.grid[[count // 2, max(0, count - 11)]])
    encoded = {}
    for name, empty in family.texts.encode([""]).items():
        noise = torch.randn(empty.shape, generator=generator, dtype=torch.float32)
        encoded[name] = torch.cat((empty, noise.to(empty) if empty.is_floating_point() else empty))
    return x.to(family.device), t.to(family.device), encoded


def difference(network: FusedNetwork, inputs: Inputs, expected: Tensor) -> float:
    """‖network's output - expected‖ / ‖expected‖ for ``inputs``; ``expected`` is that of the pipeline's own network."""
    x, t, encoded = inputs
    return relative_difference(network(x, t, network.encode(encoded)), expected)
