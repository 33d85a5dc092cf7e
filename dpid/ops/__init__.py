"""The compiled ops. Each has four backends with one truth: reference, cpu, cuda, triton; those of the UNet have two.

``backend=None`` takes ``DPID_BACKEND`` from the environment, else the compiled kernel of the tensors' device, else
(a build without CUDA) the reference. A backend that is named and cannot run raises.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from dpid.ops import _schemas, native, reference
from dpid.ops.unet import geglu, group_norm_silu, load_triton

__all__ = [
    "BACKENDS", "accumulate", "geglu", "group_norm_silu", "noisy_channel", "normal",
    "philox4x32",
]  # fmt: skip

BACKENDS = ("reference", "cpu", "cuda", "triton")
_LEVELS, _INDICES = (torch.float64, torch.float32), (torch.int64,)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)


def _check(name: str, value: Tensor, dims: int, dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    if (
        isinstance(value, Tensor) and value.dim() == dims and value.dtype in dtypes and value.device == device
        and not value.requires_grad
    ):  # fmt: skip
        return
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: found {type(value).__name__}, expected a torch.Tensor")
    if value.ndim != dims:
        raise ValueError(f"{name}: found {value.ndim} dimensions {tuple(value.shape)}, expected {dims}")
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: found dtype {value.dtype}, expected one of {', '.join(map(str, dtypes))}")
    if value.device != device:
        raise ValueError(f"{name}: found device {value.device}, expected {device} as the other tensors")
    raise ValueError(f"{name}: requires_grad is set; these ops have no gradient: pass {name}.detach()")


def _check_length(name: str, value: Tensor, n: int) -> None:
    if len(value) != n:
        raise ValueError(f"{name}: found length {len(value)}, expected N = {n}")


def _implementation(backend: str | None, device: torch.device) -> ModuleType | Any:
    backend = backend or native.ENVIRONMENT
    if backend is None:
        if device.type not in _schemas.DEVICES:
            return reference
        # The dispatcher costs more than the kernel of a small input: it is asked only where it has a say.
        return torch.ops.dpid if torch.compiler.is_compiling() else native
    if backend not in BACKENDS:
        raise ValueError(f"backend: found {backend!r}, allowed are {', '.join(BACKENDS)}")
    if backend == "cuda" and not native.HAS_CUDA:
        raise RuntimeError("backend: 'cuda' is not in this build of dpid; build with nvcc on the PATH (DPID_CUDA=ON)")
    if backend in ("cpu", "cuda") and device.type != backend:
        raise RuntimeError(f"backend: {backend!r} needs tensors on {backend}, found {device}")
    if backend == "triton":
        return load_triton()
    return reference if backend == "reference" else native


def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int, *, backend: str | None = None) -> Tensor:
    """Noise ``x`` at every log-SNR: z[n] = √σ(λ_n) x + √σ(-λ_n) ε(seed, sample_id[n]).

    Parameters
    ----------
    x : [B,C,H,W] fp32, fp16 or bf16
    logsnr : [N] fp32 or fp64, λ = log(signal power / noise power)
    sample_id : [N] int64; the negative id ``~i`` names the antithetic partner of ``i``: ε(~i) = -ε(i)
    seed : in [0, 2⁶⁴)
    backend : one of ``BACKENDS``, or None for the fastest that is there

    Returns
    -------
    z : [N,B,C,H,W] in the dtype of ``x``

    Raises
    ------
    ValueError, TypeError, RuntimeError
        wrong rank, length, dtype, device, gradient, seed or backend; nothing is computed
    """
    device = x.device if isinstance(x, Tensor) else torch.device("cpu")
    _check("x", x, 4, _FLOATS, device)
    _check("logsnr", logsnr, 1, _LEVELS, device)
    _check("sample_id", sample_id, 1, _INDICES, device)
    if sample_id.shape != logsnr.shape:
        _check_length("sample_id", sample_id, len(logsnr))
    z: Tensor = _implementation(backend, device).noisy_channel(x, logsnr, sample_id, _check_seed(seed))
    return z


def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int, *, backend: str | None = None,
) -> None:  # fmt: skip
    """One pass over ``eps_hat``: add the squared gaps between conditions and the squared residuals, in place.

    gaps[g,p] += ½ w_n Σ_C (ε̂_i - ε̂_j)², (i, j) = pairs[p]; residuals[g,k] += ½ w_n Σ_C (ε - ε̂_k)², g = replicate[n],
    with ε regenerated from (seed, sample_id). Together they hold all three estimators of information.

    Parameters
    ----------
    gaps : [G,P,B,H,W] fp32, contiguous, changed in place
    residuals : [G,K,B,H,W] fp32, contiguous, changed in place
    eps_hat : [N,K,B,C,H,W] fp32, fp16 or bf16
    weight : [N] fp32
    replicate : [N] int64 in [0, G)
    pairs : [P,2] int64 in [0, K)
    sample_id, seed, backend : as for :func:`noisy_channel`

    Raises
    ------
    ValueError, TypeError, RuntimeError
        wrong rank, shape, range, dtype, device or gradient; nothing is written
    """
    device = eps_hat.device if isinstance(eps_hat, Tensor) else torch.device("cpu")
    _check("eps_hat", eps_hat, 6, _FLOATS, device)
    n, k, b, _, h, w = eps_hat.shape
    _check("pairs", pairs, 2, _INDICES, device)
    _check("weight", weight, 1, (torch.float32,), device)
    for name, ids in (("replicate", replicate), ("sample_id", sample_id)):
        _check(name, ids, 1, _INDICES, device)
    for name, value in (("weight", weight), ("replicate", replicate), ("sample_id", sample_id)):
        _check_length(name, value, n)
    for name, acc, rows in (("gaps", gaps, len(pairs)), ("residuals", residuals, k)):
        _check(name, acc, 5, (torch.float32,), device)
        if acc.shape != (gaps.shape[0], rows, b, h, w) or not acc.is_contiguous():
            raise ValueError(f"{name}: found {tuple(acc.shape)}, expected contiguous (G, {rows}, {b}, {h}, {w})")
    if pairs.shape[1] != 2:
        raise ValueError(f"pairs: found shape {tuple(pairs.shape)}, expected (P, 2)")
    if device.type == "cpu":  # on a GPU a look at the values would make the host wait
        _check_range("pairs", pairs, k)
        _check_range("replicate", replicate, gaps.shape[0])
    _implementation(backend, device).accumulate(
        gaps, residuals, eps_hat, weight, replicate, pairs, sample_id, _check_seed(seed)
    )


def _check_range(name: str, value: Tensor, stop: int) -> None:
    if value.numel() and not 0 <= int(value.min()) <= int(value.max()) < stop:
        raise ValueError(f"{name}: found values {int(value.min())}…{int(value.max())}, allowed are 0…{stop - 1}")


def _check_seed(seed: int) -> int:
    """``seed`` as the int64 that the schemas carry."""
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: found {seed}, allowed are 0…2⁶⁴ - 1")
    return seed - 2**64 if seed >= 2**63 else seed


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Philox4x32-10: counter uint32 [n,4], key uint32 [n,2] -> uint32 [n,4], on the CPU (Salmon et al., SC 2011)."""
    cpu = torch.device("cpu")
    _check("counter", counter, 2, (torch.uint32,), cpu)
    _check("key", key, 2, (torch.uint32,), cpu)
    if counter.shape != (len(key), 4) or key.shape != (len(counter), 2):
        raise ValueError(f"counter, key: found {tuple(counter.shape)}, {tuple(key.shape)}, expected (n, 4), (n, 2)")
    return native.philox4x32(counter, key)


def normal(seed: int, sample_id: Tensor, shape: tuple[int, int, int, int], *, backend: str | None = None) -> Tensor:
    """The noise itself: ε fp32 [N,B,C,H,W] of ``sample_id`` int64 [N], for ``shape`` = (B, C, H, W)."""
    # log-SNR -∞: no signal, all noise.
    silence = torch.full((len(sample_id),), -torch.inf, device=sample_id.device)
    return noisy_channel(torch.zeros(shape, device=sample_id.device), silence, sample_id, seed, backend=backend)
