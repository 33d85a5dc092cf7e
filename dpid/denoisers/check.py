"""The fused network against the pipeline's own, on a small input; and how a change of the pipeline is noticed."""

from __future__ import annotations

import torch
from torch import Tensor

from dpid.denoisers.families import Family
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.levels import Discrete, Flow

# Relative difference between the fused network and the pipeline's own above which the fused one is not taken: in
# float32 another order of additions; in half precisions a few roundings (2⁻¹¹, 2⁻⁸) of a network of a hundred layers.
TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}


def small_input(family: Family, levels: Discrete | Flow) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """Random latents [2,C,h,w] of the smallest size, times [2], and two conditions: no text, and random numbers."""
    generator = torch.Generator().manual_seed(0)
    side, count = 2 * family.step, len(levels.grid)
    x = torch.randn(2, family.latent_shape[0], side, side, generator=generator, dtype=torch.float32)
    t = levels.time(levels.grid[[count // 2, max(0, count - 11)]])
    encoded = {
        name: torch.cat((of, torch.randn(of.shape, generator=generator, dtype=torch.float32).to(of)))
        for name, of in family.encode_texts([""]).items()
    }
    return x.to(family.device), t.to(family.device), encoded


def own_output(family: Family, levels: Discrete | Flow) -> Tensor:
    """What the pipeline's own network makes of :func:`small_input`, [2,2,C,h,w] in its own type."""
    return family.plain(*small_input(family, levels), family.precision)


def difference(family: Family, levels: Discrete | Flow, network: FusedNetwork, expected: Tensor) -> float:
    """Relative difference between ``network`` and ``expected``, the own network's output for the same input."""
    x, t, encoded = small_input(family, levels)
    ours = network(x, t, network.encode(encoded)).float()
    return float((ours - expected.float()).norm() / expected.float().norm())
