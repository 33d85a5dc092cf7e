"""Runs one explanation: rounds of samples with a result after every one, in a precision with little rounding bias."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from dpid import __version__
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.device import out_of_memory, peak_memory
from dpid.estimation.density import learn_density
from dpid.estimation.engine import Accumulator, integrate, profile_edges
from dpid.estimation.estimators import SIGNED, needed_pairs, orthogonality, set_function, set_profile
from dpid.estimation.precision import rounding_bias
from dpid.estimation.sampling import Samples, draw, shifts
from dpid.options import Options
from dpid.pid.decomposition import image_priors
from dpid.prompts.plan import Plan, Subset
from dpid.results.metadata import Metadata
from dpid.results.result import PIDResult

_LOG = logging.getLogger("dpid")
_EVEN_PILOT = 0.5  # share of samples spread evenly after a pilot, whose few samples may have missed a peak
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Job:
    """The input of a run: a picture, the decompositions to compute, and the settings.

    Attributes
    ----------
    picture : at the size at which it was encoded, uint8 [H,W,3]; None if latents were given
    x : its latents, fp32 [1,C,h,w]
    questions : the plan of every decomposition to compute; all share one list of texts
    options : the settings, with a rule other than "auto"
    prompt : of the picture, or None
    priors : h(y_S) of every question, nats, or None where the measure needs none
    density : of rule "adaptive", or None
    progress : called with (evaluations done, evaluations planned) after every batch
    """

    picture: Tensor | None
    x: Tensor
    questions: Sequence[Plan]
    options: Options
    prompt: str | None
    priors: Sequence[dict[Subset, float] | None]
    density: Tensor | None
    progress: Progress | None


def make_job(
    picture: Tensor | None, x: Tensor, questions: Sequence[Plan], options: Options, prompt: str | None,
    where: Tensor | None, progress: Progress | None,
) -> Job:  # fmt: skip
    """A :class:`Job` with the priors that ``options`` ask for; ``ValueError`` if these do not fit the questions.

    ``where`` is the density of rule "adaptive".
    """
    asked = {c for question in questions for c in question.concepts}
    priors = [image_priors(options.priors, q.concepts, options.measure, prompt, asked) for q in questions]
    return Job(picture, x, questions, options, prompt, priors, where, progress)


def explanations(job: Job, denoisers: Sequence[Denoiser]) -> Iterator[list[PIDResult]]:
    """The results of all questions after every round, by the first of ``denoisers`` with little rounding bias.

    ``denoisers`` are one model in several precisions, the most precise last. If rounding biases a number by more than
    half its standard error, the run starts again with the last of them; if one overflows, with the next. After that,
    rounds with no more samples than were yielded before are skipped, except for the last one, since the new precision
    may meet the tolerance earlier. ``FloatingPointError`` if the last denoiser returns NaN or infinity.
    """
    yielded = 0
    while True:
        denoiser, *finer = denoisers
        try:
            for results in rounds(job, denoiser):
                if finer and any(result.rounding_matters() for result in results):
                    why, denoisers = "rounds too coarsely", finer[-1:]  # bfloat16 rounds more than float16
                    break
                if new := results[0].metadata.samples > yielded:
                    yielded = results[0].metadata.samples
                    yield results
            else:
                if not new:
                    yield results
                return
        except FloatingPointError:
            if not finer:
                raise
            why, denoisers = "is not finite", finer
        _LOG.info("precision: %s %s, going on with %s", denoiser.precision, why, denoisers[0].precision)


def rounds(job: Job, denoiser: Denoiser) -> Iterator[list[PIDResult]]:
    """The results of all questions after every round, until the tolerance is met or the samples are used up."""
    run, tolerance = _Run(job, denoiser), job.options.tolerance
    for turn, shift in zip(range(job.options.rounds), shifts(run.generator), strict=False):
        if turn:
            denoiser.refresh()  # if the model has changed, eps_hat raises
        run.add(turn, shift)
        results = run.results(turn + 1)
        met = False
        if tolerance is not None:
            reached = [result.relative_error() <= tolerance for result in results]
            results = [
                replace(result, metadata=replace(result.metadata, converged=ok))
                for result, ok in zip(results, reached, strict=True)
            ]
            met = all(reached)
        yield results
        if met and _may_stop(turn + 1):
            return


def _may_stop(rounds: int) -> bool:
    """Whether a met tolerance may end the run: after 1, 2, 3, 4, 6, 8, 12, … rounds.

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
        self.density = job.density
        self.done = 0  # samples
        # A pilot learns the density from the profile of the first half of a round.
        points = options.points // (2 if options.rule == "pilot" else 1)
        edges = profile_edges(denoiser.logsnr_grid, points, options.repeats)
        count = len(self.conditions.names)
        self.sums = Accumulator.empty(job.x, options.repeats, count, needed_pairs(job.questions), edges)
        self.planned = options.per_round * count * (1 if options.tolerance is None else options.rounds)
        self.bias: list[dict[str, dict[str, float]] | None] | None = None

    def add(self, turn: int, shift: float) -> None:
        """Add the samples of round ``turn``, whose grids are shifted by ``shift``."""
        options, grid = self.job.options, self.denoiser.logsnr_grid
        for rule, count in options.draws(turn):
            if rule == "adaptive" and options.rule == "pilot":
                found = [set_profile(self.sums, question) for question in self.job.questions]
                profiles = [f[name][:, :, 0].cpu() for f in found for name in SIGNED]
                self.density = learn_density(profiles, self.sums.edges.cpu(), grid, _EVEN_PILOT)
            samples = draw(
                rule, grid, count, options.repeats, self.generator, first_id=self.done,
                antithetic=options.antithetic, density=self.density, shift=shift,
            )  # fmt: skip
            # Every draw estimates the integral; a round of two draws is their mean, weighted by samples.
            self._integrate(replace(samples, weight=samples.weight * (count / options.per_replicate)))
            self.done += count * options.repeats

    def _integrate(self, samples: Samples) -> None:
        options = self.job.options
        integrate(
            self.denoiser, self.job.x, self.conditions, samples, self.sums, seed=options.seed, on_batch=self._report,
            max_batch_size=options.max_batch_size,
        )  # fmt: skip

    def _report(self) -> None:
        if self.job.progress:
            self.job.progress(self.sums.evaluations, self.planned)

    def results(self, rounds: int) -> list[PIDResult]:
        """The result of every question after ``rounds`` rounds."""
        if self.bias is None:
            self.bias = self._rounding()
        return [
            self._result(question, priors, bias, rounds)
            for question, priors, bias in zip(self.job.questions, self.job.priors, self.bias, strict=True)
        ]

    def _rounding(self) -> list[dict[str, dict[str, float]] | None]:
        """The rounding bias {estimator: {"cow+giraffe": nats}} of every question.

        It is None in float32, and {} if the model or the memory does not allow the comparison with float32.
        """
        questions, denoiser = self.job.questions, self.denoiser
        if denoiser.precision == "float32":
            return [None] * len(questions)
        if "float32" not in denoiser.precisions:
            return [{} for _ in questions]
        try:
            found = rounding_bias(denoiser, self.job.x, questions)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
            _LOG.warning("no memory to compare %s with float32: its rounding is not known", denoiser.precision)
            return [{} for _ in questions]
        return [
            {
                name: dict(zip(map("+".join, question.subsets[1:]), maps.sum((-2, -1)).tolist(), strict=True))
                for name, maps in bias.items()
            }
            for question, bias in zip(questions, found, strict=True)
        ]

    def _result(
        self, question: Plan, priors: dict[Subset, float] | None, bias: dict[str, dict[str, float]] | None, rounds: int
    ) -> PIDResult:
        options, denoiser, sums, grid = self.job.options, self.denoiser, self.sums, self.denoiser.logsnr_grid
        texts = {"+".join(s): str(question.texts[i]) for s, i in zip(question.subsets, question.index, strict=True)}
        metadata = Metadata(
            prompt=self.job.prompt or "", concepts=question.concepts, context=options.context, conditions=texts,
            reference=str(question.texts[question.full]), estimator=options.estimator, measure=options.measure,
            level=options.level, smooth=options.smooth, rule=options.rule, antithetic=options.antithetic,
            priors=None if priors is None else {"+".join(s): h for s, h in priors.items()},
            samples=options.per_round * rounds, replicates=options.repeats, unet_evaluations=sums.evaluations,
            logsnr_range=(float(grid[0]), float(grid[-1])), seed=options.seed, model=denoiser.name,
            precision=denoiser.precision, version=__version__, rounding_bias=bias, distilled=denoiser.distilled,
            caveat=denoiser.caveat, peak_memory=peak_memory(self.job.x.device),
        )  # fmt: skip
        f = {name: v[:, :, 0].float().cpu() for name, v in set_function(sums, question, rounds).items()}
        profiles = {name: v[:, :, 0].float().cpu() for name, v in set_profile(sums, question, rounds).items()}
        products = orthogonality(sums, question, rounds)[:, :, 0].float().cpu()
        return PIDResult(metadata, f, profiles, sums.edges.cpu(), self.job.picture, products)
