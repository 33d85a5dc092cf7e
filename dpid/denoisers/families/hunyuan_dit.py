"""HunyuanDiT (Li et al., 2024): cross-attention to a text of a bilingual BERT and one of a multilingual T5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.discrete import DiscreteFamily


class HunyuanDiT(DiscreteFamily):
    """A HunyuanDiT pipeline. The network puts a learned vector in place of padding and attends it."""

    pipelines = ("HunyuanDiTPipeline",)
    networks = ("HunyuanDiT2DModel",)
    tokenizers = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    limits = {"tokenizer": 77, "tokenizer_2": 256}
    text = {
        "encoder_hidden_states": (0, 1), "text_embedding_mask": (2, 3),
        "encoder_hidden_states_t5": (4, 5), "text_embedding_mask_t5": (6, 7),
    }  # fmt: skip

    def encode_prompt(self, texts: Sequence[str], **more: Any) -> tuple[Any, ...]:
        """What the pipeline's ``encode_prompt`` returns for BERT and for T5."""
        found = (
            super(HunyuanDiT, self).encode_prompt(
                texts, dtype=self.net.dtype, max_sequence_length=length, text_encoder_index=index, **more
            )
            for index, length in enumerate(self.limits.values())
        )
        return tuple(part for encoder in found for part in encoder)

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with sizes, a style and the rotary embedding of its positions."""
        from diffusers.models.embeddings import get_2d_rotary_pos_embed
        from diffusers.pipelines.hunyuandit.pipeline_hunyuandit import get_resize_crop_region_for_grid

        patch, (h, w) = self.step, x.shape[-2:]
        grid = h // patch, w // patch
        crops = get_resize_crop_region_for_grid(grid, 64 // patch)
        width = self.net.inner_dim // self.net.num_heads
        sizes = [1024, 1024, h * self.factor, w * self.factor, 0, 0]
        return {
            **super().inputs(x, t.to(x.dtype), encoded),
            "image_meta_size": torch.tensor([sizes], dtype=x.dtype, device=x.device).repeat(len(x), 1),
            "style": torch.zeros(len(x), dtype=torch.int64, device=x.device),
            "image_rotary_emb": get_2d_rotary_pos_embed(width, crops, grid, device=x.device, output_type="pt"),
        }

    @property
    def kept(self) -> int:
        """The numbers for each feature of a token that the first half of the blocks leave to the second half."""
        return int(self.net_config["num_layers"]) // 2
