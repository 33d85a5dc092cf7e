"""Stable Diffusion 3 and 3.5 (Esser et al., 2024): a flow with joint attention to two CLIP texts and one of T5."""

from __future__ import annotations

from typing import Any, ClassVar

from dpid.denoisers.families.flow import FlowFamily


class StableDiffusion3(FlowFamily):
    """A Stable Diffusion 3 or 3.5 pipeline, with or without T5.

    The network attends padding, so every text keeps all of CLIP's tokens and as many of T5.
    """

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusion3Pipeline", "StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline",
    )  # fmt: skip
    networks: ClassVar[tuple[str, ...]] = ("SD3Transformer2DModel",)
    tokenizers = {
        "tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2", "tokenizer_3": "text_encoder_3",
    }  # fmt: skip
    optional = ("tokenizer_3", "text_encoder_3")
    limits = {"tokenizer_3": 256}
    text = {"encoder_hidden_states": (0, 1), "pooled_projections": (2, 3)}

    @property
    def longest(self) -> float:
        """The sides that the network has learned positions for."""
        return float(self.net_config["pos_embed_max_size"] * self.step)

    def asks(self) -> dict[str, Any]:
        """The length of T5's texts, which zeros of that length replace in a pipeline without T5."""
        return {"max_sequence_length": self.limit("tokenizer_3") if self.pipe.text_encoder_3 is not None else 256}
