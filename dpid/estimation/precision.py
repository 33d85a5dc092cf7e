"""Which floating-point type a network computes in: the fastest whose rounding is small beside the error bars.

Rounding moves every ε̂ by something like independent noise of variance s², which a squared difference of two of them
turns into a bias of 2s² a pixel and channel: in i° all of it stays, in iʳ and iˢ, differences of two such squares,
most of it cancels. It is measured against float32, on a few samples of the picture and conditions in question.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.device import default_device, has_bfloat16, is_gpu
from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.sampling import draw
from dpid.prompts.plan import Plan

Bias = dict[str, Tensor]  # estimator -> [S, h, w] nats
PILOT = 8  # samples a condition, spread over the log-SNRs


def candidates(device: torch.device) -> tuple[str, ...]:
    """Types from the fastest to the most precise that ``device`` computes in hardware.

    bfloat16 is coarser than float16, but has float32's range: it is for what float16 cannot hold.
    """
    if is_gpu(device):
        bf16 = has_bfloat16(device)
        return ("float16", "bfloat16", "float32") if bf16 else ("float16", "float32")
    # A CPU without the instructions converts each product: bf16 convolutions then take a hundred times longer.
    has = getattr(torch.cpu, "get_capabilities", dict[str, Any])()  # newer than the oldest torch that dpid takes
    return ("bfloat16", "float32") if has.get("avx512_bf16") or has.get("amx_bf16") else ("float32",)


def for_one(precision: str, device: str | None, samples: int) -> str:
    """What "auto" means for a single picture of ``samples`` evaluations a condition; other types stay.

    On a CPU bfloat16 halves the time, but its pilot runs ``PILOT`` samples in both types: it pays above four of them.
    """
    on_cpu = not is_gpu(torch.device(device) if device else default_device())
    return "float32" if precision == "auto" and on_cpu and samples <= 4 * PILOT else precision


def ladder(denoiser: Denoiser, precision: str) -> list[Denoiser]:
    """The model in every type that may be tried, from the fastest to the finest; of a type that was asked for, one."""
    if precision != "auto":
        return [denoiser.at(precision)]
    if denoiser.precision_is_chosen:
        return [denoiser]
    types = [p for p in candidates(denoiser.device) if p in denoiser.precisions] or [denoiser.precision]
    return [denoiser.at(p) for p in types]


def rounding_bias(
    denoiser: Denoiser, x: Tensor, plans: Sequence[Plan], samples: int = PILOT, seed: int = 0
) -> list[Bias]:  # fmt: skip
    """f(S) in the type of ``denoiser`` less f(S) in float32, on the same samples: {estimator: [S, h, w]} of each plan.

    In nats, for ``x`` [1,C,h,w]; the plans share one list of texts.
    """
    grid = denoiser.logsnr_grid
    drawn = draw("shifted-grid", grid, samples, 1, torch.Generator().manual_seed(seed))
    own, exact = (evaluate(model, x, plans, drawn, seed=seed) for model in (denoiser, denoiser.at("float32")))
    found = []
    for plan in plans:
        f, reference = set_function(own, plan), set_function(exact, plan)
        found.append({name: (f[name] - reference[name])[0, :, 0].float().cpu() for name in f})
    return found
