"""The :class:`Explainer`: partial information decomposition of a picture by the concepts of a prompt."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import product
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image
from torch import Tensor

from dpid.checks import count, found, text
from dpid.denoisers.modes import check_precision, undisturbed
from dpid.denoisers.protocol import Denoiser
from dpid.densities import Densities
from dpid.estimation.density import learn_density
from dpid.estimation.estimators import SIGNED
from dpid.estimation.learning import Learnt
from dpid.estimation.precision import ladder
from dpid.images import SMALLEST, ImageLike, open_image
from dpid.many import Stop, Wanted, Watch, apart, column, prompt_columns, table
from dpid.options import OF_PIPELINES, Budget, ExplainOptions, check_allowed
from dpid.prompts.plan import MOST_CONCEPTS, Plan, Subset, subsets_of
from dpid.results.result import PIDResult
from dpid.run import Progress
from dpid.runner import question_of, questions_of_pairs
from dpid.verdicts import Verdicts
from dpid.videos import VideoLike
from dpid.words import concepts_of

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which type checkers know without the package

_EVEN = 0.1  # share of samples spread evenly by a density learnt from results


class Explainer(Densities, Verdicts):
    """Explains pictures with one model: how much information about a picture each concept of its prompt has.

    It may be used from several threads; they wait for each other if the model is not thread-safe. Where the default
    rule is "learning", see :attr:`learnt`, their order decides what it learns from: let threads name a rule.

    Parameters
    ----------
    model : a diffusers pipeline of a supported family, or any :class:`dpid.denoisers.Denoiser`
    precision : the type that the network computes in: "float32", "bfloat16", "float16", or "auto", the fastest one that
        does not overflow. Results are corrected to float32 by a few samples that are evaluated in that too,
        docs/theory.md, eq. (57); their metadata has the type and the correction. A denoiser made with a type keeps it
        under "auto"
    options : of a pipeline: ``check``, ``size``, ``frames``, ``compile``, ``guidance``, ``control`` (a picture of any
        kind that :meth:`explain` takes) and others of :class:`dpid.denoisers.NetworkDenoiser`

    Attributes
    ----------
    denoiser : the model, in the fastest precision that may be used
    density : of ``rule="adaptive"``, [T] at the levels of the model's ``logsnr_grid``; None unless the model comes with
        one (the embedded model does) or :meth:`learn` was called. Without one the default rule is "learning"
    learnt : what rule "learning" has learnt so far. Every explanation by it puts a new one here, so that equal calls
        draw other samples; with the one from before a call put back, the call gives equal numbers

    Raises
    ------
    ValueError
        The model cannot be used, computes something else than dpid takes it for, or is a denoiser in training mode or
        with log-SNRs that do not ascend.
    TypeError
        The model is a name or path, which :meth:`from_pretrained` loads, or a denoiser without a ``name``; an option
        that there is none of.
    """

    def __init__(self, model: Any, *, precision: str = "auto", **options: Any) -> None:
        check_precision(precision)
        if isinstance(model, (str, Path)):
            raise TypeError(f"model: found {model!r}; expected a pipeline, or use Explainer.from_pretrained({model!r})")
        if isinstance(model, Denoiser) and options:
            raise ValueError(f"{', '.join(options)}: is for pipelines, and the model is a denoiser already")
        if isinstance(model, Denoiser) and model.training:
            raise ValueError("model: is in train() mode, where dropout makes every answer another; call .eval()")
        if isinstance(model, Denoiser):
            _check_own(model)
        with undisturbed():
            if not isinstance(model, Denoiser):
                from dpid.denoisers.network import from_pipeline

                check_allowed(options, OF_PIPELINES, "an explainer is made")
                if options.get("control") is not None:
                    options["control"] = _control(options["control"])
                model = from_pipeline(model, precision=precision, **options)
            fastest, *finer = ladder(model, precision)
        self.denoiser: Denoiser = fastest
        self.density: Tensor | None = None
        self.learnt = Learnt()
        self._finer = tuple(other.precision for other in finer)  # the types that "auto" falls back on

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None,
        precision: str = "auto", **options: Any,
    ) -> Explainer:  # fmt: skip
        """An explainer with "emoji" or "emoji-flow" (embedded models), a folder, a ``.safetensors`` file, or a hub id.

        Arguments, among them ``variant``, ``revision``, ``subfolder`` and ``token``, and errors as of
        :func:`dpid.denoisers.loading.load_pipeline` and of this class.
        """
        from dpid.denoisers.loading import folder_of, load_pipeline, shipped_density

        check_precision(precision)
        folder = folder_of(model)
        own = {name: options.pop(name) for name in OF_PIPELINES if name in options}
        if own.get("control") is not None:
            own["control"] = _control(own["control"])  # before the model is loaded
        if str(model) == "emoji" and dtype is None and not options:
            from dpid.denoisers.embedded import EmbeddedDenoiser

            with undisturbed():
                explainer = cls(EmbeddedDenoiser(folder, device, **own), precision=precision)
        else:
            explainer = cls(load_pipeline(model, device, dtype, **options), precision=precision, **own)
            explainer.denoiser.name = str(model)
        with undisturbed():
            explainer.density = shipped_density(folder)
        return explainer

    def at(self, precision: str) -> Explainer:
        """The same explainer computing in ``precision``."""
        other = Explainer(self.denoiser.at(precision), precision=precision)
        other.density, other.learnt = self.density, self.learnt
        return other

    def learn(self, results: Sequence[PIDResult] | None = None) -> None:
        """Set :attr:`density` from ``results`` of this model, or else from :attr:`learnt`; returns nothing.

        From then on the default rule is "adaptive": samples no longer depend on the explanations before. The results'
        pictures should be like those to be explained; a dozen results of 64 samples suffice. Estimates stay
        unbiased whatever the results are, but to explain the same pictures again take another ``seed``. ``ValueError``
        if there are no results or nothing is learnt, if their profiles differ in length, or if their rule samples some
        log-SNRs more densely than others, since the spread of replicates would then depend on the rule; ``TypeError``
        for what are no results.
        """
        if results is None:
            known = self.learnt.of(self.denoiser.logsnr_grid, self.learnt.state)
            if not known.rounds:
                raise ValueError("results: expected some, since nothing was learnt by explaining; see rule 'learning'")
            self.density = known.density(self.denoiser.logsnr_grid, self.density)
            return
        results = _listed("results", results, "results")
        if not results:
            raise ValueError("results: found none, expected those of at least one explanation")
        if others := [r for r in results if not isinstance(r, PIDResult)]:
            raise TypeError(f"results: found {found(others[0])}, expected what explain returns")
        if uneven := {r.metadata.rule for r in results} - {"shifted-grid", "stratified", "uniform"}:
            raise ValueError(
                f"results: found rule {', '.join(sorted(uneven))}; explain with rule='shifted-grid' to learn from"
            )
        lengths = {len(result.edges) for result in results}
        if len(lengths) != 1:
            raise ValueError(f"results: found profiles of {sorted(lengths)} edges, expected all of one length")
        profiles = [result.profiles[name] for result in results for name in SIGNED]
        self.density = learn_density(profiles, results[0].edges.double(), self.denoiser.logsnr_grid, _EVEN)

    def explain(
        self,
        image: ImageLike | VideoLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
        **options: Unpack[ExplainOptions],
    ) -> PIDResult:
        """The decomposition of i(x; y1, …, yn) into redundancy, uniqueness of every concept, and synergy.

        Parameters
        ----------
        image : path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; or ``latents`` [C,h,w], floating-point numbers,
            instead. Of a model of videos, what :func:`dpid.videos.open_video` takes, or ``latents`` [C,T,h,w]
        prompt, concepts : a text and two to eight phrases of it ("bowl#2": the second "bowl"); all 2ⁿ subsets are
            evaluated. Or ``conditions`` instead, {(): null, (c1,): …, (c2,): …, (c1, c2): …}: texts or, of
            a model with an IP-Adapter, :class:`dpid.ImageCondition`
        progress : called with (evaluations done, evaluations planned); what it raises ends the run
        stop : a ``threading.Event``, or a function that returns whether to stop, which is looked at after every batch
        options : fields of :class:`dpid.options.Options`, by name

        Raises
        ------
        ValueError, TypeError
            An argument is not allowed; the message names it.
        FloatingPointError
            The model returned NaN or infinity in the first round of samples.
        RuntimeError
            The memory does not suffice for one evaluation, or the pipeline was changed between two rounds of samples.
        dpid.Stopped
            ``stop`` said so.

        Warns
        -----
        ConvergenceWarning
            ``tolerance`` was not reached within ``max_samples``, or the model returned NaN or infinity after the first
            round of samples; the result is that of the rounds before, and its ``metadata.broken`` has the error.
        """
        chosen, watch = self._options(options), Watch(progress, stop)
        question = question_of(prompt, concepts, conditions, chosen)
        with self._working():
            watch.check()
            ((result,),) = self._last([self._ask(image, latents, (question,), chosen, prompt)], chosen, watch)
        return result

    async def aexplain(
        self, image: ImageLike | VideoLike | None = None, prompt: str | None = None,
        concepts: Sequence[str] | None = None, *, latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None, progress: Progress | None = None, stop: Stop | None = None,
        **options: Unpack[ExplainOptions],
    ) -> PIDResult:  # fmt: skip
        """The result of :meth:`explain` with the same arguments, computed in a thread, while other tasks go on.

        If the task is cancelled, the computation ends at its next batch.
        """
        cancelled = Event()
        given = Watch(None, stop)

        def stopped() -> bool:
            return cancelled.is_set() or given.stopping()

        try:
            return await asyncio.to_thread(
                self.explain, image, prompt, concepts, latents=latents, conditions=conditions, progress=progress,
                stop=stopped, **options,
            )  # fmt: skip
        except asyncio.CancelledError:
            cancelled.set()
            raise

    def explain_many(
        self,
        images: Iterable[ImageLike] | None = None,
        prompts: str | Sequence[str] | None = None,
        concepts: Sequence[str] | Sequence[Sequence[str]] | None = None,
        *,
        latents: Iterable[Tensor] | None = None,
        conditions: Mapping[Subset, Any] | Sequence[Mapping[Subset, Any]] | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[tuple[int, PIDResult]]:
        """An iterator of (index of the picture, its result), one by one as they are ready, in the order of ``images``.

        A result is that of :meth:`explain`: on a CPU bit for bit; on a GPU, where pictures may share calls of the
        model, but for rounding, which is another in larger batches. With rule "learning" all start from what was learnt
        before the call, and :attr:`learnt` is the mean of what each taught. All pictures have the same noise: for the
        error of an average over them average their replicates, or explain every picture with a ``seed`` of its own.

        Parameters
        ----------
        images : pictures as of :meth:`explain`, of any sizes; or ``latents`` of each. All are taken before the first is
            explained: of more than fit the memory give paths, which are opened as their turn comes
        prompts, concepts, conditions : as of :meth:`explain`, one for all pictures or one each
        progress, stop, options : as of :meth:`explain`; the progress is that of all pictures

        Raises
        ------
        dpid.PicturesError
            After all other pictures, if some could not be explained; it has their errors.
        ValueError, TypeError
            Lists differ in length, or an option is not allowed.
        RuntimeError
            The model changes between two results. Those that were given before stay as they are.
        dpid.Stopped
            ``stop`` said so; likewise.
        """
        chosen, watch = self._options(options), Watch(progress, stop)
        rows = table(
            images, latents, *prompt_columns(prompts, concepts),
            column("conditions", conditions, not isinstance(conditions, Mapping)),
        )  # fmt: skip

        def wanted(only: list[tuple[Any, ...]]) -> list[Wanted]:
            ((image, own_latents, prompt, words, own_conditions),) = only
            return [Wanted(image, own_latents, prompt, (question_of(prompt, words, own_conditions, chosen),))]

        return self._explained(apart(dict(enumerate(rows)), wanted, watch), chosen, watch)

    def stream(
        self, image: ImageLike | VideoLike | None = None, prompt: str | None = None,
        concepts: Sequence[str] | None = None, *, latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None, progress: Progress | None = None, stop: Stop | None = None,
        **options: Unpack[ExplainOptions],
    ) -> Iterator[PIDResult]:  # fmt: skip
        """An iterator of results, each from ``samples`` more evaluations of every condition, up to ``max_samples``.

        It ends early when ``tolerance``, if given, is met at a time that was set before; results before that may meet
        it, too. Arguments and errors as of :meth:`explain`, but ``FloatingPointError`` after any round; also
        ``RuntimeError`` if the model changes between two results. Results that were given before stay as they are.
        """
        chosen, watch = self._options(options), Watch(progress, stop)
        chosen.check_rounds()
        question = question_of(prompt, concepts, conditions, chosen)
        growing = self._growing(image, latents, (question,), chosen, prompt, watch)
        return (result for (result,) in growing)

    def explain_pairs(
        self, image: ImageLike | VideoLike | None = None, prompt: str | None = None,
        concepts: Sequence[str] | None = None, *, latents: Tensor | None = None, progress: Progress | None = None,
        stop: Stop | None = None, **options: Unpack[ExplainOptions],
    ) -> dict[tuple[str, str], PIDResult]:  # fmt: skip
        """The decomposition {pair: result} of every pair of ``concepts``; shared conditions are evaluated once.

        Eight concepts have 28 pairs but only 37 distinct conditions. Arguments and errors as of :meth:`explain`;
        :func:`dpid.results.result.ranked` sorts the pairs.
        """
        chosen, watch = self._options(options), Watch(progress, stop)
        questions = questions_of_pairs(prompt, concepts, chosen)
        with self._working():
            watch.check()
            asked = self._ask(image, latents, tuple(questions.values()), chosen, prompt)
            (results,) = self._last([asked], chosen, watch)
        return dict(zip(questions, results, strict=True))

    def stream_pairs(
        self, image: ImageLike | VideoLike | None = None, prompt: str | None = None,
        concepts: Sequence[str] | None = None, *, latents: Tensor | None = None, progress: Progress | None = None,
        stop: Stop | None = None, **options: Unpack[ExplainOptions],
    ) -> Iterator[dict[tuple[str, str], PIDResult]]:  # fmt: skip
        """An iterator of what :meth:`explain_pairs` returns, each from more samples; errors as of :meth:`stream`."""
        chosen, watch = self._options(options), Watch(progress, stop)
        chosen.check_rounds()
        questions = questions_of_pairs(prompt, concepts, chosen)
        growing = self._growing(image, latents, tuple(questions.values()), chosen, prompt, watch)
        return (dict(zip(questions, results, strict=True)) for results in growing)

    def warm_up(
        self, sizes: Iterable[tuple[int, int]], concepts: int = 2, prompt: str | None = None,
        **options: Unpack[ExplainOptions],
    ) -> None:  # fmt: skip
        """Make the first explanation as fast as those after it; returns nothing and learns nothing.

        Grey pictures, or videos, of each of the ``sizes`` (width, height) in pixels are explained by empty texts, as
        many as two to eight ``concepts`` have subsets, with the ``options`` of :meth:`explain`; and by every word of a
        ``prompt`` as for the first round of :meth:`words`, so that this is as fast for prompts of as many words.
        """
        chosen, concepts = self._options(options), count(2, MOST_CONCEPTS)("concepts", concepts)
        pairs = [_size(size) for size in _listed("sizes", sizes, "(width, height)")]
        subsets = subsets_of([str(i) for i in range(concepts)])
        plan = Plan(subsets[-1], subsets, ("",) * len(subsets), tuple(range(len(subsets))), len(subsets) - 1)
        questions: list[Sequence[Plan]] = [(plan,)]
        if prompt is not None:
            questions.append(self._search(prompt, concepts_of(prompt, None), Budget(), chosen).questions)
        with self._working():
            for size, asked in product(pairs, questions):
                grey, frames = Image.new("RGB", size, "gray"), self.denoiser.frames
                one = self._ask(grey if frames is None else [grey] * frames, None, asked, chosen, None)
                self._last([one], chosen, Watch(None, None), self.learnt, lambda _: None)


def _check_own(model: Denoiser) -> None:
    """Raise ``TypeError`` or ``ValueError`` for a denoiser without what a subclass has to set; returns nothing."""
    text("model.name", getattr(model, "name", None))
    for name, needed, expected in (
        ("device", torch.device, "torch.device"), ("lock", AbstractContextManager, "context"),
    ):  # fmt: skip
        if not isinstance(value := getattr(model, name), needed):
            raise TypeError(f"model.{name}: found {found(value)}, expected a {expected}")
    grid = model.logsnr_grid
    if not isinstance(grid, Tensor) or grid.ndim != 1 or grid.dtype not in (torch.float32, torch.float64):
        kind = f"{grid.dtype} {list(grid.shape)}" if isinstance(grid, Tensor) else type(grid).__name__
        raise TypeError(f"model.logsnr_grid: found {kind}, expected a float64 tensor [T]")
    if len(grid) < 2 or not grid.isfinite().all() or not (grid.diff() > 0).all():
        raise ValueError(f"model.logsnr_grid: found {found(grid.tolist())}, expected ascending finite log-SNRs")


def _listed(name: str, values: Any, expected: str) -> tuple[Any, ...]:
    """``values``, any iterable, as a tuple; ``TypeError``, naming the argument ``name``, for what is none."""
    try:
        return tuple(values)
    except TypeError as error:
        raise TypeError(f"{name}: found {type(values).__name__}, expected a list of {expected}") from error


def _size(size: Any) -> tuple[int, int]:
    """``size`` as (width, height); ``ValueError`` unless it is a pair of whole numbers that a picture may have."""
    if not isinstance(size, (tuple, list)) or len(size) != 2:
        raise ValueError(f"sizes: found {found(size)}, expected a list of (width, height)")
    width, height = (count(SMALLEST, 2**31 - 1)("sizes", side) for side in size)
    return width, height


def _control(given: Any) -> Image.Image | list[Image.Image]:
    try:
        return [open_image(picture) for picture in given] if isinstance(given, (list, tuple)) else open_image(given)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("image", "control", 1)) from error
