"""The part of a family about pictures: sizes, and the VAE between pixels and the network's latents."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpid.denoisers.modes import evaluating


class Pictures(ABC):
    """How the pipeline ``pipe`` encodes pictures."""

    pipe: Any
    one_area: ClassVar[bool] = False  # whether the network is used at its native area alone

    @property
    @abstractmethod
    def net(self) -> Any:
        """The network, a torch module."""

    @property
    @abstractmethod
    def device(self) -> torch.device:
        """The device on which the pipeline computes."""

    @property
    def net_config(self) -> Any:
        """The network's configuration."""
        return self.net.config

    @property
    def vae_config(self) -> Any:
        """The VAE's configuration."""
        return self.pipe.vae.config

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the native size, that of the network or, without one, of the VAE."""
        size = self.net_config.get("sample_size") or self.vae_config.get("sample_size", 1024) // self.factor
        height, width = (size, size) if isinstance(size, int) else size
        return self.channels, int(height), int(width)

    @property
    def channels(self) -> int:
        """The number of channels of the latents."""
        return int(self.net_config["in_channels"])

    @property
    def factor(self) -> int:
        """The VAE's downsampling factor: the side of a latent pixel in pixels."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @property
    def frames(self) -> int | None:
        """The number of frames of a video; None of a pipeline that makes pictures."""
        return None

    @property
    def latent_frames(self) -> int | None:
        """The number of frames of a video's latents, which come one below the other; None of pictures."""
        return None

    @property
    def step(self) -> int:
        """The side of a token in latent pixels, of which heights and widths of resized pictures are multiples."""
        return int(self.net_config.get("patch_size", 1))

    @property
    def patch(self) -> int:
        """The number that heights and widths of latents have to be multiples of."""
        return self.step

    @property
    def longest(self) -> float:
        """The largest height and width of latents that the network takes."""
        return math.inf

    @property
    def tokens(self) -> float:
        """The largest number of tokens of a picture that the network takes."""
        return math.inf

    def check_latents(self, height: int, width: int) -> None:
        """``ValueError`` unless the network takes latents [C, height, width]."""
        if max(height, width) > self.longest:
            raise ValueError(f"latents: found {height}×{width} pixels, expected at most {self.longest:.0f} a side")
        if height * width > self.tokens * self.step**2:
            most = f"{self.tokens:.0f} tokens of {self.step}×{self.step}"
            raise ValueError(f"latents: found {height}×{width} pixels, expected at most {most}")

    def check_size(self, size: int | None) -> None:
        """``ValueError`` unless the network takes pictures of the area of a square of ``size`` pixels a side."""
        step, (_, h, w) = self.factor * self.step, self.latent_shape
        native = int((h * w) ** 0.5) * self.factor
        if size is None or (hasattr(size, "__index__") and size == native):
            return
        if self.one_area:
            raise ValueError(f"size: found {size}, {type(self.pipe).__name__} makes pictures of {native}² pixels alone")
        if not hasattr(size, "__index__") or not 0 < size < native or size % step:
            raise ValueError(f"size: found {size!r}, expected a multiple of {step} up to the model's {native}")

    def size_for(self, width: int, height: int, size: int | None = None) -> tuple[int, int]:
        """Pixels (width, height) of about the native area, or ``size``², at the aspect ratio of the picture.

        They are the closest multiples of :attr:`factor` times :attr:`step`, and no longer than :attr:`longest`; the
        next smaller ones where the closest would be more than :attr:`tokens`.
        """
        step = self.factor * self.step
        _, h, w = self.latent_shape
        side, longest = size or (h * w) ** 0.5 * self.factor, self.longest * self.factor
        scale = min(side / (width * height) ** 0.5, longest / max(width, height))
        columns, rows = (side * scale / step for side in (width, height))
        whole = round if max(1, round(columns)) * max(1, round(rows)) <= self.tokens else math.floor
        return max(1, whole(columns)) * step, max(1, whole(rows)) * step

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]: the mode of the VAE's posterior, normalised.

        Computed in fp32 if the VAE's configuration has ``force_upcast``: SDXL's VAE overflows in fp16.
        """
        vae = self.pipe.vae
        weights: dict[str, Tensor] = {}
        if vae.config.get("force_upcast") and vae.dtype == torch.float16:
            # Parameters, since accelerate makes another of the type of each that it brings to the device.
            parts = vae.named_parameters()
            weights = {f"vae.{name}": nn.Parameter(p.detach().float(), requires_grad=False) for name, p in parts}
        image = image.to(self.device, torch.float32 if weights else vae.dtype)
        with evaluating(vae):
            mode = torch.func.functional_call(_Mode(self), weights, (image,))
            return self.normalise(mode.float())

    def mode(self, image: Tensor) -> Tensor:
        """The VAE's latents [B,C,h,w] of pixels [B,3,H,W]: the mode of its posterior.

        A tiny autoencoder and a deep-compression one return latents where other VAEs return a distribution.
        """
        found = self.pipe.vae.encode(image)
        if hasattr(found, "latent_dist"):
            mode: Tensor = found.latent_dist.mode()
            return mode
        latents: Tensor = found[0]
        return latents

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,h,w]: the VAE's latents ``mode``, shifted and scaled."""
        shifted = mode - (self.vae_config.get("shift_factor") or 0.0)
        return shifted * float(self.vae_config["scaling_factor"])

    def standardised(self, latents: Tensor) -> Tensor:
        """``latents`` [B,C,h,w] less the means of channels that the VAE's configuration has, by their deviations."""
        mean, std = (
            latents.new_tensor(self.vae_config[f"latents_{name}"]).view(1, -1, 1, 1) for name in ("mean", "std")
        )
        return (latents - mean) / std


class _Mode(nn.Module):
    """``family.mode`` as a module, so that ``functional_call`` can replace the weights of the VAE."""

    def __init__(self, family: Pictures) -> None:
        super().__init__()
        self.vae = family.pipe.vae
        self.family = family

    def forward(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w], the mode of the posterior, of pixels [B,3,H,W]."""
        return self.family.mode(image)
