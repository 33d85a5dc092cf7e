"""Runs one explanation: rounds of samples with a result after every one, corrected for the rounding of a fast type."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import torch
from torch import Tensor

from dpid import __version__
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import peak_memory
from dpid.estimation.correction import Correction
from dpid.estimation.density import checksum_of
from dpid.estimation.engine import Accumulator, NotFiniteError, encoded, integrate, profile_edges
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
class Asked:
    """A picture and the decompositions to compute of it.

    Attributes
    ----------
    picture : at the size at which it was encoded, uint8 [H,W,3], of a video [T,H,W,3]; None if latents were given
    x : its latents, fp32 [1,C,h,w], of a video [1,C,T·h,w]
    questions : the plan of every decomposition to compute; all share one list of texts
    prompt : of the picture, or None
    priors : h(y_S) of every question, nats, or None where the measure needs none
    """

    picture: Tensor | None
    x: Tensor
    questions: Sequence[Plan]
    prompt: str | None
    priors: Sequence[dict[Subset, float] | None]

    @property
    def texts(self) -> tuple[Any, ...]:
        """The conditions to evaluate."""
        return self.questions[0].texts

    @property
    def shape(self) -> tuple[Any, ...]:
        """What pictures must have in common to be evaluated in the same calls."""
        return self.x.shape, tuple((q.index, q.full, len(q.texts)) for q in self.questions)


def ask(
    picture: Tensor | None, x: Tensor, questions: Sequence[Plan], options: Options, prompt: str | None
) -> Asked:  # fmt: skip
    """An :class:`Asked` with the priors that ``options`` ask for; ``ValueError`` if these do not fit the questions."""
    concepts = {c for question in questions for c in question.concepts}
    priors = [image_priors(options.priors, q.concepts, options.measure, prompt, concepts) for q in questions]
    return Asked(picture, x, questions, prompt, priors)


class SameModel:
    """What several runs of one call have in common: the model, in the state of the first of them."""

    def __init__(self) -> None:
        self._state: list[object] = []

    def check(self, state: object) -> None:
        """``RuntimeError`` if ``state``, the token of a run's model, is not that of the first run; returns nothing."""
        self._state = self._state or [state]
        if state is not self._state[0]:
            raise RuntimeError("model: was changed meanwhile; start again")


@dataclass(frozen=True)
class Job:
    """The input of a run: pictures to be evaluated together, and the settings.

    Attributes
    ----------
    pictures : one, or of one :attr:`Asked.shape` several, whose samples are then those of a single round
    options : the settings, with a rule other than "auto"
    density : of rule "adaptive", and the one that rule "learning" starts from; None for an even one
    progress : called with (evaluations done, evaluations planned) after every batch
    rounds : of samples, at most
    learnt : what rule "learning" knows of earlier pictures; every picture starts from it
    keep : called with what it knows after every round, with all of ``pictures``
    model : of the runs that this one goes on from, or None
    """

    pictures: Sequence[Asked]
    options: Options
    density: Tensor | None
    progress: Progress | None
    rounds: int
    learnt: Learnt
    keep: Callable[[Learnt], None]
    model: SameModel | None = None


def explanations(job: Job, denoisers: Sequence[Denoiser]) -> Iterator[list[list[PIDResult]]]:
    """The results of all questions of every picture after every round, by the first of ``denoisers`` that is finite.

    ``denoisers`` are one model in several precisions, the most precise last. If one overflows, the run of a single
    picture starts again with the next. After that, rounds with no more samples than were yielded before are skipped,
    except for the last one, since the new precision may meet the tolerance earlier. ``NotFiniteError`` if the last
    denoiser returns NaN or infinity, or one does for several pictures, of which the others need not go on with it.
    """
    yielded = 0
    while True:
        denoiser, *finer = denoisers
        try:
            for results in rounds(job, denoiser):
                samples = results[0][0].metadata.samples
                if new := samples > yielded:
                    yielded = samples
                    yield results
            if not new:
                yield results
            return
        except NotFiniteError:
            if not finer or len(job.pictures) > 1:
                raise
        denoisers = finer
        _LOG.info("precision: %s is not finite, going on with %s", denoiser.precision, finer[0].precision)


