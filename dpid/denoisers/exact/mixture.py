"""The exact denoiser of a mixture of isotropic Gaussians whose weights depend on the condition."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import log, pi
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.exact.base import ExactDenoiser, channel, check_tensors
from dpid.denoisers.protocol import Conditions

_SUM = 1e-6  # tolerance of the sum of the weights: the rounding error of a vector normalised in float32


def check_weights(name: object, weights: Tensor) -> Tensor:
    """The weights of condition ``name`` in float64, normalised; ``ValueError`` if they are no probabilities."""
    weights = weights.double()
    if not (weights >= 0).all():
        raise ValueError(f"conditions: {name!r} has a negative weight or NaN; weights are probabilities")
    total = float(weights.sum())
    if not abs(total - 1) <= _SUM:
        raise ValueError(f"conditions: the weights of {name!r} sum to {total:.6g}, expected 1")
    return weights / total


class MixtureDenoiser(ExactDenoiser):
    """The denoiser of x | y ~ Σ_m w_m(y) N(mean_m, scale² I).

    ε̂ follows docs/theory.md, eq. (59); in the responsibilities |z|², which all components share, is left out.

    Parameters
    ----------
    means : of the M components, [M,C,H,W]
    scale : standard deviation of every component, > 0
    conditions : {name: weights [M]}, none negative, sum 1
    logsnr_range : ends of the integral over log-SNR; the default leaves a negligible part outside
    levels : number of grid points in that range

    Raises
    ------
    ValueError, TypeError
        Means or weights are no tensors, shapes do not fit, ``scale`` is not positive, or weights are no probabilities.
    """

    name = "mixture"

    def __init__(
        self,
        means: Tensor,
        scale: float,
        conditions: Mapping[str, Tensor],
        logsnr_range: tuple[float, float] = (-16.0, 22.0),
        levels: int = 4001,
    ) -> None:
        check_tensors("means", means)
        check_tensors("conditions", *conditions.values())
        if means.ndim != 4 or not means.isfinite().all():
            raise ValueError(f"means: found shape {tuple(means.shape)}, expected finite [M,C,H,W]")
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale: found {scale}, expected a positive number")
        for name, weights in conditions.items():
            if weights.shape != means.shape[:1]:
                raise ValueError(f"conditions: {name!r} has shape {tuple(weights.shape)}, expected [{len(means)}]")
        known = {name: check_weights(name, weights.to(means.device)) for name, weights in conditions.items()}
        super().__init__(tuple(means.shape[1:]), known, means.device, logsnr_range, levels)
        self.scale = float(scale)
        self._means = means.double().flatten(1)  # [M,D]
        self._half_norms = self._means.square().sum(1) / 2

    def evaluation_bytes(self, height: int, width: int) -> int:
        """Memory of one evaluation in bytes: three float64 vectors over the components, four over x."""
        return 8 * (3 * len(self._means) + 4 * self._means.shape[1])

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """The log weights [K,M] of the conditions; ``ValueError`` for an unknown name."""
        return Conditions(tuple(conditions), torch.stack([self._known(name) for name in conditions]).log())

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """The exact noise E[ε | z, condition], [N,K,B,C,H,W], for z [N,B,C,H,W] at log-SNR [N]."""
        a, b = channel(logsnr, 2)
        v = a.square() * self.scale**2 + b.square()
        flat = z.double().flatten(2)  # [N,B,D]
        likelihoods = (a * (flat @ self._means.mT) - a.square() * self._half_norms) / v  # [N,B,M]
        responsibilities = (likelihoods[:, None] + conditions.encoded[:, None]).softmax(-1)  # [N,K,B,M]
        mean = responsibilities @ self._means
        eps: Tensor = (b / v)[:, None] * (flat[:, None] - a[:, None] * mean)
        return eps.view(*eps.shape[:3], *self.shape).to(z.dtype)

    def log_density(self, x: Tensor, condition: Any) -> Tensor:
        """log p(x | condition) of x [B,C,H,W]: float64 [B], nats; ``ValueError`` for an unknown name or a bad x."""
        flat, v = self._flat(x), self.scale**2
        exponents = (flat @ self._means.mT - self._half_norms - flat.square().sum(1, keepdim=True) / 2) / v
        density: Tensor = (exponents + self._known(condition).log()).logsumexp(1)
        return density - flat.shape[1] / 2 * log(2 * pi * v)

    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """``count`` samples x ~ p(x | condition), float32 [count,C,H,W]; ``ValueError`` for an unknown name."""
        weights = self._known(condition).to(generator.device)
        chosen = torch.multinomial(weights, count, replacement=True, generator=generator).to(self.device)
        x: Tensor = self._means[chosen] + self.scale * self._noise(count, generator)
        return x.view(count, *self.shape).float()
