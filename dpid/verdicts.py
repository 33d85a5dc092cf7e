"""What an explainer tells of every word of a prompt: of a picture, while samples come, and of many pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from torch import Tensor

from dpid.images import ImageLike
from dpid.many import PicturesError, Stop, Stopped, Watch, prompt_columns, table
from dpid.options import Budget, Options
from dpid.prompts.plan import Plan
from dpid.results.result import PIDResult
from dpid.results.word import REST
from dpid.results.words import WordsResult
from dpid.run import Progress
from dpid.runner import Runner
from dpid.words import allowed, concepts_of, judged, seed_of


class _Rounds:
    """The rounds of a search of words, called with questions and the number of the round; tells the progress of all.

    Parameters
    ----------
    run : (questions, seed, progress) -> one result a question
    seed : of the first round
    watch : what is told
    most : rounds at most, before one of pairs
    """

    def __init__(
        self, run: Callable[[Sequence[Plan], int, Progress], list[PIDResult]], seed: int, watch: Watch, most: int
    ) -> None:
        self._run, self._seed, self._watch, self._most = run, seed, watch, most
        self._before = 0  # evaluations of the rounds before

    def __call__(self, questions: Sequence[Plan], turn: int) -> list[PIDResult]:
        # Pairs, which are not asked beside the rest of the prompt, are the last round.
        left = max(1, self._most - turn) if REST in questions[0].concepts else 1

        def told(done: int, planned: int) -> None:
            self._watch(self._before + done, self._before + planned * left)

        results = self._run(questions, seed_of(self._seed, turn), told)
        self._before += results[0].metadata.unet_evaluations
        return results


class Verdicts(Runner):
    """The methods of :class:`dpid.Explainer` that judge every word of a prompt."""

    def words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None,
        **options: Any,
    ) -> WordsResult:  # fmt: skip
        """What every content word and phrase of ``prompt`` tells about the picture: used, redundant, misleading, …

        It ends when the verdict of every word is settled, or with ``samples`` or ``seconds``. Arguments and errors as
        of :meth:`stream_words`.
        """
        return deque(self.stream_words(image, prompt, concepts, **options), maxlen=1).pop()

    def stream_words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None, *,
        latents: Tensor | None = None, progress: Progress | None = None, stop: Stop | None = None, **options: Any,
    ) -> Iterator[WordsResult]:  # fmt: skip
        """An iterator of what every word of ``prompt`` tells, after every round of samples for words not yet settled.

        Parameters
        ----------
        image, latents, stop : as of :meth:`explain`
        progress : as of :meth:`explain`; fewer evaluations than planned follow, since settled words take none, and more
            where they are corrected for rounding
        concepts : the phrases of the prompt to judge; None: those of
            :func:`dpid.prompts.words.content_words`
        options : ``samples=256``, most evaluations of a condition, in rounds of 32, before a last one that names
            partners; ``seconds=None``, the time after which no further round begins; ``margin=0.1``, what counts as
            nothing, as a share of i(x; prompt) / the number of words; and of :class:`dpid.options.Options`: estimator,
            smooth, rule, replicates, antithetic, seed and max_batch_size

        Raises
        ------
        ValueError, TypeError
            An argument is not allowed, or the prompt has no content word; the message names it.
        FloatingPointError
            The model returned NaN or infinity.
        RuntimeError
            There is not enough memory for one evaluation, or the model changes between two results.
        dpid.Stopped
            ``stop`` was set or returned True.
        """
        budget, chosen = self._budget(**options)
        asked, watch = concepts_of(prompt, concepts), Watch(progress, stop)
        most = max(1, budget.samples // chosen.per_round)
        with self._working():
            watch.check()
            shown = self._ask(image, latents, (), chosen, prompt)

        def run(questions: Sequence[Plan], seed: int, told: Progress) -> list[PIDResult]:
            one = replace(shown, questions=questions, priors=[None] * len(questions))
            with self._working():
                return self._last([one], replace(chosen, seed=seed), told)[0]

        return judged(str(prompt), asked, _Rounds(run, chosen.seed, watch, most), budget, most)

    def words_many(
        self, images: Iterable[ImageLike] | None = None, prompts: str | Sequence[str] | None = None,
        concepts: Sequence[str] | Sequence[Sequence[str]] | None = None, *, latents: Iterable[Tensor] | None = None,
        progress: Progress | None = None, stop: Stop | None = None, **options: Any,
    ) -> Iterator[tuple[int, WordsResult]]:  # fmt: skip
        """An iterator of (index of the picture, its :meth:`words`), one by one, in the order of ``images``.

        Parameters
        ----------
        images : pictures as of :meth:`words`, of any sizes; or ``latents`` of each
        prompts, concepts : as of :meth:`words`, one for all pictures or one each
        progress, stop, options : as of :meth:`stream_words`; ``seconds`` are those of a picture

        Raises
        ------
        dpid.PicturesError
            After all other pictures, if some could not be explained; it has their errors.
        ValueError, TypeError
            Lists differ in length, or an option is not allowed.
        dpid.Stopped
            ``stop`` was set or returned True.
        """
        watch = Watch(progress, stop)
        self._budget(**options)
        return self._judged(table(images, latents, *prompt_columns(prompts, concepts)), watch, options)

    def _judged(
        self, rows: Sequence[tuple[Any, ...]], watch: Watch, options: dict[str, Any]
    ) -> Iterator[tuple[int, WordsResult]]:
        """The results of :meth:`words_many`."""
        errors: dict[int, Exception] = {}
        for i, (image, latents, prompt, concepts) in enumerate(rows):
            try:
                how = {"latents": latents, "progress": watch.part(i, 1, len(rows)), "stop": watch.stopping}
                result = self.words(image, prompt, concepts, **how, **options)
            except Exception as error:
                if watch.raised or isinstance(error, Stopped):
                    raise
                errors[i] = error
            else:
                yield i, result
        if errors:
            raise PicturesError(errors, len(rows))

    def _budget(
        self, samples: int = Budget.samples, seconds: float | None = Budget.seconds, margin: float = Budget.margin,
        **options: Any,
    ) -> tuple[Budget, Options]:  # fmt: skip
        """When a search ends, and the checked options of its rounds."""
        budget = Budget(samples, seconds, margin)
        return budget, self._options(allowed(options) | {"samples": min(budget.samples, Options.samples)})
