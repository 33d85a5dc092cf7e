"""Study of social bias: the co-information of an attribute (gender, ethnicity) and an occupation about a picture.

For an optimal model it is log P(a | o) / P(a) (docs/theory.md, eq. (60)). All four texts are about a person ("person",
"female", "doctor", "female doctor"), so that P(a) is the probability among people, and no term depends on whether the
picture shows a person.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import product
from typing import Any

import numpy as np
import torch
from PIL import Image
from scipy import stats
from torch import Tensor

from dpid.denoisers.protocol import Conditions, Denoiser
from dpid.estimation.estimators import ESTIMATORS
from dpid.explainer import Explainer
from dpid.prompts.plan import Subset
from dpid.results.figure_style import Figure, literal, standard
from dpid.studies import figures, world
from dpid.studies.study import Row, Study, bootstrap, column, estimate, grouped, mean, spearman, told
from dpid.studies.words import one
from dpid.studies.workbench import Case, Workbench
from dpid.zoo.emoji.scenes import OCCUPATIONS

ATTRIBUTES = ("male", "female", "white", "black", "asian", "hispanic")  # for models other than the embedded one
_EACH = 2  # pictures of every occupation and attribute, for the embedded model
_ENDS = 30  # occupations at each end of a figure; more than both would not be legible
# Upper end of a second range of log-SNR. At this noise the person shown is recognisable already, so that an optimal
# model has little information above it; most of what the embedded model has there is error.
SEEN_THROUGH = -1.0
_AGAINST = "Every occupation and attribute: what is found against what is true; the line is the truth itself"


class Noisy(Denoiser):
    """A denoiser restricted to log-SNRs up to ``highest``, so that i(x; y) is that of the picture with this noise."""

    def __init__(self, denoiser: Denoiser, highest: float) -> None:
        self._denoiser, self._highest = denoiser, highest
        self.name, self.precision = denoiser.name, denoiser.precision

    @property
    def device(self) -> torch.device:
        """Device of the model."""
        return self._denoiser.device

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Lock of the model."""
        return self._denoiser.lock

    @property
    def logsnr_grid(self) -> Tensor:
        """Those log-SNRs [T] of the model that are at most the highest."""
        grid = self._denoiser.logsnr_grid
        return grid[grid <= self._highest]

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """The model's encodings of ``conditions``."""
        return self._denoiser.encode_conditions(conditions)

    def encode_image(self, image: Tensor) -> Tensor:
        """The model's latents [B,C,h,w] of pixels [B,3,H,W]."""
        return self._denoiser.encode_image(image)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The pixels (width, height) to which the model brings a picture."""
        return self._denoiser.size_for(width, height)

    def evaluation_bytes(self, height: int, width: int) -> int:
        """The bytes that an evaluation of the model takes for latents of this size."""
        return self._denoiser.evaluation_bytes(height, width)

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """The model's prediction of the noise in ``z`` under every condition."""
        return self._denoiser.eps_hat(z, logsnr, conditions)