def rounds(job: Job, denoiser: Denoiser) -> Iterator[list[list[PIDResult]]]:
    """The results of every picture after every round, until the tolerance is met or the samples are used up."""
    run, tolerance = _Run(job, denoiser), job.options.tolerance
    until = 0  # the rounds after which the tolerance is looked at
    for turn, shift in zip(range(job.rounds), run.shifts, strict=False):
        if turn:
            denoiser.refresh()  # if the model has changed, eps_hat raises
        run.add(shift)
        results = [run.results(b, turn + 1) for b in range(len(job.pictures))]
        if run.learning:
            job.keep(run.learnt)
        if tolerance is None:
            yield results
            continue
        results = [[_judged(result, tolerance) for result in own] for own in results]
        yield results
        together = [result for own in results for result in own]
        if turn + 1 == until and all(result.metadata.converged for result in together):
            return
        # Met at the first look, it may be so by an error that happens to look small. So as many samples again are drawn
        # as may make the error small enough, before it is looked at.
        if turn + 1 >= until and may_stop(turn + 1) and within(together, tolerance * 2**0.5):
            until = 2 * (turn + 1)


def within(results: Sequence[PIDResult], tolerance: float) -> bool:
    """Whether all ``results`` have an error within the ``tolerance``."""
    return all(result.relative_error() <= tolerance for result in results)


def _judged(result: PIDResult, tolerance: float) -> PIDResult:
    """``result`` with whether it meets the ``tolerance`` in its metadata."""
    return replace(result, metadata=replace(result.metadata, converged=within([result], tolerance)))


def may_stop(rounds: int) -> bool:
    """Whether an end may be decided upon: after 1, 2, 3, 4, 6, 8, 12, … rounds.

    Deciding after any round would select rounds whose error happens to look small.
    """
    return rounds // (rounds & -rounds) in (1, 3)


def _encoded(denoiser: Denoiser, pictures: Sequence[Asked], texts: Sequence[Any]) -> Conditions:
    """``texts``, those of all ``pictures``, as ``denoiser`` encodes them; ``ValueError`` names what the caller gave."""
    try:
        return encoded(denoiser, texts)
    except ValueError as error:
        (name, _, wrong), prompt = str(error).partition(": "), pictures[0].prompt
        if name != "prompt":
            raise
        questions = [question for one in pictures for question in one.questions]
        try:  # all but the reference
            denoiser.encode_conditions(list({question.texts[k]: k for question in questions for k in question.index}))
        except ValueError:
            name = "conditions" if prompt is None else "prompt"
        else:
            name = "prompt" if prompt in texts else "reference"
        raise ValueError(f"{name}: {wrong}") from error


