"""Stable Diffusion 1.x and 2.x (Rombach et al., 2022): a UNet that reads one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from dpid.denoisers.families.family import Family
from dpid.denoisers.fused import FusedNetwork, not_plain
from dpid.denoisers.levels import Discrete
from dpid.denoisers.modes import evaluating

# Fields of the UNet's configuration that make it need more than a text and a time, and what it needs then.
_MORE = {
    "time_cond_proj_dim": "the guidance as an input, as consistency models (LCM) do",
    "class_embed_type": "class labels",
    "num_class_embeds": "class labels",
    "encoder_hid_dim_type": "a picture as a second prompt (IP-Adapter); call unload_ip_adapter() to explain without it",
}


class StableDiffusion(Family):
    """Stable Diffusion 1.x and 2.x."""

    pipelines: ClassVar[tuple[str, ...]] = ("StableDiffusionPipeline", "StableDiffusionImg2ImgPipeline")
    network = "unet"
    added: ClassVar[str | None] = None  # addition_embed_type of the UNet

    def check(self) -> None:
        """``ValueError`` for a pipeline without its parts, or a UNet that needs more than a text and a time."""
        pipe, kind = self.pipe, type(self.pipe).__name__
        parts = ("unet", "vae", "scheduler", *self.tokenizers, *self.tokenizers.values())
        if missing := [part for part in parts if getattr(pipe, part, None) is None]:
            raise ValueError(f"pipe: {kind} has no {', '.join(missing)}; expected a {self.pipelines[0]}")
        config = pipe.unet.config
        for name, needs in _MORE.items():
            # An attribute: IP-Adapter sets it there, and leaves the dictionary as it was.
            if (found := getattr(config, name, None)) is not None:
                raise ValueError(f"pipe: the UNet of {kind} needs {needs} ({name} = {found!r})")
        if config.in_channels != 4 or getattr(config, "addition_embed_type", None) != self.added:
            raise ValueError(f"pipe: the UNet of {kind} is not that of Stable Diffusion 1.x, 2.x or XL")
        if not hasattr(pipe.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"pipe: a {type(pipe.scheduler).__name__} has no trained noise levels (alphas_cumprod); give "
                "the pipeline the scheduler that its model was trained with, such as DDPMScheduler"
            )

    @property
    def unet_config(self) -> Any:
        """The UNet's configuration."""
        return self.net.config

    @property
    def vae_config(self) -> Any:
        """The VAE's configuration."""
        return self.pipe.vae.config

    def levels(self) -> Discrete:
        """The scheduler's training timesteps."""
        return Discrete(self.pipe.scheduler.alphas_cumprod, str(self.pipe.scheduler.config.prediction_type))

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of the latents of a picture of the native size."""
        size = self.unet_config["sample_size"]
        height, width = (size, size) if isinstance(size, int) else size
        return int(self.unet_config["in_channels"]), int(height), int(width)

    @property
    def factor(self) -> int:
        """Pixels a side of a latent pixel."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    @property
    def step(self) -> int:
        """Latent pixels a side that the UNet halves away."""
        return int(2 ** (len(self.unet_config["block_out_channels"]) - 1))

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """About what the activations of one evaluation on latents [C, height, width] take, in bytes, on the safe side.

        At the finest level, in maps of the first block's width: about 8 for skips and their concatenation, and 16 for
        the widest feed-forward layer with its input; coarser levels need less at a time.
        """
        return 24 * int(self.unet_config["block_out_channels"][0]) * height * width * itemsize

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states [K,L,E] of the text encoder."""
        with evaluating(self.pipe.text_encoder):
            hidden, *_ = self.pipe.encode_prompt(
                list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": hidden}

    def encode_image(self, image: Tensor) -> Tensor:
        """The mode of the VAE's posterior, normalised, fp32 [B,4,h,w].

        In fp32 where the VAE's configuration asks for it (``force_upcast``: SDXL's overflows in fp16).
        """
        vae, weights = self.pipe.vae, {}
        if vae.config.get("force_upcast") and vae.dtype == torch.float16:
            weights = {f"vae.{name}": p.float() for name, p in vae.named_parameters()}
        image = image.to(self.device, torch.float32 if weights else vae.dtype)
        with evaluating(vae):
            mode = torch.func.functional_call(_Mode(vae), weights, (image,))
            return self.normalise(mode.float())

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents of the VAE's, [B,4,h,w]."""
        scaled: Tensor = mode * self.vae_config["scaling_factor"]
        return scaled

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's arguments."""
        return {"sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"]}

    def not_fused(self) -> str | None:
        """What makes the UNet compute something else than a plain one of its kind, or None."""
        return not_plain(self.net)

    def fused(self, precision: str) -> FusedNetwork:
        """The fused UNet."""
        return FusedNetwork(self.unet_config, self.weights, precision, self.factor)


class _Mode(nn.Module):
    """``vae`` as a function of its weights; a tiny autoencoder has latents where others have a distribution."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] -> latents [B,4,h,w]."""
        found = self.vae.encode(image)
        mode: Tensor = found.latent_dist.mode() if hasattr(found, "latent_dist") else found.latents
        return mode
