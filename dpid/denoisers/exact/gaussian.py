"""The exact denoiser of data that are Gaussian under every condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain, combinations
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.exact.base import ExactDenoiser, channel, check_tensors
from dpid.denoisers.protocol import Conditions

# Bounds on the asymmetry of a covariance over its largest entry, and on its smallest eigenvalue over its largest one:
# what the rounding of float32 input can explain.
_ASYMMETRY, _SINGULAR = 1e-6, 1e-12


class GaussianDenoiser(ExactDenoiser):
    """The denoiser of x | y ~ N(mean_y, Σ_y), with independent coordinates or any covariance.

    ε̂ follows docs/theory.md, eq. (58), computed in the eigenvectors of Σ.

    Parameters
    ----------
    conditions : {name: (mean [C,H,W], spread)}; spread is the variance [C,H,W] of independent coordinates, > 0, or a
        positive definite covariance [D,D] over the D = C·H·W coordinates in the order of ``mean.flatten()``
    logsnr_range : ends of the integral over log-SNR; the default leaves a negligible part outside
    levels : number of grid points in that range

    Raises
    ------
    ValueError, TypeError
        There is no condition, one is of no tensors, shapes do not fit, or a variance or covariance is not positive.
    """

    name = "gaussian"

    def __init__(
        self,
        conditions: Mapping[str, tuple[Tensor, Tensor]],
        logsnr_range: tuple[float, float] = (-16.0, 22.0),
        levels: int = 4001,
    ) -> None:
        if not conditions:
            raise ValueError("conditions: found none, expected {name: (mean, variance or covariance)}")
        first = next(iter(conditions.values()))[0]
        for name, (mean, spread) in conditions.items():
            check_tensors("conditions", first, mean, spread)
            size = mean.numel()
            if mean.ndim != 3 or mean.shape != first.shape or spread.shape not in (mean.shape, (size, size)):
                raise ValueError(
                    f"conditions: {name!r} has shapes {tuple(mean.shape)}, {tuple(spread.shape)}, expected one [C,H,W] "
                    "for all, and as spread [C,H,W] or [C·H·W, C·H·W]"
                )
            if not (mean.isfinite().all() and spread.isfinite().all()):
                raise ValueError(f"conditions: {name!r} has NaN or infinity")
        super().__init__(tuple(first.shape), conditions, first.device, logsnr_range, levels)
        self._spectra = {
            name: _spectrum(f"conditions: the spread of {name!r}", spread) for name, (_, spread) in conditions.items()
        }

    @classmethod
    def joint(
        cls,
        covariance: Tensor,
        shape: tuple[int, int, int],
        observed: Mapping[str, float | Tensor],
        logsnr_range: tuple[float, float] = (-16.0, 22.0),
        levels: int = 4001,
    ) -> GaussianDenoiser:
        """The denoiser of x given every subset of observed sources, all jointly Gaussian with mean zero.

        A condition is named by its sources joined with ``+`` in the order of ``observed``; ``""`` is p(x) without any.
        x | y_S ~ N(Σ_xS Σ_SS⁻¹ y_S, Σ_xx - Σ_xS Σ_SS⁻¹ Σ_Sx).

        Parameters
        ----------
        covariance : [D+n, D+n] of x (of shape ``shape``) and then the sources, in the order of ``observed``
        shape : (C, H, W) of x, D = C·H·W
        observed : {source: its value, a number or a vector}, n numbers in all

        Raises
        ------
        ValueError, TypeError
            ``covariance`` is no tensor, not positive definite, or its size does not fit.
        """
        check_tensors("covariance", covariance)
        covariance = covariance.double()
        values = {
            k: torch.as_tensor(v, dtype=torch.float64).to(covariance.device).view(-1) for k, v in observed.items()
        }
        size, total = torch.Size(shape).numel(), torch.Size(shape).numel() + sum(map(len, values.values()))
        if covariance.shape != (total, total):
            raise ValueError(f"covariance: found shape {tuple(covariance.shape)}, expected [{total}, {total}]")
        _spectrum("covariance: it", covariance)
        places, start = {}, size
        for source, value in values.items():
            places[source], start = range(start, start + len(value)), start + len(value)
        conditions = {}
        for subset in chain.from_iterable(combinations(values, r) for r in range(len(values) + 1)):
            at = [i for source in subset for i in places[source]]
            y = torch.cat([covariance.new_zeros(0), *(values[source] for source in subset)])
            gain = torch.linalg.solve(covariance[at][:, at], covariance[at, :size]).mT  # Σ_xS Σ_SS⁻¹ [D, |S|]
            spread = covariance[:size, :size] - gain @ covariance[at, :size]
            conditions["+".join(subset)] = ((gain @ y).view(shape), (spread + spread.mT) / 2)
        return cls(conditions, logsnr_range, levels)

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """The means [K,D] of the conditions and the eigenvalues [K,D] of their covariances.

        If a covariance is not diagonal, also the eigenvectors [K,D,D] in columns. ``ValueError`` for an unknown name.
        """
        means = torch.stack([self._known(name)[0].double().flatten() for name in conditions])
        spectra = [self._spectra[name] for name in conditions]
        variances = torch.stack([variance for variance, _ in spectra])
        if all(axes is None for _, axes in spectra):
            return Conditions(tuple(conditions), (means, variances))
        identity = torch.eye(means.shape[1], dtype=torch.float64, device=self.device)
        axes = torch.stack([identity if axes is None else axes for _, axes in spectra])
        return Conditions(tuple(conditions), (means, variances, axes))

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """The exact noise E[ε | z, condition], [N,K,B,C,H,W], for z [N,B,C,H,W] at log-SNR [N]."""
        means, variances, *axes = conditions.encoded
        a, b = channel(logsnr, 3)
        rest = z.double().flatten(2)[:, None] - a * means[:, None]  # [N,K,B,D]
        rest = rest @ axes[0] if axes else rest
        rest = b * rest / (a.square() * variances[:, None] + b.square())
        rest = rest @ axes[0].mT if axes else rest
        eps: Tensor = rest.view(*rest.shape[:3], *self.shape)
        return eps.to(z.dtype)

    def log_density(self, x: Tensor, condition: Any) -> Tensor:
        """log p(x | condition) of x [B,C,H,W]: float64 [B], nats; ``ValueError`` for an unknown name or a bad x."""
        mean = self._known(condition)[0].double().flatten()
        variance, axes = self._spectra[condition]
        rest = self._flat(x) - mean
        rest = rest if axes is None else rest @ axes
        density: Tensor = -0.5 * (rest.square() / variance + variance.log() + log(2 * pi)).sum(1)
        return density

    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples x ~ p(x | condition), float32 [count,C,H,W]; ``ValueError`` for an unknown name."""
        mean = self._known(condition)[0].double().flatten()
        variance, axes = self._spectra[condition]
        noise = variance.sqrt() * self._noise(count, generator)
        x: Tensor = mean + (noise if axes is None else noise @ axes.mT)
        return x.view(count, *self.shape).float()


def _spectrum(what: str, spread: Tensor) -> tuple[Tensor, Tensor | None]:
    """Eigenvalues [D] of the covariance ``spread``, and its eigenvectors [D,D] in columns, None if it is diagonal.

    ``ValueError``, which begins with ``what``, unless it is finite, symmetric and positive definite.
    """
    spread = spread.double()
    if spread.ndim == 3:
        if not (spread > 0).all():
            raise ValueError(f"{what} must be positive everywhere")
        return spread.flatten(), None
    if not spread.isfinite().all() or (spread - spread.mT).abs().max() > _ASYMMETRY * spread.abs().max():
        raise ValueError(f"{what} must be finite and symmetric")
    variances, axes = torch.linalg.eigh((spread + spread.mT) / 2)
    if not variances[0] > _SINGULAR * variances[-1].abs():
        raise ValueError(
            f"{what} must be positive definite; "
            f"its eigenvalues reach from {float(variances[0]):.3g} to {float(variances[-1]):.3g}"
        )
    return variances, axes
