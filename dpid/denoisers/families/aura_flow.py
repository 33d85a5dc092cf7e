"""AuraFlow (fal, 2024): a flow with joint attention to a text of T5."""

from __future__ import annotations

import math

from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily


class AuraFlow(FlowFamily):
    """An AuraFlow pipeline. Padding is zeros that the network attends, so every text keeps 256 tokens."""

    pipelines = ("AuraFlowPipeline",)
    networks = ("AuraFlowTransformer2DModel",)
    limits = {"tokenizer": 256}
    text = {"encoder_hidden_states": (0, 2)}

    @property
    def longest(self) -> float:
        """The sides of the square that the network has learned positions for."""
        return float(math.isqrt(self.net_config["pos_embed_max_size"]) * self.step)

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the default size, of which published ``sample_size`` are half.

        The network would take the positions of other rows for what is longer than those that it has learned.
        """
        height, width = (min(self.default(name) // self.factor, int(self.longest)) for name in ("height", "width"))
        return self.channels, height, width

    def time(self, t: Tensor) -> Tensor:
        """The network's own time: σ."""
        return t
