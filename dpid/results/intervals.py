"""Confidence intervals, and numbers with standard errors."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpid.pid import mean_stderr

_FARTHEST = 2.0  # times the near end's distance from the value, for the end of an interval that is farther from zero


def interval(
    value: Tensor, stderr: Tensor, dof: int, level: float = 0.95, positive: Tensor | bool = False
) -> tuple[Tensor, Tensor]:
    """The lower and upper ends [*] of confidence intervals by Student's t; docs/theory.md, eq. (19).

    Rare noise makes most of a number and of its standard error, so that a few samples find both too small together. The
    end farther from zero is therefore that of the logarithmic scale, up to twice as far from the value as the other.
    Integrals of squares are positive, and the nearer end of theirs is of that scale, too; docs/theory.md, eq. (20).

    Parameters
    ----------
    value, stderr : numbers and their standard errors, [*]
    dof : degrees of freedom, replicates - 1
    level : the probability that an interval holds the truth, in (0, 1); ``ValueError`` for another
    positive : bool [*], which values are integrals of squares
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a probability such as 0.95")
    half = float(stdtrit(dof, 0.5 + level / 2)) * stderr
    positive = (value > 0) & positive
    relative = half / value.abs().clamp_min(torch.finfo(value.dtype).tiny)
    capped = relative.clamp(1e-6, 10)  # outside of which the ratio of both scales is 1, or far beyond the bound
    far = half * (capped.expm1() / capped).clamp(max=_FARTHEST)
    low, high = torch.where(value < 0, -far, -half), torch.where(value < 0, half, far)
    return torch.where(positive, value * (-relative).exp(), value + low), value + high


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in nats unless said otherwise.

    ``float(e)``, ``f"{e:.3f}"``, ``e > 3`` and ``sorted`` use the value alone, ``==`` compares all four fields, and
    ``str(e)`` and ``f"{e}"`` show the standard error too.

    Attributes
    ----------
    value, stderr : the number and its standard error
    dof : degrees of freedom of its interval, replicates - 1
    positive : whether it is an integral of squares; see :func:`interval`
    """

    value: float
    stderr: float
    dof: int
    positive: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """The lower and upper end of the confidence interval; see :func:`dpid.results.intervals.interval`."""
        value, stderr = torch.tensor((self.value, self.stderr), dtype=torch.float64, device="cpu")
        low, high = interval(value, stderr, self.dof, level, self.positive)
        return float(low), float(high)

    def to_dict(self) -> dict[str, Any]:
        """{"value": …, "stderr": …, "interval95": [low, high]}, for JSON, where NaN and infinity are None."""
        value, stderr, *ends = (x if math.isfinite(x) else None for x in (self.value, self.stderr, *self.interval()))
        return {"value": value, "stderr": stderr, "interval95": ends}

    def __str__(self) -> str:
        return f"{self.value:.2f} ± {self.stderr:.2f}"

    def __format__(self, spec: str) -> str:
        return format(self.value, spec) if spec else str(self)

    def __float__(self) -> float:
        return float(self.value)

    def __lt__(self, other: Any) -> Any:
        return self.value < _value(other)

    def __le__(self, other: Any) -> Any:
        return self.value <= _value(other)

    def __gt__(self, other: Any) -> Any:
        return self.value > _value(other)

    def __ge__(self, other: Any) -> Any:
        return self.value >= _value(other)


def estimates(replicates: Tensor, positive: Sequence[bool] = ()) -> list[Estimate]:
    """The means of N numbers from ``replicates`` [G,N]; ``positive``: which are integrals of squares, () for none."""
    mean, error = (t.tolist() for t in mean_stderr(replicates))
    numbers = zip(mean, error, positive or [False] * len(mean), strict=True)
    return [Estimate(value, stderr, len(replicates) - 1, square) for value, stderr, square in numbers]


def _value(number: Any) -> Any:
    return number.value if isinstance(number, Estimate) else number