class _Run:
    """The state of a job on one denoiser: the sums, and how many samples they contain."""

    def __init__(self, job: Job, denoiser: Denoiser) -> None:
        options, pictures = job.options, job.pictures
        self.job, self.denoiser = job, denoiser
        self.generator = torch.Generator().manual_seed(options.seed)
        self.x = torch.cat([one.x for one in pictures])
        texts = [text for same in zip(*(one.texts for one in pictures), strict=True) for text in same]
        self.conditions = _encoded(denoiser, pictures, texts)
        if job.model:
            job.model.check(self.conditions.state)
        denoiser.examine(self.x, self.conditions)
        self.learning = options.rule == "learning"
        self.learnt = job.learnt.of(denoiser.logsnr_grid, self.conditions.state) if self.learning else Learnt()
        # A density must not depend on the noise and the shifts that are drawn by it. So they go on from those that it
        # was learnt from, even with the same seed, and no shift follows from the one before.
        self.done = self.learnt.samples
        self.density = ""  # a checksum
        self.shifts = islice(shifts(self.generator, independent=self.learning), self.learnt.rounds, None)
        edges = profile_edges(denoiser.logsnr_grid, options.points, options.repeats)
        count, pairs = len(pictures[0].texts), needed_pairs(pictures[0].questions)
        self.sums = Accumulator.empty(self.x, options.repeats, count, pairs, edges)
        self.planned = options.per_round * len(texts) * job.rounds
        self.correction: Correction | None = None
        if denoiser.precision != "float32" and "float32" in denoiser.precisions:
            decisive = SIGNED if options.estimator == "shrinkage" else (options.estimator,)
            self.correction = Correction(
                denoiser, self.x, texts, self.conditions, [one.questions for one in pictures], decisive, self.sums,
                seed=options.seed, max_batch_size=options.max_batch_size,
            )  # fmt: skip

    def add(self, shift: float) -> None:
        """Add the samples of a round, whose grids are shifted by ``shift``."""
        options, grid, density = self.job.options, self.denoiser.logsnr_grid, self.job.density
        rule = "adaptive" if self.learning else options.rule
        if self.learning:
            density = self.learnt.density(grid, density)
        if rule == "adaptive" and not self.sums.evaluations and density is not None and len(density.unique()) > 1:
            self.density = checksum_of(density)
        samples = draw(
            rule, grid, options.per_replicate, options.repeats, self.generator,
            first_id=self.done, antithetic=options.antithetic, density=density, shift=shift,
        )  # fmt: skip
        squares = integrate(
            self.denoiser, self.x, self.conditions, samples, self.sums, seed=options.seed, on_batch=self._report,
            max_batch_size=options.max_batch_size,
        )  # fmt: skip
        if self.correction:
            self.correction.add(samples, self.sums, self._report)
        self.done += options.per_round
        if self.learning:
            of_all = self._integrands(squares)
            self.learnt = Learnt.mean([self.learnt.after(samples, f, options.antithetic) for f in of_all.unbind(2)])

    def _integrands(self, squares: tuple[Tensor, Tensor]) -> Tensor:
        """The integrands at N samples, of all subsets and questions by the signed estimators, [N,S,B]."""
        found = [integrands(squares, self.sums.pairs, question) for question in self.job.pictures[0].questions]
        return torch.cat([one[name] for one in found for name in SIGNED], 1).cpu()

    def _report(self) -> None:
        if self.job.progress:
            extra = self.correction.evaluations if self.correction else 0
            self.job.progress(self.sums.evaluations * len(self.x) + extra, self.planned + extra)

    def results(self, b: int, rounds: int) -> list[PIDResult]:
        """The result of every question of picture ``b`` after ``rounds`` rounds."""
        one = self.job.pictures[b]
        return [self._result(b, *asked, rounds) for asked in zip(one.questions, one.priors, strict=True)]

    def _result(self, b: int, question: Plan, priors: dict[Subset, float] | None, rounds: int) -> PIDResult:
        options, denoiser, grid, sums = self.job.options, self.denoiser, self.denoiser.logsnr_grid, self.sums.image(b)
        one, fast = self.job.pictures[b], self.correction.images[b] if self.correction else None
        evaluations = sums.evaluations + (fast.change.evaluations if fast else 0)
        texts = {"+".join(s): str(question.texts[i]) for s, i in zip(question.subsets, question.index, strict=True)}
        metadata = Metadata(
            prompt=one.prompt or "", concepts=question.concepts, context=options.context, conditions=texts,
            reference=str(question.texts[question.full]), estimator=options.estimator, measure=options.measure,
            level=options.level, smooth=options.smooth, rule=options.rule, antithetic=options.antithetic,
            priors=None if priors is None else {"+".join(s): h for s, h in priors.items()},
            samples=options.per_round * rounds, replicates=options.repeats, unet_evaluations=evaluations,
            logsnr_range=(float(grid[0]), float(grid[-1])), seed=options.seed, model=denoiser.name,
            precision=denoiser.precision, version=__version__, distilled=denoiser.distilled, caveat=denoiser.caveat,
            paired=fast.pairs if fast else 0,
            correction=None if denoiser.precision == "float32" else fast.of(question, rounds) if fast else {},
            density=self.density, frames=denoiser.latent_frames, peak_memory=peak_memory(self.x.device),
        )  # fmt: skip
        f = {name: v[:, :, 0].float().cpu() for name, v in set_function(sums, question, rounds).items()}
        profiles = {name: v[:, :, 0].float().cpu() for name, v in set_profile(sums, question, rounds).items()}
        products = orthogonality(sums, question, rounds)[:, :, 0].float().cpu()
        return PIDResult(metadata, f, profiles, sums.edges.cpu(), products, one.picture)
