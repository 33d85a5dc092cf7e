"""Networks distilled at guidance, which is an input of theirs: how its effect is undone, and how exactly."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from dpid import ops
from dpid.checks import positive

GUIDANCE = "guidance"  # the argument [K] among encoded conditions
_LEVELS = 8  # at which the bend is measured, within the middle 60 % of the log-SNRs
_STRAIGHT = 0.1  # the bend from which a sentence says that the guidance is not undone


def check_guidance(guidance: float, taken: bool, name: str) -> None:
    """``ValueError`` unless ``guidance`` is 1, or a positive number for a network that takes one."""
    positive("guidance", guidance)
    if guidance != 1 and not taken:
        raise ValueError(f"guidance: found {guidance}, but the network of {name} does not take it as an input")


def undone(guided: Tensor, null: Tensor, guidance: float) -> Tensor:
    """ε̂ without guidance: ε̂_∅ + (ε̂_w - ε̂_∅) / w, exact where the student is linear in w; docs/theory.md, eq. (66).

    ``guided`` is ε̂_w [N,K,B,C,H,W] at ``guidance`` w, ``null`` ε̂_∅ [N,1,B,C,H,W].
    """
    return torch.lerp(null, guided, 1 / guidance)


def bend(eps_hat: Callable[[Tensor, Tensor, float], Tensor], x: Tensor, grid: Tensor, guidance: float) -> float:
    """How far ε̂ at guidance (1 + w) / 2 is off the line from 1 to ``guidance`` w, relative to the line's length.

    0 where ε̂ is linear in w. ``eps_hat`` takes (z [1,B,C,H,W], log-SNR [1], guidance); ``x`` [B,C,H,W] are latents,
    ``grid`` the model's log-SNRs.
    """
    off = line = 0.0
    for i in (torch.linspace(0.2, 0.8, _LEVELS) * (len(grid) - 1)).round().long().tolist():
        logsnr = grid[i : i + 1].to(x.device)
        z = ops.noisy_channel(x, logsnr, torch.tensor([i], device=x.device), 0)
        low, middle, high = (eps_hat(z, logsnr, g).double() for g in (1.0, (1 + guidance) / 2, guidance))
        off += float((middle - (low + high) / 2).square().sum())
        line += float((high - low).square().sum())
    return math.sqrt(off / line) if line else 0.0


def sentence(guidance: float, bent: float | None) -> str:
    """What to know of numbers of a network that was distilled at guidance, asked at ``guidance``; ``bent`` by that."""
    if guidance == 1:
        return "the network was distilled at guidance, and is asked for none (1): nats are as good as it learned that"
    if bent is None:
        return f"the network was distilled at guidance, and that of {guidance:g} is undone"
    trust = "" if bent < _STRAIGHT else "; so much is not undone: trust guidance=1 more"
    return (
        f"the network was distilled at guidance, and that of {guidance:g} is undone as if answers were linear in it: "
        f"on this picture they bend by {bent:.1%} of the way from 1{trust}"
    )
