"""From a picture, a prompt and its concepts to their PID."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from itertools import combinations
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpid import __version__
from dpid.conditions import Plan, Subset, check_concepts, merge, plan_concepts, with_reference
from dpid.denoisers.latent import check_precision
from dpid.engine import Accumulator, integrate, out_of_memory, peak_memory, profile_edges
from dpid.images import ImageLike, encode
from dpid.information import SIGNED, needed_pairs, set_function, set_profile
from dpid.likelihood import Likelihood, log_likelihood
from dpid.options import Options
from dpid.pid.decomposition import image_priors
from dpid.precision import Bias, candidates, rounding_bias
from dpid.result import Facts, PIDResult
from dpid.sampling import density, draw, shifts

_LOG = logging.getLogger("dpid")
Progress = Callable[[int, int], None]
_EVEN, _EVEN_PILOT = 0.1, 0.5  # of a density: a pilot of few samples may have missed a peak


class ConvergenceWarning(UserWarning):
    """A tolerance was not reached within the samples allowed; the result says so too."""


class Explainer:
    """Explains pictures with one model.

    Parameters
    ----------
    model : a diffusers StableDiffusionPipeline, or any :class:`dpid.denoisers.Denoiser`
    precision : what a pipeline's UNet computes in: "float32", "bfloat16", "float16", or "auto", the fastest type whose
        rounding bias is under half the standard error of every i(x; y_S); a result shows which, and its bias. A
        denoiser that was given a type keeps it under "auto"

    Attributes
    ----------
    density : [T] at the levels of the model's ``logsnr_grid``, where ``rule="adaptive"`` samples; None until a model
        comes with one (the embedded does) or :meth:`learn` finds it

    Raises
    ------
    ValueError
        The model cannot be used, or is a denoiser in training mode.
    """

    def __init__(self, model: Any, *, precision: str = "auto") -> None:
        check_precision(precision)
        if hasattr(model, "eps_hat"):
            self.denoiser: Any = model  # a Denoiser
            if getattr(model, "training", False):
                raise ValueError("model: is in train() mode, where dropout makes every answer another; call .eval()")
        else:
            from dpid.denoisers.diffusers import from_pipeline

            self.denoiser = from_pipeline(model, precision=precision)
        self.density: Tensor | None = None
        self._finer: list[str] = []  # what "auto" falls back on
        self._rounding: dict[Any, Bias] = {}
        if hasattr(self.denoiser, "at"):
            if precision == "auto" and getattr(self.denoiser, "settled", False):
                precision = self.denoiser.precision
            fastest, *self._finer = candidates(self.denoiser.device) if precision == "auto" else (precision,)
            self.denoiser = self.denoiser.at(fastest)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, precision: str = "auto"
    ) -> Explainer:
        """An explainer of "emoji" (embedded), a folder, or a hub id; see :func:`dpid.loading.load_pipeline`."""
        from dpid.loading import EMBEDDED, embedded_path, load_pipeline, shipped_density

        check_precision(precision)
        embedded = str(model) in EMBEDDED
        folder = embedded_path(str(model)) if embedded else Path(model)
        if embedded and dtype is None:
            from dpid.denoisers.embedded import EmbeddedDenoiser

            explainer = cls(EmbeddedDenoiser(folder, device), precision=precision)
        else:
            explainer = cls(load_pipeline(model, device, dtype), precision=precision)
            explainer.denoiser.name = str(model)
        explainer.density = shipped_density(folder)
        return explainer

    def learn(self, results: Sequence[PIDResult]) -> None:
        """Set :attr:`density` from ``results`` of pictures like those to come, of this model; a dozen of 64 samples do.

        Numbers stay unbiased whatever it learns from; only for the very same pictures take another ``seed``.
        ``ValueError`` without results, with profiles of different lengths, or of a rule that looks more closely at some
        log-SNRs than at others: what spread is left in a bin would tell of the rule too.
        """
        if uneven := {r.facts.rule for r in results} - {"shifted-grid", "stratified", "uniform"}:
            raise ValueError(
                f"results: found rule {', '.join(sorted(uneven))}; explain with rule='shifted-grid' to learn from"
            )
        lengths = {len(result.edges) for result in results}
        if len(lengths) != 1:
            raise ValueError(f"results: found profiles of {sorted(lengths)} edges, expected all of one length")
        profiles = [result.profiles[name] for result in results for name in SIGNED]
        self.density = density(profiles, results[0].edges.double(), self.denoiser.logsnr_grid, _EVEN)

    def explain(
        self,
        image: ImageLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> PIDResult:
        """Split i(x; y1, …, yn) into redundancy, uniqueness of each concept, and synergy.

        Parameters
        ----------
        image : path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; or ``latents`` [C,h,w] instead
        prompt, concepts : a text and two to eight phrases of it ("bowl#2": the second "bowl"); all 2ⁿ subsets are
            evaluated. Or ``conditions`` instead, {(): null, (c1,): …, (c2,): …, (c1, c2): …}
        progress : told (evaluations done, evaluations planned)
        options : fields of :class:`dpid.options.Options`: context, reference, estimator, measure, priors, level,
            smooth, samples, replicates, rule, antithetic, tolerance, max_samples, seed, max_batch_size

        Raises
        ------
        ValueError, TypeError
            Anything that cannot be explained as asked; the message names the argument.
        FloatingPointError
            The model returned NaN or infinity.
        """
        chosen = self._options(options)
        question = self._question(prompt, concepts, conditions, chosen)
        return self._last(image, latents, (question,), chosen, prompt, progress)[0]

    def stream(
        self,
        image: ImageLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None,
        **options: Any,
    ) -> Iterator[PIDResult]:
        """Growing results, one after every ``samples`` more evaluations of each condition, up to ``max_samples``.

        Stops when ``tolerance`` is met, where there is one. Arguments and errors are those of :meth:`explain`.
        """
        chosen = self._options(options)
        question = self._question(prompt, concepts, conditions, chosen)
        picture, x = self._latents(image, latents)
        return (results[0] for results in self._exact_rounds(picture, x, (question,), chosen, prompt, None))

    def explain_pairs(
        self,
        image: ImageLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        progress: Progress | None = None,
        **options: Any,
    ) -> dict[tuple[str, str], PIDResult]:
        """The PID of every pair of ``concepts``, from one run in which each distinct condition is evaluated once.

        Eight concepts make 28 pairs but 37 conditions. Arguments and errors as for :meth:`explain`; see
        :func:`dpid.result.ranked`.
        """
        chosen = self._options(options)
        words = () if concepts is None else check_concepts(concepts)
        if len(words) < 2:
            raise ValueError(f"concepts: found {len(words)}, expected at least 2")
        pairs = list(combinations(words, 2))
        questions = merge([self._question(prompt, pair, None, chosen) for pair in pairs])
        results = self._last(image, latents, questions, chosen, prompt, progress)
        return dict(zip(pairs, results, strict=True))

    def log_likelihood(
        self,
        image: ImageLike | None = None,
        condition: Any = "",
        *,
        latents: Tensor | None = None,
        **options: Any,
    ) -> Likelihood:
        """log p(x | condition) of the latents, one round of ``samples``; see :mod:`dpid.likelihood`.

        ``options`` as for :meth:`explain`, but for a ``tolerance``. With ``precision="auto"`` in the finest type: there
        is no difference of conditions that tells what rounding does.
        """
        chosen = Options(**options)
        if chosen.tolerance is not None:
            raise ValueError(f"tolerance: found {chosen.tolerance}, a log-density takes none; raise samples")
        _, x = self._latents(image, latents)
        return log_likelihood(self._finest, x, condition, chosen)

    @cached_property
    def _finest(self) -> Any:
        """The denoiser in the finest type that "auto" falls back on; its weights are turned and packed once."""
        return self.denoiser.at(self._finer[-1]) if self._finer else self.denoiser

    def _options(self, options: dict[str, Any]) -> Options:
        """Checked, with the rule that "auto" stands for; ``ValueError`` for one that lacks its density."""
        chosen = Options(**options)
        if chosen.rule == "auto":
            return replace(chosen, rule="shifted-grid" if self.density is None else "adaptive")
        if chosen.rule == "adaptive" and self.density is None:
            raise ValueError(
                "rule: 'adaptive' needs Explainer.density; learn() finds one in results, 'pilot' in a pilot"
            )
        return chosen

    def _question(
        self, prompt: str | None, concepts: Sequence[str] | None, conditions: Mapping[Subset, Any] | None,
        options: Options,
    ) -> Plan:  # fmt: skip
        """The conditions that answer it; ``ValueError`` if they cannot be made."""
        chosen = plan_concepts(prompt, concepts, conditions, options.context)
        if options.reference == "concepts":
            return chosen
        if options.reference == "prompt" and not prompt:
            raise ValueError("reference: 'prompt' needs a prompt")
        return with_reference(chosen, prompt if options.reference == "prompt" else options.reference)

    def _last(
        self, image: ImageLike | None, latents: Tensor | None, questions: Sequence[Plan], options: Options,
        prompt: str | None, progress: Progress | None,
    ) -> list[PIDResult]:  # fmt: skip
        """The results of one round, or with a tolerance of as many as it takes; in a finer type where one rounds."""
        picture, x = self._latents(image, latents)
        results: list[PIDResult] = []
        broken = ""
        try:
            for results in self._exact_rounds(picture, x, questions, options, prompt, progress):  # noqa: B007, the last
                if options.tolerance is None:
                    break
        except FloatingPointError as error:
            if not results:
                raise
            broken = f"{error}; what was found before is returned"
            results = [replace(result, facts=replace(result.facts, broken=broken)) for result in results]
        if broken or (options.tolerance is not None and not all(result.facts.converged for result in results)):
            missed = f"tolerance {options.tolerance} was not reached within max_samples = {options.max_samples}"
            warnings.warn(broken or missed, ConvergenceWarning, stacklevel=3)
        return results

    def _exact_rounds(
        self, picture: Tensor | None, x: Tensor, questions: Sequence[Plan], options: Options, prompt: str | None,
        progress: Progress | None,
    ) -> Iterator[list[PIDResult]]:  # fmt: skip
        """:meth:`_rounds`, begun again in a finer type where one rounds too coarsely or overflows; none is told twice.

        The last is told in any case: the finer type may meet the tolerance sooner than the coarser was found out.
        """
        told = 0
        while True:
            try:
                for results in self._rounds(picture, x, questions, options, prompt, progress):
                    if self._finer and any(result.coarse() for result in results):
                        self._refine("rounds too coarsely", self._finer[-1:])  # bfloat16 would do so even more
                        break
                    if new := results[0].facts.samples > told:
                        told = results[0].facts.samples
                        yield results
                else:
                    if not new:
                        yield results
                    return
            except FloatingPointError:
                if not self._finer:
                    raise
                self._refine("is not finite", self._finer)

    def _refine(self, why: str, finer: Sequence[str]) -> None:
        """Go on in the first of ``finer`` types."""
        _LOG.info("precision: %s %s, going on with %s", self.denoiser.precision, why, finer[0])
        first, *self._finer = finer
        self.denoiser = self.denoiser.at(first)

    def _rounding_bias(self, denoiser: Any, x: Tensor, chosen: Plan) -> dict[str, dict[str, float]] | None:
        """Of every i(x; y_S) by every estimator in nats; None where nothing rounds, {} where it cannot be measured."""
        if denoiser.precision == "float32" or not hasattr(denoiser, "at"):
            return None
        key = (denoiser.precision, x.shape, len(chosen.subsets))
        if key not in self._rounding:
            (alone,) = merge((chosen,))  # without the conditions of other pairs
            try:
                self._rounding[key] = rounding_bias(denoiser, x, alone)
            except RuntimeError as error:
                if not out_of_memory(error):
                    raise
                _LOG.warning("no memory to compare %s with float32: its rounding is not known", denoiser.precision)
                self._rounding[key] = {}
        names = ["+".join(s) for s in chosen.subsets[1:]]
        return {
            name: dict(zip(names, maps.sum((-2, -1)).tolist(), strict=True))
            for name, maps in self._rounding[key].items()
        }

    def _latents(self, image: ImageLike | None, latents: Tensor | None) -> tuple[Tensor | None, Tensor]:
        """The picture as the model sees it, uint8 [H,W,3], and its latents fp32 [1,C,h,w]."""
        if (image is None) == (latents is None):
            raise ValueError("image: give either image or latents")
        picture = None
        if latents is not None:
            if not isinstance(latents, Tensor) or latents.ndim != 3:
                raise ValueError(
                    f"latents: found {getattr(latents, 'shape', type(latents).__name__)}, expected [C,h,w]"
                )
            channels = getattr(self.denoiser, "latent_shape", latents.shape)[0]
            if len(latents) != channels:
                raise ValueError(f"latents: found {len(latents)} channels, the model has {channels}")
            if latents.shape != getattr(self.denoiser, "shape", latents.shape):  # of an exact one, which has one size
                raise ValueError(f"latents: found {tuple(latents.shape)}, the model has {tuple(self.denoiser.shape)}")
            x = latents[None].to(self.denoiser.device, torch.float32)
        else:
            assert image is not None
            picture, x = encode(image, self.denoiser)
        if not x.isfinite().all():
            raise ValueError("latents: found NaN or infinity")
        return picture, x.detach()

    def _rounds(
        self, picture: Tensor | None, x: Tensor, questions: Sequence[Plan], options: Options, prompt: str | None,
        progress: Progress | None,
    ) -> Iterator[list[PIDResult]]:  # fmt: skip
        """The results after every round of samples; all questions share one list of texts."""
        texts, denoiser = questions[0].texts, self.denoiser  # which another call may change between two rounds
        asked = {c for question in questions for c in question.concepts}
        priors = [image_priors(options.priors, q.concepts, options.measure, prompt, asked) for q in questions]
        encoded = denoiser.encode_conditions(texts)
        generator = torch.Generator().manual_seed(options.seed)
        # A pilot looks with the half that comes first.
        points = options.points // (2 if options.rule == "pilot" else 1)
        edges = profile_edges(denoiser.logsnr_grid, points, options.repeats)
        sums = Accumulator.empty(x, options.repeats, len(texts), needed_pairs(questions), edges)
        planned = options.each * len(texts) * (1 if options.tolerance is None else options.rounds)

        def tell() -> None:
            if progress:
                progress(sums.evaluations, planned)

        done, where = 0, self.density
        for turn, shift in zip(range(options.rounds), shifts(generator), strict=False):
            for rule, count in options.draws(turn):
                if rule == "adaptive" and options.rule == "pilot":
                    found = [set_profile(sums, question) for question in questions]
                    profiles = [f[name][:, :, 0].cpu() for f in found for name in SIGNED]
                    where = density(profiles, edges, denoiser.logsnr_grid, _EVEN_PILOT)
                samples = draw(
                    rule, denoiser.logsnr_grid, count, options.repeats, generator, first_id=done,
                    antithetic=options.antithetic, density=where, shift=shift,
                )  # fmt: skip
                # Every draw estimates the whole integral; two that make up one round count by their samples.
                samples = replace(samples, weight=samples.weight * (count / options.per_replicate))
                integrate(
                    denoiser, x, encoded, samples, sums, seed=options.seed, on_batch=tell,
                    max_batch_size=options.max_batch_size,
                )  # fmt: skip
                done += count * options.repeats
            results = [
                self._result(denoiser, picture, x, question, options, prompt, known, sums, turn + 1)
                for question, known in zip(questions, priors, strict=True)
            ]
            if options.tolerance is not None:
                met = [result.relative_error() <= options.tolerance for result in results]
                results = [
                    replace(result, facts=replace(result.facts, converged=ok))
                    for result, ok in zip(results, met, strict=True)
                ]
            yield results
            if options.tolerance is not None and all(met) and _may_stop(turn + 1):
                return

    def _result(
        self, denoiser: Any, picture: Tensor | None, x: Tensor, question: Plan, options: Options, prompt: str | None,
        priors: dict[Subset, float] | None, sums: Accumulator, rounds: int,
    ) -> PIDResult:  # fmt: skip
        grid = denoiser.logsnr_grid
        texts = {"+".join(s): str(question.texts[i]) for s, i in zip(question.subsets, question.index, strict=True)}
        facts = Facts(
            prompt=prompt or "", concepts=question.concepts, context=options.context, conditions=texts,
            reference=str(question.texts[question.full]), estimator=options.estimator, measure=options.measure,
            level=options.level, smooth=options.smooth, rule=options.rule, antithetic=options.antithetic,
            priors=None if priors is None else {"+".join(s): h for s, h in priors.items()},
            samples=options.each * rounds, replicates=options.repeats, unet_evaluations=sums.evaluations,
            logsnr_range=(float(grid[0]), float(grid[-1])), seed=options.seed, model=denoiser.name,
            precision=denoiser.precision, version=__version__,
            rounding_bias=self._rounding_bias(denoiser, x, question), peak_memory=peak_memory(x.device),
        )  # fmt: skip
        f = {name: v[:, :, 0].float().cpu() for name, v in set_function(sums, question, rounds).items()}
        profiles = {name: v[:, :, 0].float().cpu() for name, v in set_profile(sums, question, rounds).items()}
        return PIDResult(facts, f, profiles, sums.edges.cpu(), picture)


def _may_stop(rounds: int) -> bool:
    """After 1, 2, 3, 4, 6, 8, 12, … rounds: who looks after every round stops when an error happens to look small."""
    return rounds // (rounds & -rounds) in (1, 3)
