"""What exact denoisers share: models whose density, and so every answer, is known in closed form."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Conditions


class ExactDenoiser(ABC):
    """A denoiser over x [C,H,W] with the density that it denoises; nothing was trained, so any log-SNR may be asked.

    Parameters
    ----------
    shape : (C, H, W) of x
    conditions : the named conditions
    device : of everything that is computed
    logsnr_range : ends of the integral, ascending
    levels : evenly spaced grid points over it, two or more
    """

    name: str
    precision = "float32"

    def __init__(
        self,
        shape: tuple[int, ...],
        conditions: Mapping[str, Any],
        device: torch.device,
        logsnr_range: tuple[float, float],
        levels: int,
    ) -> None:
        low, high = logsnr_range
        if not -float("inf") < low < high < float("inf") or levels < 2:
            raise ValueError(
                f"logsnr_range, levels: found {logsnr_range}, {levels}; expected finite, ascending, at least 2"
            )
        self.shape, self.conditions, self.device = shape, dict(conditions), device
        self._grid = torch.linspace(low, high, levels, dtype=torch.float64)

    @property
    def logsnr_grid(self) -> Tensor:
        """Evenly spaced log-SNRs [levels], float64."""
        return self._grid

    def encode_image(self, image: Tensor) -> Tensor:
        """There is no image encoder: pass ``latents=``."""
        raise ValueError("image: an exact denoiser has no image encoder; pass latents= instead")

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pictures are not resized."""
        return width, height

    @abstractmethod
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Encode K conditions; ``ValueError`` for one that this model does not have."""

    @abstractmethod
    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,C,H,W], logsnr [N] -> E[ε | z, condition] [N,K,B,C,H,W], exact, in the dtype of z."""

    @abstractmethod
    def log_density(self, x: Tensor, condition: Any) -> Tensor:
        """x [B,C,H,W] -> log p(x | condition) [B], float64, nats."""

    @abstractmethod
    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """x ~ p(x | condition), float32 [count,C,H,W]."""

    def log_ratio(self, x: Tensor, condition: Any, null: Any) -> Tensor:
        """x [B,C,H,W] -> log p(x | condition) / p(x | null) [B], float64, nats: what iˢ estimates."""
        return self.log_density(x, condition) - self.log_density(x, null)

    def _known(self, condition: Any) -> Any:
        """What was given for a condition; ``ValueError`` for an unknown one."""
        if condition not in self.conditions:
            raise ValueError(f"conditions: {condition!r} is unknown; this model has {', '.join(self.conditions)}")
        return self.conditions[condition]

    def _flat(self, x: Tensor) -> Tensor:
        """x [B,C,H,W] -> float64 [B, C·H·W]; ``ValueError`` if the shape is another or a value is not finite."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x: found shape {tuple(x.shape)}, expected [B, {', '.join(map(str, self.shape))}]")
        if not x.isfinite().all():
            raise ValueError("x: found NaN or infinity, expected finite values")
        return x.to(self.device, torch.float64).flatten(1)

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal, float64 [count, C·H·W]."""
        size = (count, torch.Size(self.shape).numel())
        noise = torch.randn(size, generator=generator, device=generator.device, dtype=torch.float64)
        return noise.to(self.device)


def channel(logsnr: Tensor, trailing: int) -> tuple[Tensor, Tensor]:
    """a and b of z = a x + b ε at log-SNR [N]: √σ(λ) and √σ(-λ), float64 [N,1,…] with ``trailing`` ones."""
    logsnr = logsnr.double().view(-1, *(1,) * trailing)
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
