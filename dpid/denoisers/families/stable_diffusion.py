"""Stable Diffusion 1.x and 2.x (Rombach et al., 2022): a UNet conditioned on one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from PIL import Image
from torch import Tensor

from dpid.denoisers.added import IP_ADAPTER
from dpid.denoisers.families.unet import UNetFamily
from dpid.denoisers.fused import FusedNetwork, not_plain
from dpid.denoisers.guidance import GUIDANCE
from dpid.denoisers.modes import evaluating, hooks_kept
from dpid.images import ImageCondition

# Fields of the UNet's configuration that, where set, make it need more input than a text and a time: which input.
_MORE_INPUT = {
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "more than a text and a time",
}
# In place of the picture of an IP-Adapter: for a condition without one, of which its pipeline takes what stands for no
# picture, and for the check at load.
_BLACK, _GREY = (Image.new("RGB", (64, 64), colour) for colour in ("black", "grey"))


class StableDiffusion(UNetFamily):
    """A Stable Diffusion 1.x or 2.x pipeline."""

    pipelines: ClassVar[tuple[str, ...]] = (
        "StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline",
        "LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline",
    )  # fmt: skip
    dtype = torch.float32  # of which the fused UNet makes copies in other types
    added: ClassVar[str | None] = None  # addition_embed_type of the UNet

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or the UNet needs more than a text and a time."""
        super().check()
        config, kind = self.net.config, type(self.pipe).__name__
        for name, needs in _MORE_INPUT.items():
            if (found := getattr(config, name, None)) is not None and found != IP_ADAPTER:
                raise ValueError(f"pipe: the UNet of {kind} needs {needs} ({name} = {found!r})")
        if config.in_channels != 4 or getattr(config, "addition_embed_type", None) != self.added:
            raise ValueError(f"pipe: the UNet of {kind} is not that of Stable Diffusion 1.x, 2.x or XL")
        if self.takes_pictures:
            adapters = getattr(self.net.encoder_hid_proj, "image_projection_layers", ())
            if len(adapters) != 1 or self.pipe.image_encoder is None or self.pipe.feature_extractor is None:
                raise ValueError(
                    f"pipe: the UNet of {kind} needs a picture as a second prompt (IP-Adapter); supported is one "
                    "adapter, with an image_encoder and a feature_extractor, or none after unload_ip_adapter()"
                )

    @property
    def takes_pictures(self) -> bool:
        """Whether the UNet has an IP-Adapter."""
        return getattr(getattr(self.net, "config", None), "encoder_hid_dim_type", None) == IP_ADAPTER

    @property
    def example_condition(self) -> Any:
        """The example text, with a picture for an IP-Adapter."""
        return ImageCondition(_GREY, self.example) if self.takes_pictures else self.example

    def call_arguments(self) -> dict[str, Any]:
        """The picture of the example."""
        return {"ip_adapter_image": _GREY} if self.takes_pictures else {}

    def encode(self, conditions: Sequence[Any]) -> dict[str, Tensor]:
        """The encodings of the texts and, for an IP-Adapter, "image_embeds" [K,1,…] of the pictures.

        Without a picture they are what stands for none in the pipeline's guidance.
        """
        encoded = super().encode(conditions)
        if self.takes_pictures:
            with evaluating(self.pipe.image_encoder), hooks_kept(self.pipe.image_encoder):
                encoded["image_embeds"] = torch.cat([self._embedded(condition) for condition in conditions])
        return encoded

    def _embedded(self, condition: Any) -> Tensor:
        """The embedding [1,1,…] of a condition's picture, or of none."""
        picture = getattr(condition, "picture", None)
        (found,) = self.pipe.prepare_ip_adapter_image_embeds(picture or _BLACK, None, self.device, 1, True)
        none, own = found.chunk(2)
        chosen: Tensor = none if picture is None else own
        return chosen

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
        given: dict[str, Any] = {"sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"]}
        if self.takes_pictures:
            given["added_cond_kwargs"] = {"image_embeds": [encoded["image_embeds"]]}
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
