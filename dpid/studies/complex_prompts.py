"""Study of complex prompts: all pairs of words of a long prompt, ranked by redundancy and by synergy."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from PIL import Image

from dpid.estimation.estimators import ESTIMATORS
from dpid.results.figure_style import Figure, standard
from dpid.studies import figures, words, world
from dpid.studies.study import Row, Study, bootstrap, by_picture, column, grouped, mean, spearman, told
from dpid.studies.workbench import Case, Workbench
from dpid.zoo.emoji import scenes

_EACH = 8  # pictures, for the embedded model; each has a prompt of its own


def _embedded(bench: Workbench) -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """(name, prompt, concepts) of the longest captions the model knows: "a dark skinned female doctor and a bus"."""
    rng = random.Random(f"complex {bench.seed}")
    for i in range(bench.pictures or _EACH):
        occupation, thing = rng.choice(list(scenes.OCCUPATIONS)), rng.choice(list(scenes.THINGS))
        tone, (_, gender) = rng.choice(list(scenes.TONES)), rng.choice(list(scenes.GENDERS.values()))
        prompt = f"a {tone} skinned {gender} {occupation} and a {thing}"
        yield f"{prompt} {i}", prompt, (f"{tone} skinned", gender, occupation, thing)


def _cases(bench: Workbench) -> list[Case]:
    """Cases of long prompts, or of the user's pictures with all their concepts."""
    if bench.scenes:
        return bench.own_cases(2, None)
    pictures: list[tuple[str, str, tuple[str, ...], Any]]
    if bench.embedded:
        pictures = [(name, p, c, partial(_drawn, p, name)) for name, p, c in _embedded(bench)]
    else:
        pictures = [(f"{p} {i}", p, c, partial(bench.generate, p, f"{p} {i}"))
                    for p, c in words.COMPLEX for i in range(bench.pictures or 1)]  # fmt: skip
    return [Case(name, image, prompt, concepts) for name, prompt, concepts, image in pictures]


def _drawn(prompt: str, picture: str) -> Image.Image:
    """The picture that an embedded model's prompt describes, drawn with the person on the left."""
    _, tone, _, gender, occupation, _, _, thing = prompt.split()
    person = next(name for name, (_, adjective) in scenes.GENDERS.items() if adjective == gender)
    return world.picture((f"{occupation}/{person}/{tone}", thing), picture)


def complex_prompts(bench: Workbench) -> Study:
    """The PID of all pairs of words of long prompts, unconditional (PID) and given the rest of the prompt (CPID).

    ``complex.csv`` has a row for every picture, pair, kind and estimator. ``rank_redundancy`` and ``rank_synergy``
    number the pairs of a picture, the highest value first. Rank correlations are those of a picture's pairs, averaged
    over pictures.
    """
    cases = _cases(bench)

    def measure(case: Case) -> list[Row]:
        rows = []
        for kind, context in (("PID", False), ("CPID", True)):
            for (a, b), result in bench.explain_pairs(case, context=context).items():
                rows += [
                    {
                        "a": a, "b": b, "kind": kind, "estimator": name,
                        "redundancy": d.redundancy.value, "redundancy_stderr": d.redundancy.stderr,
                        "synergy": d.synergy.value, "synergy_stderr": d.synergy.stderr,
                        "unique_a": d.unique[a].value, "unique_a_stderr": d.unique[a].stderr,
                        "unique_b": d.unique[b].value, "unique_b_stderr": d.unique[b].stderr,
                    }
                    for name, d in result.estimates.items()
                ]  # fmt: skip
        return rows

    rows = bench.measure(cases, measure)
    for same in grouped(rows, "picture", "kind", "estimator").values():
        for value in ("redundancy", "synergy"):
            for rank, row in enumerate(sorted(same, key=lambda r: -float(r[value])), 1):
                row[f"rank_{value}"] = rank
    first = bench.usable(cases)[0]
    first = replace(first, concepts=first.concepts[:2])
    both = {
        "PID": bench.explain(first), "CPID, given the rest": bench.explain(first, context=True),
    }  # fmt: skip
    made = {
        "Redundancy and synergy of all pairs of the first prompt, nats; error bars are standard errors": _ranked(rows),
        f"“{first.prompt}”": figures.maps(both),
    }
    summary = _summary(rows)
    return Study("complex-prompts", {"complex": rows}, made, summary, _finding(summary))


def _summary(rows: list[Row]) -> dict[str, Row]:
    """Means of redundancy and synergy, and the rank correlation between PID and CPID, each in every picture first."""
    summary = {}
    for (name,), same in grouped(rows, "estimator").items():
        kinds = grouped(same, "kind")
        for value in ("redundancy", "synergy"):
            for (kind,), of in kinds.items():
                summary[f"{value} in nats, mean, {kind}, {name}"] = bootstrap(mean, by_picture(of, value))
            summary[f"Spearman, {value} of PID and of CPID, {name}"] = bootstrap(mean, _correlations(same, value))
    return summary


def _correlations(rows: list[Row], value: str) -> list[float]:
    """The rank correlation of PID and CPID over the pairs of every picture, but where one of them is constant."""
    found = []
    for same in grouped(rows, "picture").values():
        kinds = grouped(same, "kind")
        found.append(spearman(*(np.array(column(kinds[(kind,)], value)) for kind in ("PID", "CPID"))))
    return [r for r in found if np.isfinite(r)]


def _finding(summary: dict[str, Row]) -> str:
    """Whether the rest of the prompt changes which words belong together."""
    redundancy, synergy = (
        summary[f"Spearman, {value} of PID and of CPID, {ESTIMATORS[0]}"] for value in ("redundancy", "synergy")
    )
    return (
        "Pairs of words of a prompt rank alike with and without the rest of it to a correlation of "
        f"{told(redundancy)} by redundancy, and of {told(synergy)} by synergy, in the mean of pictures."
    )


@standard()
def _ranked(rows: list[Row]) -> Figure:
    """Bars of the pairs of the first picture by the default estimator, sorted: a line for PID, one for CPID."""
    same = [r for r in rows if r["estimator"] == ESTIMATORS[0] and r["picture"] == rows[0]["picture"]]
    kinds = grouped(same, "kind")
    figure = Figure(figsize=(11, 1.2 + 0.22 * len(same)), dpi=120, layout="constrained")
    axes = figure.subplots(len(kinds), 2)
    for line, ((kind,), of) in zip(axes, kinds.items(), strict=True):
        named = [{**r, "pair": f"{r['a']} + {r['b']}"} for r in of]
        for ax, value in zip(line, ("redundancy", "synergy"), strict=True):
            figures.bars(ax, sorted(named, key=lambda r: float(r[value])), "pair", value)
            ax.set_title(f"{kind}: {value}", fontsize=9)
    return figure
