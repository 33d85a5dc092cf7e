"""PixArt-α and PixArt-Σ (Chen et al., 2023 and 2024): cross-attention to a text of T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.discrete import DiscreteFamily
from dpid.denoisers.texts import SHORT_NULL


class PixArtSigma(DiscreteFamily):
    """A PixArt-Σ pipeline, whose texts have up to 300 tokens; padding is masked."""

    pipelines = ("PixArtSigmaPipeline",)
    networks = ("PixArtTransformer2DModel",)
    limits = {"tokenizer": 300}
    text = {"encoder_hidden_states": (0, 2)}
    mask = (1, 3)
    # https://github.com/PixArt-alpha/PixArt-sigma, token_drop in diffusion/model/nets/PixArt_blocks.py leaves the mask
    caveat = SHORT_NULL.format("PixArt")

    def asks(self) -> dict[str, Any]:
        """Whether captions are cleaned: as the pipeline's call does by default, where the packages for it are there."""
        from diffusers.utils import is_bs4_available, is_ftfy_available

        # Without them the pipeline does not clean either, and warns at every text.
        return {"clean_caption": self.default("clean_caption") and is_bs4_available() and is_ftfy_available()}

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` as the pipeline prepares it."""
        return str(self.pipe._text_preprocessing(text, **self.asks())[0])

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with the picture's size for those that were trained with it."""
        added: dict[str, Tensor | None] = {"resolution": None, "aspect_ratio": None}
        if self.net.use_additional_conditions:
            height, width = (float(side * self.factor) for side in x.shape[-2:])
            added["resolution"] = torch.stack((x.new_full((len(x),), height), x.new_full((len(x),), width)), 1)
            added["aspect_ratio"] = x.new_full((len(x), 1), height / width)
        return {**super().inputs(x, t, encoded), "added_cond_kwargs": added}


class PixArtAlpha(PixArtSigma):
    """A PixArt-α pipeline, whose texts have up to 120 tokens."""

    pipelines = ("PixArtAlphaPipeline",)
    limits = {"tokenizer": 120}
