"""The base class of flows on patches of 2×2 latent pixels, which their pipelines and not their networks cut out."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily
from dpid.denoisers.guidance import GUIDANCE


class PatchFamily(FlowFamily):
    """A pipeline of Flux.1's kind. Its network is told σ, and guidance 1 (none) where that is an input."""

    @property
    def channels(self) -> int:
        """The number of channels of the latents; a patch has four times as many."""
        return int(self.net_config["in_channels"]) // 4

    @property
    def step(self) -> int:
        """The side of a patch."""
        return 2

    def told(self, sigma: Tensor) -> Tensor:
        """σ after the network has rounded it: it multiplies σ by 1000 in the type of its weights."""
        return (sigma.to(self.net.dtype) * 1000).float() / 1000

    def time(self, t: Tensor) -> Tensor:
        """The network's own time: σ."""
        return t

    @property
    def takes_guidance(self) -> bool:
        """Whether the network was distilled at guidance."""
        return bool(self.net_config.get("guidance_embeds"))

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments; a guidance that is not among the ``encoded`` is 1."""
        none = {GUIDANCE: torch.ones(len(x), device=x.device)} if self.takes_guidance else {}
        return {**none, **super().inputs(x, t, encoded)}

    def pack(self, x: Tensor) -> Tensor:
        """The tokens [M,h·w/4,4C] of latents [M,C,h,w]: patches row by row."""
        m, c, h, w = x.shape
        return x.view(m, c, h // 2, 2, w // 2, 2).permute(0, 2, 4, 1, 3, 5).reshape(m, h * w // 4, 4 * c)

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        """The velocity [M,C,h,w] from the network's tokens."""
        m, c, h, w = x.shape
        return out.view(m, h // 2, w // 2, c, 2, 2).permute(0, 3, 1, 4, 2, 5).reshape(m, c, h, w)
