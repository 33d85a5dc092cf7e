"""Flux.1 (Black Forest Labs, 2024): a flow on 2×2 patches of latents with joint attention to a text of T5."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpid.denoisers.families.patches import PatchFamily


class Flux(PatchFamily):
    """A Flux.1 pipeline, dev or schnell.

    The network attends padding, so every text keeps the 512 tokens of T5; of CLIP it takes a pooled vector alone, whose
    text may be cut.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("FluxPipeline", "FluxImg2ImgPipeline", "FluxInpaintPipeline")
    networks = ("FluxTransformer2DModel",)
    tokenizers = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    limits = {"tokenizer_2": 512}
    may_cut: ClassVar[tuple[str, ...]] = ("tokenizer",)
    text = {"encoder_hidden_states": (0, None), "pooled_projections": (1, None)}

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with the positions of all tokens."""
        height, width = x.shape[-2] // 2, x.shape[-1] // 2
        rows, columns, zero = (torch.arange(n, device=x.device) for n in (height, width, 1))
        picture = torch.cartesian_prod(zero, rows, columns)
        words = picture.new_zeros(encoded["encoder_hidden_states"].shape[1], 3)
        return {**super().inputs(x, t, encoded), "img_ids": picture, "txt_ids": words}
