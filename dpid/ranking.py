"""Ranks pictures by how well a prompt describes them: log p(x | prompt) - log p(x), docs/theory.md, eq. (7)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.sampling import Samples, draw
from dpid.many import PicturesError
from dpid.options import Options
from dpid.prompts.plan import Plan, check_condition
from dpid.results.intervals import Estimate, estimates
from dpid.run import Progress

_SURE = 0.01  # below which p the first picture is said to be above the second


@dataclass(frozen=True)
class Ranking:
    """Pictures in the order of log p(x | prompt) - log p(x), the highest first.

    Attributes
    ----------
    prompt : the text that they are ranked by
    order : indices of the pictures, the best first
    information : log p(x | prompt) - log p(x) of each in that order, in the unit of the metadata: nats, unless the
        model is distilled to a few steps
    lead : that of the first picture less that of the second, in the same unit; None of fewer than two. All pictures
        have the same noise, so that its error is less than those of both suggest
    p_value : of a paired t-test over replicates: how often two pictures of equal rank would lie so far apart. It is too
        small where rare noise decides, which few replicates draw: of equal pictures of a mixture p < 0.05 came in 18 %
        of rankings by 32 samples, p < 0.01 in 1 to 8 %; see ``benchmarks/bench_ranks.py``
    errors : {index: what is wrong} of pictures that could not be ranked
    metadata : unit, samples, replicates, seed, model and precision
    """

    prompt: str
    order: tuple[int, ...]
    information: tuple[Estimate, ...]
    lead: Estimate | None
    p_value: float | None
    errors: Mapping[int, str] = field(default_factory=dict)
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """All numbers, for JSON."""
        ranked = [{"picture": i, **e.to_dict()} for i, e in zip(self.order, self.information, strict=True)]
        return {
            "prompt": self.prompt, "ranked": ranked, "lead": self.lead and self.lead.to_dict(),
            "p_value": self.p_value, "errors": {str(i): error for i, error in self.errors.items()}, **self.metadata,
        }  # fmt: skip

    def remark(self, name: Callable[[int], str] = "picture {}".format) -> str:
        """A sentence that says by how much the first picture exceeds the second, and how surely; "" of fewer than two.

        It "is above" the second only if p < 0.01, which equal pictures have about as seldom as p should be below 0.05.
        ``name``: what it calls the picture of an index.
        """
        if self.lead is None or self.p_value is None:
            return ""
        low, high = self.lead.interval()
        sure = "is above" if self.p_value < _SURE else "may not be above"
        return (
            f"{name(self.order[0])} {sure} {name(self.order[1])}: {self.lead} {self.metadata['unit']}, 95 % from "
            f"{low:.2f} to {high:.2f}, p = {self.p_value:.2g}"
        )


def question_for(prompt: str) -> Plan:
    """The plan of one ``prompt`` against no text; ``TypeError`` if it is none."""
    if not isinstance(prompt, str):
        raise TypeError(f"prompt: found {type(prompt).__name__}, expected a text")
    text = check_condition("prompt", prompt)
    if not text.strip():
        raise ValueError("prompt: found an empty text, by which nothing can be ranked")
    return Plan((text,), ((), (text,)), ("", text), (0, 1), 1)


def samples_for(options: Options, grid: Tensor, density: Tensor | None) -> Samples:
    """The samples of a ranking, the same for all pictures."""
    fixed = "shifted-grid" if density is None else "adaptive"
    return draw(
        fixed if options.rule in ("auto", "learning") else options.rule, grid, options.per_replicate, options.repeats,
        torch.Generator().manual_seed(options.seed), antithetic=options.antithetic, density=density,
    )  # fmt: skip


def differences(
    denoiser: Denoiser, x: Tensor, question: Plan, samples: Samples, options: Options, progress: Progress
) -> Sequence[Tensor]:
    """Replicates [G] of log p(x | prompt) - log p(x) of each of the latents ``x`` [B,C,H,W], nats."""
    sums = evaluate(
        denoiser, x, (question,), samples, seed=options.seed, max_batch_size=options.max_batch_size, progress=progress
    )
    return set_function(sums, question)["standard"][:, 0].sum((-2, -1)).cpu().unbind(1)


def refused(error: PicturesError) -> ValueError:
    """The error of a ranking without a picture: that of the prompt alone, if it is the fault of all pictures."""
    told = {str(one) for one in error.errors.values()}
    return ValueError(told.pop() if len(told) == 1 and min(told).startswith("prompt: ") else str(error))


def ranking(
    prompt: str, replicates: Mapping[int, Tensor], errors: Mapping[int, str], metadata: Mapping[str, Any]
) -> Ranking:
    """The :class:`Ranking` of pictures {index: replicates of log p(x | prompt) - log p(x), float64 [G]}.

    ``ValueError`` of none.
    """
    from scipy.special import stdtr

    if not replicates:
        raise ValueError("images: found none, expected at least one")
    order = tuple(sorted(replicates, key=lambda i: (-float(replicates[i].mean()), i)))
    information = tuple(estimates(torch.stack([replicates[i] for i in order], 1)))
    lead, p_value = None, None
    if len(order) > 1:
        # Two-sided: which of the two is the first was told by the same numbers.
        (lead,) = estimates((replicates[order[0]] - replicates[order[1]])[:, None])
        p_value = 2 * float(stdtr(lead.dof, -lead.value / lead.stderr)) if lead.stderr else float(lead.value == 0)
    return Ranking(prompt, order, information, lead, p_value, dict(errors), dict(metadata))
