"""Lumina-Image 2.0 (Qin et al., 2025): a flow whose tokens of picture and text run through one stream."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily


class Lumina2(FlowFamily):
    """A Lumina-Image 2.0 pipeline: its network runs from noise to picture.

    Every text but the unconditional one follows a system prompt; padding is masked.
    """

    pipelines = ("Lumina2Pipeline",)
    networks = ("Lumina2Transformer2DModel",)
    limits = {"tokenizer": 256}
    text = {"encoder_hidden_states": (0, 2)}
    mask = (1, 3)
    held = 28

    @property
    def shift(self) -> float:
        """The shift of its training at 1024²; that of its sampler is another."""
        return math.exp(1.15)

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` after the system prompt."""
        return f"{self.pipe.system_prompt} <Prompt Start> {text}"

    def time(self, t: Tensor) -> Tensor:
        """The network's own time, 0 at noise."""
        return 1 - t

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments; no token is masked, since padding is gone."""
        tokens = encoded["encoder_hidden_states"].shape[:2]
        mask = torch.ones(tokens, dtype=torch.int64, device=x.device)
        return {**super().inputs(x, t, encoded), "encoder_attention_mask": mask}

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        """The velocity [M,C,h,w] from the network's, which points from noise to picture."""
        return -out
