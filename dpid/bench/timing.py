"""Times on any device: the seconds of a call, contenders in turns, and the speed of a large matrix product."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

import torch

from dpid.device import is_gpu, wait_for

Result = TypeVar("Result")
_CPUINFO = Path("/proc/cpuinfo")


def timed(call: Callable[[], Result], device: torch.device) -> tuple[Result, float]:
    """What ``call`` returns, and its wall time in seconds, the work of ``device`` included."""
    wait_for(device)
    began = time.perf_counter()
    result = call()
    wait_for(device)
    return result, time.perf_counter() - began


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The wall time of ``call``, as :func:`timed` takes it."""
    return timed(call, device)[1]


def in_turns(
    calls: Mapping[str, Callable[[], object]],
    clock: Callable[[Callable[[], object]], float],
    budget: float,
    least: int = 3,
) -> dict[str, list[float]]:
    """{name: seconds of every run} of ``calls``, which take turns for ``budget`` seconds and at least ``least`` rounds.

    What disturbs the machine then disturbs all of them. ``clock`` runs a call and returns its seconds.
    """
    times: dict[str, list[float]] = {name: [] for name in calls}
    end = time.perf_counter() + budget
    turns = 0
    while turns < least or time.perf_counter() < end:
        for name, call in calls.items():
            times[name].append(clock(call))
        turns += 1
    return times


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """The FLOP/s of a large matrix product in ``dtype``, the best of five."""
    n = 8192 if is_gpu(device) else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    return max(2 * n**3 / seconds(lambda: a @ a, device) for _ in range(5))


def machine(device: torch.device) -> str:
    """The name of ``device``, a GPU, or else of the processor with the number of threads."""
    if is_gpu(device):
        return torch.cuda.get_device_name(device)
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    names = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.processor()}, {torch.get_num_threads()} threads"