def occupations() -> list[str]:
    """Names of 188 common occupations, from titles of the Standard Occupational Classification 2018; see the file."""
    text = (files("dpid.studies") / "occupations.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def people(attribute: str, occupation: str, articles: bool = False) -> dict[Subset, str]:
    """Conditions {subset: text}: "person", "female", "doctor", "female doctor"; with articles "a female person", …."""
    texts = {
        (): "person", (attribute,): f"{attribute} person" if articles else attribute, (occupation,): occupation,
        (attribute, occupation): f"{attribute} {occupation}",
    }  # fmt: skip
    return {subset: one(text) for subset, text in texts.items()} if articles else texts


def _drawn(attribute: str, occupation: str, picture: str) -> Image.Image:
    """A drawn person of this attribute and occupation; what the two words leave open is random."""
    odds = world.people(occupation, attribute)
    (shown,) = random.Random(picture).choices(list(odds), list(odds.values()))
    return world.picture(shown, picture)


def _fields(concepts: tuple[str, ...], articles: bool) -> dict[str, Any]:
    """Conditions and columns of the case of an attribute and an occupation."""
    attribute, occupation = concepts
    return {
        "conditions": people(attribute, occupation, articles),
        "columns": {"attribute": attribute, "occupation": occupation},
    }


def _cases(bench: Workbench) -> list[Case]:
    """Cases of all occupations and attributes, or of the user's pictures."""
    articles = not bench.embedded
    if bench.scenes:
        return [replace(case, **_fields(case.concepts, articles)) for case in bench.own_cases()]
    attributes = tuple(world.ATTRIBUTES) if bench.embedded else ATTRIBUTES
    names = list(OCCUPATIONS) if bench.embedded else occupations()
    each = bench.pictures or (_EACH if bench.embedded else 1)
    cases = []
    for occupation, attribute, i in product(names, attributes, range(each)):
        prompt = one(f"{attribute} {occupation}")
        picture = f"{prompt} {i}"
        if bench.embedded:
            image = partial(_drawn, attribute, occupation, picture)
        else:
            image = partial(bench.generate, prompt, picture)
        cases.append(
            Case(picture, image, prompt, (attribute, occupation), **_fields((attribute, occupation), articles))
        )
    return cases


def truth(occupation: str, attribute: str) -> float:
    """The exact co-information, in nats, of any picture of the embedded model's distribution that shows both."""
    layout = next(iter(world.people(occupation, attribute)))
    return world.log_ratio(layout, people(attribute, occupation))


def bias(bench: Workbench) -> Study:
    """The PID of attribute and occupation, such as "male" and "doctor", about pictures that show both.

    The pictures of the embedded model are drawn, not generated, so that it is known what they show. Of the user's
    pictures the first concept is the attribute, the second the occupation.

    ``bias.csv`` has a row for every picture, estimator and range of log-SNR: the model's range, and its part up to -1,
    in which the picture is seen through noise. ``redundancy_normalised`` is scaled to [0, 1] over the run, as in
    DiffusionPID. ``log_ratio_true`` is the exact log P(a | o) / P(a) of the embedded model's training distribution.
    ``bias_cells.csv`` has means over the pictures of an occupation and attribute, with a 95 % interval ``low`` to
    ``high`` by Student's t, which is empty where there is a single picture.
    """
    denoiser = bench.exact.denoiser  # of a restricted range the rounding bias is not measured
    highest = float(denoiser.logsnr_grid[-1])
    ranges = {highest: bench.explainer, SEEN_THROUGH: Explainer(Noisy(denoiser, SEEN_THROUGH))}

    def measure(case: Case) -> list[Row]:
        rows = []
        for end, explainer in ranges.items():
            result = bench.explain(case, explainer)
            for name in ESTIMATORS:
                co = estimate(result, name, lambda f: (f[0] + f[1] - f[2]).sum())
                found = result.estimates[name]
                rows.append(
                    {
                        "estimator": name, "logsnr_to": round(end, 2),
                        "co_information": co.value, "co_information_stderr": co.stderr,
                        "redundancy": found.redundancy.value, "redundancy_stderr": found.redundancy.stderr,
                        "synergy": found.synergy.value, "synergy_stderr": found.synergy.stderr,
                    }
                )  # fmt: skip
        return rows

    rows = bench.measure(_cases(bench), measure)
    known = bench.embedded and not bench.scenes
    for row in rows:
        row["log_ratio_true"] = truth(row["occupation"], row["attribute"]) if known else None
    for same in grouped(rows, "estimator", "logsnr_to").values():
        low, high = (end(r["redundancy"] for r in same) for end in (min, max))
        for row in same:
            row["redundancy_normalised"] = (row["redundancy"] - low) / (high - low) if high > low else 0.0
    cells = _cells(rows)
    summary = _summary(cells)
    made = _figures(cells)
    if known:
        ours = _chosen(cells, ESTIMATORS[0], SEEN_THROUGH)
        made = {_AGAINST: _against_truth(ours, _chosen(cells, "orthogonal", round(highest, 2)))} | made
    return Study("bias", {"bias": rows, "bias_cells": cells}, made, summary, _finding(summary, highest))


def _cells(rows: list[Row]) -> list[Row]:
    """Rows of means over the pictures of every occupation and attribute, with their standard errors and intervals."""
    cells = []
    keys = ("estimator", "logsnr_to", "occupation", "attribute")
    for (name, end, occupation, attribute), same in grouped(rows, *keys).items():
        values = [r["co_information"] for r in same]
        n = len(values)
        # Of a single picture there is no spread: the error is that of its own estimate, and says nothing of others.
        spread = float(np.std(values, ddof=1)) / n**0.5 if n > 1 else same[0]["co_information_stderr"]
        centre, reach = mean(np.array(values)), spread * float(stats.t.ppf(0.975, n - 1)) if n > 1 else None
        cells.append(
            {
                "occupation": occupation, "attribute": attribute, "estimator": name, "logsnr_to": end, "pictures": n,
                "co_information": centre, "co_information_stderr": spread,
                "low": None if reach is None else centre - reach, "high": None if reach is None else centre + reach,
                "log_ratio_true": same[0]["log_ratio_true"],
                "redundancy_normalised": mean(np.array([r["redundancy_normalised"] for r in same])),
            }
        )  # fmt: skip
    return cells


def _summary(cells: list[Row]) -> dict[str, Row]:
    """Agreement of the co-information with the truth where it is known, else its mean."""
    summary = {}
    for (name, end), same in grouped(cells, "estimator", "logsnr_to").items():
        of = f"{name}, log-SNR to {end}"
        co = [c["co_information"] for c in same]
        if any(c["log_ratio_true"] is None for c in same):
            summary[f"co-information in nats, mean, {of}"] = bootstrap(mean, co)
            continue
        true = [c["log_ratio_true"] for c in same]
        asked = "≥ 0.85" if name == ESTIMATORS[0] else None
        summary[f"Spearman, co-information and log P(a|o)/P(a), {of}"] = bootstrap(spearman, co, true, asked=asked)
        redundancy = [c["redundancy_normalised"] for c in same]
        summary[f"Spearman, redundancy and log P(a|o)/P(a), {of}"] = bootstrap(spearman, redundancy, true)
        errors = [a - b for a, b in zip(co, true, strict=True)]
        summary[f"absolute error in nats, {of}"] = bootstrap(mean, [abs(e) for e in errors])
        summary[f"mean error in nats, {of}"] = bootstrap(mean, errors)
    return summary


def _finding(summary: dict[str, Row], highest: float) -> str:
    """How co-information and the redundancy of DiffusionPID rank occupations, by their correlation with the truth."""
    through, whole = (f"{ESTIMATORS[0]}, log-SNR to {round(end, 2)}" for end in (SEEN_THROUGH, highest))
    known = summary.get(f"Spearman, co-information and log P(a|o)/P(a), {through}")
    if known is None:
        found = summary[f"co-information in nats, mean, {whole}"]
        return f"An occupation and an attribute share {told(found)} nats about a picture that shows both, in the mean."
    theirs = summary[f"Spearman, redundancy and log P(a|o)/P(a), orthogonal, log-SNR to {round(highest, 2)}"]
    return (
        f"Co-information ranks occupations {_as_the_world(known)}, with a rank correlation of {told(known)} with the "
        f"exact log P(attribute | occupation) / P(attribute); the normalised redundancy of DiffusionPID ranks them "
        f"{_as_the_world(theirs)}: {told(theirs)}."
    )


def _as_the_world(correlation: Row) -> str:
    """What a rank correlation with the truth says."""
    if correlation["interval"] is None:
        return "in a way that so few cannot judge"
    low, high = correlation["interval"]
    if low > 0.5:
        return "as the world does"
    return "somewhat as the world does" if low > 0 else "against the world" if high < 0 else "not as the world does"


def _chosen(cells: list[Row], estimator: str, end: float) -> list[Row]:
    """The cells of an estimator and of a range of log-SNR, by its end."""
    return [c for c in cells if c["estimator"] == estimator and c["logsnr_to"] == end]


@standard()
def _against_truth(ours: list[Row], theirs: list[Row]) -> Figure:
    """Co-information, and the normalised redundancy of DiffusionPID, against the truth; a dot for every cell."""
    made = Figure(figsize=(7, 3.4), dpi=120, layout="constrained")
    panels = (
        (ours, "co_information", "co-information, nats"),
        (theirs, "redundancy_normalised", "DiffusionPID's redundancy, 0 to 1"),
    )
    for ax, (cells, value, label) in zip(made.subplots(1, 2), panels, strict=True):
        true, found = (column(cells, name) for name in ("log_ratio_true", value))
        ax.plot(true, found, "o", color="C0", alpha=0.6, markersize=5)
        if value == "co_information":
            ax.axline((0, 0), slope=1, color="0.6", linewidth=0.8)
        ax.set_xlabel("exact log P(a | o) / P(a), nats")
        ax.set_ylabel(label)
    return made


@standard()
def _figures(cells: list[Row]) -> dict[str, Figure]:
    """Bars of the default estimator for pictures seen through noise: a panel for each attribute, occupations sorted."""
    shown = grouped(_chosen(cells, ESTIMATORS[0], SEEN_THROUGH), "attribute")
    most = max(len(rows) for rows in shown.values())
    rings = "" if cells[0]["log_ratio_true"] is None else ", rings the exact log P(a | o) / P(a)"
    of = f"of occupation and attribute, log-SNR to {SEEN_THROUGH}"
    cut = f"; the {_ENDS} lowest and highest" if most > 2 * _ENDS else ""
    made = {}
    for value, caption in (
        ("co_information", f"Co-information {of}, nats; error bars are standard errors{rings}"),
        ("redundancy_normalised", f"Redundancy {of}, scaled to [0, 1] over the run"),
    ):
        figure = Figure(figsize=(3.2 * len(shown), 1 + 0.16 * min(most, 2 * _ENDS)), dpi=120, layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(shown)))
        for ax, ((attribute,), rows) in zip(axes, shown.items(), strict=True):
            ranked = sorted(rows, key=lambda c: float(c[value]))
            if len(ranked) > 2 * _ENDS:
                ranked = ranked[:_ENDS] + ranked[-_ENDS:]
            figures.bars(ax, ranked, "occupation", value)
            ax.set_title(literal(attribute))
        made[caption + cut] = figure
    return made
