"""Ops with several backends: noising and accumulation of squares, and layers of the UNet.

``noisy_channel`` and ``accumulate`` have the backends reference, cpu, cuda and triton; ``group_norm_silu``,
``add_maps``, ``layer_norm``, ``add_layer_norm`` and ``geglu`` have reference and triton. The reference is readable
torch code, with which tests compare all other backends. ``backend=None`` takes ``DPID_BACKEND`` from the environment if
the op has that backend, else the fastest for the tensors' device: the compiled kernel, else Triton's on a GPU, else the
reference, but never a float64 reference on a GPU; see ``dpid/ops/_table.py``. If ``backend`` is named and cannot
compute, an error is raised.
"""

from __future__ import annotations

import operator
from typing import Any

import torch
from torch import Tensor

from dpid.checks import found
from dpid.ops import _schemas as _schemas  # registers torch.ops.dpid
from dpid.ops import compiled
from dpid.ops._table import BACKENDS, TABLE, Op, function

__all__ = [
    "BACKENDS", "accumulate", "add_layer_norm", "add_maps", "geglu", "group_norm_silu", "layer_norm", "noisy_channel",
    "normal", "philox4x32",
]  # fmt: skip

_LEVELS, _INDICES = (torch.float64, torch.float32), (torch.int64,)
_FLOATS = (torch.float32, torch.float16, torch.bfloat16)
_LAYERS = (torch.float64, *_FLOATS)


def _device(value: Tensor) -> torch.device:
    """The device of ``value``; the CPU for what is no tensor, which :func:`_check` refuses."""
    return value.device if isinstance(value, Tensor) else torch.device("cpu")


def _check(name: str, value: Tensor, dims: int, dtypes: tuple[torch.dtype, ...], device: torch.device) -> None:
    if (
        isinstance(value, Tensor) and value.dim() == dims and value.dtype in dtypes and value.device == device
        and not value.requires_grad
    ):  # fmt: skip
        return
    _check_kind(name, value, dtypes)
    if value.ndim != dims:
        raise ValueError(f"{name}: found {value.ndim} dimensions {tuple(value.shape)}, expected {dims}")
    if value.device != device:
        raise ValueError(f"{name}: found device {value.device}, expected {device} as the other tensors")
    raise ValueError(f"{name}: requires_grad is set; these ops have no gradient: pass {name}.detach()")


def _check_kind(name: str, value: Tensor, dtypes: tuple[torch.dtype, ...]) -> None:
    if not isinstance(value, Tensor):
        raise TypeError(f"{name}: found {type(value).__name__}, expected a torch.Tensor")
    if value.dtype not in dtypes:
        raise TypeError(f"{name}: found dtype {value.dtype}, expected one of {', '.join(map(str, dtypes))}")


def _check_length(name: str, value: Tensor, n: int) -> None:
    if len(value) != n:
        raise ValueError(f"{name}: found length {len(value)}, expected N = {n}")


def noisy_channel(x: Tensor, logsnr: Tensor, sample_id: Tensor, seed: int, *, backend: str | None = None) -> Tensor:
    """``x`` with noise at every log-SNR: z[n] = √σ(λ_n) x + √σ(-λ_n) ε(seed, sample_id[n]).

    docs/theory.md, eq. (1); the noise is that of docs/theory.md, eq. (4).

    Parameters
    ----------
    x : [B,C,H,W] fp32, fp16 or bf16
    logsnr : [N] fp32 or fp64, λ = log(signal power / noise power)
    sample_id : [N] int64; the negative id ``~i`` names the antithetic partner of ``i``: ε(~i) = -ε(i)
    seed : in [0, 2⁶⁴)
    backend : one of ``BACKENDS``, or None for the fastest that is available

    Returns
    -------
    z : [N,B,C,H,W] in the dtype of ``x``

    Raises
    ------
    ValueError, TypeError, RuntimeError
        A tensor has a wrong rank, length, dtype or device, or requires a gradient; seed or backend are not allowed.
    """
    device = _device(x)
    _check("x", x, 4, _FLOATS, device)
    _check("logsnr", logsnr, 1, _LEVELS, device)
    _check("sample_id", sample_id, 1, _INDICES, device)
    if sample_id.shape != logsnr.shape:
        _check_length("sample_id", sample_id, len(logsnr))
    z: Tensor = function("noisy_channel", backend, device)(x, logsnr, sample_id, _check_seed(seed))
    return z


