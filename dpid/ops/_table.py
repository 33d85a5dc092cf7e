"""The table of all ops: which backend computes which, and who is taken where none is named.

In the order compiled, Triton, reference: on the CPU the compiled kernel, else the reference; on a GPU the compiled
kernel, else Triton's. The reference of ``noisy_channel`` and ``accumulate`` is float64 and hundreds of times slower
there: it is never taken unasked. That of ``group_norm_silu`` and ``geglu`` is torch's own kernels, which serve where
Triton does not.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

from dpid.ops import compiled, reference

BACKENDS = ("reference", "cpu", "cuda", "triton")
DEVICES = BACKENDS[1:3]  # those that compiled kernels are for, called as torch calls them
ENVIRONMENT = os.environ.get("DPID_BACKEND") or None  # the backend of every op that has it, where none is named
_LOG = logging.getLogger("dpid")

Op = Callable[..., Any]


def load_triton() -> ModuleType:
    """The module of Triton kernels; ``RuntimeError`` where triton is not installed."""
    try:
        from dpid.ops import triton
    except ImportError as error:
        raise RuntimeError(f"backend: 'triton' is not installed ({error}); pip install triton") from error
    return triton


def _triton(op: str) -> Op:
    """Triton's kernel of ``op``, loaded at its first call."""
    return lambda *args: getattr(load_triton(), op)(*args)


_COMPILED = DEVICES if compiled.HAS_CUDA else DEVICES[:1]
TABLE: dict[str, dict[str, Op]] = {
    "noisy_channel": {
        **dict.fromkeys(_COMPILED, compiled.noisy_channel),
        "triton": _triton("noisy_channel"),
        "reference": reference.noisy_channel,
    },
    "accumulate": {
        **dict.fromkeys(_COMPILED, compiled.accumulate),
        "triton": _triton("accumulate"),
        "reference": reference.accumulate,
    },
    "group_norm_silu": {"triton": _triton("group_norm_silu"), "reference": reference.group_norm_silu},
    "geglu": {"triton": _triton("geglu"), "reference": reference.geglu},
}
TORCH_SERVES = ("group_norm_silu", "geglu")  # whose reference is torch's own kernels, as fast as those go


def named(op: str, backend: str, device: torch.device) -> Op:
    """What ``backend`` has for ``op`` and tensors on ``device``; raises where it cannot compute them."""
    has = TABLE[op]
    if backend not in BACKENDS or (backend not in has and op in TORCH_SERVES):
        allowed = BACKENDS if op not in TORCH_SERVES else tuple(has)
        raise ValueError(f"backend: found {backend!r}, allowed for {op} are {', '.join(allowed)}")
    if backend not in has:
        raise RuntimeError(
            f"backend: {backend!r} is not in this build of dpid; build with nvcc on the PATH (DPID_CUDA=ON)"
        )
    if backend in DEVICES and device.type != backend:
        raise RuntimeError(f"backend: {backend!r} needs tensors on {backend}, found {device}")
    return has[backend]


def automatic(op: str, device: torch.device) -> Op:
    """The first of compiled kernel, Triton's and reference that may compute ``op`` on ``device``.

    Raises ``RuntimeError`` where only a float64 reference is left on a GPU.
    """
    has = TABLE[op]
    if device.type in has:
        return has[device.type]
    if device.type == "cpu":
        return has["reference"]
    if triton_works(device):
        return has["triton"]
    if op in TORCH_SERVES:
        return has["reference"]
    raise RuntimeError(
        f"{op}: no kernel for {device}: install triton (pip install triton), or build dpid with nvcc on the PATH "
        "(DPID_CUDA=ON); backend='reference' or DPID_BACKEND=reference computes in float64, slowly"
    )


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton is there and compiles for ``device``; tried once."""
    x = torch.ones(1, 2, 1, 1, dtype=torch.float32, device=device)
    try:
        triton = load_triton()
        triton.geglu(triton.group_norm_silu(x, 1, x.flatten(), x.flatten(), 1e-5, True).flatten(1)).sum().item()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # no compiler, no driver, an old GPU: Triton raises what it likes
        _LOG.info("without Triton's kernels: %s", (str(error).splitlines() or [type(error).__name__])[0])
        return False
    return True


def function(op: str, backend: str | None, device: torch.device) -> Op:
    """What computes ``op`` on ``device``: ``backend`` if named, else ``DPID_BACKEND`` if it has the op, else the best.

    An ``op`` that is compiled by ``torch.compile`` is one call of ``torch.ops.dpid``, unless it is torch itself.
    """
    if backend is None and ENVIRONMENT is not None and (ENVIRONMENT in TABLE[op] or op not in TORCH_SERVES):
        backend = ENVIRONMENT
    if backend is not None:
        return named(op, backend, device)
    if torch.compiler.is_compiling() and (device.type != "cpu" or "cpu" in TABLE[op]):
        found: Op = getattr(torch.ops.dpid, op)
        return found
    return automatic(op, device)
