"""CogView4 (Zheng et al., 2025): a flow with joint attention to a text of GLM-4."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily
from dpid.denoisers.texts import LENGTHS, stacked


class CogView4(FlowFamily):
    """A CogView4 pipeline.

    A text is filled up to a multiple of 16 tokens in front of it, and these are attended. The pipeline fills the texts
    of one call up to one length; here each is encoded by itself, as in a call of its own. The network is told the time
    before the scheduler has shifted it, so that the same σ has another time in a picture of another size.
    """

    pipelines = ("CogView4Pipeline",)
    networks = ("CogView4Transformer2DModel",)
    limits = {"tokenizer": 1024}
    text = {"encoder_hidden_states": (0, None)}

    def mu(self, tokens: float) -> float:
        """What the pipeline gives to its scheduler: it grows with the side of the picture."""
        config = self.pipe.scheduler.config
        sides = (tokens / config.get("base_image_seq_len", 256)) ** 0.5
        return float(config.get("base_shift", 0.25) + sides * config.get("max_shift", 0.75))

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"encoder_hidden_states": [K,L,E] of the text encoder's last but one layer, ``LENGTHS``: [K]}."""
        alone = (self.encode_prompt([text], do_classifier_free_guidance=False)[0] for text in texts)
        rows, lengths = stacked([found[0] for found in alone])
        return {"encoder_hidden_states": rows, LENGTHS: lengths}

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments: the picture has the size that it should have, and is not cropped."""
        size = x.new_tensor([[side * self.factor for side in x.shape[-2:]]]).repeat(len(x), 1)
        more = {"original_size": size, "target_size": size, "crop_coords": torch.zeros_like(size)}
        before = t / (t + self.shift_at(*x.shape[-2:]) * (1 - t))
        return {**super().inputs(x, before, encoded), **more}
