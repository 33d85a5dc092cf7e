"""The loop: noise the latents, ask the denoiser for all conditions at once, accumulate. Memory does not grow with N."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from dpid import ops
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.sampling import Samples


@dataclass
class Accumulator:
    """Sums over samples, in nats per latent pixel: ``gaps`` [G,P,B,H,W], ``residuals`` [G,K,B,H,W], ``pairs`` [P,2]."""

    gaps: Tensor
    residuals: Tensor
    pairs: Tensor
    evaluations: int = 0

    @classmethod
    def empty(cls, x: Tensor, replicates: int, conditions: int, pairs: Tensor) -> Accumulator:
        """Zeros for latents ``x`` [B,C,H,W]."""
        b, _, h, w = x.shape
        gaps = torch.zeros(replicates, len(pairs), b, h, w, device=x.device)
        residuals = torch.zeros(replicates, conditions, b, h, w, device=x.device)
        return cls(gaps, residuals, pairs.to(x.device))


def _batches(samples: Samples, size: int) -> Iterator[slice]:
    for start in range(0, len(samples.logsnr), size):
        yield slice(start, start + size)


def integrate(
    denoiser: Denoiser, x: Tensor, conditions: Conditions, samples: Samples, into: Accumulator, *,
    seed: int, max_batch_size: int, on_batch: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Add ``samples`` to ``into``.

    Parameters
    ----------
    x : [B,C,H,W] latents
    max_batch_size : denoiser evaluations (samples × conditions × images) in one call
    on_batch : told the number of evaluations after each call

    Raises
    ------
    FloatingPointError
        The denoiser returned NaN or infinity; names the condition and the log-SNRs of the call.
    """
    k, b = into.residuals.shape[1:3]
    for batch in _batches(samples, max(1, max_batch_size // (k * b))):
        logsnr, ids = samples.logsnr[batch].to(x.device), samples.sample_id[batch].to(x.device)
        z = ops.noisy_channel(x, logsnr, ids, seed)
        eps_hat = denoiser.eps_hat(z, logsnr, conditions)
        ops.accumulate(
            into.gaps, into.residuals, eps_hat, samples.weight[batch].to(x.device),
            samples.replicate[batch].to(x.device), into.pairs, ids, seed,
        )  # fmt: skip
        if x.device.type == "cpu":  # elsewhere the host would wait; `check_finite` looks once at the end
            check_finite(into, conditions, samples.logsnr[batch])
        into.evaluations += eps_hat.shape[0] * k * b
        if on_batch:
            on_batch(eps_hat.shape[0] * k * b)
    check_finite(into, conditions, samples.logsnr)


def check_finite(into: Accumulator, conditions: Conditions, logsnr: Tensor) -> None:
    """Raise ``FloatingPointError`` if any sum is NaN or infinite."""
    bad = ~into.residuals.isfinite().flatten(2).all(-1).all(0)
    if bad.any():
        names = ", ".join(repr(conditions.names[int(i)]) for i in bad.nonzero())
        span = f"{logsnr.min():.2f}…{logsnr.max():.2f}"
        raise FloatingPointError(
            f"denoiser: returned NaN or infinity for condition {names} at a log-SNR within {span}; "
            "try precision='float32', and check that the model's weights are finite"
        )
