"""Between the channel of the engine, z = √σ(λ) x + √σ(-λ) ε, and what a network was trained on.

:class:`Discrete` for networks that were trained at numbered timesteps of a variance-preserving process and predict the
noise ε or v; :class:`Flow` for those that predict the velocity of a straight path between picture and noise. Each says
which log-SNRs the network knows, what time it is told, what it is given, and how its output becomes ε̂.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def _level(logsnr: Tensor, like: Tensor) -> Tensor:
    """Log-SNRs [N] as float64 [N,1,…] of as many dimensions as ``like`` [N,…]."""
    return logsnr.double().view(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class Discrete:
    """Trained timesteps of a variance-preserving network that predicts ε, or v = √σ(λ) ε - √σ(-λ) x.

    Parameters
    ----------
    alphas : the scheduler's ``alphas_cumprod`` [T], σ(λ) of every timestep. Those without noise or without picture (a
        schedule that starts at β = 0, one rescaled to zero terminal SNR) are at no finite log-SNR and left out
    prediction : "epsilon" or "v_prediction"

    Raises
    ------
    ValueError
        Another prediction, or no timestep at a finite log-SNR.
    """

    alphas: Tensor
    prediction: str
    grid: Tensor = field(init=False)  # ascending log-SNRs float64 [T]
    _timesteps: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"pipe: prediction_type {self.prediction!r} is not supported; epsilon and v_prediction are"
            )
        alphas = self.alphas.double().cpu()
        timesteps = ((alphas > 0) & (alphas < 1)).nonzero()[:, 0].flip(0)
        if not len(timesteps):
            raise ValueError("pipe: its scheduler has no timestep between noise and picture")
        usable = alphas[timesteps]
        # Frozen: set once, here.
        object.__setattr__(self, "grid", usable.log() - (-usable).log1p())
        object.__setattr__(self, "_timesteps", timesteps)

    @property
    def signature(self) -> tuple[str | bytes, ...]:
        """What tells these levels from others."""
        return self.prediction, self.grid.numpy().tobytes()

    def time(self, logsnr: Tensor) -> Tensor:
        """The timesteps [N] of log-SNRs [N]; on the CPU ``ValueError`` for one that is not on the grid."""
        grid, timesteps = (t.to(logsnr.device) for t in (self.grid, self._timesteps))
        level = (logsnr.to(grid.dtype)[:, None] - grid).abs().argmin(1)
        # 1e-4 of log-SNR is a hundredth of the finest step of Stable Diffusion's grid.
        if logsnr.device.type == "cpu" and (logsnr - grid[level]).abs().max() > 1e-4:
            raise ValueError(f"logsnr: found values off the trained grid, {grid[0]:.3f}…{grid[-1]:.3f}")
        return timesteps[level]

    @staticmethod
    def enter(z: Tensor, logsnr: Tensor) -> Tensor:
        """What the network is given for z [N,…] of the channel: z itself."""
        return z

    def eps(self, out: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """ε̂ [*,N,…] of the network's output ``out`` [*,N,…] for its input ``x`` [N,…]."""
        if self.prediction == "epsilon":
            return out
        level = _level(logsnr, x)
        return level.sigmoid().sqrt().float() * out.float() + (-level).sigmoid().sqrt().float() * x.float()


@dataclass(frozen=True)
class Flow:
    """A straight path x_σ = (1-σ) x + σ ε, 0 < σ < 1, whose velocity v = ε - x the network predicts.

    λ = 2 log((1-σ)/σ), so that σ = sigmoid(-λ/2), and x_σ is the z of the channel but for a factor, x_σ = z /
    √((1-σ)² + σ²). Then ε̂ = x_σ + (1-σ) v̂, in float32: a difference of two ε̂ is (1-σ) (v̂_i - v̂_j) and loses nothing.

    Parameters
    ----------
    low, high : ends of the log-SNRs
    told : σ -> the σ that the network reads, where its own type rounds it: the grid has only levels that it can be told
    count : levels, at most
    """

    low: float
    high: float
    told: Callable[[Tensor], Tensor] = lambda sigma: sigma
    count: int = 1001
    grid: Tensor = field(init=False)  # ascending log-SNRs float64 [T]

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low, high: found {self.low}, {self.high}, expected ascending log-SNRs")
        sigma = torch.linspace(self.low, self.high, self.count, dtype=torch.float64).div(-2).sigmoid()
        sigma = self.told(sigma.float()).double()
        sigma = torch.unique(sigma[(sigma > 0) & (sigma < 1)]).flip(0)
        object.__setattr__(self, "grid", 2 * (torch.log1p(-sigma) - sigma.log()))

    @classmethod
    def trained(cls, shift: float, told: Callable[[Tensor], Tensor], mean: float = 0.0, std: float = 1.0) -> Flow:
        """Where all but 5e-4 of a training with logit-normal σ (mean, std) and a shift of time was.

        λ is then normal, N(-2 (mean + log shift), (2 std)²), and 3.5 standard deviations are taken to either side.
        """
        middle = -2 * (mean + math.log(shift))
        return cls(middle - 7 * std, middle + 7 * std, told)

    @property
    def signature(self) -> tuple[str | bytes, ...]:
        """What tells these levels from others."""
        return "flow", self.grid.numpy().tobytes()

    @staticmethod
    def time(logsnr: Tensor) -> Tensor:
        """σ [N] float32 of log-SNRs [N]."""
        return logsnr.double().div(-2).sigmoid().float()

    @staticmethod
    def enter(z: Tensor, logsnr: Tensor) -> Tensor:
        """x_σ [N,…] of z [N,…]."""
        level = _level(logsnr, z)
        return (level.div(2).sigmoid() / level.sigmoid().sqrt()).to(z.dtype) * z

    @staticmethod
    def eps(out: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """ε̂ [*,N,…] float32 of the velocity ``out`` [*,N,…] at ``x`` = x_σ [N,…]."""
        return x.float() + _level(logsnr, x).div(2).sigmoid().float() * out.float()
