"""The loop: noise the latents, ask the denoiser for all conditions at once, accumulate. Memory does not grow with N."""

from __future__ import annotations

import logging
import math
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.denoisers.protocol import Conditions, Denoiser
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
            return torch.zeros(*shape, device=x.device)

        return cls(
            zeros(replicates, len(pairs), b, h, w), zeros(replicates, conditions, b, h, w), pairs.to(x.device),
            x.new_zeros(1, dtype=torch.float64) if edges is None else edges.to(x.device),
            zeros(groups, bins, len(pairs), b), zeros(groups, bins, conditions, b),
        )  # fmt: skip

    def profile_of(self, eps_hat: Tensor, noise: Tensor, part: Samples, spread: Tensor) -> tuple[Tensor, Tensor]:
        """½ w ‖·‖² of every pair and residual by group and bin: eps_hat [N,K,B,C,H,W], noise [N,B,C,H,W].

        ``spread`` [N,L]: what share of a sample belongs to each bin; see :func:`dpid.estimation.grid.shares`.
        """
        groups = self.gap_profile.shape[0]
        to_group = functional.one_hot(part.replicate % groups, groups) * (part.weight / 2)[:, None]
        first, second = self.pairs.unbind(1)
        # A pair at a time: all differences at once would take more memory than the UNet's output itself.
        gaps = [
            (eps_hat.index_select(1, first[p]) - eps_hat.index_select(1, second[p])).float().square().flatten(3).sum(-1)
            for p in range(len(first))
        ]
        residuals = [(noise - e).float().square().flatten(2).sum(-1) for e in eps_hat.unbind(1)]
        return (
            torch.einsum("na,nl,npb->alpb", to_group, spread, torch.cat(gaps, 1)),
            torch.einsum("na,nl,nkb->alkb", to_group, spread, torch.stack(residuals, 1)),
        )

    def is_finite(self, replicates: Tensor | slice = slice(None)) -> bool:
        """Whether no sum of ``replicates`` is NaN or infinite."""
        return bool(self.residuals[replicates].isfinite().all())


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
    fastest = max(conditions * b, (16_384 if x.device.type == "cpu" else 262_144) // (h * w))
    need = denoiser.evaluation_bytes(h, w)
    if need == 0:
        return fastest
    if x.device.type == "cuda":  # and what torch holds, but no tensor uses
        free = torch.cuda.mem_get_info(x.device)[0]
        free += torch.cuda.memory_reserved(x.device) - torch.cuda.memory_allocated(x.device)
    else:
        free = psutil.virtual_memory().available
    return max(1, min(fastest, free // 2 // need))


def peak_memory(device: torch.device) -> int:
    """Most bytes in use so far: of the GPU by this process's tensors, elsewhere of the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says so."""
    # On the CPU it is a RuntimeError like any other: "[enforce fail at alloc_cpu.cpp] … can't allocate memory".
    return isinstance(error, torch.OutOfMemoryError) or "allocate memory" in str(error)


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
    spread: Tensor = field(init=False)  # [N,L]

    def all(self, size: int) -> None:
        """Every sample, ``size`` evaluations a call, fewer where memory runs out."""
        # Once: inside the loop the host never waits for the device.
        self.spread = self._spread().to(self.x.device, torch.float32)
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
        profile = self._profile(eps_hat, batch) if self.spread.shape[1] else ()
        ops.accumulate(
            into.gaps, into.residuals, eps_hat, part.weight, part.replicate, into.pairs, part.sample_id, self.seed
        )  # fmt: skip
        # Whatever needs memory came before: a batch that does not fit has added nothing.
        for total, more in zip((into.gap_profile, into.residual_profile), profile, strict=False):
            total += more
        if self.watch and not into.is_finite(part.replicate.unique()):
            _refuse(eps_hat, self.conditions, part.logsnr, part.sample_id)
        into.evaluations += eps_hat.shape[0] * eps_hat.shape[1] * eps_hat.shape[2]
        if self.on_batch:
            self.on_batch()

    def _spread(self) -> Tensor:
        """What share of every sample belongs to each bin of the profile, [N,L]; L = 0 without one."""
        if len(self.into.edges) == 1:
            return self.samples.logsnr.new_zeros(len(self.samples.logsnr), 0)
        return shares(self.samples.logsnr, self.denoiser.logsnr_grid.cpu(), self.into.edges.cpu())

    def _profile(self, eps_hat: Tensor, batch: slice) -> tuple[Tensor, Tensor]:
        part = self.samples[batch]
        # σ(-200) is 1 and σ(200) nothing: the channel gives the noise itself.
        silent = torch.full_like(part.logsnr, -200.0)
        noise = ops.noisy_channel(self.x, silent, part.sample_id, self.seed)
        return self.into.profile_of(eps_hat, noise, part, self.spread[batch])


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
