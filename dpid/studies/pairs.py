"""Synonyms and co-hyponyms: is what two words tell the same, and at the same places?

The redundancy share Σ_pixels min(i1, i2) / min(Σ i1, Σ i2) is one where the words tell the same at every pixel, and at
or below zero where each tells about its own thing and misleads about the other's.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dpid.estimation.estimators import ESTIMATORS
from dpid.prompts.plan import Subset
from dpid.results.drawing import Figure
from dpid.studies import figures, words, world
from dpid.studies.bench import Case, Workbench
from dpid.studies.study import Row, Study, bootstrap, column, estimate, grouped, median, proportion

_PAIRS = 36  # of words, of each relation, of the embedded model
_REAL = {"synonym": words.SYNONYMS, "co-hyponym": words.CO_HYPONYMS, "unrelated": words.UNRELATED}


def redundancy_share(f: Tensor) -> Tensor:
    """Σ_pixels min(f1, f2) / min(Σ f1, Σ f2) of maps f(S) [3, h, w]; NaN where the lesser word tells nothing (≤ 0)."""
    lesser = f[:2].sum((-2, -1)).amin()
    share: Tensor = torch.where(lesser > 0, f[:2].amin(0).sum() / lesser, torch.nan)
    return share


def _embedded(bench: Workbench, relation: str) -> Iterator[Case]:
    """A drawn thing under both of its names, or a drawn scene of two things."""
    for i, (a, b) in enumerate(world.pairs(relation, bench.pictures or _PAIRS, bench.seed)):
        one = relation == "synonym"
        texts = _beside(a, b) if one else world.natural(a, b)
        shown, picture = (a,) if one else (a, b), f"{texts[a, b]} {i}"
        image = partial(world.picture, shown, picture)
        yield Case(picture, image, texts[a, b], (a, b), texts, columns={"a": a, "b": b, "relation": relation})


def _beside(a: str, b: str) -> dict[Subset, str]:
    return {(): "", (a,): f"a {a}", (b,): f"a {b}", (a, b): f"a {a} {b}"}


def _real(bench: Workbench, relation: str) -> Iterator[Case]:
    for a, b in _REAL[relation]:
        for i in range(bench.pictures or 1):
            prompt = f"a {a} and a {b}"
            picture = f"{prompt} {i}"
            yield Case(
                picture, partial(bench.generate, prompt, picture), prompt, (a, b), world.natural(a, b),
                columns={"a": a, "b": b, "relation": relation},
            )  # fmt: skip


def _own(bench: Workbench, relation: str) -> Iterator[Case]:
    """The user's pictures with their own two concepts, and for control with the second concept of the next picture."""
    own = bench.own_cases()
    for case, other in zip(own, own[1:] + own[:1], strict=True):
        a, b = case.concepts
        if relation == "unrelated":
            b = other.concepts[1]
            if b in case.concepts:
                continue
        yield Case(case.picture, case.image, case.prompt, (a, b), world.natural(a, b),
                   columns={"a": a, "b": b, "relation": relation}, row=case.row)  # fmt: skip


def pairs(bench: Workbench, name: str, relation: str) -> Study:
    """Redundancy of pairs of words in a ``relation`` against that of unrelated control pairs.

    ``pairs.csv`` has a row a picture and estimator. ``redundancy_share`` is empty where the lesser of the two words
    tells nothing about the picture.
    """
    source = _own if bench.scenes else (_embedded if bench.embedded else _real)

    def measure(case: Case) -> list[Row]:
        result = bench.explain(case)
        rows = []
        for estimator, d in result.estimates.items():
            share = estimate(result, estimator, redundancy_share)
            rows.append(
                {
                    "estimator": estimator,
                    "redundancy_share": share.value if share.value == share.value else None,
                    "redundancy_share_stderr": share.stderr if share.stderr == share.stderr else None,
                    "synergy": d.synergy.value, "synergy_stderr": d.synergy.stderr,
                    "redundancy": d.redundancy.value, "redundancy_stderr": d.redundancy.stderr,
                }
            )  # fmt: skip
        return rows

    cases = list(source(bench, relation))
    rows = bench.measure(cases, measure)
    control = list(source(bench, "unrelated"))  # of the user's pictures, those that can be used
    if control:
        rows += bench.measure(control, measure)
    cases = bench.usable(cases + control)
    return Study(name, {"pairs": rows}, _figures(bench, cases, rows), _summary(rows))


def _summary(rows: list[Row]) -> dict[str, Row]:
    asked = {"synonym": "≥ 0.9", "unrelated": "≤ 0"}
    summary = {}
    for (name, relation), same in grouped(rows, "estimator", "relation").items():
        of = f"{relation} pairs, {name}"
        target = asked.get(relation) if name == ESTIMATORS[0] else None
        summary[f"redundancy share, median, {of}"] = bootstrap(median, column(same, "redundancy_share"), asked=target)
        known = [r["redundancy_share"] is not None for r in same]
        summary[f"pictures with a share, {of}"] = proportion(known)
        summary[f"synergy in nats, median, {of}"] = bootstrap(median, column(same, "synergy"))
    return summary


def _figures(bench: Workbench, cases: list[Case], rows: list[Row]) -> dict[str, Figure]:
    default = [r for r in rows if r["estimator"] == ESTIMATORS[0]]
    shares = {relation: column(of, "redundancy_share") for (relation,), of in grouped(default, "relation").items()}
    first = {case.columns["relation"]: case for case in reversed(cases)}
    shown = {f"{relation}: {case.prompt}": bench.explain(case) for relation, case in reversed(first.items())}
    return {
        "Redundancy share of pairs of words; a dot a picture, cut at -4 and 2": figures.strips(
            shares, "redundancy share", (-4, 2)
        ),
        "A pair of each kind": figures.maps(shown),
    }
