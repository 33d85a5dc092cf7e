"""ControlNets (Zhang et al., 2023) of Stable Diffusion: a picture, such as its edges, that is given with every text.

What is explained is i(x; y | control): the unconditional prediction has the picture too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from dpid.denoisers.families.family import Family
from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.families.stable_diffusion_3 import StableDiffusion3
from dpid.denoisers.families.stable_diffusion_xl import StableDiffusionXL


class Controlled(Family):
    """A pipeline with one ControlNet, whose picture is given by :meth:`set_control`.

    Its network is named as that of the family without one.
    """

    def check(self) -> None:
        """Raise ``ValueError`` also if there are several ControlNets, or none of a known kind."""
        super().check()
        found = type(self.pipe.controlnet).__name__
        if found not in ("ControlNetModel", "SD3ControlNetModel"):
            raise ValueError(
                f"pipe: its controlnet is a {found}, supported is one ControlNetModel or SD3ControlNetModel"
            )
        self._encoded: dict[tuple[int, ...], Tensor] = {}  # the VAE and its weights may have changed

    def set_control(self, control: Any, scale: float) -> None:
        """Give the ControlNet its PIL picture and its weight; ``ValueError`` without a picture."""
        if control is None:
            raise ValueError(f"control: {type(self.pipe).__name__} has a ControlNet; give the picture that it takes")
        self._control, self._scale = control, scale
        self._encoded = {}

    def computing(self) -> list[nn.Module]:
        """The network and the ControlNet."""
        return [*super().computing(), self.pipe.controlnet]

    def call_arguments(self) -> dict[str, Any]:
        """The picture and its weight, by the names that one or another of the pipelines has for them."""
        named = dict.fromkeys(("image", "control_image"), self._control)
        return {**super().call_arguments(), **named, "controlnet_conditioning_scale": self._scale}

    def not_fused(self) -> str | None:
        """Why there is no fused network."""
        return "a ControlNet adds to it"

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with what the ControlNet adds to it."""
        given = super().inputs(x, t, encoded)
        size = (x.shape[-2] * self.factor, x.shape[-1] * self.factor)
        if size not in self._encoded:
            self._encoded[size] = self.encode_control(*size)
        control = self._encoded[size].to(x).expand(len(x), -1, -1, -1)
        more = {"controlnet_cond": control, "conditioning_scale": self._scale, "return_dict": False}
        return given | self.residuals(given, more)

    def encode_control(self, height: int, width: int) -> Tensor:
        """The picture [1,C,h,w] as the ControlNet takes it, for a picture of ``height`` × ``width`` pixels."""
        picture: Tensor = self.pipe.control_image_processor.preprocess(self._control, height=height, width=width)
        return picture.to(self.device)

    def residuals(self, given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """The network's further arguments: what the ControlNet makes of the network's own, and of ``more``."""
        down, middle = self.pipe.controlnet(**given, **more)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


class StableDiffusionControlNet(Controlled, StableDiffusion):
    """A Stable Diffusion 1.x or 2.x pipeline with a ControlNet."""

    pipelines = ("StableDiffusionControlNetPipeline",)
    networks = ()


class StableDiffusionXLControlNet(Controlled, StableDiffusionXL):
    """A Stable Diffusion XL pipeline with a ControlNet."""

    pipelines = ("StableDiffusionXLControlNetPipeline",)
    networks = ()


class StableDiffusion3ControlNet(Controlled, StableDiffusion3):
    """A Stable Diffusion 3 pipeline with a ControlNet, which takes the picture's latents."""

    pipelines = ("StableDiffusion3ControlNetPipeline",)
    networks = ()

    def encode_control(self, height: int, width: int) -> Tensor:
        """The mode of the VAE's posterior, normalised; its shift is left out where the ControlNet was trained so."""
        picture = self.pipe.image_processor.preprocess(self._control, height=height, width=width)
        latents = self.encode_image(picture)
        if self.pipe.controlnet.config.force_zeros_for_pooled_projection:
            latents = latents + (self.vae_config.get("shift_factor") or 0.0) * float(self.vae_config["scaling_factor"])
        return latents

    def residuals(self, given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """What is added to the network's blocks; some ControlNets were trained without the texts."""
        config = self.pipe.controlnet.config
        if config.force_zeros_for_pooled_projection:
            given = given | {"pooled_projections": torch.zeros_like(given["pooled_projections"])}
        if config.joint_attention_dim is None:
            given = given | {"encoder_hidden_states": None}
        return {"block_controlnet_hidden_states": self.pipe.controlnet(**given, **more)[0]}
