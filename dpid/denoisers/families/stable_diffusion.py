"""Stable Diffusion 1.x and 2.x (Rombach et al., 2022): a UNet conditioned on one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor

from dpid.denoisers.families.unet import UNetFamily
from dpid.denoisers.fused import FusedNetwork, not_plain
from dpid.denoisers.guidance import GUIDANCE
from dpid.denoisers.modes import evaluating

# Fields of the UNet's configuration that, where set, make it need more input than a text and a time: which input.
_MORE_INPUT = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "a picture as a second prompt (IP-Adapter); call unload_ip_adapter() to explain without it",
}


class StableDiffusion(UNetFamily):
    """A Stable Diffusion 1.x or 2.x pipeline."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
    )  # fmt: skip
    dtype = torch.float32  # of which the fused UNet makes copies in other types
    added: ClassVar[str | None] = None  # addition_embed_type of the UNet

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or the UNet needs more than a text and a time."""
        super().check()
        config, kind = self.net.config, type(self.pipe).__name__
        for name, needs in _MORE_INPUT.items():
            # By attribute: IP-Adapter sets it there and not in the dictionary.
            if (found := getattr(config, name, None)) is not None:
                raise ValueError(f"pipe: the UNet of {kind} needs {needs} ({name} = {found!r})")
        if config.in_channels != 4 or getattr(config, "addition_embed_type", None) != self.added:
            raise ValueError(f"pipe: the UNet of {kind} is not that of Stable Diffusion 1.x, 2.x or XL")

    @property
    def takes_guidance(self) -> bool:
        """Whether the UNet takes guidance as an input, as consistency models (LCM) do."""
        return self.net_config.get("time_cond_proj_dim") is not None

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"encoder_hidden_states": [K,L,E]} of K texts."""
        with evaluating(self.pipe.text_encoder):
            hidden, *_ = self.pipe.encode_prompt(
                list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": hidden}

    def normalise(self, mode: Tensor) -> Tensor:
        """The UNet's latents [B,4,h,w]: the VAE's latents ``mode``, scaled; these pipelines do not shift them."""
        return mode * float(self.vae_config["scaling_factor"])

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's keyword arguments."""
        given = {"sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"]}
        if self.takes_guidance:
            guidance = encoded.get(GUIDANCE, torch.ones(len(x), device=x.device))
            wide = int(self.net_config["time_cond_proj_dim"])
            embedded = self.pipe.get_guidance_scale_embedding(guidance.float().cpu() - 1, wide)
            given["timestep_cond"] = embedded.to(x)
        return given

    def not_fused(self) -> str | None:
        """What makes the UNet differ from a plain Stable Diffusion UNet (LoRA, hooks, …), or None."""
        return not_plain(self.net)

    def fused(self, precision: str) -> FusedNetwork:
        """The fused UNet, with the pipeline's weights."""
        return FusedNetwork(self.net_config, self.weights, precision, self.factor)
