"""Study of representative features: where a word is unique beside a similar one, such as "zebra" beside "horse"."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor

from dpid.estimation.estimators import ESTIMATORS
from dpid.results.figure_style import Figure
from dpid.studies import figures, words, world
from dpid.studies.masks import cover
from dpid.studies.study import Row, Study, bootstrap, by_picture, grouped, mean, told
from dpid.studies.workbench import Case, Workbench

_EACH = 6  # pictures of every pair
_PAIRS = (("zebra", "horse"), ("cat", "dog"), ("cow", "sheep"), ("apple", "lemon"), ("car", "bus"), ("bear", "cow"))


def _cases(bench: Workbench) -> list[Case]:
    """Cases of pairs of similar objects, or of the user's pictures."""
    if bench.scenes:
        return bench.own_cases()
    cases = []
    for a, b in _PAIRS if bench.embedded else words.FEATURES:
        for i in range(bench.pictures or (_EACH if bench.embedded else 1)):
            if bench.embedded:
                cases.append(world.case(a, b, f"{world.natural(a, b)[a, b]} {i}"))
            else:
                texts = words.natural(a, b)
                picture = f"{texts[a, b]} {i}"
                image = partial(bench.generate, texts[a, b], picture)
                cases.append(Case(picture, image, texts[a, b], (a, b), texts))
    return cases


def inside(unique: Tensor, mask: Tensor) -> float | None:
    """The share of a map's positive values, [h,w] in nats, that lies on a mask [h,w]; None if either has none."""
    positive = unique.clamp(min=0)
    return float(positive[mask].sum() / positive.sum()) if mask.any() and positive.sum() > 0 else None


def features(bench: Workbench) -> Study:
    """Uniqueness maps of two similar objects in one picture.

    ``features.csv`` has a row for every picture, concept and estimator: the uniqueness, the maximum of its map (as
    fractions of width and height), and, where masks are known, the share of the map that lies on the concept's object.
    """
    cases = _cases(bench)

    def measure(case: Case) -> list[Row]:
        result = bench.explain(case)
        masks = case.masks()
        rows = []
        for name, d in result.estimates.items():
            for concept, other in zip(case.concepts, reversed(case.concepts), strict=True):
                unique = d.maps.unique[concept]
                y, x = divmod(int(unique.argmax()), unique.shape[1])
                mask = cover(torch.from_numpy(masks[concept]), unique.shape) if concept in masks else None
                rows.append(
                    {
                        "concept": concept, "against": other, "estimator": name,
                        "unique": d.unique[concept].value, "unique_stderr": d.unique[concept].stderr,
                        "highest_x": (x + 0.5) / unique.shape[1], "highest_y": (y + 0.5) / unique.shape[0],
                        "inside": None if mask is None else inside(unique, mask),
                    }
                )  # fmt: skip
        return rows

    rows = bench.measure(cases, measure)
    summary = {}
    for (name,), same in grouped(rows, "estimator").items():
        if inside_own := by_picture(same, "inside"):
            found = bootstrap(mean, inside_own)
            summary[f"share of the unique information on the concept's own thing, {name}"] = found
        summary[f"unique information in nats, mean, {name}"] = bootstrap(mean, by_picture(same, "unique"))
    shown = {case.concepts: case for case in reversed(bench.usable(cases))}
    figure: dict[str, Figure] = {
        f"Redundancy, uniqueness and synergy of like things ({ESTIMATORS[0]})": figures.maps(
            {case.prompt: bench.explain(case) for case in list(reversed(shown.values()))[:6]}
        )
    }
    return Study("features", {"features": rows}, figure, summary, _finding(summary))


def _finding(summary: dict[str, Row]) -> str:
    """Where unique information lies if that is known, or how much there is."""
    inside = summary.get(f"share of the unique information on the concept's own thing, {ESTIMATORS[0]}")
    if inside is not None:
        return f"Of what only one of two like words tells, {told(inside, '.0%')} lies on its own thing."
    unique = summary[f"unique information in nats, mean, {ESTIMATORS[0]}"]
    return f"Only one of two like words tells {told(unique)} nats of a picture of both, in the mean."
