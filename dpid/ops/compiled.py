"""Calls the compiled ops of ``dpid._C``, on the CPU and on CUDA, with the addresses, dtypes and shapes of tensors."""

from __future__ import annotations

import torch  # first: the extension shares the OpenMP runtime that torch brings
from torch import Tensor

from dpid.device import is_gpu, on_device, stream_of

try:
    from dpid import _C
except ImportError as error:  # pragma: no cover - only in a broken install
    raise ImportError(
        f"dpid._C, the compiled part, is missing; build it with 'pip install -e .' in the sources ({error})"
    ) from error

HAS_CUDA, CUDA_ARCHITECTURES = _C.has_cuda, _C.cuda_architectures
_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2, torch.float64: 3, torch.int64: 4, torch.uint32: 5}


def _view(tensor: Tensor) -> _C.View:
    """The address, dtype code and shape of a contiguous ``tensor``; it must stay alive while they are used."""
    return tensor.data_ptr(), _CODES[tensor.dtype], tensor.shape


def _where(device: torch.device) -> tuple[int, int]:
    """The number of threads, -1 for CUDA, and the CUDA stream, 0 for the CPU, of a call on ``device``."""
    return (-1, stream_of(device)) if is_gpu(device) else (torch.get_num_threads(), 0)


@on_device
def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int) -> Tensor:
    """Noised ``x``, z [N,B,C,H,W]; see :func:`dpid.ops.noisy_channel`."""
    if logsnr.dtype != torch.float64:
        logsnr = logsnr.double()
    x, sample_id, logsnr = x.contiguous(), sample_id.contiguous(), logsnr.contiguous()
    device = x.device
    z = torch.empty((len(logsnr), *x.shape), dtype=x.dtype, device=device)
    threads, stream = _where(device)
    _C.noisy_channel(
        x=_view(x), logsnr=_view(logsnr), sample_id=_view(sample_id), z=_view(z),
        seed=seed % 2**64, threads=threads, stream=stream,
    )  # fmt: skip
    return z


@on_device
def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int,
) -> Tensor:  # fmt: skip
    """Half the sums [N,2K+P,B] of K residuals, P pairs and K products; see :func:`dpid.ops.accumulate`."""
    eps_hat, pairs, device = eps_hat.contiguous(), pairs.contiguous(), eps_hat.device
    threads, stream = _where(device)
    weight, replicate, sample_id = weight.contiguous(), replicate.contiguous(), sample_id.contiguous()
    predictions, indices = _view(eps_hat), _view(pairs)
    n, k, b = eps_hat.shape[:3]
    sums = (n, 2 * k + len(pairs), b)
    # All memory is allocated before the launch, so that running out of it leaves gaps and residuals unchanged.
    squares = torch.empty(sums, dtype=torch.float32, device=device)
    count = _C.accumulate_scratch(eps_hat=predictions, pairs=indices, threads=threads)
    scratch = torch.empty(count, dtype=torch.float32, device=device)
    _C.accumulate(
        gaps=_view(gaps), residuals=_view(residuals), squares=_view(squares), scratch=_view(scratch),
        eps_hat=predictions, weight=_view(weight), replicate=_view(replicate), pairs=indices,
        sample_id=_view(sample_id), seed=seed % 2**64, threads=threads, stream=stream,
    )  # fmt: skip
    return squares


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Random words [n,4] of Philox, computed on the CPU; see :func:`dpid.ops.philox4x32`."""
    counter, key = counter.contiguous(), key.contiguous()
    out = torch.empty_like(counter)
    _C.philox4x32(counter=_view(counter), key=_view(key), out=_view(out))
    return out
