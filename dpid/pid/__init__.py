"""PID of two concepts from replicates of the set function f(S), with jackknife errors.

i(x; y1) = r + u1, i(x; y2) = r + u2, i(x; y1, y2) = r + u1 + u2 + s: one redundancy measure fixes all four atoms
(Williams & Beer, 2010). One measure a file.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from dpid.pid.minimum import minimum

MEASURES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {"min": minimum}


@dataclass(frozen=True)
class Atoms:
    """Values and standard errors, each of shape [*]: redundancy, unique (two of them), synergy."""

    redundancy: Tensor
    unique: tuple[Tensor, Tensor]
    synergy: Tensor
    stderr_redundancy: Tensor
    stderr_unique: tuple[Tensor, Tensor]
    stderr_synergy: Tensor


def jackknife(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Leave-one-out means [G, *] and the mean [*] of ``replicates`` [G, *]."""
    g = len(replicates)
    mean = replicates.mean(0)
    return (g * mean - replicates) / (g - 1), mean


def stderr(leave_one_out: Tensor) -> Tensor:
    """Jackknife standard error [*] of a statistic from its leave-one-out values [G, *] (Efron & Stein, 1981)."""
    g = len(leave_one_out)
    spread: Tensor = (leave_one_out - leave_one_out.mean(0)).square().sum(0)
    return (spread * (g - 1) / g).sqrt()


def mean_stderr(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [*] of ``replicates`` [G, *] and its standard error [*]."""
    left_out, mean = jackknife(replicates)
    return mean, stderr(left_out)


def decompose(f: Tensor, measure: str = "min", corrected: bool = True) -> Atoms:
    """Atoms of ``f`` [G, 3, *]: replicates of f(1), f(2), f(12). The measure acts after averaging over replicates.

    ``corrected``: the redundancy is corrected for the bias that a nonlinear measure has on noisy inputs (jackknife:
    G r - (G-1) mean of leave-one-out r). r + u1 + u2 + s = f(12) holds to rounding either way.

    Raises
    ------
    ValueError
        An unknown measure, or fewer than two replicates.
    """
    if measure not in MEASURES:
        raise ValueError(f"measure: found {measure!r}, allowed are {', '.join(MEASURES)}")
    if len(f) < 2:
        raise ValueError(f"replicates: found {len(f)}, an error bar needs at least 2")
    redundancy_of = MEASURES[measure]
    left_out, mean = jackknife(f)
    r_left_out = redundancy_of(left_out[:, 0], left_out[:, 1])
    r = redundancy_of(mean[0], mean[1])
    if corrected:
        r = len(f) * r - (len(f) - 1) * r_left_out.mean(0)
    return Atoms(
        r,
        (mean[0] - r, mean[1] - r),
        mean[2] - mean[0] - mean[1] + r,
        stderr(r_left_out),
        (stderr(left_out[:, 0] - r_left_out), stderr(left_out[:, 1] - r_left_out)),
        stderr(left_out[:, 2] - left_out[:, 0] - left_out[:, 1] + r_left_out),
    )
