"""Which floating-point type a network computes in: the fastest whose rounding is small beside the error bars.

Rounding moves every ε̂ by something like independent noise of variance s², which a squared difference of two of them
turns into a bias of 2s² a pixel and channel: in i° all of it stays, in iʳ and iˢ, differences of two such squares,
most of it cancels. It hardly depends on the picture, so it is measured once a model and type, against float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from dpid.conditions import Plan
from dpid.information import evaluate, set_function
from dpid.sampling import draw

Bias = dict[str, Tensor]  # estimator -> [S, h, w] nats
PILOT = 8  # samples a condition, spread over the log-SNRs


def candidates(device: torch.device) -> tuple[str, ...]:
    """Types from the fastest to the most precise that ``device`` computes in hardware.

    bfloat16 is coarser than float16, but has float32's range: it is for what float16 cannot hold.
    """
    if device.type == "cuda":
        bf16 = torch.cuda.is_bf16_supported(including_emulation=False)
        return ("float16", "bfloat16", "float32") if bf16 else ("float16", "float32")
    # A CPU without the instructions converts each product: bf16 convolutions then take a hundred times longer.
    has = getattr(torch.cpu, "get_capabilities", dict[str, Any])()  # newer than the oldest torch that dpid takes
    return ("bfloat16", "float32") if has.get("avx512_bf16") or has.get("amx_bf16") else ("float32",)


def for_one(precision: str, device: str | None, samples: int) -> str:
    """What "auto" means for a single picture of ``samples`` evaluations a condition; other types stay.

    On a CPU bfloat16 halves the time, but its pilot runs ``PILOT`` samples in both types: it pays above four of them.
    """
    cpu = not torch.cuda.is_available() if device is None else device == "cpu"
    return "float32" if precision == "auto" and cpu and samples <= 4 * PILOT else precision


def rounding_bias(denoiser: Any, x: Tensor, chosen: Plan, samples: int = PILOT, seed: int = 0) -> Bias:
    """f(S) in the type of ``denoiser`` less f(S) in float32, on the same samples: {estimator: [S, h, w]} in nats.

    ``x`` [1,C,h,w]; ``denoiser`` is a :class:`dpid.denoisers.latent.LatentDenoiser`.
    """
    grid = denoiser.logsnr_grid
    drawn = draw("shifted-grid", grid, samples, 1, torch.Generator().manual_seed(seed))
    found = []
    for model in (denoiser, denoiser.at("float32")):
        found.append(set_function(evaluate(model, x, chosen, drawn, seed=seed), chosen))
    return {name: (found[0][name] - found[1][name])[0, :, 0].float().cpu() for name in found[0]}
