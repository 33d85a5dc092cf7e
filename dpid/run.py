"""Runs one explanation: rounds of samples with a result after every one, corrected for the rounding of a fast type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from itertools import islice
from zlib import crc32

import torch
from torch import Tensor

from dpid import __version__
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import peak_memory
from dpid.estimation.correction import Correction
from dpid.estimation.engine import Accumulator, integrate, profile_edges
from dpid.estimation.estimators import (
    SIGNED,
    integrands,
    needed_pairs,
    orthogonality,
    set_function,
    set_profile,
)  # fmt: skip
from dpid.estimation.learning import Learnt
from dpid.estimation.sampling import draw, shifts
from dpid.options import Options
from dpid.pid.decomposition import image_priors
from dpid.prompts.plan import Plan, Subset
from dpid.results.metadata import Metadata
from dpid.results.result import PIDResult

_LOG = logging.getLogger("dpid")
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """The input of a run: a picture, the decompositions to compute, and the settings.

    Attributes
    ----------
    picture : at the size at which it was encoded, uint8 [H,W,3], of a video [T,H,W,3]; None if latents were given
    x : its latents, fp32 [1,C,h,w], of a video [1,C,T·h,w]
    questions : the plan of every decomposition to compute; all share one list of texts
    options : the settings, with a rule other than "auto"
    prompt : of the picture, or None
    priors : h(y_S) of every question, nats, or None where the measure needs none
    density : of rule "adaptive", and the one that rule "learning" starts from; None for an even one
    progress : called with (evaluations done, evaluations planned) after every batch
    learnt : what rule "learning" knows of earlier pictures
    keep : called with what it knows after every round
    """

    picture: Tensor | None
    x: Tensor
    questions: Sequence[Plan]
    options: Options
    prompt: str | None
    priors: Sequence[dict[Subset, float] | None]
    density: Tensor | None
    progress: Progress | None
    learnt: Learnt = field(default_factory=Learnt)
    keep: Callable[[Learnt], None] | None = None


def make_job(
    picture: Tensor | None, x: Tensor, questions: Sequence[Plan], options: Options, prompt: str | None,
    density: Tensor | None, progress: Progress | None,
) -> Job:  # fmt: skip
    """A :class:`Job` with the priors that ``options`` ask for; ``ValueError`` if these do not fit the questions."""
    asked = {c for question in questions for c in question.concepts}
    priors = [image_priors(options.priors, q.concepts, options.measure, prompt, asked) for q in questions]
    return Job(picture, x, questions, options, prompt, priors, density, progress)


def explanations(job: Job, denoisers: Sequence[Denoiser]) -> Iterator[list[PIDResult]]:
    """The results of all questions after every round, by the first of ``denoisers`` that does not overflow.

    ``denoisers`` are one model in several precisions, the most precise last. If one overflows, the run starts again
    with the next. After that, rounds with no more samples than were yielded before are skipped, except for the last
    one, since the new precision may meet the tolerance earlier. ``FloatingPointError`` if the last denoiser returns NaN
    or infinity.
    """
    yielded = 0
    while True:
        denoiser, *finer = denoisers
        try:
            for results in rounds(job, denoiser):
                if new := results[0].metadata.samples > yielded:
                    yielded = results[0].metadata.samples
                    yield results
            if not new:
                yield results
            return
        except FloatingPointError:
            if not finer:
                raise
        denoisers = finer
        _LOG.info("precision: %s is not finite, going on with %s", denoiser.precision, finer[0].precision)


def rounds(job: Job, denoiser: Denoiser) -> Iterator[list[PIDResult]]:
    """The results of all questions after every round, until the tolerance is met or the samples are used up."""
    run, tolerance = _Run(job, denoiser), job.options.tolerance
    for turn, shift in zip(range(job.options.rounds), run.shifts, strict=False):
        if turn:
            denoiser.refresh()  # if the model has changed, eps_hat raises
        run.add(shift)
        results = run.results(turn + 1)
        met = False
        if tolerance is not None:
            reached = [result.relative_error() <= tolerance for result in results]
            results = [
                replace(result, metadata=replace(result.metadata, converged=ok))
                for result, ok in zip(results, reached, strict=True)
            ]
            met = all(reached)
        if job.keep and run.learning:
            job.keep(run.learnt)
        yield results
        if met and may_stop(turn + 1):
            return


def may_stop(rounds: int) -> bool:
    """Whether a met tolerance may end a run: after 1, 2, 3, 4, 6, 8, 12, … rounds.

    Stopping after any round would select rounds whose error happens to look small.
    """
    return rounds // (rounds & -rounds) in (1, 3)


class _Run:
    """The state of a job on one denoiser: the sums, and how many samples they contain."""

    def __init__(self, job: Job, denoiser: Denoiser) -> None:
        options = job.options
        self.job, self.denoiser = job, denoiser
        self.generator = torch.Generator().manual_seed(options.seed)
        self.conditions: Conditions = denoiser.encode_conditions(job.questions[0].texts)
        denoiser.examine(job.x, self.conditions)
        self.learning = options.rule == "learning"
        self.learnt = job.learnt.of(denoiser.logsnr_grid, self.conditions.state) if self.learning else Learnt()
        # A density must not depend on the noise and the shifts that are drawn by it. So they go on from those that it
        # was learnt from, even with the same seed, and no shift follows from the one before.
        self.done = self.learnt.samples
        self.density = ""  # a checksum
        self.shifts = islice(shifts(self.generator, independent=self.learning), self.learnt.rounds, None)
        edges = profile_edges(denoiser.logsnr_grid, options.points, options.repeats)
        count = len(self.conditions.names)
        self.sums = Accumulator.empty(job.x, options.repeats, count, needed_pairs(job.questions), edges)
        self.planned = options.per_round * count * (1 if options.tolerance is None else options.rounds)
        self.correction: Correction | None = None
        if denoiser.precision != "float32" and "float32" in denoiser.precisions:
            decisive = SIGNED if options.estimator == "shrinkage" else (options.estimator,)
            self.correction = Correction(
                denoiser, job.x, job.questions, decisive, self.sums, seed=options.seed,
                max_batch_size=options.max_batch_size,
            )  # fmt: skip

    def add(self, shift: float) -> None:
        """Add the samples of a round, whose grids are shifted by ``shift``."""
        options, grid, density = self.job.options, self.denoiser.logsnr_grid, self.job.density
        rule = "adaptive" if self.learning else options.rule
        if self.learning:
            density = self.learnt.density(grid, density)
        if rule == "adaptive" and not self.sums.evaluations and density is not None and len(density.unique()) > 1:
            self.density = f"{crc32(density.double().cpu().numpy().tobytes()):08x}"
        samples = draw(
            rule, grid, options.per_replicate, options.repeats, self.generator,
            first_id=self.done, antithetic=options.antithetic, density=density, shift=shift,
        )  # fmt: skip
        squares = integrate(
            self.denoiser, self.job.x, self.conditions, samples, self.sums, seed=options.seed, on_batch=self._report,
            max_batch_size=options.max_batch_size,
        )  # fmt: skip
        if self.correction:
            self.correction.add(samples, self.sums)
        self.done += options.per_round
        if self.learning:
            found = [integrands(squares, self.sums.pairs, question) for question in self.job.questions]
            f = torch.cat([one[name][:, :, 0] for one in found for name in SIGNED], 1).cpu()
            self.learnt = self.learnt.after(samples, f, options.antithetic)

    def _report(self) -> None:
        if self.job.progress:
            extra = self.correction.change.evaluations if self.correction else 0
            self.job.progress(self.sums.evaluations, self.planned + extra)

    def results(self, rounds: int) -> list[PIDResult]:
        """The result of every question after ``rounds`` rounds."""
        return [
            self._result(question, priors, rounds)
            for question, priors in zip(self.job.questions, self.job.priors, strict=True)
        ]

    def _result(self, question: Plan, priors: dict[Subset, float] | None, rounds: int) -> PIDResult:
        options, denoiser, sums, grid = self.job.options, self.denoiser, self.sums, self.denoiser.logsnr_grid
        fast = self.correction
        texts = {"+".join(s): str(question.texts[i]) for s, i in zip(question.subsets, question.index, strict=True)}
        metadata = Metadata(
            prompt=self.job.prompt or "", concepts=question.concepts, context=options.context, conditions=texts,
            reference=str(question.texts[question.full]), estimator=options.estimator, measure=options.measure,
            level=options.level, smooth=options.smooth, rule=options.rule, antithetic=options.antithetic,
            priors=None if priors is None else {"+".join(s): h for s, h in priors.items()},
            samples=options.per_round * rounds, replicates=options.repeats, unet_evaluations=sums.evaluations,
            logsnr_range=(float(grid[0]), float(grid[-1])), seed=options.seed, model=denoiser.name,
            precision=denoiser.precision, version=__version__, distilled=denoiser.distilled, caveat=denoiser.caveat,
            paired=fast.pairs if fast else 0,
            correction=None if denoiser.precision == "float32" else fast.of(question, rounds) if fast else {},
            density=self.density, frames=denoiser.latent_frames, peak_memory=peak_memory(self.job.x.device),
        )  # fmt: skip
        f = {name: v[:, :, 0].float().cpu() for name, v in set_function(sums, question, rounds).items()}
        profiles = {name: v[:, :, 0].float().cpu() for name, v in set_profile(sums, question, rounds).items()}
        products = orthogonality(sums, question, rounds)[:, :, 0].float().cpu()
        return PIDResult(metadata, f, profiles, sums.edges.cpu(), self.job.picture, products)
