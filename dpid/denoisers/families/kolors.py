"""Kolors (2024): Stable Diffusion XL's UNet, conditioned on one text of ChatGLM3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dpid.denoisers.families.discrete import DiscreteFamily
from dpid.denoisers.fused import sizes_of


class Kolors(DiscreteFamily):
    """A Kolors pipeline. The UNet attends padding, so every text keeps 256 tokens."""

    pipelines = ("KolorsPipeline", "KolorsImg2ImgPipeline")
    networks = ("UNet2DConditionModel",)
    network = "unet"
    limits = {"tokenizer": 256}
    text = {"encoder_hidden_states": (0, 1), "text_embeds": (2, 3)}

    @property
    def step(self) -> int:
        """The UNet's downsampling factor."""
        return int(2 ** (len(self.net_config["block_out_channels"]) - 1))

    @property
    def patch(self) -> int:
        """1: the UNet makes up for what it cannot halve."""
        return 1

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's keyword arguments, with the pooled text and the size conditioning."""
        sizes = sizes_of(x, self.factor).expand(len(x), -1)
        added = {"text_embeds": encoded["text_embeds"], "time_ids": sizes}
        return {
            "sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"],
            "added_cond_kwargs": added,
        }  # fmt: skip
