"""The choice of the floating-point type that a network computes in, and the rounding bias of a type.

Rounding biases squared differences, docs/theory.md, eq. (56). The bias is measured against float32, on a few samples of
the picture and conditions that are explained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.device import has_bfloat16, is_gpu
from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.sampling import draw
from dpid.prompts.plan import Plan

Bias = dict[str, Tensor]  # {estimator: [S,h,w]}, nats
PILOT = 8  # samples a condition for the measurement of the bias


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


def worth_trying(device: torch.device, samples: int) -> bool:
    """Whether a type that rounds saves time on ``device`` for ``samples`` evaluations a condition.

    On a CPU bfloat16 halves the time, but measuring its bias takes ``PILOT`` samples in both types, which pays from
    four times as many samples on.
    """
    return is_gpu(device) or samples > 4 * PILOT


def ladder(denoiser: Denoiser, precision: str) -> list[Denoiser]:
    """The model in every type that may be tried, the fastest first and float32 last; one, if a type was asked for."""
    if precision != "auto":
        return [denoiser.at(precision)]
    if denoiser.precision_is_chosen:
        return [denoiser]
    types = [p for p in candidates(denoiser.device) if p in denoiser.precisions] or [denoiser.precision]
    return [denoiser.at(p) for p in types]


def rounding_bias(
    denoiser: Denoiser, x: Tensor, plans: Sequence[Plan], samples: int = PILOT, seed: int = 0
) -> list[Bias]:  # fmt: skip
    """The rounding bias b(S) = f(S) - f_float32(S) on common samples, {estimator: [S,h,w]} in nats, of every plan.

    docs/theory.md, eq. (57). ``x`` are latents [1,C,h,w]; the plans share one list of texts.
    """
    grid = denoiser.logsnr_grid
    drawn = draw("shifted-grid", grid, samples, 1, torch.Generator().manual_seed(seed))
    own, exact = (evaluate(model, x, plans, drawn, seed=seed) for model in (denoiser, denoiser.at("float32")))
    found = []
    for plan in plans:
        f, reference = set_function(own, plan), set_function(exact, plan)
        found.append({name: (f[name] - reference[name])[0, :, 0].float().cpu() for name in f})
    return found
