"""Z-Image (2025): a flow whose tokens of picture and text run through one stream, with a text of Qwen3."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily
from dpid.denoisers.texts import LENGTHS, stacked


class ZImage(FlowFamily):
    """A Z-Image pipeline: its network runs from noise to picture and takes lists, and texts without their padding."""

    pipelines = ("ZImagePipeline", "ZImageImg2ImgPipeline", "ZImageInpaintPipeline")
    networks = ("ZImageTransformer2DModel",)
    limits = {"tokenizer": 512}
    text = {"cap_feats": (0, None)}

    @property
    def step(self) -> int:
        """The side of a patch."""
        return 2

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` in the chat template."""
        chat = [{"role": "user", "content": text}]
        return str(
            self.pipe.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=True
            )
        )

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"cap_feats": [K,L,E] of the text encoder's last but one layer, ``LENGTHS``: [K]}."""
        found, _ = self.encode_prompt(texts, do_classifier_free_guidance=False)
        rows, lengths = stacked(found)
        return {"cap_feats": rows, LENGTHS: lengths}

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments."""
        return {"x": list(x.unsqueeze(2)), "t": 1 - t, "cap_feats": list(encoded["cap_feats"])}

    def output(self, out: Any, x: Tensor) -> Tensor:
        """The velocity [M,C,h,w] from the network's list of [C,1,h,w], which points from noise to picture."""
        return -torch.stack(list(out)).squeeze(2)
