"""Launchers of the compiled ops: tensors in, raw pointers and sizes to ``dpid._C``."""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar

import torch  # first: the extension shares the OpenMP runtime that torch brings
from torch import Tensor

try:
    from dpid import _C
except ImportError as error:  # pragma: no cover - only in a broken install
    raise ImportError(
        "dpid._C, the compiled part, is missing. In the source tree run from another folder, or build it with "
        f"'pip install .' ({error})"
    ) from error

HAS_CUDA, CUDA_ARCHITECTURES = _C.has_cuda, _C.cuda_architectures
ENVIRONMENT = os.environ.get("DPID_BACKEND") or None  # the backend where none is named
_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}


Launch = TypeVar("Launch", bound=Callable[..., Any])


def on_device(launch: Launch) -> Launch:
    """``launch`` while the device of its first tensor is the current one, to which streams and kernels belong."""

    @wraps(launch)
    def there(first: Tensor, *rest: Any) -> Any:
        if first.device.type != "cuda" or first.device.index == torch.cuda.current_device():
            return launch(first, *rest)  # a guard costs more than the launch
        with torch.cuda.device(first.device):
            return launch(first, *rest)

    return there  # type: ignore[return-value]


def _where(device: torch.device) -> tuple[int, int]:
    """Threads and stream of a launch; -1 threads means CUDA."""
    if device.type == "cuda":
        return -1, torch.cuda.current_stream(device).cuda_stream
    return torch.get_num_threads(), 0


@on_device
def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    """:func:`dpid.ops.noisy_channel` on the CPU or on CUDA."""
    if logsnr.dtype != torch.float64:
        logsnr = logsnr.double()
    x, sample_id, logsnr = x.contiguous(), sample_id.contiguous(), logsnr.contiguous()
    (n,), (b, c, h, w), device = logsnr.shape, x.shape, x.device
    z = torch.empty((n, b, c, h, w), dtype=x.dtype, device=device)
    _C.noisy_channel(
        x.data_ptr(), logsnr.data_ptr(), sample_id.data_ptr(), z.data_ptr(),
        n, b, c * h * w, seed % 2**64, _CODES[x.dtype], *_where(device),
    )  # fmt: skip
    return z


@on_device
def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> None:  # fmt: skip
    """:func:`dpid.ops.accumulate` on the CPU or on CUDA."""
    eps_hat, weight, replicate, pairs, sample_id = (
        t.contiguous() for t in (eps_hat, weight, replicate, pairs, sample_id)
    )
    n, k, b, c, h, w = eps_hat.shape
    _C.accumulate(
        gaps.data_ptr(), residuals.data_ptr(), eps_hat.data_ptr(), weight.data_ptr(), replicate.data_ptr(),
        pairs.data_ptr(), sample_id.data_ptr(), n, k, b, c, h * w, len(pairs), len(gaps), seed % 2**64,
        _CODES[eps_hat.dtype], *_where(eps_hat.device),
    )  # fmt: skip


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """:func:`dpid.ops.philox4x32` on the CPU."""
    counter, key = counter.contiguous(), key.contiguous()
    out = torch.empty_like(counter)
    _C.philox4x32(counter.data_ptr(), key.data_ptr(), out.data_ptr(), len(counter))
    return out
