"""Stable Diffusion XL (Podell et al., 2023): conditioned on two text encoders, a pooled text and the picture's size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.fused import sizes_of
from dpid.denoisers.modes import evaluating, hooks_kept


class StableDiffusionXL(StableDiffusion):
    """A Stable Diffusion XL pipeline."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline",
    )  # fmt: skip
    tokenizers: ClassVar[Mapping[str, str]] = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    added = "text_time"

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"encoder_hidden_states": [K,L,E] of both text encoders, "text_embeds": pooled [K,D] of the second}.

        An empty text is all zeros if the pipeline was trained so (``force_zeros_for_empty_prompt``).
        """
        encoders = self.pipe.text_encoder, self.pipe.text_encoder_2
        with evaluating(*encoders), hooks_kept(*encoders):
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if self.pipe.config.get("force_zeros_for_empty_prompt"):
            filled = torch.tensor([bool(text.strip()) for text in texts], device=hidden.device)
            hidden, pooled = hidden * filled[:, None, None], pooled * filled[:, None]
        return {"encoder_hidden_states": hidden, "text_embeds": pooled}

    def normalise(self, mode: Tensor) -> Tensor:
        """The UNet's latents [B,4,h,w]: the VAE's latents ``mode``, scaled.

        They are standardised by channel first if the VAE's configuration has means and deviations (Playground 2.5).
        """
        config = self.pipe.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mode = self.standardised(mode)
        return super().normalise(mode)

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's keyword arguments, with the pooled text and the size conditioning."""
        sizes = sizes_of(x, self.factor).expand(len(x), -1)
        given = super().inputs(x, t, encoded)
        added = {"text_embeds": encoded["text_embeds"], "time_ids": sizes}
        return {**given, "added_cond_kwargs": given.get("added_cond_kwargs", {}) | added}
