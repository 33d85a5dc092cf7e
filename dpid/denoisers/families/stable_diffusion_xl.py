"""Stable Diffusion XL (Podell et al., 2023): two text encoders, their pooled text and the picture's size as well."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.fused import sizes_of
from dpid.denoisers.modes import evaluating


class StableDiffusionXL(StableDiffusion):
    """Stable Diffusion XL."""

    pipelines = ("StableDiffusionXLPipeline", "StableDiffusionXLImg2ImgPipeline")
    tokenizers: ClassVar[Mapping[str, str]] = {"tokenizer": "text_encoder", "tokenizer_2": "text_encoder_2"}
    added = "text_time"

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states [K,L,E] of both text encoders and the pooled text [K,D] of the second.

        Of an empty text zeros, where the pipeline says that it was trained so (``force_zeros_for_empty_prompt``).
        """
        with evaluating(self.pipe.text_encoder, self.pipe.text_encoder_2):
            hidden, _, pooled, _ = self.pipe.encode_prompt(
                list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        if self.pipe.config.get("force_zeros_for_empty_prompt"):
            said = torch.tensor([bool(text.strip()) for text in texts], device=hidden.device)
            hidden, pooled = hidden * said[:, None, None], pooled * said[:, None]
        return {"encoder_hidden_states": hidden, "text_embeds": pooled}

    def normalise(self, mode: Tensor) -> Tensor:
        """With the mean and deviation of every channel where the VAE's configuration has them (Playground 2.5)."""
        config = self.pipe.vae.config
        if config.get("latents_mean") is not None and config.get("latents_std") is not None:
            mean, std = (mode.new_tensor(config[k]).view(1, -1, 1, 1) for k in ("latents_mean", "latents_std"))
            mode = (mode - mean) / std
        return super().normalise(mode)

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's arguments, the size conditioning among them."""
        sizes = sizes_of(x, self.factor).expand(len(x), -1)
        added = {"text_embeds": encoded["text_embeds"], "time_ids": sizes}
        return {**super().inputs(x, t, encoded), "added_cond_kwargs": added}
