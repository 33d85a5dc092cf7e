"""Chroma (2025): Flux.1 without CLIP and without distillation, with a mask of the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.flux import Flux
from dpid.denoisers.levels import Flow


class Chroma(Flux):
    """A Chroma pipeline.

    Diffusers gives the mask as the numbers 0 and 1, which attention adds to its scores: padding is not masked, it
    weighs 1/e of a word. What the pipeline computes is what is explained, so texts keep their padding here. The
    training drew σ with a density of about 2 - 7.7 (σ - ½)², which ends at log-SNRs of ±7.
    """

    pipelines = ("ChromaPipeline", "ChromaImg2ImgPipeline", "ChromaInpaintPipeline")
    networks = ("ChromaTransformer2DModel",)
    tokenizers = {"tokenizer": "text_encoder"}
    may_cut = ()
    text = {"encoder_hidden_states": (0, 3), "attention_mask": (2, 5)}
    # https://github.com/lodestone-rock/flow, prepare_sot_pairings in src/trainer/train_chroma.py
    caveat = (
        "Chroma was trained on pictures paired with the noise of their batch that fits them best (optimal transport): "
        "its predictions are not exactly the means under independent noise that nats need"
    )

    def levels(self) -> Flow:
        """The noise levels of the training."""
        return Flow(-7.0, 7.0, self.told)

    def limit(self, tokenizer: str) -> int:
        """The number of tokens that the pipeline's call gives every text: 512, and 256 where it inpaints."""
        return min(super().limit(tokenizer), int(self.default("max_sequence_length")))

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments; the mask covers the picture's tokens too."""
        words = encoded["attention_mask"]
        picture = words.new_ones(len(x), x.shape[-2] * x.shape[-1] // 4)
        return {**super().inputs(x, t, encoded), "attention_mask": torch.cat((words, picture), 1)}
