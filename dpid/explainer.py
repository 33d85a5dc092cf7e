"""From a picture, a prompt and two concepts to their PID."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dpid import __version__
from dpid.conditions import Plan, Subset, from_mapping, plan
from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.engine import Accumulator, integrate
from dpid.images import ImageLike, open_image, to_pixels
from dpid.information import ESTIMATORS, needed_pairs, set_function
from dpid.pid import mean_stderr, picture_measures
from dpid.result import Facts, PIDResult
from dpid.sampling import shifted_grid

Progress = Callable[[int, int], None]


class ConvergenceWarning(UserWarning):
    """A tolerance was not reached within the samples allowed; the result says so too."""


class Explainer:
    """Explains pictures with one model.

    Parameters
    ----------
    model : a diffusers StableDiffusionPipeline, or any :class:`dpid.denoisers.Denoiser`
    precision : for a pipeline, see :class:`dpid.denoisers.DiffusersDenoiser`
    """

    def __init__(self, model: Any, *, precision: str = "auto") -> None:
        if hasattr(model, "eps_hat"):
            self.denoiser: Denoiser = model
        else:
            from dpid.denoisers.diffusers import from_pipeline

            self.denoiser = from_pipeline(model, precision=precision)

    @classmethod
    def from_pretrained(
        cls, model: str | Path, *, device: str | None = None, dtype: torch.dtype | None = None, precision: str = "auto"
    ) -> Explainer:
        """An explainer of "emoji" (embedded), a folder, or a hub id; see :func:`dpid.loading.load_pipeline`."""
        from dpid.loading import load_pipeline

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
        max_batch_size: int = 64,
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
        max_batch_size : UNet evaluations in one call, but at least one sample under every condition
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
        encoded = self.denoiser.encode_conditions(chosen.texts)
        per_replicate = 2 * -(-samples // (2 * replicates))
        sums, rounds, converged = self._integrate(
            x,
            chosen,
            encoded,
            per_replicate,
            replicates,
            estimator,
            tolerance,
            max_samples,
            seed,
            max_batch_size,
            progress,
        )
        f = {name: values[:, :, 0].float().cpu() for name, values in set_function(sums, chosen, rounds).items()}
        grid = self.denoiser.logsnr_grid
        names = {"+".join(s): str(chosen.texts[i]) for s, i in zip(chosen.subsets, chosen.index, strict=True)}
        facts = Facts(
            prompt or "", chosen.concepts, context, names, estimator, measure, per_replicate * replicates * rounds,
            replicates, sums.evaluations, (float(grid[0]), float(grid[-1])), seed, self.denoiser.name,
            self.denoiser.precision, __version__, converged,
        )  # fmt: skip
        return PIDResult(facts, f, picture)

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
        self, x: Tensor, chosen: Plan, encoded: Conditions, per_replicate: int, replicates: int, estimator: str,
        tolerance: float | None, max_samples: int, seed: int, max_batch_size: int, progress: Progress | None,
    ) -> tuple[Accumulator, int, bool | None]:  # fmt: skip
        """Rounds of samples until ``tolerance`` is met: the sums, the rounds, whether it was met."""
        generator = torch.Generator().manual_seed(seed)
        sums = Accumulator.empty(x, replicates, len(chosen.texts), needed_pairs(chosen))
        each = per_replicate * replicates
        most = 1 if tolerance is None else max(1, max_samples // each)
        planned = each * len(chosen.texts) * most
        for done in range(most):
            samples = shifted_grid(
                self.denoiser.logsnr_grid, per_replicate, replicates, generator, first_id=done * each // 2
            )  # fmt: skip
            integrate(
                self.denoiser, x, encoded, samples, sums, seed=seed, max_batch_size=max_batch_size,
                on_batch=progress and (lambda: progress(sums.evaluations, planned)),
            )  # fmt: skip
            if tolerance is None:
                return sums, 1, None
            whole, error = mean_stderr(set_function(sums, chosen, done + 1)[estimator][:, -1].sum((-2, -1)))
            if float(error.max()) <= tolerance * float(whole.abs().min()):
                return sums, done + 1, True
        message = f"tolerance {tolerance} was not reached within max_samples = {max_samples}"
        warnings.warn(message, ConvergenceWarning, stacklevel=3)
        return sums, most, False


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
    tolerance: float | None = None, max_samples: int = 1024, seed: int = 0, max_batch_size: int = 64,
) -> None:  # fmt: skip
    """Raise ``ValueError`` for an option of :meth:`Explainer.explain` that is out of range."""
    for name, value, allowed in (("estimator", estimator, ESTIMATORS), ("measure", measure, picture_measures())):
        if value not in allowed:
            raise ValueError(f"{name}: found {value!r}, allowed are {', '.join(allowed)}")
    for name, count, least in (
        ("samples", samples, 1), ("replicates", replicates, 2), ("max_samples", max_samples, 1),
        ("max_batch_size", max_batch_size, 1), ("seed", seed, 0),
    ):  # fmt: skip
        if not isinstance(count, int) or count < least:
            raise ValueError(f"{name}: found {count!r}, expected a whole number of at least {least}")
    if seed >= 2**63:
        raise ValueError(f"seed: found {seed}, allowed are 0…2⁶³ - 1")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"tolerance: found {tolerance}, expected a positive fraction such as 0.05")
