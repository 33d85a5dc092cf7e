"""The correction of a fast type to float32: a few of the samples evaluated in both, docs/theory.md, eq. (57).

Rounding matters most at high log-SNR, where noise cannot be predicted and the error of ε̂, of which the squares are
taken, is large (on the embedded model the difference of the types doubles every 1.5 of log-SNR), and in samples of
large weight. There a sample is likely or certain to be evaluated in both types, elsewhere seldom; dividing by the
probability makes up for that, as Horvitz and Thompson (1952) have it.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import out_of_memory
from dpid.estimation.engine import Accumulator, integrate
from dpid.estimation.estimators import set_function
from dpid.estimation.sampling import Samples
from dpid.pid import mean_stderr
from dpid.prompts.plan import Plan

Change = dict[str, tuple[float, float]]  # {"cow+giraffe": (nats, standard error)}
Measurement = Generator[Samples, Accumulator, Accumulator]  # asks for differences at samples, returns their sum

_LOG = logging.getLogger("dpid")
_FIRST, _LEAST = 1 / 8, 1 / 32  # shares of the samples that are evaluated in float32 too
_MOST_ERROR = 1 / 3  # of the correction, in errors of the estimate: together they are 5 % larger than the latter
_STREAM = 0x5DEECE66D  # makes the choice of pairs independent of the samples, which have the same seed


class Correction:
    """The difference between float32 and the fast type of a run, estimated from pairs: samples evaluated in both.

    Every replicate is corrected by its own pairs, without bias, so that the spread of replicates contains the error of
    the correction.

    Parameters
    ----------
    x : latents [B,C,h,w]
    texts : the conditions to encode, K or K·B as :func:`dpid.estimation.engine.integrate` takes them
    conditions : those, encoded in the fast type
    plans : of all decompositions of every image
    estimators : those whose errors decide how many pairs are needed
    like : the sums of the run, for their shapes
    seed, max_batch_size : as for :func:`dpid.estimation.engine.integrate`

    Attributes
    ----------
    images : the correction of every image
    possible : whether float32 fits the memory, as far as is known
    """

    def __init__(
        self, fast: Denoiser, x: Tensor, texts: Sequence[Any], conditions: Conditions, plans: Sequence[Sequence[Plan]],
        estimators: Sequence[str], like: Accumulator, *, seed: int, max_batch_size: int | None = None,
    ) -> None:  # fmt: skip
        self.fast, self.exact, self.x, self.texts, self.seed = fast, fast.at("float32"), x, texts, seed
        # One sample a call: of batches of ever other sizes a GPU would capture a graph each.
        self.most = min(len(x) * like.residuals.shape[1], max_batch_size or 2**20)
        gaps, residuals = (torch.cat((t, t)) for t in like.zeros().sums()[:2])
        self._wide = replace(like.zeros(), gaps=gaps, residuals=residuals)  # of certain pairs, then of random ones
        self.images = [
            _Image(fast.logsnr_grid.cpu(), own, estimators, like.image(b).zeros(), seed) for b, own in enumerate(plans)
        ]
        self.possible = True
        self._encoded = {fast.precision: conditions}  # those in float32 at their first use, if the memory holds them

    @property
    def evaluations(self) -> int:
        """The number of evaluations for all images."""
        return sum(image.change.evaluations for image in self.images)

    def add(self, samples: Samples, sums: Accumulator, on_batch: Callable[[], None] | None = None) -> None:
        """Correct ``sums``, which contain ``samples`` in the fast type, by as many pairs as each image needs.

        ``on_batch`` is called after every call of the denoiser.
        """
        if not self.possible:
            return
        try:
            changes = self._measured(
                [image.measure(samples, sums.image(b)) for b, image in enumerate(self.images)], on_batch
            )
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            _LOG.warning("no memory to compare %s with float32: not corrected from here on", self.fast.precision)
            self.possible = False
            return
        for b, (image, change) in enumerate(zip(self.images, changes, strict=True)):
            image.change.add(change)
            sums.image(b).add(change)

    def _measured(self, images: Sequence[Measurement], on_batch: Callable[[], None] | None) -> list[Accumulator]:
        """What the measurements of all ``images`` return; those that ask for the same samples share the calls."""
        asked, found = {b: next(image) for b, image in enumerate(images)}, {}
        while asked:
            samples = next(iter(asked.values()))
            # Of all images, also those that ask for none, so that calls keep their size.
            both = self._difference(samples, on_batch)
            for b in [b for b, other in asked.items() if other.same(samples)]:
                try:
                    asked[b] = images[b].send(both.image(b))
                except StopIteration as last:
                    found[b] = last.value
                    del asked[b]
        return [found[b] for b in range(len(images))]

    def _difference(self, samples: Samples, on_batch: Callable[[], None] | None) -> Accumulator:
        """The sums of ``samples`` in float32 less those in the fast type; counts the evaluations of both."""
        found = []
        for denoiser in (self.exact, self.fast):
            if denoiser.precision not in self._encoded:
                self._encoded[denoiser.precision] = denoiser.encode_again(self.texts)
            sums = self._wide.zeros()
            if len(samples.logsnr):
                integrate(
                    denoiser, self.x, self._encoded[denoiser.precision], samples, sums, seed=self.seed,
                    max_batch_size=self.most, on_batch=on_batch,
                )  # fmt: skip
            found.append(sums)
        found[0].add(found[1], -1)
        return found[0]


class _Image:
    """The correction of one image; arguments as of :class:`Correction`, ``grid`` the levels of the model.

    Attributes
    ----------
    change : float32 less the fast type, as sums over the samples so far
    pairs : their number
    """

    def __init__(
        self, grid: Tensor, plans: Sequence[Plan], estimators: Sequence[str], change: Accumulator, seed: int
    ) -> None:
        self.grid, self.plans, self.estimators = grid, plans, estimators
        self.change, self.pairs = change, 0
        self._shares = [_FIRST, _FIRST]  # of the samples of even and of odd replicates
        self._calls = 0
        self._generator = torch.Generator().manual_seed(seed ^ _STREAM)

    def measure(self, samples: Samples, sums: Accumulator) -> Measurement:
        """float32 less the fast type over ``samples``, which ``sums`` contain; asks for the difference at some of them.

        How many pairs a half of the replicates needs is told by the other half: a choice that is kept where it looks
        good, and made again where it does not, would bias the result.
        """
        self._calls += 1
        change, noise = yield from self._pairs(samples, self._shares)
        corrected = sums.zeros()
        corrected.add(sums)
        corrected.add(change)
        variances = zip(*self._variances(corrected, noise), strict=True)
        needed = [self._needed(half, *of) for half, of in enumerate(variances)][::-1]
        more = [n if n == 2 * share else 0.0 for n, share in zip(needed, self._shares, strict=True)]
        if any(more):
            again, _ = yield from self._pairs(samples, more)
            for half in (half for half in (0, 1) if more[half]):
                for one, other in zip(change.sums(), again.sums(), strict=True):
                    one[half::2] = other[half::2]  # groups of a profile are of one half, too
            change.evaluations += again.evaluations
        self._shares = needed
        return change

    def _needed(self, half: int, spread: float, added: float) -> float:
        """The share of samples in pairs that a ``half`` of the replicates, 0 or 1, shows to be needed.

        ``spread`` and ``added`` are its variances, of what is corrected and of the noise that the correction adds.
        """
        if spread == 0:  # as of a single replicate
            return self._shares[half]
        own = max(spread - added, 1e-9 * spread) / self._calls  # ``spread`` is that of all samples so far
        # A larger share makes more pairs certain, so that the noise falls faster than the share grows.
        return min(1.0, max(_LEAST, self._shares[half] * min(2.0, max(0.5, added / own / _MOST_ERROR**2))))

    def _pairs(
        self, samples: Samples, shares: Sequence[float]
    ) -> Generator[Samples, Accumulator, tuple[Accumulator, Accumulator]]:
        """The difference by ``shares`` of the samples of even and of odd replicates.

        The second is the part of it that is due to samples chosen at random.
        """
        probability, random = torch.zeros(len(samples.logsnr), dtype=torch.float64), samples.replicate < 0
        for half, share in enumerate(shares):
            own = samples.replicate % 2 == half
            if share:
                probability[own] = self._probabilities(samples[own], share)
                first = float(torch.rand(1, generator=self._generator, dtype=torch.float64))
                random[own] = _systematic(probability[own], samples.logsnr[own], first)
        chosen, replicates = random | (probability >= 1), len(self.change.gaps)
        # Both parts from one pass, the random one in replicates of its own.
        both = yield replace(
            samples, weight=(samples.weight / probability).float(), replicate=samples.replicate + replicates * random
        )[chosen]
        self.pairs += int(chosen.sum())
        noise = replace(both, gaps=both.gaps[replicates:], residuals=both.residuals[replicates:])
        return replace(
            both, gaps=both.gaps[:replicates] + noise.gaps, residuals=both.residuals[:replicates] + noise.residuals
        ), noise

    def _probabilities(self, samples: Samples, share: float) -> Tensor:
        """The probability [N] float64 that a sample is chosen; their sum is ``share`` of the number of samples.

        It is in proportion to the sample's weight times what rounding is expected to add at its log-SNR.
        """
        low, high = float(self.grid[0]), float(self.grid[-1])
        # Half evenly over log-SNR: no weight becomes large where rounding is more than expected.
        rising = (samples.logsnr / 2).exp() * (high - low) / (2 * (math.exp(high / 2) - math.exp(low / 2)))
        size = samples.weight.double() * (1 + rising)
        count = share * len(size)
        certain = torch.zeros(len(size), dtype=torch.bool)
        while share < 1:
            rest = size * (count - certain.sum()) / size[~certain].sum()
            if not (more := (rest >= 1) & ~certain).any():
                return rest.where(~certain, torch.ones_like(rest))
            certain |= more
        return torch.ones_like(size)

    def _variances(self, *sums: Accumulator) -> list[list[float]]:
        """The squared deviations of f(S) in each half of the replicates, summed over S, estimators and questions.

        Of the image and of all pixels: with these, few replicates tell the ratio of two variances far better.
        """
        found = []
        for one in sums:
            squares = []
            for maps in (set_function(one, plan) for plan in self.plans):
                halves = [maps[name][half::2, :, 0] for name in self.estimators for half in (0, 1)]
                spread = [v - v.mean(0) for v in halves]
                squares += [v.square().sum() + v.sum((-2, -1)).square().sum() for v in spread]
            found.append(torch.stack(squares).view(-1, 2))
        # Read at once: on a GPU the host waits for every number that it reads.
        return [[sum(of) for of in zip(*rows, strict=True)] for rows in torch.stack(found).tolist()]

    def of(self, plan: Plan, rounds: int) -> dict[str, Change]:
        """What was added to every f(S) of the image after ``rounds`` rounds, with its error, by estimator."""
        found = {}
        for name, maps in set_function(self.change, plan, rounds).items() if self.pairs else ():
            change = maps[:, :, 0].sum((-2, -1))
            numbers = zip(*(t.tolist() for t in mean_stderr(change)), strict=True)
            found[name] = dict(zip(map("+".join, plan.subsets[1:]), numbers, strict=True))
        return found


def _systematic(probability: Tensor, logsnr: Tensor, first: float) -> Tensor:
    """Which samples of a ``probability`` [N] below one are chosen, bool [N]: evenly spread over their ``logsnr`` [N].

    A walk through the samples by log-SNR chooses one whenever the sum of probabilities passes a whole number, which
    ``first``, in [0, 1), shifts.
    """
    order = torch.argsort(logsnr, stable=True)
    order = order[probability[order] < 1]
    passed = (probability[order].cumsum(0) + first).floor()
    chosen = torch.zeros(len(logsnr), dtype=torch.bool)
    chosen[order[passed.diff(prepend=passed.new_zeros(1)) > 0]] = True
    return chosen
