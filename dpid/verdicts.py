"""What an explainer tells of every word of a prompt: of a picture, while samples come, and of many pictures."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.images import ImageLike
from dpid.many import Stop, Wanted, Watch, apart, prompt_columns, table
from dpid.options import Budget, Options, WordsOptions
from dpid.results.result import PIDResult
from dpid.results.words import WordsResult
from dpid.run import Asked, Progress, SameModel
from dpid.runner import Runner
from dpid.words import Search, allowed, concepts_of, seed_of

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which type checkers know without the package


class _Rounds:
    """Asks the next round of questions of searches that go on side by side, and tells the progress of all.

    Parameters
    ----------
    run : (pictures, options, progress) -> the results of all questions of every picture
    options : of the first round; every other one has a seed of its own, and results with the seed of the first
    watch : called with (evaluations done, evaluations planned) of all searches
    """

    def __init__(
        self, run: Callable[[list[Asked], Options, Progress], list[list[PIDResult]]], options: Options, watch: Progress
    ) -> None:
        self._run, self._options, self._watch = run, options, watch
        self._done = 0  # evaluations of the rounds before

    def __call__(self, searches: Sequence[tuple[Search, Asked]]) -> None:
        """Ask what each of ``searches`` asks of its picture, in one run where the questions have one shape."""
        groups: dict[Hashable, list[tuple[Search, Asked]]] = {}
        for search, picture in searches:
            one = replace(picture, questions=search.questions, priors=[None] * len(search.questions))
            groups.setdefault(one.shape, []).append((search, one))
        options = replace(self._options, seed=seed_of(self._options.seed, searches[0][0].turn))  # that of all of them
        for group in groups.values():
            began = monotonic()
            found = self._run([one for _, one in group], options, self._told([search for search, _ in searches], group))
            for (search, _), results in zip(group, found, strict=True):
                self._done += results[0].metadata.unet_evaluations
                seed = self._options.seed
                search.add([replace(r, metadata=replace(r.metadata, seed=seed)) for r in results], began)

    def _told(self, searches: Sequence[Search], group: Sequence[tuple[Search, Asked]]) -> Progress:
        """The progress of a round of ``group``, after which those of all ``searches`` follow that are left."""
        conditions = sum(search.left * len(search.questions[0].texts) for search in searches if search.questions)
        after = (conditions - sum(len(one.texts) for _, one in group)) * self._options.per_round

        def told(done: int, planned: int) -> None:
            self._watch(self._done + done, self._done + planned + after)

        return told


class Verdicts(Runner):
    """The methods of :class:`dpid.Explainer` that judge every word of a prompt."""

    def words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None, *,
        latents: Tensor | None = None, progress: Progress | None = None, stop: Stop | None = None,
        **options: Unpack[WordsOptions],
    ) -> WordsResult:  # fmt: skip
        """What every content word and phrase of ``prompt`` tells about the picture: used, redundant, misleading, …

        It ends when the verdict of every word is settled, or with ``samples`` or ``seconds``. Arguments and errors as
        of :meth:`stream_words`.
        """
        growing = self.stream_words(image, prompt, concepts, latents=latents, progress=progress, stop=stop, **options)
        return deque(growing, maxlen=1).pop()

    def stream_words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None, *,
        latents: Tensor | None = None, progress: Progress | None = None, stop: Stop | None = None,
        **options: Unpack[WordsOptions],
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
        names, watch = concepts_of(prompt, concepts), Watch(progress, stop)
        with self._working():
            watch.check()
            picture = self._ask(image, latents, (), chosen, prompt)
        return self._judgements(picture, lambda: self._search(str(prompt), names, budget, chosen), chosen, watch)

    def _judgements(
        self, picture: Asked, search: Callable[[], Search], options: Options, watch: Watch
    ) -> Iterator[WordsResult]:
        """The results of :meth:`stream_words`; no lock or setting is held between two of them."""
        rounds, begun = _Rounds(partial(self._last, model=SameModel()), options, watch), search()  # its time begins
        while begun.questions:
            with self._working():
                rounds([(begun, picture)])
            yield begun.result

    def words_many(
        self, images: Iterable[ImageLike] | None = None, prompts: str | Sequence[str] | None = None,
        concepts: Sequence[str] | Sequence[Sequence[str]] | None = None, *, latents: Iterable[Tensor] | None = None,
        progress: Progress | None = None, stop: Stop | None = None, **options: Unpack[WordsOptions],
    ) -> Iterator[tuple[int, WordsResult]]:  # fmt: skip
        """An iterator of (index of the picture, its :meth:`words`), one by one, in the order of ``images``.

        Parameters
        ----------
        images : pictures as of :meth:`words`, of any sizes; or ``latents`` of each. All are taken before the first is
            explained: of more than fit the memory give paths, which are opened as their turn comes
        prompts, concepts : as of :meth:`words`, one for all pictures or one each
        progress, stop, options : as of :meth:`stream_words`; ``seconds`` are those of a picture

        Raises
        ------
        dpid.PicturesError
            After all other pictures, if some could not be explained; it has their errors.
        ValueError, TypeError
            Lists differ in length, or an option is not allowed.
        RuntimeError
            The model changes between two pictures.
        dpid.Stopped
            ``stop`` was set or returned True.
        """
        (budget, chosen), watch = self._budget(**options), Watch(progress, stop)

        def wanted(only: list[tuple[Any, ...]]) -> list[Wanted]:
            ((image, own_latents, prompt, words),) = only
            search = self._search(prompt, concepts_of(prompt, words), budget, chosen)
            return [Wanted(image, own_latents, prompt, search.questions)]

        rows = table(images, latents, *prompt_columns(prompts, concepts))
        return self._judged(apart(dict(enumerate(rows)), wanted, watch), budget, chosen, watch)

    def _judged(
        self, wanted: Mapping[int, Wanted | Exception], budget: Budget, options: Options, watch: Watch
    ) -> Iterator[tuple[int, WordsResult]]:
        """The results of :meth:`words_many`."""
        with self._lesson() as (start, learnt):

            def run(pictures: list[Asked], progress: Progress) -> list[WordsResult]:
                known, model = [start], SameModel()

                def last(ones: list[Asked], chosen: Options, told: Progress) -> list[list[PIDResult]]:
                    return self._last(ones, chosen, told, known[-1], known.append, model)

                rounds = _Rounds(last, options, progress)
                searches = [
                    self._search(str(one.prompt), [question.concepts[0] for question in one.questions], budget, options)
                    for one in pictures
                ]
                while asked := [pair for pair in zip(searches, pictures, strict=True) if pair[0].questions]:
                    rounds(asked)
                learnt.extend(known[1:][-1:])
                return [search.result for search in searches]

            # What one picture teaches is not known to another; and the time of a search is that of its picture.
            alone = options.rule == "learning" or budget.seconds is not None
            yield from self._each(wanted, options, watch, run, alone=alone)

    def _search(self, prompt: str, concepts: Sequence[str], budget: Budget, options: Options) -> Search:
        return Search(prompt, concepts, budget, max(1, budget.samples // options.per_round))

    def _budget(
        self, samples: int = Budget.samples, seconds: float | None = Budget.seconds, margin: float = Budget.margin,
        **options: Any,
    ) -> tuple[Budget, Options]:  # fmt: skip
        """When a search ends, and the checked options of its rounds."""
        budget = Budget(samples, seconds, margin)
        return budget, self._options(allowed(options) | {"samples": min(budget.samples, Options.samples)})
