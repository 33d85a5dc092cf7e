"""What an explainer tells of log-densities: of a picture, of many, and which of them fits a prompt best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from dpid.errors import naming
from dpid.images import ImageLike
from dpid.likelihood import Likelihood, log_likelihood, plan_of
from dpid.many import PicturesError, Stop, Wanted, Watch, apart, column, table
from dpid.options import Options, SamplingOptions, check_allowed
from dpid.prompts.plan import check_condition
from dpid.ranking import Ranking, differences, question_for, ranking, refused, samples_for
from dpid.results.metadata import UNITS
from dpid.run import Asked, Progress
from dpid.runner import Runner
from dpid.videos import VideoLike

if TYPE_CHECKING:
    from typing_extensions import Unpack  # which type checkers know without the package

_SAMPLING = tuple(SamplingOptions.__annotations__)


class Densities(Runner):
    """The methods of :class:`dpid.Explainer` that return log-densities, or differences of two."""

    def log_likelihood(
        self,
        image: ImageLike | VideoLike | None = None,
        condition: Any = "",
        *,
        latents: Tensor | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Likelihood:
        """log p(x | condition) of the latents, from one round of ``samples``; docs/theory.md, eq. (55).

        ``options`` are those of :meth:`explain` that say how to sample: samples, replicates, rule, antithetic, seed and
        max_batch_size; image, latents, progress and stop are as of :meth:`explain`. With ``precision="auto"`` the most
        precise type is used: rounding is corrected for differences between conditions only. ``ValueError`` also for a
        model distilled to a few steps, which has no density.
        """
        chosen, watch = self._options_of_density(options), Watch(progress, stop)
        with self._working():
            watch.check()
            x = self._ask(image, latents, (), chosen, None).x
            with naming("condition", "prompt", "conditions"):
                return log_likelihood(self._denoisers(chosen.samples)[-1], x, condition, chosen, watch)[0]

    def log_likelihoods(
        self,
        images: Iterable[ImageLike] | None = None,
        conditions: Any = "",
        *,
        latents: Iterable[Tensor] | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Iterator[tuple[int, Likelihood]]:
        """An iterator of (index of the picture, its :meth:`log_likelihood`), in the order of ``images``.

        ``conditions`` is one for all pictures, or a list of one each. Other arguments and errors as of
        :meth:`explain_many`, options as of :meth:`log_likelihood`.
        """
        chosen, watch = self._options_of_density(options), Watch(progress, stop)
        rows = table(images, latents, column("conditions", conditions, isinstance(conditions, list)))
        denoiser = self._denoisers(chosen.samples)[-1]

        def wanted(only: list[tuple[Any, ...]]) -> list[Wanted]:
            ((image, own_latents, condition),) = only
            condition = check_condition("conditions", condition)
            return [Wanted(image, own_latents, None, (plan_of(condition),))]

        def run(ones: list[Asked], told: Progress) -> list[Likelihood]:
            x = torch.cat([one.x for one in ones])
            with naming("conditions", "prompt", "condition"):
                return log_likelihood(denoiser, x, ones[0].texts[0], chosen, told)

        asked = apart(dict(enumerate(rows)), wanted, watch)
        return self._each(asked, chosen, watch, run, lambda one: (one.x.shape, one.texts))

    def rank(
        self,
        images: Iterable[ImageLike] | None = None,
        prompt: str = "",
        *,
        latents: Iterable[Tensor] | None = None,
        progress: Progress | None = None,
        stop: Stop | None = None,
        **options: Unpack[SamplingOptions],
    ) -> Ranking:
        """The pictures in the order of log p(x | prompt) - log p(x), with errors, and a test of the first place.

        Estimated by "standard", with the same samples for all pictures; in the most precise type with
        ``precision="auto"``. Pictures that cannot be ranked are named in ``errors`` of the ranking. Arguments are as of
        :meth:`explain_many`, options as of :meth:`log_likelihood`.

        Raises
        ------
        ValueError, TypeError
            No picture can be ranked, or an argument is not allowed; the message names it.
        RuntimeError
            The model changes between two pictures.
        dpid.Stopped
            ``stop`` said so.
        """
        check_allowed(options, _SAMPLING, "pictures are ranked")
        chosen, watch = self._options(options), Watch(progress, stop)
        question, denoiser = question_for(prompt), self._denoisers(chosen.samples)[-1]
        samples = samples_for(chosen, denoiser.logsnr_grid, self.density)
        wanted = {i: Wanted(x, z, prompt, (question,)) for i, (x, z) in enumerate(table(images, latents))}

        def run(ones: list[Asked], told: Progress) -> Sequence[Tensor]:
            x = torch.cat([one.x for one in ones])
            with naming("prompt", "condition", "conditions"):
                return differences(denoiser, x, question, samples, chosen, told)

        found, errors = {}, {}
        try:
            for i, replicates in self._each(wanted, chosen, watch, run):
                found[i] = replicates
        except PicturesError as error:
            errors = {i: str(one) for i, one in error.errors.items()}
            if not found:
                raise refused(error) from error
        return ranking(prompt, found, errors, {
            "unit": UNITS[bool(denoiser.distilled)], "samples": chosen.per_round, "replicates": chosen.repeats,
            "seed": chosen.seed, "model": denoiser.name, "precision": denoiser.precision,
        })  # fmt: skip

    def _options_of_density(self, options: Mapping[str, Any]) -> Options:
        """The checked options of a log-density; ``ValueError`` if the model has none."""
        if why := self.denoiser.distilled:
            raise ValueError(f"model: has no log-density, whose noise predictions are posterior means: {why}")
        check_allowed(options, _SAMPLING, "log-densities are estimated")
        return Options.from_keywords(options)
