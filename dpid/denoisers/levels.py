"""Noise levels that a network was trained at, and the conversion of its input and output; docs/theory.md, eq. (3).

:class:`Discrete` is for networks trained at numbered timesteps of a variance-preserving process that predict ε or v,
:class:`Flow` for those that predict the velocity of a rectified flow, and :class:`Preconditioned` for those of EDM.
They have the same methods: the grid of log-SNRs, ``time`` (the timestep or time argument of the network), ``enter``
(from z = √σ(λ) x + √σ(-λ) ε to the network's input) and ``eps`` (from its output to ε̂).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

PREDICTIONS = ("epsilon", "v_prediction")


def check_prediction(name: str) -> None:
    """Raise ``ValueError`` unless ``name`` is one of ``PREDICTIONS``; returns nothing."""
    if name not in PREDICTIONS:
        raise ValueError(f"pipe: prediction_type {name!r} is not supported; {' and '.join(PREDICTIONS)} are")


def _level(logsnr: Tensor, like: Tensor) -> Tensor:
    """``logsnr`` [N] as float64 [N,1,…,1], which broadcasts against ``like`` [N,…]."""
    return logsnr.double().view(-1, *(1,) * (like.ndim - 1))


@dataclass(frozen=True)
class Discrete:
    """The trained timesteps of a variance-preserving network that predicts ε, or v = √σ(λ) ε - √σ(-λ) x.

    Parameters
    ----------
    alphas : the scheduler's ``alphas_cumprod`` [T], σ(λ) of every timestep. Values of 0 and 1 (zero terminal SNR, a
        schedule that starts at β = 0) have no finite log-SNR and are left out
    prediction : "epsilon" or "v_prediction"

    Attributes
    ----------
    grid : log-SNRs of the timesteps, ascending float64 [T]

    Raises
    ------
    ValueError
        ``prediction`` is another, or no timestep has a finite log-SNR.
    """

    alphas: Tensor
    prediction: str
    grid: Tensor = field(init=False)
    _timesteps: Tensor = field(init=False)
    _copies: dict[torch.device, tuple[Tensor, Tensor]] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        alphas = self.alphas.double().cpu()
        timesteps = ((alphas > 0) & (alphas < 1)).nonzero()[:, 0].flip(0)
        if not len(timesteps):
            raise ValueError("pipe: its scheduler has no timestep between noise and picture")
        usable = alphas[timesteps]
        # The class is frozen, so that plain assignment would fail.
        object.__setattr__(self, "grid", usable.log() - (-usable).log1p())
        object.__setattr__(self, "_timesteps", timesteps)

    @property
    def signature(self) -> tuple[str | bytes, ...]:
        """What tells these levels from others."""
        return self.prediction, self.grid.numpy().tobytes()

    def time(self, logsnr: Tensor) -> Tensor:
        """The timesteps [N] of log-SNRs [N].

        ``ValueError`` for a log-SNR off the grid; checked on the CPU only, since elsewhere it would make the host wait.
        """
        if logsnr.device not in self._copies:  # copied once: in every batch the host would wait for the device
            self._copies[logsnr.device] = self.grid.to(logsnr.device), self._timesteps.to(logsnr.device)
        grid, timesteps = self._copies[logsnr.device]
        level = (logsnr.to(grid.dtype)[:, None] - grid).abs().argmin(1)
        # 1e-4 of log-SNR is a hundredth of the finest step of Stable Diffusion's grid.
        if logsnr.device.type == "cpu" and (logsnr - grid[level]).abs().max() > 1e-4:
            raise ValueError(f"logsnr: found values off the trained grid, {grid[0]:.3f}…{grid[-1]:.3f}")
        return timesteps[level]

    @staticmethod
    def enter(z: Tensor, logsnr: Tensor) -> Tensor:
        """The network's input for z = √σ(λ) x + √σ(-λ) ε [N,…]: z itself."""
        return z

    def eps(self, out: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """Predicted noise ε̂ [*,N,…] from the network's output ``out`` [*,N,…] for its input ``x`` [N,…]."""
        if self.prediction == "epsilon":
            return out
        level = _level(logsnr, x)
        return level.sigmoid().sqrt().float() * out.float() + (-level).sigmoid().sqrt().float() * x.float()


_COUNT = 1001  # levels of a network whose time is continuous, at most


@dataclass(frozen=True)
class Flow:
    """The noise levels of a rectified flow x_t = (1-t) x + t ε, 0 < t < 1, whose velocity u = ε - x is predicted.

    σ in the code is this t, the network's time: σ = sigmoid(-λ/2). With z = √σ(λ) x + √σ(-λ) ε the network's input is
    x_σ = √((1-σ)² + σ²) z. ε̂ is computed in float32, so that differences of two ε̂ lose no precision.

    Parameters
    ----------
    low, high : ends of the range of log-SNRs
    told : maps σ to the value that the network receives after rounding to its own type; the grid holds only such values

    Attributes
    ----------
    grid : log-SNRs of the levels, ascending float64 [T]

    Raises
    ------
    ValueError
        ``low`` is not below ``high``.
    """

    low: float
    high: float
    told: Callable[[Tensor], Tensor] = lambda sigma: sigma
    grid: Tensor = field(init=False)

    def __post_init__(self) -> None:
        if not self.low < self.high:
            raise ValueError(f"low, high: found {self.low}, {self.high}, expected ascending log-SNRs")
        sigma = torch.linspace(self.low, self.high, _COUNT, dtype=torch.float64).div(-2).sigmoid()
        sigma = self.told(sigma.float()).double()
        sigma = torch.unique(sigma[(sigma > 0) & (sigma < 1)]).flip(0)
        object.__setattr__(self, "grid", 2 * (torch.log1p(-sigma) - sigma.log()))

    @classmethod
    def trained(cls, shift: float, told: Callable[[Tensor], Tensor]) -> Flow:
        """The levels at which a training with logit-normal σ and time ``shift`` drew its samples.

        The range holds all but 5e-4 of them: λ is normal, N(-2 log shift, 2²), and the range reaches 3.5 standard
        deviations to either side.
        """
        middle = -2 * math.log(shift)
        return cls(middle - 7, middle + 7, told)

    @property
    def signature(self) -> tuple[str | bytes, ...]:
        """What tells these levels from others."""
        return "flow", self.grid.numpy().tobytes()

    @staticmethod
    def time(logsnr: Tensor) -> Tensor:
        """The network's times σ [N] float32 of log-SNRs [N]."""
        return logsnr.double().div(-2).sigmoid().float()

    @staticmethod
    def enter(z: Tensor, logsnr: Tensor) -> Tensor:
        """The network's input x_σ [N,…] for z = √σ(λ) x + √σ(-λ) ε [N,…]."""
        level = _level(logsnr, z)
        return (level.div(2).sigmoid() / level.sigmoid().sqrt()).to(z.dtype) * z

    @staticmethod
    def eps(out: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """Predicted noise ε̂ [*,N,…] float32 from the velocity ``out`` [*,N,…] at the network's input ``x`` [N,…]."""
        return x.float() + _level(logsnr, x).div(2).sigmoid().float() * out.float()


@dataclass(frozen=True)
class Preconditioned:
    """The noise levels of a network that is preconditioned as of EDM (Karras et al., 2022, table 1).

    With the noise level s = e^(-λ/2), its input for x + s ε is (x + s ε) / √(s² + d²), it is told ¼ log s, and of its
    output F the mean of x is made as d²/(s² + d²) (x + s ε) + c F, where c = s d / √(s² + d²), or -c where F is called
    a v-prediction.

    Parameters
    ----------
    low, high : ends of the noise levels s
    deviation : d, the standard deviation of pictures' latents
    prediction : "epsilon" or "v_prediction", by which diffusers tells the sign of c

    Attributes
    ----------
    grid : log-SNRs of the levels, ascending float64 [T]

    Raises
    ------
    ValueError
        ``low`` is not below ``high``, or ``prediction`` is another.
    """

    low: float
    high: float
    deviation: float
    prediction: str
    grid: Tensor = field(init=False)

    def __post_init__(self) -> None:
        check_prediction(self.prediction)
        if not 0 < self.low < self.high:
            raise ValueError(
                f"pipe: its scheduler has sigma_min {self.low} and sigma_max {self.high}, expected positive, ascending"
            )
        noisiest, clearest = (-2 * math.log(s) for s in (self.high, self.low))
        object.__setattr__(self, "grid", torch.linspace(noisiest, clearest, _COUNT, dtype=torch.float64))

    @property
    def signature(self) -> tuple[str | bytes, ...]:
        """What tells these levels from others."""
        return "edm", self.prediction, str(self.deviation), self.grid.numpy().tobytes()

    @staticmethod
    def time(logsnr: Tensor) -> Tensor:
        """What the network is told, ¼ log s [N] float32, of log-SNRs [N]."""
        return logsnr.double().div(-8).float()

    def enter(self, z: Tensor, logsnr: Tensor) -> Tensor:
        """The network's input [N,…] for z = √σ(λ) x + √σ(-λ) ε [N,…]."""
        noise, size = self._sizes(logsnr, z)
        return ((1 + noise.square()).sqrt() / size).to(z.dtype) * z

    def eps(self, out: Tensor, x: Tensor, logsnr: Tensor) -> Tensor:
        """Predicted noise ε̂ [*,N,…] float32 from the output ``out`` [*,N,…] at the network's input ``x`` [N,…]."""
        noise, size = self._sizes(logsnr, x)
        sign = 1 if self.prediction == "v_prediction" else -1
        return (noise / size).float() * x.float() + (sign * self.deviation / size).float() * out.float()

    def _sizes(self, logsnr: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        """s and √(s² + d²), float64 [N,1,…,1]."""
        noise = _level(logsnr, like).div(-2).exp()
        return noise, (noise.square() + self.deviation**2).sqrt()


Levels = Discrete | Flow | Preconditioned
