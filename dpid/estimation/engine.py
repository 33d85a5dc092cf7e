"""The loop over samples: noise the latents, predict the noise under all conditions, add up squared differences.

Memory does not grow with the number of samples, but for sums over the image that are kept of each one of a round.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import exact_float32, free_memory, is_gpu, out_of_memory
from dpid.estimation.grid import shares
from dpid.estimation.sampling import Samples

_LOG = logging.getLogger("dpid")
_MOST_BINS = 64  # of log-SNR in a profile


class NotFiniteError(FloatingPointError):
    """Raised where a model returns NaN or infinity, to tell it from the errors of what is called meanwhile."""


@dataclass
class Accumulator:
    """Running sums over samples: the integrals g(i, j) and h(k) of docs/theory.md, eq. (6), in nats.

    Attributes
    ----------
    gaps : g of P pairs of conditions at every latent pixel, [G,P,B,H,W]
    residuals : h of K conditions at every latent pixel, [G,K,B,H,W]
    pairs : indices (i, j) of the conditions of every gap, [P,2]
    edges : of L bins of log-SNR, [L+1] float64 ascending
    gap_profile, residual_profile : g and h of the image in every bin, [A,L,P,B] and [A,L,K,B]; A is
        :func:`profile_groups`
    product_profile : ½ ε̂·(ε - ε̂) in place of h, [A,L,K,B]; docs/theory.md, eq. (64)
    evaluations : of the denoiser for every image so far
    """

    gaps: Tensor
    residuals: Tensor
    pairs: Tensor
    edges: Tensor
    gap_profile: Tensor
    residual_profile: Tensor
    product_profile: Tensor
    evaluations: int = 0

    @classmethod
    def empty(
        cls, x: Tensor, replicates: int, conditions: int, pairs: Tensor, edges: Tensor | None = None
    ) -> Accumulator:
        """An accumulator of zeros for latents ``x`` [B,C,H,W]; without ``edges`` it has no profile, L = 0."""
        b, _, h, w = x.shape
        bins, groups = 0 if edges is None else len(edges) - 1, profile_groups(replicates)

        def zeros(*shape: int) -> Tensor:
            return torch.zeros(*shape, dtype=torch.float32, device=x.device)

        return cls(
            zeros(replicates, len(pairs), b, h, w), zeros(replicates, conditions, b, h, w), pairs.to(x.device),
            x.new_zeros(1, dtype=torch.float64) if edges is None else edges.to(x.device),
            zeros(groups, bins, len(pairs), b), zeros(groups, bins, conditions, b), zeros(groups, bins, conditions, b),
        )  # fmt: skip

    def zeros(self) -> Accumulator:
        """An accumulator of zeros for the same latents, replicates, pairs and bins."""
        gaps, residuals, gap_profile, residual_profile, product_profile = map(torch.zeros_like, self.sums())
        return Accumulator(gaps, residuals, self.pairs, self.edges, gap_profile, residual_profile, product_profile)

    def image(self, b: int) -> Accumulator:
        """The sums of image ``b`` alone, which share its memory."""
        own = slice(b, b + 1)
        return replace(
            self, gaps=self.gaps[:, :, own], residuals=self.residuals[:, :, own],
            gap_profile=self.gap_profile[..., own], residual_profile=self.residual_profile[..., own],
            product_profile=self.product_profile[..., own],
        )  # fmt: skip

    def sums(self) -> tuple[Tensor, ...]:
        """The five tensors of sums."""
        return self.gaps, self.residuals, self.gap_profile, self.residual_profile, self.product_profile

    def add(self, other: Accumulator, scale: float = 1.0) -> None:
        """Add the sums of ``other``, times ``scale``, and its evaluations."""
        for mine, theirs in zip(self.sums(), other.sums(), strict=True):
            mine.add_(theirs, alpha=scale)
        self.evaluations += other.evaluations

    def profile_weights(self, samples: Samples, denoiser: Denoiser) -> Tensor:
        """The weight [A·L,N] float32 of every sample in every group and bin of the profile.

        A sample is divided among the bins in proportion to how its level's cell overlaps them; see
        :func:`dpid.estimation.grid.shares`.
        """
        groups, bins = self.gap_profile.shape[:2]
        if not bins:
            return torch.empty(0, len(samples.logsnr), dtype=torch.float32)
        spread = shares(samples.logsnr, denoiser.logsnr_grid.cpu(), self.edges.cpu()) * samples.weight[:, None]
        to_group = functional.one_hot(samples.replicate % groups, groups)
        return torch.einsum("na,nl->aln", to_group.double(), spread).flatten(0, 1).float()

    def add_profile(self, weights: Tensor, gap_squares: Tensor, residual_squares: Tensor, products: Tensor) -> None:
        """Add sums of every sample to the profiles, weighted by ``weights`` [A·L,N].

        ``gap_squares`` are [N,P,B], ``residual_squares`` and ``products`` [N,K,B].
        """
        profiles = (self.gap_profile, self.residual_profile, self.product_profile)
        with exact_float32():
            for profile, sums in zip(profiles, (gap_squares, residual_squares, products), strict=True):
                # One image after the other: of a wider matrix sums may be taken in another order.
                for b in range(sums.shape[-1]):
                    profile[..., b] += (weights @ sums[..., b].contiguous()).view(profile.shape[:-1])


def profile_groups(replicates: int) -> int:
    """A, the number of groups into which the profile over log-SNR joins its G replicates: 4 if that divides G, else G.

    The bins of a profile can only be as fine as the levels of one group, so few groups are better. Group r has the
    replicates r, r + 4, …, whose interleaved grids together are again an even grid.
    """
    return 4 if replicates % 4 == 0 else replicates


def profile_edges(grid: Tensor, points: int, replicates: int) -> Tensor:
    """The edges [L+1] float64 of the profile's bins: L equal parts of the range of ``grid``.

    Of ``points`` log-SNRs drawn by all replicates together, every group has equally many in each bin, as nearly as can
    be.
    """
    per_group = points // profile_groups(replicates)
    # Equally many points in every bin: one here and two there would make a jagged profile.
    bins = per_group // math.ceil(per_group / _MOST_BINS)
    return torch.linspace(float(grid[0]), float(grid[-1]), bins + 1, dtype=torch.float64)


def encoded(denoiser: Denoiser, texts: Sequence[Any]) -> Conditions:
    """The ``texts`` as ``denoiser`` encodes them; ``ValueError`` if it gives something else than as many conditions."""
    found = denoiser.encode_conditions(texts)
    names = f"{len(found.names)} names" if isinstance(found, Conditions) else type(found).__name__
    if names != f"{len(texts)} names":
        raise ValueError(f"encode_conditions: found {names}, expected Conditions of {len(texts)} names")
    return found


def integrate(
    denoiser: Denoiser, x: Tensor, conditions: Conditions, samples: Samples, into: Accumulator, *,
    seed: int, max_batch_size: int | None = None, on_batch: Callable[[], None] | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The integrands of g and h of the image at every sample, [N,P,B] and [N,K,B]; adds their sums to ``into``.

    Parameters
    ----------
    x : latents [B,C,H,W]
    conditions : the K encoded conditions, or K·B, of every image its own, as
        :meth:`dpid.denoisers.protocol.Denoiser.eps_hat_each` takes them
    seed : of the noise
    max_batch_size : largest number of evaluations (samples × conditions × images) in one call; None: chosen by the free
        memory. If memory runs out, the batch is halved and evaluated again; no sum is lost.
    on_batch : called after every call of the denoiser

    Raises
    ------
    ValueError
        The denoiser returned something else than a tensor of the shape of ε̂.
    NotFiniteError
        The denoiser returned NaN or infinity; the message names the condition, the log-SNR and the sample.
    RuntimeError
        The memory does not suffice for one evaluation.
    """
    k = into.residuals.shape[1]
    size = max_batch_size or fitting(denoiser, x, k)
    # Every batch is checked for NaN on the CPU only: on a GPU the host would wait for the device.
    squares = _Run(denoiser, x, conditions, samples, into, seed, on_batch, x.device.type == "cpu").all(size)
    if not into.residuals.isfinite().all():  # of every condition, of whose predictions all other sums are
        # A second run that checks every batch finds the sample.
        again = Accumulator.empty(x, into.residuals.shape[0], k, into.pairs)
        _Run(denoiser, x, conditions, samples, again, seed, None, True).all(size)
        raise NotFiniteError("denoiser: a sum is NaN or infinite, and no sample of a second run was; try float32")
    return squares


