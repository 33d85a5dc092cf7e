"""From a picture, a prompt and two concepts to their PID."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpid import __version__
from dpid.conditions import Plan, Subset, from_mapping, plan
from dpid.denoisers.latent import check_precision
from dpid.engine import Accumulator, integrate, peak_memory
from dpid.images import ImageLike, open_image, to_pixels
from dpid.information import ESTIMATORS, needed_pairs, set_function
from dpid.pid import mean_stderr, picture_measures
from dpid.precision import Bias, candidates, rounding_bias
from dpid.result import Facts, PIDResult
from dpid.sampling import draw

_LOG = logging.getLogger("dpid")
Progress = Callable[[int, int], None]


class ConvergenceWarning(UserWarning):
    """A tolerance was not reached within the samples allowed; the result says so too."""


class Explainer:
    """Explains pictures with one model.

    Parameters
    ----------
    model : a diffusers StableDiffusionPipeline, or any :class:`dpid.denoisers.Denoiser`
    precision : what a pipeline's UNet computes in: "float32", "bfloat16", "float16", or "auto", the fastest type whose
        rounding bias is under half the standard error of every i(x; y_S); a result shows which, and its bias
    """

    def __init__(self, model: Any, *, precision: str = "auto") -> None:
        check_precision(precision)
        if hasattr(model, "eps_hat"):
            self.denoiser: Any = model  # a Denoiser
        else:
            from dpid.denoisers.diffusers import from_pipeline

            self.denoiser = from_pipeline(model, precision=precision)
        self._finer: list[str] = []  # what "auto" falls back on
        self._rounding: dict[Any, Bias] = {}
        if hasattr(self.denoiser, "at"):
            fastest, *self._finer = candidates(self.denoiser.device) if precision == "auto" else (precision,)
            self.denoiser = self.denoiser.at(fastest)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, precision: str = "auto"
    ) -> Explainer:
        """An explainer of "emoji" (embedded), a folder, or a hub id; see :func:`dpid.loading.load_pipeline`."""
        from dpid.loading import EMBEDDED, embedded_path, load_pipeline

        if str(model) in EMBEDDED and dtype is None:
            from dpid.denoisers.embedded import EmbeddedDenoiser

            return cls(EmbeddedDenoiser(embedded_path(str(model)), device), precision=precision)
        explainer = cls(load_pipeline(model, device, dtype), precision=precision)
        explainer.denoiser.name = str(model)
        return explainer

    def explain(
        self,
        image: ImageLike | None = None,
        prompt: str | None = None,
        concepts: Sequence[str] | None = None,
        *,
        latents: Tensor | None = None,
        conditions: Mapping[Subset, Any] | None = None,
        context: bool = False,
        estimator: str = "rao-blackwell",
        measure: str = "min",
        samples: int = 32,
        replicates: int = 4,
        tolerance: float | None = None,
        max_samples: int = 1024,
        seed: int = 0,
        max_batch_size: int | None = None,
        progress: Progress | None = None,
    ) -> PIDResult:
        """Split i(x; y1, y2) into redundancy, uniqueness of each concept, and synergy.

        Parameters
        ----------
        image : path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; or ``latents`` [C,h,w] instead
        prompt, concepts : a text and two phrases of it ("bowl#2": the second "bowl"); or ``conditions`` instead,
            {(): null, (c1,): …, (c2,): …, (c1, c2): …}
        context : False, PID: words against the empty prompt. True, CPID: given the rest of the prompt
        estimator : whose numbers stand at the top: "rao-blackwell", "standard", "orthogonal"; all are computed
        measure : redundancy measure, "min"
        samples : evaluations of every condition, rounded up to a multiple of 2 · ``replicates``
        replicates : independent repeats, from whose spread the errors come
        tolerance : add samples until the standard error of i(x; y1, y2) is below this fraction of it
        max_samples : where ``tolerance`` gives up, with a warning
        seed : of noise and grid shifts, in [0, 2⁶³); the global random state is neither read nor changed
        max_batch_size : UNet evaluations in one call; None: as many as run fastest and fit the free memory
        progress : told (evaluations done, evaluations planned)

        Raises
        ------
        ValueError, TypeError
            Anything that cannot be explained as asked; the message names the argument.
        FloatingPointError
            The model returned NaN or infinity.
        """
        check_options(
            estimator=estimator, measure=measure, samples=samples, replicates=replicates, tolerance=tolerance,
            max_samples=max_samples, seed=seed, max_batch_size=max_batch_size,
        )  # fmt: skip
        chosen = plan_pair(prompt, concepts, conditions, context)
        picture, x = self._latents(image, latents)
        budget = _Budget(samples, replicates, tolerance, max_samples, seed, max_batch_size)
        grid = self.denoiser.logsnr_grid
        texts = {"+".join(s): str(chosen.texts[i]) for s, i in zip(chosen.subsets, chosen.index, strict=True)}
        while True:
            bias = self._rounding_bias(x, chosen)
            sums, rounds, converged = self._integrate(x, chosen, budget, estimator, progress)
            f = {name: values[:, :, 0].float().cpu() for name, values in set_function(sums, chosen, rounds).items()}
            facts = Facts(
                prompt=prompt or "", concepts=chosen.concepts, context=context, conditions=texts,
                estimator=estimator, measure=measure, samples=budget.each * rounds, replicates=replicates,
                unet_evaluations=sums.evaluations, logsnr_range=(float(grid[0]), float(grid[-1])), seed=seed,
                model=self.denoiser.name, precision=self.denoiser.precision, version=__version__, converged=converged,
                rounding_bias=bias, peak_memory=peak_memory(x.device),
            )  # fmt: skip
            result = PIDResult(facts, f, picture)
            if not (self._finer and result.coarse()):
                return result
            _LOG.info("precision: %s rounds too coarsely, going on with %s", self.denoiser.precision, self._finer[0])
            self.denoiser = self.denoiser.at(self._finer.pop(0))

    def _rounding_bias(self, x: Tensor, chosen: Plan) -> dict[str, dict[str, float]] | None:
        """Of every i(x; y_S) by every estimator in nats; None where nothing rounds more coarsely than float32."""
        if self.denoiser.precision == "float32" or not hasattr(self.denoiser, "at"):
            return None
        key = (self.denoiser.precision, x.shape, len(chosen.subsets))
        if key not in self._rounding:
            self._rounding[key] = rounding_bias(self.denoiser, x, chosen)
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
            x = latents[None].to(self.denoiser.device, torch.float32)
        else:
            assert image is not None
            opened = open_image(image)
            picture = to_pixels(opened, self.denoiser.size_for(*opened.size))
            x = self.denoiser.encode_image(picture.permute(2, 0, 1)[None] / 127.5 - 1)
        if not x.isfinite().all():
            raise ValueError("latents: found NaN or infinity")
        return picture, x.detach()

    def _integrate(
        self, x: Tensor, chosen: Plan, budget: _Budget, estimator: str, progress: Progress | None
    ) -> tuple[Accumulator, int, bool | None]:
        """Rounds of samples until the tolerance is met: the sums, the rounds, whether it was met."""
        encoded = self.denoiser.encode_conditions(chosen.texts)
        generator = torch.Generator().manual_seed(budget.seed)
        sums = Accumulator.empty(x, budget.replicates, len(chosen.texts), needed_pairs(chosen))
        planned = budget.each * len(chosen.texts) * budget.rounds
        for done in range(budget.rounds):
            samples = draw(
                "shifted-grid", self.denoiser.logsnr_grid, budget.per_replicate, budget.replicates, generator,
                first_id=done * budget.each // 2,
            )  # fmt: skip
            integrate(
                self.denoiser, x, encoded, samples, sums, seed=budget.seed, max_batch_size=budget.max_batch_size,
                on_batch=progress and (lambda: progress(sums.evaluations, planned)),
            )  # fmt: skip
            if budget.tolerance is None:
                return sums, 1, None
            whole, error = mean_stderr(set_function(sums, chosen, done + 1)[estimator][:, -1].sum((-2, -1)))
            if float(error.max()) <= budget.tolerance * float(whole.abs().min()):
                return sums, done + 1, True
        message = f"tolerance {budget.tolerance} was not reached within max_samples = {budget.max_samples}"
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return sums, budget.rounds, False


@dataclass(frozen=True)
class _Budget:
    """How much to evaluate."""

    samples: int
    replicates: int
    tolerance: float | None
    max_samples: int
    seed: int
    max_batch_size: int | None

    @property
    def per_replicate(self) -> int:
        """Samples of a replicate in a round: even, since every noise is used with both signs."""
        return 2 * -(-self.samples // (2 * self.replicates))

    @property
    def each(self) -> int:
        """Samples of a round."""
        return self.per_replicate * self.replicates

    @property
    def rounds(self) -> int:
        """The most rounds."""
        return 1 if self.tolerance is None else max(1, self.max_samples // self.each)


def plan_pair(
    prompt: str | None, concepts: Sequence[str] | None, conditions: Mapping[Subset, Any] | None = None,
    context: bool = False,
) -> Plan:  # fmt: skip
    """The conditions of a pair of concepts, from a prompt or given; ``ValueError`` if they make no pair."""
    if conditions is not None:
        if concepts is not None or context:
            raise ValueError("conditions: they name the concepts and hold the context; leave out concepts and context")
        chosen = from_mapping(conditions)
    else:
        if prompt is None or concepts is None:
            raise ValueError("prompt, concepts: both are needed, or conditions instead")
        chosen = plan(prompt, concepts, context)
    if len(chosen.concepts) != 2:
        raise ValueError(f"concepts: found {len(chosen.concepts)}, expected 2")
    return chosen


def check_options(
    *, estimator: str = ESTIMATORS[0], measure: str = "min", samples: int = 32, replicates: int = 4,
    tolerance: float | None = None, max_samples: int = 1024, seed: int = 0, max_batch_size: int | None = None,
) -> None:  # fmt: skip
    """Raise ``ValueError`` for an option of :meth:`Explainer.explain` that is out of range."""
    for name, value, allowed in (("estimator", estimator, ESTIMATORS), ("measure", measure, picture_measures())):
        if value not in allowed:
            raise ValueError(f"{name}: found {value!r}, allowed are {', '.join(allowed)}")
    for name, count, least in (
        ("samples", samples, 1), ("replicates", replicates, 2), ("max_samples", max_samples, 1),
        ("max_batch_size", 1 if max_batch_size is None else max_batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if not isinstance(count, int) or count < least:
            raise ValueError(f"{name}: found {count!r}, expected a whole number of at least {least}")
    if seed >= 2**63:
        raise ValueError(f"seed: found {seed}, allowed are 0…2⁶³ - 1")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: found {tolerance}, expected a positive fraction such as 0.05")
