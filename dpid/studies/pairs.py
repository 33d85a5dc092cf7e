"""Studies of synonyms and of co-hyponyms: how much of two words' information is redundant, pixel by pixel.

They report the redundancy share (docs/theory.md, eq. (61)): one for words that are equivalent at every pixel, at or
below zero for words about different objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from dpid.estimation.estimators import ESTIMATORS
from dpid.pid.replicates import perturbed, stderr
from dpid.prompts.plan import Subset
from dpid.results.figure_style import Figure
from dpid.results.intervals import Estimate
from dpid.studies import figures, words, world
from dpid.studies.study import Row, Study, bootstrap, column, grouped, median, proportion, told
from dpid.studies.workbench import Case, Workbench

_PAIRS = 36  # pairs of words of every relation, for the embedded model
_REAL = {"synonym": words.SYNONYMS, "co-hyponym": words.CO_HYPONYMS, "unrelated": words.UNRELATED}


def redundancy_share(replicates: Tensor) -> Estimate | None:
    """The redundancy share of f(S) [G,3,h,w] (docs/theory.md, eq. (61)); None if its denominator is not positive.

    Its error is that of a ratio to first order: where the denominator is hardly above its own error, it is rough.
    """
    points, mean = perturbed(replicates)
    both, lesser = _shared_and_lesser(mean)
    if lesser <= 0:
        return None
    share = both / lesser
    off = torch.stack([both - share * lesser for both, lesser in map(_shared_and_lesser, points)]) / lesser
    return Estimate(float(share), float(stderr(off, torch.zeros_like(share))), len(replicates) - 1)


def _shared_and_lesser(f: Tensor) -> tuple[Tensor, Tensor]:
    """Numerator and denominator of the share of maps f(S) [3,h,w]: what both words tell, and what the lesser tells."""
    return f[:2].amin(0).sum(), f[:2].sum((-2, -1)).amin()


def _embedded(bench: Workbench, relation: str) -> Iterator[Case]:
    """Cases of drawn pictures: of one object with two names for synonyms, else of two objects."""
    for i, (a, b) in enumerate(world.pairs(relation, bench.pictures or _PAIRS, bench.seed)):
        one = relation == "synonym"
        texts = _beside(a, b) if one else world.natural(a, b)
        shown, picture = (a,) if one else (a, b), f"{texts[a, b]} {i}"
        image = partial(world.picture, shown, picture)
        yield Case(picture, image, texts[a, b], (a, b), texts, columns={"a": a, "b": b, "relation": relation})


def _beside(a: str, b: str) -> dict[Subset, str]:
    """Conditions {subset: text} of two words for one object: "", "a sofa", "a couch", "a sofa couch"."""
    return {(): "", (a,): f"a {a}", (b,): f"a {b}", (a, b): f"a {a} {b}"}


def _real(bench: Workbench, relation: str) -> Iterator[Case]:
    """Cases of pictures that the model generates."""
    for a, b in _REAL[relation]:
        for i in range(bench.pictures or 1):
            texts = words.natural(a, b)
            prompt = texts[a, b]
            picture = f"{prompt} {i}"
            yield Case(
                picture, partial(bench.generate, prompt, picture), prompt, (a, b), texts,
                columns={"a": a, "b": b, "relation": relation},
            )  # fmt: skip


def _own(bench: Workbench, relation: str) -> Iterator[Case]:
    """Cases of the user's pictures with their own two concepts; "unrelated", with the second of the next picture."""
    own = bench.own_cases()
    for case, other in zip(own, own[1:] + own[:1], strict=True):
        a, b = case.concepts
        if relation == "unrelated":
            b = other.concepts[1]
            if b in case.concepts:
                continue
        yield Case(case.picture, case.image, case.prompt, (a, b), words.natural(a, b),
                   columns={"a": a, "b": b, "relation": relation}, row=case.row)  # fmt: skip


def pairs(bench: Workbench, name: str, relation: str) -> Study:
    """The redundancy share of pairs of words in a ``relation``, compared with that of unrelated words.

    ``pairs.csv`` has a row for every picture and estimator. ``redundancy_share`` is empty where the information of one
    of the two words is not positive.
    """
    source = _own if bench.scenes else (_embedded if bench.embedded else _real)

    def measure(case: Case) -> list[Row]:
        result = bench.explain(case)
        rows = []
        for estimator, d in result.estimates.items():
            share = redundancy_share(result.replicates_by(estimator))
            rows.append(
                {
                    "estimator": estimator,
                    "redundancy_share": share and share.value, "redundancy_share_stderr": share and share.stderr,
                    "synergy": d.synergy.value, "synergy_stderr": d.synergy.stderr,
                    "redundancy": d.redundancy.value, "redundancy_stderr": d.redundancy.stderr,
                }
            )  # fmt: skip
        return rows

    cases = list(source(bench, relation))
    rows = bench.measure(cases, measure)
    control = list(source(bench, "unrelated"))  # after measuring, so that rows that were left out are not used
    if control:
        rows += bench.measure(control, measure)
    cases = bench.usable(cases + control)
    summary = _summary(rows)
    return Study(name, {"pairs": rows}, _figures(bench, cases, rows), summary, _finding(summary, relation))


def _summary(rows: list[Row]) -> dict[str, Row]:
    """Median redundancy shares and synergies, and how many pictures have a share."""
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


def _finding(summary: dict[str, Row], relation: str) -> str:
    """How much of what two words tell is redundant, beside unrelated words."""
    ours, unrelated = (
        summary.get(f"redundancy share, median, {kind} pairs, {ESTIMATORS[0]}") for kind in (relation, "unrelated")
    )
    assert ours is not None
    beside = f"; of unrelated words {told(unrelated)}" if unrelated else ""
    return (
        f"The share of what the lesser of two {relation}s tells that the other tells too is {told(ours)} in the "
        f"median{beside}."
    )


def _figures(bench: Workbench, cases: list[Case], rows: list[Row]) -> dict[str, Figure]:
    """The redundancy shares, and the maps of the first picture of every relation."""
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