def accumulate(
    gaps: Tensor, residuals: Tensor, eps_hat: Tensor, weight: Tensor, replicate: Tensor, pairs: Tensor,
    sample_id: Tensor, seed: int, *, backend: str | None = None,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """Half the squared differences of every sample, which are also added, weighted, to ``gaps`` and ``residuals``.

    gaps[g,p] += ½ w_n Σ_C (ε̂_i - ε̂_j)², (i, j) = pairs[p]; residuals[g,k] += ½ w_n Σ_C (ε - ε̂_k)², g = replicate[n],
    with ε regenerated from (seed, sample_id): the integrals g and h of docs/theory.md, eq. (6). The products ε̂·(ε - ε̂)
    are only returned; their mean is zero for a posterior mean, docs/theory.md, eq. (64).

    Parameters
    ----------
    gaps : [G,P,B,H,W] fp32, contiguous, changed in place
    residuals : [G,K,B,H,W] fp32, contiguous, changed in place
    eps_hat : [N,K,B,C,H,W] fp32, fp16 or bf16
    weight : [N] fp32
    replicate : [N] int64 in [0, G)
    pairs : [P,2] int64 in [0, K)
    sample_id, seed, backend : as for :func:`noisy_channel`

    Returns
    -------
    gap_squares : [N,P,B] fp32, ½ ‖ε̂_i - ε̂_j‖² over C, H and W of every sample, without its weight
    residual_squares : [N,K,B] fp32, ½ ‖ε - ε̂_k‖²
    products : [N,K,B] fp32, ½ ε̂_k·(ε - ε̂_k)

    Raises
    ------
    ValueError, TypeError, RuntimeError
        A tensor has a wrong rank, shape, dtype or device, indices out of range (not checked on a GPU), or requires a
        gradient; or memory runs out. Nothing is written then.
    """
    device = _device(eps_hat)
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
    squares: Tensor = function("accumulate", backend, device)(
        gaps, residuals, eps_hat, weight, replicate, pairs, sample_id, _check_seed(seed)
    )
    residual_squares, gap_squares, products = squares.split((k, len(pairs), k), 1)
    return gap_squares, residual_squares, products


def _check_seed(seed: int) -> int:
    """``seed`` in [0, 2⁶⁴) as an int64, the integer type of op schemas; ``ValueError`` or ``TypeError`` for another."""
    try:
        seed = operator.index(seed)
    except TypeError as error:
        raise TypeError(f"seed: found {found(seed)}, expected a whole number") from error
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed: found {seed}, allowed are 0…2⁶⁴ - 1")
    return seed - 2**64 if seed >= 2**63 else seed


def _alike(optional: tuple[str, ...] = (), **tensors: Any) -> dict[str, Tensor]:
    """The given ``tensors`` as {name: tensor}, without those named in ``optional`` that are None.

    ``TypeError`` unless all are tensors of one floating dtype on one device.
    """
    given = {name: tensor for name, tensor in tensors.items() if tensor is not None or name not in optional}
    first = next(iter(given.values()))
    for name, tensor in given.items():
        _check_kind(name, tensor, _LAYERS)
        if tensor.dtype != first.dtype or tensor.device != first.device:
            raise TypeError(
                f"{name}: found {tensor.dtype} on {tensor.device}, expected {first.dtype} on {first.device}"
            )
    return given


def _unet_function(op: str, backend: str | None, tensors: dict[str, Tensor]) -> Op:
    """The function of ``backend`` for ``op`` on ``tensors``, which :func:`_alike` returned.

    Without a named backend, float64 tensors and those that require gradients go to the reference, which supports them.
    ``TypeError`` and ``ValueError`` for float64 and for gradients where the named backend lacks them.
    """
    name, first = next(iter(tensors.items()))
    graded = [other for other, tensor in tensors.items() if tensor.requires_grad]
    if backend is None and (graded or first.dtype == torch.float64):
        backend = "reference"
    chosen = function(op, backend, first.device)
    if chosen is not TABLE[op]["reference"]:
        if first.dtype == torch.float64:
            raise TypeError(f"{name}: found torch.float64; the kernels take float32, float16 and bfloat16")
        if graded:
            raise ValueError(
                f"{graded[0]}: requires_grad is set; the kernel has no gradient: pass {graded[0]}.detach()"
            )
    return chosen


def group_norm_silu(
    x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float = 1e-5, silu: bool = True,
    added: Tensor | None = None, skip: Tensor | None = None, *, backend: str | None = None,
) -> Tensor:  # fmt: skip
    """SiLU(GroupNorm(x)), or GroupNorm(x) without ``silu``: [B,C,H,W] for x [B,C,H,W], weight and bias [C].

    ``added`` [B',C] is added to x at every pixel before; the shorter of both, M of k·M, is repeated. With ``skip``
    [B,C',H,W] instead, its channels follow those of x, and weight and bias are [C + C']. These two, and with them
    the result, may be float32 where x has less. ``ValueError`` if ``groups`` does not divide the channels, or lengths
    do not fit. Triton's kernel returns channels-last memory.
    """
    tensors = _alike(("added", "skip"), x=x, added=added, skip=skip) | _alike(weight=weight, bias=bias)
    allowed = {x.dtype, torch.float32 if x.dtype in _FLOATS else x.dtype}
    if weight.dtype not in allowed or weight.device != x.device:
        names = " or ".join(sorted(map(str, allowed)))
        raise TypeError(f"weight: found {weight.dtype} on {weight.device}, expected {names} on {x.device}")
    if skip is not None and (added is not None or not x.ndim == skip.ndim == 4 or skip[:, :1].shape != x[:, :1].shape):
        raise ValueError(f"skip: found {tuple(skip.shape)}, expected [B,C',H,W] as x {tuple(x.shape)}, without added")
    channels = x.shape[1] + (0 if skip is None else skip.shape[1]) if x.ndim == 4 else 0
    if x.ndim != 4 or groups < 1 or channels % groups:
        raise ValueError(f"x, groups: found {tuple(x.shape)}, {groups}; expected [B,C,H,W] with groups dividing C")
    if weight.shape != (channels,) or bias.shape != (channels,):
        raise ValueError(f"weight, bias: found {tuple(weight.shape)}, {tuple(bias.shape)}, expected ({channels},)")
    if added is not None and (added.shape[1:] != x.shape[1:2] or not _repeats(len(x), len(added))):
        raise ValueError(
            f"x, added: found {tuple(x.shape)}, {tuple(added.shape)}, expected [B,C,H,W] and [B',C], where one of B "
            "and B' divides the other"
        )
    out: Tensor = _unet_function("group_norm_silu", backend, tensors)(x, groups, weight, bias, eps, silu, added, skip)
    return out


def add_maps(
    x: Tensor, y: Tensor | None = None, bias: Tensor | None = None, *, backend: str | None = None
) -> Tensor:  # fmt: skip
    """x + y + bias, [k·M,C,H,W] for x and y [k·M,C,H,W] or [M,C,H,W], where the shorter is repeated, and a bias [C].

    One of y and bias may be absent. ``ValueError`` if both are, or lengths do not fit. Triton's kernel returns
    channels-last memory.
    """
    tensors = _alike(("y", "bias"), x=x, y=y, bias=bias)
    if len(tensors) < 2 or x.ndim != 4:
        raise ValueError(f"x: found {tuple(x.shape)} and {len(tensors) - 1} more, expected [B,C,H,W] and y or a bias")
    if y is not None and (y.shape[1:] != x.shape[1:] or not _repeats(len(x), len(y))):
        raise ValueError(
            f"x, y: found {tuple(x.shape)}, {tuple(y.shape)}, expected [B,C,H,W] and [B',C,H,W], where one of B and B' "
            "divides the other"
        )
    if bias is not None and bias.shape != x.shape[1:2]:
        raise ValueError(f"bias: found {tuple(bias.shape)}, expected ({x.shape[1]},)")
    out: Tensor = _unet_function("add_maps", backend, tensors)(x, y, bias)
    return out


def layer_norm(x: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str | None = None) -> Tensor:
    """LayerNorm(x) over the last dimension: [..., D] for x [..., D], weight and bias [D].

    ``ValueError`` if lengths do not fit.
    """
    tensors = _alike(x=x, weight=weight, bias=bias)
    if x.ndim < 1 or weight.shape != x.shape[-1:] or bias.shape != x.shape[-1:]:
        raise ValueError(
            f"x, weight, bias: found {tuple(x.shape)}, {tuple(weight.shape)}, {tuple(bias.shape)}, expected [..., D], "
            "[D], [D]"
        )
    out: Tensor = _unet_function("layer_norm", backend, tensors)(x, weight, bias, eps)
    return out


def add_layer_norm(
    x: Tensor, y: Tensor, weight: Tensor, bias: Tensor, eps: float = 1e-5, *, backend: str | None = None
) -> tuple[Tensor, Tensor]:
    """x + y and LayerNorm(x + y) over the last dimension: [k·M,T,D] each, for x [k·M,T,D] and y [M,T,D], repeated.

    ``ValueError`` if lengths do not fit.
    """
    tensors = _alike(x=x, y=y, weight=weight, bias=bias)
    if x.ndim != 3 or y.shape[1:] != x.shape[1:] or not _repeats(len(x), len(y)) or len(x) < len(y):
        raise ValueError(f"x, y: found {tuple(x.shape)}, {tuple(y.shape)}, expected [k·M,T,D] and [M,T,D]")
    if weight.shape != x.shape[2:] or bias.shape != x.shape[2:]:
        raise ValueError(f"weight, bias: found {tuple(weight.shape)}, {tuple(bias.shape)}, expected ({x.shape[2]},)")
    found: tuple[Tensor, Tensor] = _unet_function("add_layer_norm", backend, tensors)(x, y, weight, bias, eps)
    return found


def _repeats(a: int, b: int) -> bool:
    """Whether the smaller of two lengths divides the larger."""
    return min(a, b) > 0 and max(a, b) % min(a, b) == 0


def geglu(x: Tensor, *, backend: str | None = None) -> Tensor:
    """First half of the last dimension times GELU of the second (Shazeer, 2020): [..., D] for x [..., 2D].

    ``ValueError`` if the last dimension is odd.
    """
    tensors = _alike(x=x)
    if x.ndim < 1 or x.shape[-1] % 2:
        raise ValueError(f"x: found {tuple(x.shape)}, expected an even last dimension")
    out: Tensor = _unet_function("geglu", backend, tensors)(x)
    return out


def philox4x32(counter: Tensor, key: Tensor) -> Tensor:
    """Random words [n,4] of Philox4x32-10 (Salmon et al., 2011) for counter [n,4], key [n,2]; all uint32 on the CPU."""
    cpu = torch.device("cpu")
    _check("counter", counter, 2, (torch.uint32,), cpu)
    _check("key", key, 2, (torch.uint32,), cpu)
    if counter.shape != (len(key), 4) or key.shape != (len(counter), 2):
        raise ValueError(f"counter, key: found {tuple(counter.shape)}, {tuple(key.shape)}, expected (n, 4), (n, 2)")
    return compiled.philox4x32(counter, key)


def normal(seed: int, sample_id: Tensor, shape: tuple[int, int, int, int], *, backend: str | None = None) -> Tensor:
    """The noise ε fp32 [N,B,C,H,W] of ``sample_id`` int64 [N] in :func:`noisy_channel`, the same for every image.

    ``shape`` is (B, C, H, W).
    """
    _check("sample_id", sample_id, 1, _INDICES, _device(sample_id))
    # At log-SNR -∞ the channel passes noise only.
    pure_noise = torch.full((len(sample_id),), -torch.inf, dtype=torch.float32, device=sample_id.device)
    x = torch.zeros(shape, dtype=torch.float32, device=sample_id.device)
    return noisy_channel(x, pure_noise, sample_id, seed, backend=backend)
