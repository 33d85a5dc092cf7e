"""The :class:`Runner`: what the methods of an explainer have in common, from checked options to results."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from itertools import combinations
from typing import Any

from torch import Tensor

from dpid.denoisers.modes import undisturbed
from dpid.denoisers.protocol import Denoiser
from dpid.estimation.engine import NotFiniteError
from dpid.estimation.learning import Learnt
from dpid.estimation.precision import worth_trying
from dpid.images import ImageLike
from dpid.many import Found, PicturesError, Wanted, Watch, apart, asked, batches, opened, prepare, width
from dpid.options import Options
from dpid.prompts.plan import Plan, Subset, check_concepts, merge, plan_concepts, with_reference
from dpid.results.result import PIDResult
from dpid.run import Asked, Job, Progress, SameModel, explanations
from dpid.videos import VideoLike


class ConvergenceWarning(UserWarning):
    """Warning that a tolerance was not met within ``max_samples``; ``metadata.converged`` of the result says so too."""


class Runner:
    """A model in the precisions that it may be run in, and what was learnt of where to sample it."""

    denoiser: Denoiser
    density: Tensor | None
    learnt: Learnt
    _finer: tuple[str, ...]  # the types that "auto" falls back on

    def _options(self, options: Mapping[str, Any]) -> Options:
        """The checked options, with "auto" replaced by a rule; ``ValueError`` for "adaptive" without a density."""
        chosen = Options.from_keywords(options)
        if chosen.tolerance is not None and (why := self.denoiser.distilled):
            raise ValueError(f"tolerance: found {chosen.tolerance}, but there are no nats to be that exact in: {why}")
        if chosen.rule == "auto":
            return replace(chosen, rule="learning" if self.density is None else "adaptive")
        if chosen.rule == "adaptive" and self.density is None:
            raise ValueError(
                "rule: 'adaptive' needs Explainer.density; learn() finds one in results, 'learning' on the way"
            )
        return chosen

    def _denoisers(self, samples: int) -> list[Denoiser]:
        """The model in every precision that may be tried for so many evaluations a condition, the fastest first.

        ``ValueError`` where the one that was asked for is none any more.
        """
        own, possible = self.denoiser.precision, self.denoiser.precisions
        names: Sequence[str] = (own, *self._finer)
        if self._finer:  # an adapter or offloading, added since, leaves fewer, the last of which is the network's own
            names = [name for name in names if name in possible] or possible[-1:]
        found = [self.denoiser if name == own and own in possible else self.denoiser.at(name) for name in names]
        return found if worth_trying(found[0], samples) else found[-1:]

    @contextmanager
    def _working(self) -> Iterator[None]:
        """A context with the model's lock and the settings of torch that it needs."""
        with self.denoiser.lock, undisturbed():
            yield

    def _growing(
        self, image: ImageLike | VideoLike | None, latents: Tensor | None, questions: Sequence[Plan], options: Options,
        prompt: str | None, watch: Watch,
    ) -> Iterator[list[PIDResult]]:  # fmt: skip
        """The results of all ``questions`` about a picture after every round of samples."""
        with self._working():
            watch.check()
            asked = self._ask(image, latents, questions, options, prompt)
        job = Job([asked], options, self.density, watch, options.rounds, self.learnt, self._keep)
        return self._streamed(explanations(job, self._denoisers(options.max_samples)))

    def _streamed(self, results: Iterator[list[list[PIDResult]]]) -> Iterator[list[PIDResult]]:
        """The results about the first picture; no lock or setting is held between two of them."""
        while True:
            with self._working():
                found = next(results, None)
            if found is None:
                return
            yield found[0]

    def _last(
        self, pictures: Sequence[Asked], options: Options, progress: Progress,
        learnt: Learnt | None = None, keep: Callable[[Learnt], None] | None = None, model: SameModel | None = None,
    ) -> list[list[PIDResult]]:  # fmt: skip
        """The results of all questions of every picture after one round, or as many as the tolerance takes.

        If the model returns NaN or infinity after the first, those of the rounds before, which say so.
        """
        samples, count = (options.samples, 1) if options.tolerance is None else (options.max_samples, options.rounds)
        job = Job(pictures, options, self.density, progress, count, learnt or self.learnt, keep or self._keep, model)
        results: list[list[PIDResult]] = []
        broken = ""
        try:
            for results in explanations(job, self._denoisers(samples)):  # noqa: B007, used after the loop
                pass
        except NotFiniteError as error:
            if not results:
                raise
            broken = f"{error}; the result is that of the rounds before"
            results = [[replace(r, metadata=replace(r.metadata, broken=broken)) for r in own] for own in results]
        if broken or (options.tolerance is not None and not all(r.metadata.converged for own in results for r in own)):
            missed = f"tolerance {options.tolerance} was not reached within max_samples = {options.max_samples}"
            warnings.warn(broken or missed, ConvergenceWarning, stacklevel=3)
        return results

    def _ask(
        self, image: ImageLike | VideoLike | None, latents: Tensor | None, questions: Sequence[Plan], options: Options,
        prompt: str | None,
    ) -> Asked:  # fmt: skip
        """The question about one picture or video; ``ValueError`` for one that cannot be explained."""
        one = Wanted(image, latents, prompt, questions)
        return asked([(one, opened(one, self.denoiser))], self.denoiser, options)[0]

    def _keep(self, learnt: Learnt) -> None:
        # Whole, so that of explanations side by side the last one's counts: mixed with another's, a density would
        # depend on noise that is drawn again.
        self.learnt = learnt

    def _explained(
        self, wanted: Mapping[int, Wanted | Exception], options: Options, watch: Watch
    ) -> Iterator[tuple[int, PIDResult]]:
        """The results of :meth:`dpid.Explainer.explain_many`."""
        with self._lesson() as (start, learnt):

            def run(ones: list[Asked], progress: Progress) -> list[PIDResult]:
                kept: list[Learnt] = []
                found = self._last(ones, options, progress, start, kept.append)
                learnt.extend(kept[-1:] * len(ones))
                return [result for (result,) in found]

            yield from self._each(wanted, options, watch, run)

    @contextmanager
    def _lesson(self) -> Iterator[tuple[Learnt, list[Learnt]]]:
        """What every picture of a call starts from, and a list for what each has taught, whose mean is kept."""
        learnt: list[Learnt] = []
        try:
            yield self.learnt, learnt
        finally:
            if learnt:
                self.learnt = Learnt.mean(learnt)

    def _each(
        self, wanted: Mapping[int, Wanted | Exception], options: Options, watch: Watch,
        run: Callable[[list[Asked], Progress], Sequence[Found]],
        key: Callable[[Asked], Hashable] = lambda one: one.shape, *, alone: bool = False,
    ) -> Iterator[tuple[int, Found]]:  # fmt: skip
        """What ``run`` returns for every picture, called with those that share a ``key``, or with each ``alone``.

        No lock or setting is held between two of them. ``RuntimeError`` if the model has changed since the first. At
        the end ``PicturesError`` names the pictures that raised.
        """
        errors = {i: one for i, one in wanted.items() if isinstance(one, Exception)}
        given = {i: one for i, one in wanted.items() if isinstance(one, Wanted)}
        questions = [question for one in given.values() for question in one.questions]
        together = 1 if alone else width(self.denoiser, questions, options)
        left, model = len(given), SameModel()

        def told(ones: list[Asked]) -> Sequence[Found]:
            nonlocal left
            results = run(ones, watch.part(len(ones), left - len(ones)))
            with watch.ending():  # which is no picture's fault
                model.check(self.denoiser.state)
            left -= len(ones)
            return results

        for window in batches(given, together):
            after = left - len(window)
            with self._working():
                watch.check()
                ready = prepare(window, self.denoiser, options, watch)
                sound = {i: one for i, one in ready.items() if isinstance(one, Asked)}
                left = after + len(sound)  # without those that failed
                found = apart(sound, told, watch, key)
            left = after
            for i, one in sorted({**ready, **found}.items()):
                if isinstance(one, Exception):
                    errors[i] = one
                elif not isinstance(one, Asked):
                    yield i, one
        watch.end()
        if errors:
            raise PicturesError(errors, len(wanted))


def question_of(
    prompt: str | None, concepts: Sequence[str] | None, conditions: Mapping[Subset, Any] | None, options: Options
) -> Plan:
    """The plan of the concepts or conditions, with its reference F; ``ValueError`` if they are not allowed."""
    chosen = plan_concepts(prompt, concepts, conditions, options.context)
    if options.reference == "concepts":
        return chosen
    if options.reference == "prompt" and not prompt:
        raise ValueError("reference: 'prompt' needs a prompt")
    return with_reference(chosen, prompt if options.reference == "prompt" else options.reference)


def questions_of_pairs(
    prompt: str | None, concepts: Sequence[str] | None, options: Options
) -> dict[tuple[str, str], Plan]:  # fmt: skip
    """The plan of every pair of ``concepts``, over one list of texts; ``ValueError`` if they are not allowed."""
    words = () if concepts is None else check_concepts(concepts)
    if len(words) < 2:
        raise ValueError(f"concepts: found {len(words)}, expected at least 2")
    pairs = list(combinations(words, 2))
    return dict(zip(pairs, merge([question_of(prompt, pair, None, options) for pair in pairs]), strict=True))
