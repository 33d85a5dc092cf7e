"""The loop: noise the latents, ask the denoiser for all conditions at once, accumulate. Memory does not grow with N."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import exact_float32, free_memory, is_gpu, out_of_memory
from dpid.estimation.grid import shares
from dpid.estimation.sampling import Samples

_LOG = logging.getLogger("dpid")
_MOST_BINS = 64  # of the profile over log-SNR


@dataclass
class Accumulator:
    """Sums over samples, in nats.

    Attributes
    ----------
    gaps, residuals : per latent pixel, [G,P,B,H,W] and [G,K,B,H,W]
    pairs : conditions of the gaps, [P,2]
    edges : of L bins of log-SNR, [L+1] float64 ascending
    gap_profile, residual_profile : of the whole image in every bin, [A,L,P,B] and [A,L,K,B]; see :func:`profile_groups`
    evaluations : of the denoiser
    """

    gaps: Tensor
    residuals: Tensor
    pairs: Tensor
    edges: Tensor
    gap_profile: Tensor
    residual_profile: Tensor
    evaluations: int = 0

    @classmethod
    def empty(
        cls, x: Tensor, replicates: int, conditions: int, pairs: Tensor, edges: Tensor | None = None
    ) -> Accumulator:
        """Zeros for latents ``x`` [B,C,H,W]; without ``edges`` there is no profile, L = 0."""
        b, _, h, w = x.shape
        bins, groups = 0 if edges is None else len(edges) - 1, profile_groups(replicates)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float32, device=x.device)

        return cls(
            zeros(replicates, len(pairs), b, h, w), zeros(replicates, conditions, b, h, w), pairs.to(x.device),
            x.new_zeros(1, dtype=torch.float64) if edges is None else edges.to(x.device),
            zeros(groups, bins, len(pairs), b), zeros(groups, bins, conditions, b),
        )  # fmt: skip

    def profile_weights(self, samples: Samples, denoiser: Denoiser) -> Tensor:
        """How much of the squares of each of ``samples`` goes to each group and bin of the profile, float32 [A·L,N].

        A sample is shared out over the bins as the cell of its level of ``denoiser`` is; see
        :func:`dpid.estimation.grid.shares`.
        """
        groups, bins = self.gap_profile.shape[:2]
        if not bins:
            return torch.empty(0, len(samples.logsnr), dtype=torch.float32)
        spread = shares(samples.logsnr, denoiser.logsnr_grid.cpu(), self.edges.cpu()) * samples.weight[:, None]
        to_group = functional.one_hot(samples.replicate % groups, groups)
        return torch.einsum("na,nl->aln", to_group.double(), spread).flatten(0, 1).float()

    def add_profile(self, weights: Tensor, gap_squares: Tensor, residual_squares: Tensor) -> None:
        """Add squares [N,P,B] and [N,K,B] to groups and bins by ``weights`` [A·L,N]; takes no memory."""
        with exact_float32():
            for profile, squares in ((self.gap_profile, gap_squares), (self.residual_profile, residual_squares)):
                rows = squares.flatten(1)
                profile.view(len(weights), rows.shape[1]).addmm_(weights, rows)

    def is_finite(self) -> bool:
        """Whether no sum is NaN or infinite."""
        return bool(self.residuals.isfinite().all())


def profile_groups(replicates: int) -> int:
    """A: the profile over log-SNR has bins as fine as the levels of one of its A replicates, so that few are better.

    Where four divide G, the r-th of them is every replicate r, r + 4, …: of an interleaved grid again a grid.
    """
    return 4 if replicates % 4 == 0 else replicates


def profile_edges(grid: Tensor, points: int, replicates: int) -> Tensor:
    """Ends [L+1] of equal parts of the range of log-SNRs; of a grid of ``points``, a group has as many in each."""
    each = points // profile_groups(replicates)
    bins = each // math.ceil(each / _MOST_BINS)  # of several points each, rather than of one here and two there
    return torch.linspace(float(grid[0]), float(grid[-1]), bins + 1, dtype=torch.float64)


def integrate(
    denoiser: Denoiser, x: Tensor, conditions: Conditions, samples: Samples, into: Accumulator, *,
    seed: int, max_batch_size: int | None = None, on_batch: Callable[[], None] | None = None,
) -> None:  # fmt: skip
    """Add ``samples`` to ``into``.

    Parameters
    ----------
    x : [B,C,H,W] latents
    max_batch_size : denoiser evaluations (samples × conditions × images) in one call; None: by the free memory. Where
        memory runs out the batch is halved and evaluated again; nothing that was accumulated is lost.
    on_batch : called after each call of the denoiser

    Raises
    ------
    FloatingPointError
        The denoiser returned NaN or infinity; names the condition, the log-SNR and the sample.
    RuntimeError
        Not even one evaluation fits the memory.
    """
    size = max_batch_size or fitting(denoiser, x, into.residuals.shape[1])
    # Only the CPU looks at every batch: elsewhere the host would wait for the device.
    _Run(denoiser, x, conditions, samples, into, seed, on_batch, x.device.type == "cpu").all(size)
    if not into.is_finite():
        # Which sample it was is found by doing the same again, slowly.
        again = Accumulator.empty(x, into.residuals.shape[0], into.residuals.shape[1], into.pairs)
        _Run(denoiser, x, conditions, samples, again, seed, None, True).all(size)
        raise FloatingPointError("denoiser: a sum is NaN or infinite, and no sample of a second run was; try float32")


def fitting(denoiser: Denoiser, x: Tensor, conditions: int) -> int:
    """Denoiser evaluations a call for latents ``x`` [B,C,H,W]: as many as run fastest and fit half the free memory."""
    b, _, h, w = x.shape
    # Larger batches are no faster: measured on two cores; on a GPU a batch of 64 such maps keeps every core busy.
    fastest = max(conditions * b, (262_144 if is_gpu(x.device) else 16_384) // (h * w))
    need = denoiser.evaluation_bytes(h, w)
    return max(1, min(fastest, free_memory(x.device) // 2 // need)) if need else fastest


@dataclass
class _Run:
    """One pass over ``samples``."""

    denoiser: Denoiser
    x: Tensor
    conditions: Conditions
    samples: Samples
    into: Accumulator
    seed: int
    on_batch: Callable[[], None] | None
    watch: bool
    weights: Tensor = field(init=False)  # of the profile, [A·L,N]

    def all(self, size: int) -> None:
        """Every sample, ``size`` evaluations a call, fewer where memory runs out."""
        # Once: inside the loop the host never waits for the device.
        self.weights = self.into.profile_weights(self.samples, self.denoiser).to(self.x.device)
        self.samples = self.samples.to(self.x.device)
        k, b = self.into.residuals.shape[1:3]
        start = 0
        while start < len(self.samples.logsnr):
            batch = slice(start, start + max(1, size // (k * b)))
            try:
                self._add(batch, max(1, size // b))
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                if size <= b:
                    raise RuntimeError(f"out of memory at one evaluation of {b} image(s): {error}") from error
                size = min(size, k * b * (batch.stop - batch.start)) // 2
                _LOG.info("out of memory: going on with %d evaluations a call", size)
                continue
            start = batch.stop

    def _add(self, batch: slice, conditions: int) -> None:
        """One batch of samples, ``conditions`` at a time."""
        into, part = self.into, self.samples[batch]
        z = ops.noisy_channel(self.x, part.logsnr, part.sample_id, self.seed)
        names = len(self.conditions.names)
        if conditions >= names:
            eps_hat = self.denoiser.eps_hat(z, part.logsnr, self.conditions)
        else:
            chunks = [self.conditions[k : k + conditions] for k in range(0, names, conditions)]
            eps_hat = torch.cat([self.denoiser.eps_hat(z, part.logsnr, chunk) for chunk in chunks], 1)
        squares = ops.accumulate(
            into.gaps, into.residuals, eps_hat, part.weight, part.replicate, into.pairs, part.sample_id, self.seed
        )
        # Whatever needs memory came before: a batch that does not fit has added nothing.
        if len(self.weights):
            into.add_profile(self.weights[:, batch], *squares)
        if self.watch and not squares[1].isfinite().all():
            _refuse(eps_hat, self.conditions, part.logsnr, part.sample_id)
        into.evaluations += eps_hat.shape[0] * eps_hat.shape[1] * eps_hat.shape[2]
        if self.on_batch:
            self.on_batch()


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
