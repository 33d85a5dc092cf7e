"""HiDream-I1 (2025): a flow with joint attention to texts of T5 and of all layers of Llama 3.1."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily


class HiDream(FlowFamily):
    """A HiDream-I1 pipeline: its network's velocity points from noise to picture, and it attends padding."""

    pipelines = ("HiDreamImagePipeline",)
    networks = ("HiDreamImageTransformer2DModel",)
    tokenizers = {
        "tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3",
        "tokenizer_4": "text_encoder_4",
    }  # fmt: skip
    one_area = True
    limits = dict.fromkeys(tokenizers, 128)
    text = {"encoder_hidden_states_t5": (0, 1), "encoder_hidden_states_llama3": (2, 3), "pooled_embeds": (4, 5)}
    held = 28  # the layers of Llama are held all at once

    @property
    def tokens(self) -> float:
        """The number of tokens that the network pads a picture to that is no square."""
        return float(self.net.max_seq)

    @property
    def longest(self) -> float:
        """The width of a picture of one row of tokens."""
        return self.tokens * self.step

    def encode_prompt(self, texts: Sequence[str], **more: Any) -> tuple[Any, ...]:
        """What the pipeline's ``encode_prompt`` returns, Llama's layers as [K,layers,L,E]."""
        t5, no_t5, llama, no_llama, pooled, no_pooled = super().encode_prompt(texts, **more)
        return t5, no_t5, llama.transpose(0, 1), no_llama.transpose(0, 1), pooled, no_pooled

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments."""
        layers = encoded["encoder_hidden_states_llama3"].transpose(0, 1)
        return {
            "hidden_states": x, "timesteps": self.time(t), **encoded, "encoder_hidden_states_llama3": layers,
        }  # fmt: skip

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        """The velocity [M,C,h,w]."""
        return -out
