"""Flux.2 (Black Forest Labs, 2025), dev and klein: joint attention to several layers of a language model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpid.denoisers.families.patches import PatchFamily


class Flux2Klein(PatchFamily):
    """A Flux.2 klein pipeline, whose text encoder is a Qwen3.

    The network attends padding: every text has 512 tokens, its template included. Its VAE normalises patches of 2×2
    latent pixels, which are kept apart here.
    """

    pipelines: ClassVar[tuple[str, ...]] = ("Flux2KleinPipeline",)
    networks = ("Flux2Transformer2DModel",)
    limits = {"tokenizer": 512}
    text = {"encoder_hidden_states": (0, None)}
    held = 28

    def mu(self, tokens: float) -> float:
        """That of a run of 50 steps, the default: this pipeline's depends on their number."""
        from diffusers.pipelines.flux2.pipeline_flux2 import compute_empirical_mu

        return float(compute_empirical_mu(int(tokens), 50))

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` in the chat template."""
        chat = [{"role": "user", "content": text}]
        return str(
            self.pipe.tokenizer.apply_chat_template(
                chat, tokenize=False, add_generation_prompt=True, enable_thinking=False
            )
        )

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments; positions have four axes, and words are numbered on the last."""
        sizes = (x.shape[-2] // 2, x.shape[-1] // 2, encoded["encoder_hidden_states"].shape[1], 1)
        rows, columns, words, zero = (torch.arange(n, device=x.device) for n in sizes)
        picture, text = (
            torch.cartesian_prod(*axes).expand(len(x), -1, -1)
            for axes in ((zero, rows, columns, zero), (zero, zero, zero, words))
        )
        return {**super().inputs(x, t, encoded), "img_ids": picture, "txt_ids": text}

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,h,w]: patches of the VAE's latents ``mode``, standardised by their statistics."""
        statistics, (b, c, h, w) = self.pipe.vae.bn, mode.shape
        mean, variance = (v.to(mode).view(1, c, 2, 2, 1, 1) for v in (statistics.running_mean, statistics.running_var))
        patches = mode.view(b, c, h // 2, 2, w // 2, 2).permute(0, 1, 3, 5, 2, 4)
        standard: Tensor = (patches - mean) / (variance + float(self.vae_config["batch_norm_eps"])).sqrt()
        return standard.permute(0, 1, 4, 2, 5, 3).reshape(b, c, h, w)


class Flux2(Flux2Klein):
    """A Flux.2 dev pipeline, whose text encoder is a Mistral; guidance is an input, and 1 here: none."""

    pipelines = ("Flux2Pipeline",)

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` in the chat template, after the system message."""
        from diffusers.pipelines.flux2.pipeline_flux2 import format_input

        chat = format_input([text], self.pipe.system_message)
        return str(self.pipe.tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=False)[0])
