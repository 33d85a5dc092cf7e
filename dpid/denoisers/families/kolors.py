"""Kolors (2024): Stable Diffusion XL's UNet, conditioned on one text of ChatGLM3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dpid.denoisers.families.unet import UNetFamily
from dpid.denoisers.fused import sizes_of


class Kolors(UNetFamily):
    """A Kolors pipeline. The UNet attends padding, so every text keeps 256 tokens."""

    pipelines = ("KolorsPipeline", "KolorsImg2ImgPipeline")
    limits = {"tokenizer": 256}
    text = {"encoder_hidden_states": (0, 1), "text_embeds": (2, 3)}

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's keyword arguments, with the pooled text and the size conditioning."""
        sizes = sizes_of(x, self.factor).expand(len(x), -1)
        added = {"text_embeds": encoded["text_embeds"], "time_ids": sizes}
        return {
            "sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"],
            "added_cond_kwargs": added,
        }  # fmt: skip