def fitting(denoiser: Denoiser, x: Tensor, conditions: int) -> int:
    """The number of evaluations in a call for latents ``x`` [B,C,H,W]: the fastest that fits half the free memory."""
    b, _, h, w = x.shape
    # Larger batches are no faster, as measured on two cores; on a GPU, 64 maps of 64×64 occupy all multiprocessors.
    fastest = max(conditions * b, (262_144 if is_gpu(x.device) else 16_384) // (h * w))
    need = denoiser.evaluation_bytes(h, w)
    return max(1, min(fastest, free_memory(x.device) // 2 // need)) if need else fastest


@dataclass
class _Run:
    """One pass over ``samples``; the attributes are the arguments of :func:`integrate`.

    ``watch``: whether every batch is checked for NaN and infinity.
    """

    denoiser: Denoiser
    x: Tensor
    conditions: Conditions
    samples: Samples
    into: Accumulator
    seed: int
    on_batch: Callable[[], None] | None
    watch: bool
    squares: tuple[Tensor, ...] = field(init=False)  # of :func:`dpid.ops.accumulate`, [N,P,B], [N,K,B], [N,K,B]

    def all(self, size: int) -> tuple[Tensor, Tensor]:
        """Add all samples, ``size`` evaluations a call, fewer if memory runs out; returns as :func:`integrate`."""
        # Copied once, so that inside the loop the host never waits for the device.
        weights = self.into.profile_weights(self.samples, self.denoiser).to(self.x.device)
        self.samples = self.samples.to(self.x.device)
        k, b = self.into.residuals.shape[1:3]
        count = len(self.samples.logsnr)
        self.squares = tuple(self.x.new_empty(count, rows, b) for rows in (len(self.into.pairs), k, k))
        start = 0
        while start < count:
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
        # Of all samples at once, so that no sum depends on how many were evaluated in a call.
        self.into.add_profile(weights, *self.squares)
        return self.squares[0], self.squares[1]

    def _add(self, batch: slice, conditions: int) -> None:
        """Add one batch of samples, evaluating at most ``conditions`` conditions in a call."""
        into, part = self.into, self.samples[batch]
        z = ops.noisy_channel(self.x, part.logsnr, part.sample_id, self.seed)
        eps_hat = self._eps_hat(z, part.logsnr, conditions)
        squares = ops.accumulate(
            into.gaps, into.residuals, eps_hat, part.weight, part.replicate, into.pairs, part.sample_id, self.seed
        )
        # From here on nothing is allocated: a batch that ran out of memory above has added nothing to the sums.
        for kept, new in zip(self.squares, squares, strict=True):
            kept[batch] = new
        if self.watch and not squares[1].isfinite().all():
            _refuse(eps_hat, self.conditions, part.logsnr, part.sample_id)
        into.evaluations += eps_hat.shape[0] * eps_hat.shape[1]
        if self.on_batch:
            self.on_batch()

    def _eps_hat(self, z: Tensor, logsnr: Tensor, conditions: int) -> Tensor:
        """ε̂ [N,K,B,C,H,W] for z [N,B,C,H,W], of at most ``conditions`` of every image in a call."""
        k = self.into.residuals.shape[1]
        own = len(self.conditions.names) // k  # 1 where all images have the same conditions, else B
        predict = self.denoiser.eps_hat if own == 1 else self.denoiser.eps_hat_each

        def eps_hat(asked: Conditions) -> Tensor:
            predicted = predict(z, logsnr, asked)
            expected = (len(z), len(asked.names) // own, *z.shape[1:])
            found = list(predicted.shape) if isinstance(predicted, Tensor) else type(predicted).__name__
            if found != list(expected):
                raise ValueError(f"eps_hat: found {found}, expected [N,K,B,C,H,W] = {list(expected)}")
            return predicted

        if conditions >= k:
            return eps_hat(self.conditions)
        chunks = [self.conditions[own * i : own * (i + conditions)] for i in range(0, k, conditions)]
        return torch.cat([eps_hat(chunk) for chunk in chunks], 1)


def _refuse(eps_hat: Tensor, conditions: Conditions, logsnr: Tensor, ids: Tensor) -> None:
    """Raise :class:`NotFiniteError` for the first sample and condition of ``eps_hat`` that are not finite."""
    bad = ~eps_hat.isfinite().flatten(3).all(-1)  # [N,K,B]
    if not bad.any():
        raise NotFiniteError("denoiser: its predictions are finite, but so large that their squares are not")
    sample, condition, image = bad.nonzero()[0].tolist()
    shared = len(conditions.names) == bad.shape[1]
    name = conditions.names[condition if shared else condition * bad.shape[2] + image]
    raise NotFiniteError(
        f"denoiser: returned NaN or infinity for condition {name!r} at log-SNR "
        f"{float(logsnr[sample]):.3f} (sample {int(ids[sample])}); try precision='float32', and check that the model's "
        "weights are finite"
    )
