"""Numbers with standard errors, and their confidence intervals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


def interval(
    value: Tensor, stderr: Tensor, dof: int, level: float = 0.95, positive: Tensor | bool = False
) -> tuple[Tensor, Tensor]:
    """Ends of confidence intervals of ``value`` [*] by Student's t with ``dof`` degrees of freedom.

    Those of what is ``positive`` (bool [*]), an integral of squares, are even on the log scale, value · e^(±t·stderr /
    value) by the delta method: rare noise makes most of it, which a few replicates often miss and never find with the
    other sign, so that what is far too small is much more likely than what is far too large.
    """
    from scipy.special import stdtrit

    if not 0 < level < 1:
        raise ValueError(f"level: found {level}, expected a probability such as 0.95")
    half = float(stdtrit(dof, 0.5 + level / 2)) * stderr
    positive = (value > 0) & positive
    factor = (half / value.where(positive, torch.ones_like(value))).exp()
    return torch.where(positive, value / factor, value - half), torch.where(positive, value * factor, value + half)


@dataclass(frozen=True)
class Estimate:
    """A number with its standard error, both in nats unless said; ``dof`` = replicates - 1.

    ``positive``: whether it is an integral of squares. As a number it is its value: ``float(e)``, ``f"{e:.3f}"``,
    ``e > 3``, ``sorted``; ``==`` is that of all four fields, and ``str(e)`` and ``f"{e}"`` have the error too.
    """

    value: float
    stderr: float
    dof: int
    positive: bool = False

    def interval(self, level: float = 0.95) -> tuple[float, float]:
        """Confidence interval by Student's t; see :func:`dpid.results.intervals.interval`."""
        value, stderr = torch.tensor((self.value, self.stderr), dtype=torch.float64, device="cpu")
        low, high = interval(value, stderr, self.dof, level, self.positive)
        return float(low), float(high)

    def to_dict(self) -> dict[str, float]:
        """Value and standard error, ready for JSON."""
        return {"value": self.value, "stderr": self.stderr}

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


def _value(number: Any) -> Any:
    return number.value if isinstance(number, Estimate) else number
