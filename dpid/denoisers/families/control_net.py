"""ControlNets (Zhang et al., 2023) of Stable Diffusion: pictures, such as edges, that are given with every text.

What is explained is i(x; y | control): the unconditional prediction has the picture too.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpid.checks import found
from dpid.denoisers.families.family import FAMILIES, Family
from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.families.stable_diffusion_3 import StableDiffusion3
from dpid.denoisers.families.stable_diffusion_xl import StableDiffusionXL
from dpid.device import without_autocast


class Controlled(Family):
    """A pipeline with ControlNets, whose pictures are given by :meth:`set_control`.

    Its network is named as that of the family without one.
    """

    kinds: ClassVar[tuple[str, ...]] = ("ControlNetModel", "MultiControlNetModel")
    beside = "every text was given with the picture of a ControlNet, so that i(x; y) is i(x; y | control)"

    @classmethod
    def parts(cls) -> tuple[str, ...]:
        """Names of the components that a pipeline must have."""
        return (*super().parts(), "controlnet")

    def check(self) -> None:
        """Raise ``ValueError`` also if there is no ControlNet of a known kind."""
        super().check()
        found = type(self.pipe.controlnet).__name__
        if found not in self.kinds:
            raise ValueError(f"pipe: its controlnet is a {found}, supported is a {' or '.join(self.kinds)}")
        self._encoded: dict[tuple[int, ...], list[Tensor]] = {}  # the VAE and its weights may have changed

    def set_control(self, control: Any, scale: Any) -> None:
        """Give the ControlNet its PIL picture and its weight, several a list of each or one weight for all.

        ``ValueError`` without a picture, or with another number than there are ControlNets.
        """
        kind, several = type(self.pipe).__name__, hasattr(self.pipe.controlnet, "nets")
        if control is None:
            raise ValueError(f"control: {kind} has a ControlNet; give the picture that it takes")
        pictures = list(control) if isinstance(control, (list, tuple)) else [control]
        count = len(self.nets)
        scales = list(scale) if isinstance(scale, (list, tuple)) else [scale]
        scales = scales * count if len(scales) == 1 else scales
        for name, given in (("control", pictures), ("control_scale", scales)):
            if len(given) != count:
                raise ValueError(f"{name}: found {len(given)}, but {kind} has {count} ControlNet{'s' * (count > 1)}")
        self._several, self._pictures, self._scales = several, pictures, [_scale(one) for one in scales]
        self._encoded = {}

    @property
    def guided_by_null(self) -> bool:
        """Whether guidance gives the picture to the unconditional prediction too.

        It does not where what is added is pooled over the picture (shuffle).
        """
        return not self.first_config.get("global_pool_conditions")

    @property
    def nets(self) -> Sequence[Any]:
        """The pipeline's ControlNets, one or several."""
        found: Sequence[Any] = getattr(self.pipe.controlnet, "nets", (self.pipe.controlnet,))
        return found

    @property
    def first_config(self) -> Any:
        """The configuration of the ControlNet or, as the pipelines have it for all of several, of the first."""
        return self.nets[0].config

    def computing(self) -> list[nn.Module]:
        """The network and the ControlNet."""
        return [*super().computing(), self.pipe.controlnet]

    def call_arguments(self) -> dict[str, Any]:
        """The pictures and their weights; "image" is another picture where the pipeline has a "control_image", too."""
        name = "control_image" if "control_image" in self.call_parameters else "image"
        own = {name: self._each(self._pictures), "controlnet_conditioning_scale": self._each(self._scales)}
        return super().call_arguments() | own

    def _each(self, values: list[Any]) -> Any:
        """``values`` as several ControlNets take them, or the one of a single ControlNet."""
        return values if self._several else values[0]

    def not_fused(self) -> str | None:
        """Why there is no fused network."""
        return "a ControlNet adds to it"

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with what the ControlNet adds to it."""
        given = super().inputs(x, t, encoded)
        size = (x.shape[-2] * self.factor, x.shape[-1] * self.factor)
        if size not in self._encoded:
            with without_autocast():  # they are kept for other types, too
                self._encoded[size] = [self.encode_control(picture, *size) for picture in self._pictures]
        control = [picture.to(x).expand(len(x), -1, -1, -1) for picture in self._encoded[size]]
        more = {"controlnet_cond": self._each(control), "conditioning_scale": self._each(self._scales)}
        return given | self.residuals(given, {**more, "return_dict": False})

    def encode_control(self, control: Any, height: int, width: int) -> Tensor:
        """A picture [1,C,h,w] as its ControlNet takes it, for a picture of ``height`` × ``width`` pixels."""
        picture: Tensor = self.pipe.control_image_processor.preprocess(control, height=height, width=width)
        return picture.to(self.device)

    def residuals(self, given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """The network's further arguments: what the ControlNet makes of the network's own, and of ``more``.

        Guidance is not among them, where that is an input of the network (a consistency model).
        """
        given = {name: value for name, value in given.items() if name != "timestep_cond"}
        down, middle = self.pipe.controlnet(**given, **more)
        return {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}


def _scale(given: Any) -> float:
    """``given``, a number of any kind, as a float: pipelines take no other; ``ValueError`` if it is none."""
    with suppress(TypeError, ValueError, RuntimeError, OverflowError):
        if not isinstance(given, (str, bytes)) and math.isfinite(scale := float(given)):
            return scale
    raise ValueError(f"control_scale: found {found(given)}, expected a finite number")


def controlled(family: type[Family]) -> type[Family]:
    """The family of the same pipelines with a ControlNet; ``family`` itself if there is none."""
    return next((kind for kind in FAMILIES.values() if kind.__bases__ == (Controlled, family)), family)


class StableDiffusionControlNet(Controlled, StableDiffusion):
    """A Stable Diffusion 1.x or 2.x pipeline with a ControlNet."""

    pipelines = (
        "StableDiffusionControlNetPipeline", "StableDiffusionControlNetImg2ImgPipeline",
        "StableDiffusionControlNetInpaintPipeline",
    )  # fmt: skip
    networks = ()


class StableDiffusionXLControlNet(Controlled, StableDiffusionXL):
    """A Stable Diffusion XL pipeline with a ControlNet."""

    pipelines = (
        "StableDiffusionXLControlNetPipeline", "StableDiffusionXLControlNetImg2ImgPipeline",
        "StableDiffusionXLControlNetInpaintPipeline",
    )  # fmt: skip
    networks = ()


class StableDiffusion3ControlNet(Controlled, StableDiffusion3):
    """A Stable Diffusion 3 pipeline with ControlNets, which take the pictures' latents."""

    pipelines = ("StableDiffusion3ControlNetPipeline",)
    networks = ()
    kinds = ("SD3ControlNetModel", "SD3MultiControlNetModel")

    @property
    def kept(self) -> int:
        """The numbers for each feature of a token that ControlNets make: as they are, projected, and weighed."""
        return 3 * sum(len(net.controlnet_blocks) for net in self.nets)

    def encode_control(self, control: Any, height: int, width: int) -> Tensor:
        """The mode of the VAE's posterior, normalised; its shift is left out where the ControlNet was trained so."""
        picture = self.pipe.image_processor.preprocess(control, height=height, width=width)
        latents = self.encode_image(picture)
        if self.first_config.force_zeros_for_pooled_projection:
            latents = latents + (self.vae_config.get("shift_factor") or 0.0) * float(self.vae_config["scaling_factor"])
        return latents

    def residuals(self, given: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
        """What is added to the network's blocks; some ControlNets were trained without the texts."""
        config = self.first_config
        if config.force_zeros_for_pooled_projection:
            given = given | {"pooled_projections": torch.zeros_like(given["pooled_projections"])}
        if config.joint_attention_dim is None:
            given = given | {"encoder_hidden_states": None}
        return {"block_controlnet_hidden_states": self.pipe.controlnet(**given, **more)[0]}
