"""Wan 2.1 (2025): videos by a flow with cross-attention to a text of UMT5."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from dpid.denoisers.families.video import VideoFamily


class Wan(VideoFamily):
    """A Wan 2.1 pipeline of videos from texts. Padding is zeros, which are attended."""

    pipelines = ("WanPipeline",)
    networks = ("WanTransformer3DModel",)
    limits = {"tokenizer": 512}
    text = {"encoder_hidden_states": (0, 1)}

    def check(self) -> None:
        """Raise ``ValueError`` also for the networks of Wan 2.2, and for one that takes a picture."""
        super().check()
        config, kind = self.pipe.config, type(self.pipe).__name__
        for name, what in (("boundary_ratio", "has two networks"), ("expand_timesteps", "tells every token its time")):
            if config.get(name):
                raise ValueError(f"pipe: this {kind} is of Wan 2.2 and {what} ({name}); supported is Wan 2.1")
        if self.channels != self.vae_config["z_dim"] or self.net_config.get("image_dim"):
            raise ValueError(f"pipe: the transformer of {kind} makes a video of a picture; supported is text-to-video")

    def asks(self) -> dict[str, Any]:
        """The length of texts that the pipeline's call has by default; its ``encode_prompt`` has another."""
        return {"max_sequence_length": 512}

    @property
    def stride(self) -> int:
        """The number of frames that a frame of latents stands for."""
        return int(2 ** sum(self.vae_config["temperal_downsample"]))

    @property
    def factor(self) -> int:
        """The side of a latent pixel in pixels."""
        return int(2 ** len(self.vae_config["temperal_downsample"]))

    @property
    def step(self) -> int:
        """The side of a token."""
        return int(self.net_config["patch_size"][1])

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,T·h,w]: the VAE's latents ``mode``, standardised by channel."""
        return self.standardised(mode)

    def pack(self, x: Tensor) -> Tensor:
        """Latents [M,C,T,h,w] of [M,C,T·h,w]."""
        m, c, _, w = x.shape
        return x.view(m, c, self.latent_frames, -1, w)

    def output(self, out: Any, x: Tensor) -> Tensor:
        """The velocity [M,C,T·h,w] of [M,C,T,h,w]."""
        velocity: Tensor = out.flatten(2, 3)
        return velocity
