"""The choice of the floating-point type that a network computes in.

Rounding biases squared differences, docs/theory.md, eq. (56); :mod:`dpid.estimation.correction` corrects that.
"""

from __future__ import annotations

from typing import Any

import torch

from dpid.denoisers.protocol import Denoiser
from dpid.device import has_bfloat16, is_gpu

_SMALL, _LIGHT = 32 * 32, 2**24  # pixels of latents, and bytes of activations: below both a fast type does not pay
_FEW = 16  # samples: fewer do not pay on a CPU


def candidates(device: torch.device) -> tuple[str, ...]:
    """The types that ``device`` computes in hardware, in the order in which they are tried, float32 last.

    bfloat16 rounds more coarsely than float16 but has float32's range: it is for networks that overflow in float16.
    """
    if is_gpu(device):
        bf16 = has_bfloat16(device)
        return ("float16", "bfloat16", "float32") if bf16 else ("float16", "float32")
    # Without these instructions a CPU converts every product, and bf16 convolutions take a hundred times longer.
    has = getattr(torch.cpu, "get_capabilities", dict[str, Any])()  # newer than the oldest torch that dpid takes
    return ("bfloat16", "float32") if has.get("avx512_bf16") or has.get("amx_bf16") else ("float32",)


def worth_trying(denoiser: Denoiser, samples: int) -> bool:
    """Whether a type that rounds may save time for ``samples`` evaluations a condition.

    Not for a small network on small latents: on a CPU it is little faster in bfloat16, and on a GPU most of its time
    goes into launches, which the calls of the correction multiply. Latents alone do not tell: those of Sana and
    LTX-Video are small, their networks are not. On a CPU not for few samples either, of which the correction takes too
    many.
    """
    shape = denoiser.latent_shape
    need = denoiser.evaluation_bytes(*shape[1:]) if shape is not None else 0
    light = need < _LIGHT and (need > 0 or not is_gpu(denoiser.device))  # 0: it is not known
    small = shape is not None and shape[1] * shape[2] < _SMALL and light
    return not small and (is_gpu(denoiser.device) or samples >= _FEW)


def ladder(denoiser: Denoiser, precision: str) -> list[Denoiser]:
    """The model in every type that may be tried, the fastest first and float32 last; one, if a type was asked for."""
    if precision != "auto":
        return [denoiser.at(precision)]
    if denoiser.precision_is_chosen:
        return [denoiser]
    types = [p for p in candidates(denoiser.device) if p in denoiser.precisions] or [denoiser.precision]
    return [denoiser.at(p) for p in types]
