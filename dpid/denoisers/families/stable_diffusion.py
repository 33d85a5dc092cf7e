"""Stable Diffusion 1.x and 2.x (Rombach et al., 2022): a UNet that reads one CLIP text encoder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from torch import Tensor

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
        super().check()
        config, kind = self.net.config, type(self.pipe).__name__
        for name, needs in _MORE.items():
            # An attribute: IP-Adapter sets it there, and leaves the dictionary as it was.
            if (found := getattr(config, name, None)) is not None:
                raise ValueError(f"pipe: the UNet of {kind} needs {needs} ({name} = {found!r})")
        if config.in_channels != 4 or getattr(config, "addition_embed_type", None) != self.added:
            raise ValueError(f"pipe: the UNet of {kind} is not that of Stable Diffusion 1.x, 2.x or XL")
        scheduler = self.pipe.scheduler
        if not hasattr(scheduler, "alphas_cumprod"):
            raise ValueError(
                f"pipe: a {type(scheduler).__name__} has no trained noise levels (alphas_cumprod); give "
                "the pipeline the scheduler that its model was trained with, such as DDPMScheduler"
            )

    def levels(self) -> Discrete:
        """The scheduler's training timesteps."""
        return Discrete(self.pipe.scheduler.alphas_cumprod, str(self.pipe.scheduler.config.prediction_type))

    @property
    def step(self) -> int:
        """Latent pixels a side that the UNet halves away."""
        return int(2 ** (len(self.net_config["block_out_channels"]) - 1))

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """About what the activations of one evaluation on latents [C, height, width] take, in bytes, on the safe side.

        At the finest level, in maps of the first block's width: about 8 for skips and their concatenation, and 16 for
        the widest feed-forward layer with its input; coarser levels need less at a time.
        """
        return 24 * int(self.net_config["block_out_channels"][0]) * height * width * itemsize

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states [K,L,E] of the text encoder."""
        with evaluating(self.pipe.text_encoder):
            hidden, *_ = self.pipe.encode_prompt(
                list(texts), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        return {"encoder_hidden_states": hidden}

    def normalise(self, mode: Tensor) -> Tensor:
        """The UNet's latents of the VAE's, [B,4,h,w]; these pipelines know no shift."""
        return mode * float(self.vae_config["scaling_factor"])

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The UNet's arguments."""
        return {"sample": x, "timestep": t, "encoder_hidden_states": encoded["encoder_hidden_states"]}

    def not_fused(self) -> str | None:
        """What makes the UNet compute something else than a plain one of its kind, or None."""
        return not_plain(self.net)

    def fused(self, precision: str) -> FusedNetwork:
        """The fused UNet."""
        return FusedNetwork(self.net_config, self.weights, precision, self.factor)
