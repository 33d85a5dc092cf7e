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

    def is_finite(self) -> bool:
        """Whether no sum is NaN or infinite."""
        return bool(self.residuals.isfinite().all())


def _batches(samples: Samples, size: int) -> Iterator[slice]:
    for start in range(0, len(samples.logsnr), size):
        yield slice(start, start + size)


def integrate(
    denoiser: Denoiser, x: Tensor, conditions: Conditions, samples: Samples, into: Accumulator, *,
    seed: int, max_batch_size: int, on_batch: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Add ``samples`` to ``into``.

    Parameters
    ----------
    x : [B,C,H,W] latents
    max_batch_size : denoiser evaluations (samples × conditions × images) in one call
    on_batch : called after each call of the denoiser

    Raises
    ------
    FloatingPointError
        The denoiser returned NaN or infinity; names the condition, the log-SNR and the sample.
    """
    # Only the CPU looks at every batch: elsewhere the host would wait for the device.
    _integrate(denoiser, x, conditions, samples, into, seed, max_batch_size, on_batch, watch=x.device.type == "cpu")
    if not into.is_finite():
        # Which sample it was is found by doing the same again, slowly.
        again = Accumulator.empty(x, into.residuals.shape[0], into.residuals.shape[1], into.pairs)
        _integrate(denoiser, x, conditions, samples, again, seed, max_batch_size, None, watch=True)
        raise FloatingPointError("denoiser: a sum is NaN or infinite, and no sample of a second run was; try float32")


def _integrate(
    denoiser: Denoiser, x: Tensor, conditions: Conditions, samples: Samples, into: Accumulator, seed: int,
    max_batch_size: int, on_batch: Callable[[], None] | None, watch: bool,
) -> None:  # fmt: skip
    k, b = into.residuals.shape[1:3]
    for batch in _batches(samples, max(1, max_batch_size // (k * b))):
        logsnr, ids = samples.logsnr[batch].to(x.device), samples.sample_id[batch].to(x.device)
        z = ops.noisy_channel(x, logsnr, ids, seed)
        eps_hat = denoiser.eps_hat(z, logsnr, conditions)
        ops.accumulate(
            into.gaps, into.residuals, eps_hat, samples.weight[batch].to(x.device),
            samples.replicate[batch].to(x.device), into.pairs, ids, seed,
        )  # fmt: skip
        if watch and not into.is_finite():
            _refuse(eps_hat, conditions, logsnr, ids)
        into.evaluations += eps_hat.shape[0] * k * b
        if on_batch:
            on_batch()


def _refuse(eps_hat: Tensor, conditions: Conditions, logsnr: Tensor, ids: Tensor) -> None:
    """Raise ``FloatingPointError`` for the first sample and condition of ``eps_hat`` that are not finite."""
    bad = ~eps_hat.isfinite().flatten(2).all(-1)  # [N,K]
    if not bad.any():
        raise FloatingPointError("denoiser: its predictions are finite, but so large that their squares are not")
    sample, condition = bad.nonzero()[0].tolist()
    raise FloatingPointError(
        f"denoiser: returned NaN or infinity for condition {conditions.names[condition]!r} at log-SNR "
        f"{float(logsnr[sample]):.3f} (sample {int(ids[sample])}); try precision='float32', and check that the model's "
        "weights are finite"
    )
