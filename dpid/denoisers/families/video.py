"""The base class of flows that make videos: their frames come one below the other, latents are [C,T·h,w]."""

from __future__ import annotations

from abc import abstractmethod
from typing import Any

from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily


class VideoFamily(FlowFamily):
    """A pipeline of videos from texts, whose call has the native size and number of frames as defaults.

    A frame of latents stands for :attr:`stride` frames, the first for one.
    """

    _frames: int | None = None

    @property
    @abstractmethod
    def stride(self) -> int:
        """The number of frames that a frame of latents stands for."""

    @property
    def frames(self) -> int:
        """The number of frames of a video."""
        return self._frames or int(self.default("num_frames"))

    @property
    def latent_frames(self) -> int:
        """The number of frames of its latents."""
        return (self.frames - 1) // self.stride + 1

    def set_frames(self, frames: int | None) -> None:
        """Take videos of so many frames; ``ValueError`` for a number that the VAE does not take, or a larger one."""
        most = self.default("num_frames")
        taken = frames is None or (hasattr(frames, "__index__") and 0 < frames <= most and frames % self.stride == 1)
        if not taken:
            raise ValueError(f"frames: found {frames}, expected 1 more than a multiple of {self.stride}, up to {most}")
        self._frames = frames

    def call_arguments(self) -> dict[str, Any]:
        """The number of frames."""
        return {"num_frames": self.frames}

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, h, w) of a frame of the latents at the native size."""
        return self.channels, self.default("height") // self.factor, self.default("width") // self.factor

    @property
    def shift(self) -> float:
        """The factor by which the scheduler multiplies the odds of σ for a video of the native size."""
        _, h, w = self.latent_shape
        return self.shift_at(self.latent_frames * h, w)

    def mode(self, image: Tensor) -> Tensor:
        """The mode [B,C,T·h,w] of the VAE's posterior for frames [B,3,F,H,W]."""
        return super().mode(image).flatten(2, 3)
