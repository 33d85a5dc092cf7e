"""What the engine asks of a model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.utils import _pytree


@dataclass(frozen=True)
class Conditions:
    """K encoded conditions: their names, and a tree (dict, tuple, …) of tensors with leading dimension K."""

    names: tuple[str, ...]
    encoded: Any

    def __getitem__(self, part: slice) -> Conditions:
        return Conditions(self.names[part], _pytree.tree_map(lambda tensor: tensor[part], self.encoded))


class Denoiser(Protocol):
    """A model that predicts noise at any trained log-SNR under K conditions at once."""

    name: str
    device: torch.device
    precision: str

    @property
    def logsnr_grid(self) -> Tensor:
        """Ascending log-SNRs [T] float64 that the model may be asked for."""

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Encode K conditions; raises ``ValueError`` for one that the model cannot take."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [-1,1] -> latents [B,C,h,w] fp32."""

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height) to which a picture of this size is brought before encoding."""

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,C,H,W] at log-SNR [N] -> predicted noise [N,K,B,C,H,W]."""
