"""The base class of exact denoisers: models of a known density, whose prediction ε̂ has a closed form."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser


class ExactDenoiser(Denoiser):
    """A denoiser of x [C,H,W] ~ p(x | condition) with a known density; it can be evaluated at any log-SNR.

    Parameters
    ----------
    shape : (C, H, W) of x
    conditions : {name: parameters of p(x | name)}
    device : the device on which it computes
    logsnr_range : ends of the integral over log-SNR, ascending
    levels : number of evenly spaced grid points in that range, two or more

    Raises
    ------
    ValueError
        ``logsnr_range`` is not finite and ascending, or ``levels`` is below two.
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
        """The device on which it computes."""
        return self._device

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of x."""
        channels, height, width = self.shape
        return channels, height, width

    @property
    def any_size(self) -> bool:
        """False: the density is defined for one shape of x only."""
        return False

    @abstractmethod
    def log_density(self, x: Tensor, condition: Any) -> Tensor:
        """log p(x | condition) of x [B,C,H,W]: float64 [B], nats."""

    @abstractmethod
    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples x ~ p(x | condition), float32 [count,C,H,W]."""

    def log_ratio(self, x: Tensor, condition: Any, null: Any) -> Tensor:
        """log p(x | condition) / p(x | null) of x [B,C,H,W]: float64 [B], nats; the truth to estimate."""
        return self.log_density(x, condition) - self.log_density(x, null)

    def _known(self, condition: Any) -> Any:
        """The parameters of ``condition``; ``ValueError`` for an unknown name."""
        if condition not in self.conditions:
            raise ValueError(
                f"conditions: {condition!r} is unknown; this model has {', '.join(map(repr, self.conditions))}"
            )
        return self.conditions[condition]

    def _flat(self, x: Tensor) -> Tensor:
        """``x`` [B,C,H,W] as float64 [B, C·H·W]; ``ValueError`` for a wrong shape or a value that is not finite."""
        if x.shape[1:] != self.shape:
            raise ValueError(f"x: found shape {tuple(x.shape)}, expected [B, {', '.join(map(str, self.shape))}]")
        if not x.isfinite().all():
            raise ValueError("x: found NaN or infinity, expected finite values")
        return x.to(self.device, torch.float64).flatten(1)

    def _noise(self, count: int, generator: torch.Generator) -> Tensor:
        """Standard normal noise, float64 [count, C·H·W]."""
        size = (count, torch.Size(self.shape).numel())
        noise = torch.randn(size, generator=generator, device=generator.device, dtype=torch.float64)
        return noise.to(self.device)


def check_tensors(name: str, *values: Any) -> None:
    """Raise ``TypeError``, naming the argument ``name``, unless all ``values`` are tensors."""
    for value in values:
        if not isinstance(value, Tensor):
            raise TypeError(f"{name}: found {type(value).__name__}, expected a torch.Tensor")


def channel(logsnr: Tensor, trailing: int) -> tuple[Tensor, Tensor]:
    """Coefficients a = √σ(λ) and b = √σ(-λ) of z = a x + b ε, docs/theory.md, eq. (1).

    Float64 [N,1,…,1] with ``trailing`` ones, for ``logsnr`` [N].
    """
    logsnr = logsnr.double().view(-1, *(1,) * trailing)
    return logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()
