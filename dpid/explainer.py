"""The :class:`Explainer`: partial information decomposition of a picture by the concepts of a prompt."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from dpid.denoisers.modes import check_precision, undisturbed
from dpid.denoisers.protocol import Denoiser
from dpid.estimation.density import learn_density
from dpid.estimation.estimators import SIGNED
from dpid.estimation.learning import Learnt
from dpid.estimation.precision import ladder, worth_trying
from dpid.images import ImageLike, encode, open_image
from dpid.likelihood import Likelihood, log_likelihood
from dpid.options import Options
from dpid.prompts.plan import Plan, Subset, check_concepts, merge, plan_concepts, with_reference
from dpid.results.result import PIDResult
from dpid.results.words import WordsResult
from dpid.run import Job, Progress, explanations, make_job
from dpid.videos import VideoLike, encode_video

_OF_PIPELINES = (
    "fused",
    "check",
    "size",
    "frames",
    "compile",
    "guidance",
    "control",
    "control_scale",
)  # options that are not of loading
_EVEN = 0.1  # share of samples spread evenly by a density learnt from results


class ConvergenceWarning(UserWarning):
    """Warning that a tolerance was not met within ``max_samples``; ``metadata.converged`` of the result says so too."""


class Explainer:
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
        The model cannot be used, computes something else than dpid takes it for, or is a denoiser in training mode.
    """

    def __init__(self, model: Any, *, precision: str = "auto", **options: Any) -> None:
        check_precision(precision)
        if isinstance(model, Denoiser) and options:
            raise ValueError(f"{', '.join(options)}: is for pipelines, and the model is a denoiser already")
        if isinstance(model, Denoiser) and model.training:
            raise ValueError("model: is in train() mode, where dropout makes every answer another; call .eval()")
        with undisturbed():
            if not isinstance(model, Denoiser):
                from dpid.denoisers.network import from_pipeline

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
        own = {name: options.pop(name) for name in _OF_PIPELINES if name in options}
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
        log-SNRs more densely than others, since the spread of replicates would then depend on the rule.
        """
        if results is None:
            known = self.learnt.of(self.denoiser.logsnr_grid, self.learnt.state)
            if not known.rounds:
                raise ValueError("results: expected some, since nothing was learnt by explaining; see rule 'learning'")
            self.density = known.density(self.denoiser.logsnr_grid, self.density)
            return
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
        **options: Any,
    ) -> PIDResult:
        """The decomposition of i(x; y1, …, yn) into redundancy, uniqueness of every concept, and synergy.

        Parameters
        ----------
        image : path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; or ``latents`` [C,h,w] instead. Of a model of
            videos, what :func:`dpid.videos.open_video` takes, or ``latents`` [C,T,h,w]
        prompt, concepts : a text and two to eight phrases of it ("bowl#2": the second "bowl"); all 2ⁿ subsets are
            evaluated. Or ``conditions`` instead, {(): null, (c1,): …, (c2,): …, (c1, c2): …}: texts or, of
            a model with an IP-Adapter, :class:`dpid.ImageCondition`
        progress : called with (evaluations done, evaluations planned)
        options : fields of :class:`dpid.options.Options`, by name

        Raises
        ------
        ValueError, TypeError
            An argument is not allowed; the message names it.
        FloatingPointError
            The model returned NaN or infinity.
        """
        chosen = self._options(options)
        question = _question(prompt, concepts, conditions, chosen)
        return self._last(image, latents, (question,), chosen, prompt, progress)[0]

    def stream(
        self,
        image: ImageLike | VideoLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> Iterator[PIDResult]:
        """An iterator of results, each from ``samples`` more evaluations of every condition, up to ``max_samples``.

        It ends early when ``tolerance``, if given, is met. Arguments and errors as of :meth:`explain`; also
        ``RuntimeError`` if the model changes between two results.
        """
        chosen = self._options(options)
        question = _question(prompt, concepts, conditions, chosen)
        with self._working():
            job = self._job(image, latents, (question,), chosen, prompt, progress)
        return self._streamed(explanations(job, self._denoisers(chosen.max_samples)))

    def explain_pairs(
        self,
        image: ImageLike | VideoLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> dict[tuple[str, str], PIDResult]:
        """The decomposition {pair: result} of every pair of ``concepts``; shared conditions are evaluated once.

        Eight concepts have 28 pairs but only 37 distinct conditions. Arguments and errors as of :meth:`explain`;
        :func:`dpid.results.result.ranked` sorts the pairs.
        """
        chosen = self._options(options)
        words = () if concepts is None else check_concepts(concepts)
        if len(words) < 2:
            raise ValueError(f"concepts: found {len(words)}, expected at least 2")
        pairs = list(combinations(words, 2))
        questions = merge([_question(prompt, pair, None, chosen) for pair in pairs])
        results = self._last(image, latents, questions, chosen, prompt, progress)
        return dict(zip(pairs, results, strict=True))

    def words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None,
        **options: Any,
    ) -> WordsResult:  # fmt: skip
        """What every content word and phrase of ``prompt`` tells about the picture: used, redundant, misleading, …

        It ends when the verdict of every word is settled, or with ``samples`` or ``seconds``. Arguments and errors as
        of :meth:`stream_words`.
        """
        return list(self.stream_words(image, prompt, concepts, **options))[-1]

    def stream_words(
        self, image: ImageLike | None = None, prompt: str | None = None, concepts: Sequence[str] | None = None, *,
        latents: Tensor | None = None, samples: int = 256, seconds: float | None = None, margin: float = 0.15,
        progress: Progress | None = None, **options: Any,
    ) -> Iterator[WordsResult]:  # fmt: skip
        """An iterator of what every word of ``prompt`` tells, after every round of samples for words not yet settled.

        Parameters
        ----------
        image, latents, progress : as of :meth:`explain`
        concepts : the phrases of the prompt to judge; None: those of
            :func:`dpid.prompts.words.content_words`
        samples : most evaluations of a condition, in rounds of 32
        seconds : time after which no further round begins; None: no limit
        margin : what counts as nothing, as a share of i(x; prompt) / the number of words
        options : of :class:`dpid.options.Options`: estimator, smooth, rule, replicates, antithetic, seed and
            max_batch_size

        Raises
        ------
        ValueError, TypeError
            An argument is not allowed, or the prompt has no content word; the message names it.
        FloatingPointError
            The model returned NaN or infinity.
        """
        from dpid import words

        budget = words.Budget(samples, seconds, margin)
        chosen = self._options(words.allowed(options) | {"samples": min(budget.samples, Options.samples)})
        asked = words.concepts_of(prompt, concepts)
        with self._working():
            picture, x = self._latents(image, latents)
        chosen.check_maps(*x.shape[-2:])

        def evaluate(questions: Sequence[Plan], turn: int) -> list[PIDResult]:
            with self._working():
                now = replace(chosen, seed=words.seed_of(chosen.seed, turn))
                job = make_job(picture, x, questions, now, prompt, self.density, progress)
                job = replace(job, learnt=self.learnt, keep=self._keep)
                return next(explanations(job, self._denoisers(samples)))

        return words.judged(str(prompt), asked, evaluate, budget, -(-budget.samples // chosen.per_round))

    def log_likelihood(
        self,
        image: ImageLike | VideoLike | None = None,
        condition: Any = "",
        *,
        latents: Tensor | None = None,
        **options: Any,
    ) -> Likelihood:
        """log p(x | condition) of the latents, from one round of ``samples``; docs/theory.md, eq. (55).

        ``options`` as for :meth:`explain`, except ``tolerance``. With ``precision="auto"`` the most precise type is
        used: rounding is corrected for differences between conditions only. ``ValueError`` also for a model distilled
        to a few steps, which has no density.
        """
        if why := self.denoiser.distilled:
            raise ValueError(f"model: has no log-density, whose noise predictions are posterior means: {why}")
        chosen = Options.from_keywords(options)
        if chosen.tolerance is not None:
            raise ValueError(f"tolerance: found {chosen.tolerance}, a log-density takes none; raise samples")
        with self._working():
            _, x = self._latents(image, latents)
            return log_likelihood(self._denoisers(chosen.samples)[-1], x, condition, chosen)

    def _options(self, options: dict[str, Any]) -> Options:
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
        """The model in every precision that may be tried for so many evaluations a condition, the fastest first."""
        finer = [self.denoiser.at(precision) for precision in self._finer]
        if finer and not worth_trying(self.denoiser, samples):
            return finer[-1:]
        return [self.denoiser, *finer]

    def _working(self) -> AbstractContextManager[None]:
        """A context with the model's lock and the settings of torch that it needs."""
        return _working(self.denoiser)

    def _streamed(self, results: Iterator[list[PIDResult]]) -> Iterator[PIDResult]:
        """The results of the first question; no lock or setting is held between two of them."""
        while True:
            with self._working():
                found = next(results, None)
            if found is None:
                return
            yield found[0]

    def _last(
        self, image: ImageLike | VideoLike | None, latents: Tensor | None, questions: Sequence[Plan], options: Options,
        prompt: str | None, progress: Progress | None,
    ) -> list[PIDResult]:  # fmt: skip
        """The results of all questions after one round, or after as many as the tolerance takes."""
        results: list[PIDResult] = []
        broken = ""
        samples = options.samples if options.tolerance is None else options.max_samples
        with self._working():
            job = self._job(image, latents, questions, options, prompt, progress)
            try:
                for results in explanations(job, self._denoisers(samples)):  # noqa: B007, used after the loop
                    if options.tolerance is None:
                        break
            except FloatingPointError as error:
                if not results:
                    raise
                broken = f"{error}; what was found before is returned"
                results = [replace(result, metadata=replace(result.metadata, broken=broken)) for result in results]
        if broken or (options.tolerance is not None and not all(result.metadata.converged for result in results)):
            missed = f"tolerance {options.tolerance} was not reached within max_samples = {options.max_samples}"
            warnings.warn(broken or missed, ConvergenceWarning, stacklevel=3)
        return results

    def _job(
        self, image: ImageLike | VideoLike | None, latents: Tensor | None, questions: Sequence[Plan], options: Options,
        prompt: str | None, progress: Progress | None,
    ) -> Job:  # fmt: skip
        picture, x = self._latents(image, latents)
        options.check_maps(x.shape[-2] // (self.denoiser.latent_frames or 1), x.shape[-1])
        job = make_job(picture, x, questions, options, prompt, self.density, progress)
        return replace(job, learnt=self.learnt, keep=self._keep)

    def _keep(self, learnt: Learnt) -> None:
        # Whole, so that of explanations side by side the last one's counts: mixed with another's, a density would
        # depend on noise that is drawn again.
        self.learnt = learnt

    def _latents(self, image: Any, latents: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The picture at the model's size, uint8 [H,W,3], None if latents are given; and the latents fp32 [1,C,h,w].

        Of a video, a picture [T,H,W,3] of every frame of latents, and these [1,C,T·h,w].
        """
        if (image is None) == (latents is None):
            raise ValueError("image: give either image or latents")
        picture = None
        if latents is not None:
            _check_latents(latents, self.denoiser)
            x = latents[None].to(self.denoiser.device, torch.float32)
            x = x.flatten(2, -2)  # frames of a video one below the other
        else:
            assert image is not None
            picture, x = (encode if self.denoiser.frames is None else encode_video)(image, self.denoiser)
        if not x.isfinite().all():
            raise ValueError("latents: found NaN or infinity")
        return picture, x.detach()


@contextmanager
def _working(denoiser: Denoiser) -> Iterator[None]:
    with ExitStack() as held:
        held.enter_context(denoiser.lock)
        held.enter_context(undisturbed())
        yield


def _control(picture: ImageLike) -> Image.Image:
    try:
        return open_image(picture)
    except (TypeError, ValueError) as error:
        raise type(error)(str(error).replace("image", "control", 1)) from error


def _check_latents(latents: Any, denoiser: Denoiser) -> None:
    """Raise ``ValueError`` unless ``latents`` have a shape that ``denoiser`` accepts."""
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents: found {type(latents).__name__}, expected a torch.Tensor [C,h,w]")
    frames = denoiser.latent_frames
    if latents.ndim != (3 if frames is None else 4) or not latents.numel():
        expected = "[C,h,w]" if frames is None else "[C,T,h,w]"
        raise ValueError(f"latents: found {tuple(latents.shape)}, expected {expected}, none of them zero")
    if frames is not None and latents.shape[1] != frames:
        raise ValueError(
            f"latents: found {latents.shape[1]} frames, the model is asked for {frames}; make the explainer with "
            "another number, frames=…"
        )
    native = denoiser.latent_shape
    if native is None:
        return
    if len(latents) != native[0]:
        raise ValueError(f"latents: found {len(latents)} channels, the model has {native[0]}")
    if not denoiser.any_size and latents.shape != native:
        raise ValueError(f"latents: found {tuple(latents.shape)}, the model has {tuple(native)}")
    if any(side % denoiser.patch for side in latents.shape[-2:]):
        raise ValueError(
            f"latents: found {latents.shape[-2]}×{latents.shape[-1]} pixels, expected multiples of {denoiser.patch}"
        )


def _question(
    prompt: str | None, concepts: Sequence[str] | None, conditions: Mapping[Subset, Any] | None, options: Options
) -> Plan:
    """The plan of the concepts or conditions, with its reference F; ``ValueError`` if they are not allowed."""
    chosen = plan_concepts(prompt, concepts, conditions, options.context)
    if options.reference == "concepts":
        return chosen
    if options.reference == "prompt" and not prompt:
        raise ValueError("reference: 'prompt' needs a prompt")
    return with_reference(chosen, prompt if options.reference == "prompt" else options.reference)
