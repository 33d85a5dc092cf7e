"""What exact denoisers share: models whose density, and so every answer, is known in closed form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser


class ExactDenoiser(Denoiser):
    """A denoiser over x [C,H,W] with the density that it denoises; nothing was trained, so any log-SNR may be asked.

    Parameters
    ----------
    shape : (C, H, W) of x
    conditions : the named conditions
    device : of everything that is computed
    logsnr_range : ends of the integral, ascending
    levels : evenly spaced grid points over it, two or more
    """

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
        self.shape, self.conditions, self._device = shape, dict(conditions), device
        self._grid = torch.linspace(low, high, levels, dtype=torch.float64)

    @property
    def logsnr_grid(self) -> Tensor:
        """Evenly spaced log-SNRs [levels], float64."""
        return self._grid

    @property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return self._device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of x."""
        channels, height, width = self.shape
        return channels, height, width

    @property
    def any_size(self) -> bool:
        """The density is that of one size."""
        return False

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
