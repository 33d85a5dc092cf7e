"""Sana (Xie et al., 2024): a flow with linear attention on the small latents of a deep-compression autoencoder."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily
from dpid.denoisers.texts import SHORT_NULL


class Sana(FlowFamily):
    """A Sana pipeline.

    Every text but the unconditional one follows an instruction to the language model. The first of its tokens and the
    last 299 are kept, those of padding are masked.
    """

    pipelines = ("SanaPipeline",)
    networks = ("SanaTransformer2DModel",)
    text = {"encoder_hidden_states": (0, 2)}
    mask = (1, 3)
    # https://github.com/NVlabs/Sana, token_drop in diffusion/model/nets/sana_blocks.py leaves the mask
    caveat = SHORT_NULL.format("Sana")
    held = 18

    def asks(self) -> dict[str, Any]:
        """The instruction that the pipeline's call gives by default."""
        return {"complex_human_instruction": self._instruction()}

    def _instruction(self) -> list[str]:
        return list(self.default("complex_human_instruction"))

    def limit(self, tokenizer: str) -> int:
        """The tokens of the instruction, and 298 of the text."""
        return len(self.pipe.tokenizer.encode("\n".join(self._instruction()))) + 298

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` as the pipeline prepares it, after the instruction."""
        return "\n".join(self._instruction()) + str(self.pipe._text_preprocessing(text)[0])

    def time(self, t: Tensor) -> Tensor:
        """The network's own time."""
        return 1000 * t * float(self.net_config["timestep_scale"])

    @property
    def factor(self) -> int:
        """How many pixels of the picture one latent pixel stands for along each side."""
        return int(2 ** (len(self.vae_config["encoder_block_out_channels"]) - 1))
