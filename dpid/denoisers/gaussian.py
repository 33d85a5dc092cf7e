"""A denoiser whose answers are known: under every condition x is Gaussian with independent coordinates."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Conditions


class GaussianDenoiser:
    """x | y ~ N(mean_y, variance_y), coordinate by coordinate.

    Parameters
    ----------
    conditions : {name: (mean [C,H,W], variance [C,H,W])}, variance > 0
    logsnr_range : ends of the integral; wide enough, since nothing was trained
    levels : grid points over it

    The posterior mean gives ε̂ = b (z - a m) / (a² v + b²) with a² = σ(λ), b² = σ(-λ).
    """

    name = "gaussian"
    precision = "float32"

    def __init__(
        self,
        conditions: Mapping[str, tuple[Tensor, Tensor]],
        logsnr_range: tuple[float, float] = (-16.0, 22.0),
        levels: int = 4001,
    ) -> None:
        for name, (mean, variance) in conditions.items():
            if mean.ndim != 3 or mean.shape != variance.shape:
                raise ValueError(
                    f"conditions: {name!r} has shapes {tuple(mean.shape)}, {tuple(variance.shape)}, "
                    "expected equal [C,H,W]"
                )
            if not (variance > 0).all():
                raise ValueError(f"conditions: the variance of {name!r} must be positive everywhere")
        self.conditions = dict(conditions)
        self.device = next(iter(conditions.values()))[0].device
        self._grid = torch.linspace(*logsnr_range, levels, dtype=torch.float64)

    @property
    def logsnr_grid(self) -> Tensor:
        """Evenly spaced log-SNRs [levels]."""
        return self._grid

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Stack means and variances [K,C,H,W] of the named conditions; ``ValueError`` for an unknown name."""
        for name in conditions:
            if name not in self.conditions:
                raise ValueError(f"conditions: {name!r} is unknown; this model has {', '.join(self.conditions)}")
        chosen = [self.conditions[name] for name in conditions]
        means, variances = (torch.stack(parts) for parts in zip(*chosen, strict=True))
        return Conditions(tuple(conditions), (means, variances))

    def encode_image(self, image: Tensor) -> Tensor:
        """There is no image encoder: pass ``latents=``."""
        raise ValueError("image: an exact denoiser has no image encoder; pass latents= instead")

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pictures are not resized."""
        return width, height

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,C,H,W], logsnr [N] -> ε̂ [N,K,B,C,H,W], exact."""
        mean, variance = (part[None, :, None] for part in conditions.encoded)  # [1,K,1,C,H,W]
        logsnr = logsnr.view(-1, 1, 1, 1, 1, 1).double()
        a2, b2 = logsnr.sigmoid(), (-logsnr).sigmoid()
        eps: Tensor = b2.sqrt() * (z[:, None] - a2.sqrt() * mean) / (a2 * variance + b2)
        return eps.to(z.dtype)
