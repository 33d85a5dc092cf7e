"""LTX-Video (2024): videos by a flow with cross-attention to a text of T5, on small latents of many channels."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from dpid.denoisers.families.video import VideoFamily


class LTX(VideoFamily):
    """An LTX-Video pipeline of videos from texts. Padding is masked; places in time are seconds of the video."""

    pipelines = ("LTXPipeline",)
    networks = ("LTXVideoTransformer3DModel",)
    limits = {"tokenizer": 128}
    text = {"encoder_hidden_states": (0, 2)}
    mask = (1, 3)

    @property
    def stride(self) -> int:
        """The number of frames that a frame of latents stands for."""
        return int(self.pipe.vae.temporal_compression_ratio)

    @property
    def factor(self) -> int:
        """The side of a latent pixel in pixels."""
        return int(self.pipe.vae.spatial_compression_ratio)

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,T·h,w]: the VAE's latents ``mode``, standardised by channel and scaled."""
        vae = self.pipe.vae
        mean, std = (numbers.to(mode).view(1, -1, 1, 1) for numbers in (vae.latents_mean, vae.latents_std))
        standardised: Tensor = (mode - mean) / std
        return standardised * float(self.vae_config["scaling_factor"])

    def pack(self, x: Tensor) -> Tensor:
        """The tokens [M,T·h·w,C] of latents [M,C,T·h,w]."""
        return x.flatten(2).transpose(1, 2)

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with the mask of a text that has no padding, and what places stand for."""
        words = encoded["encoder_hidden_states"]
        return {
            **super().inputs(x, t, encoded), "encoder_attention_mask": words.new_ones(words.shape[:2]),
            "num_frames": self.latent_frames, "height": x.shape[-2] // self.latent_frames, "width": x.shape[-1],
            "rope_interpolation_scale": (self.stride / self.default("frame_rate"), self.factor, self.factor),
        }  # fmt: skip

    def output(self, out: Tensor, x: Tensor) -> Tensor:
        """The velocity [M,C,T·h,w] from the network's tokens."""
        return out.transpose(1, 2).view(x.shape)
