"""The table {op: {backend: function}}, and the choice of a backend where none is named.

The order is compiled, Triton, reference: on the CPU the compiled kernel, else the reference; on a GPU the compiled
kernel, else Triton's. The reference of ``noisy_channel`` and ``accumulate`` computes in float64, hundreds of times
slower on a GPU, where it is used only if named. Those of the UNet's layers call torch's own kernels and are used where
Triton does not work, and under ``torch.compile``, which fuses them with what is around them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from functools import cache
from types import ModuleType
from typing import Any

import torch

from dpid.device import is_gpu
from dpid.ops import compiled, reference

BACKENDS = ("reference", "cpu", "cuda", "triton")
DEVICES = BACKENDS[1:3]  # the backends of compiled kernels, named like the types of torch devices
ENVIRONMENT = os.environ.get("DPID_BACKEND") or None  # default backend of every op that has it
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
    """A function that calls Triton's kernel of ``op``; Triton is imported at its first call."""
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
}
TORCH_SERVES = ("group_norm_silu", "add_maps", "layer_norm", "add_layer_norm", "geglu")  # by kernels that are fast
TABLE |= {op: {"triton": _triton(op), "reference": getattr(reference, op)} for op in TORCH_SERVES}


def named(op: str, backend: str, device: torch.device) -> Op:
    """The function of ``backend`` for ``op`` on ``device``.

    ``ValueError`` for an unknown backend, ``RuntimeError`` for one that is not built or does not fit the device.
    """
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
    if backend == "triton" and not is_gpu(device) and os.environ.get("TRITON_INTERPRET", "0") == "0":
        raise RuntimeError(f"backend: 'triton' needs tensors on a GPU, found {device}")
    return has[backend]


def automatic(op: str, device: torch.device) -> Op:
    """The function for ``op`` on ``device``: the compiled kernel, else Triton's, else the reference.

    ``RuntimeError`` if only a float64 reference is left on a GPU.
    """
    has = TABLE[op]
    if device.type in has and (device.type == "cpu" or compiled_works(device)):
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
def compiled_works(device: torch.device) -> bool:
    """Whether the compiled kernels run on ``device``, a GPU; tried once.

    They do not on one that is older than all they are compiled for, or with a driver older than their CUDA.
    """
    x = torch.ones(1, 1, 1, 1, device=device)
    try:
        number = torch.zeros(1, dtype=torch.int64, device=device)
        compiled.noisy_channel(x, torch.zeros(1, dtype=torch.float64, device=device), number, 0).sum().item()
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        _LOG.warning("without the compiled kernels: %s", str(error).splitlines()[0])
        return False
    return True


@cache
def triton_works(device: torch.device) -> bool:
    """Whether Triton is installed and can compile and run a kernel on ``device``; tried once."""
    x = torch.ones(1, 2, 1, 1, dtype=torch.float32, device=device)
    try:
        triton = load_triton()
        weight = x.flatten()
        summed = triton.add_maps(triton.group_norm_silu(x, 1, weight, weight, 1e-5, True, x.flatten(1)), x, weight)
        tokens = triton.layer_norm(summed.flatten(2).mT.contiguous(), weight, weight, 1e-5)
        triton.geglu(triton.add_layer_norm(tokens, tokens, weight, weight, 1e-5)[1]).sum().item()
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # Triton raises many kinds: no compiler, no driver, an old GPU
        _LOG.info("without Triton's kernels: %s", (str(error).splitlines() or [type(error).__name__])[0])
        return False
    return True


def function(op: str, backend: str | None, device: torch.device) -> Op:
    """The function for ``op`` on ``device``: of ``backend``, else of ``DPID_BACKEND``, else that of :func:`automatic`.

    Under ``torch.compile`` the last is a call of ``torch.ops.dpid``, or of the reference if torch itself computes it.
    ``DPID_BACKEND`` is ignored if it lacks the op and torch computes that itself.
    """
    if backend is None and ENVIRONMENT is not None and (ENVIRONMENT in TABLE[op] or op not in TORCH_SERVES):
        backend = ENVIRONMENT
    if backend is not None:
        return named(op, backend, device)
    if torch.compiler.is_compiling():
        found: Op = TABLE[op]["reference"] if op in TORCH_SERVES else getattr(torch.ops.dpid, op)
        return found
    return automatic(op, device)
