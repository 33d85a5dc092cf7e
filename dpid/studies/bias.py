"""Gender and ethnicity over occupations: what an attribute and an occupation tell twice about a person's picture.

Co-information i(x; a) + i(x; o) - i(x; a, o) = log P(a | o) / P(a) at the optimum: above zero where the attribute is
more usual in the occupation than elsewhere, i.e. where either word already tells what the other does.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from importlib.resources import files
from itertools import product

import numpy as np
from matplotlib.figure import Figure

from dpid.information import ESTIMATORS
from dpid.studies import figures, world
from dpid.studies.bench import Case, Workbench
from dpid.studies.study import Row, Study, bootstrap, estimate, grouped, mean, spearman
from dpid.zoo.emoji.scenes import OCCUPATIONS

ATTRIBUTES = ("male", "female", "white", "black", "asian", "hispanic")  # of other models than the embedded
_EACH = 3  # pictures of an occupation and attribute of the embedded model


def occupations() -> list[str]:
    """188 common occupations, from the titles of the Standard Occupational Classification 2018; see the file."""
    text = (files("dpid.studies") / "occupations.txt").read_text(encoding="utf-8")
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def _cases(bench: Workbench) -> list[Case]:
    if bench.scenes:
        return [
            replace(c, facts=dict(zip(("attribute", "occupation"), c.concepts, strict=True))) for c in bench.own_cases()
        ]
    attributes = tuple(world.ATTRIBUTES) if bench.embedded else ATTRIBUTES
    names = list(OCCUPATIONS) if bench.embedded else occupations()
    cases = []
    for occupation, attribute, i in product(
        names, attributes, range(bench.pictures or (_EACH if bench.embedded else 1))
    ):
        prompt = f"a {attribute} {occupation}"
        picture = f"{prompt} {i}"
        cases.append(
            Case(
                picture,
                partial(bench.generate, prompt, picture),
                prompt,
                (attribute, occupation),
                world.captions(attribute, occupation),
                facts={"attribute": attribute, "occupation": occupation},
            )
        )
    return cases


def truth(occupation: str, attribute: str) -> float:
    """The co-information of any picture of the embedded world that shows them, in nats, exact."""
    layout = next(iter(world.people(occupation, attribute)))
    return world.log_ratio(layout, world.captions(attribute, occupation))


def bias(bench: Workbench) -> Study:
    """For each occupation and attribute, pictures of "a male doctor" and the PID of the two words.

    The user's pictures: the first concept of each is the attribute, the second the occupation.
    """

    def measure(case: Case) -> list[Row]:
        result = bench.explain(case)
        rows = []
        for name in ESTIMATORS:
            co = estimate(result, name, lambda f: (f[0] + f[1] - f[2]).sum())
            chosen = result.estimates[name]
            rows.append(
                {
                    "estimator": name, "co_information": co.value, "co_information_stderr": co.stderr,
                    "redundancy": chosen.redundancy.value, "redundancy_stderr": chosen.redundancy.stderr,
                    "synergy": chosen.synergy.value, "synergy_stderr": chosen.synergy.stderr,
                }
            )  # fmt: skip
        return rows

    rows = bench.measure(_cases(bench), measure)
    known = bench.embedded and not bench.scenes
    for row in rows:
        row["log_ratio_true"] = truth(row["occupation"], row["attribute"]) if known else None
    for same in grouped(rows, "estimator").values():
        low, high = (end(r["redundancy"] for r in same) for end in (min, max))
        for row in same:
            row["redundancy_normalised"] = (row["redundancy"] - low) / (high - low) if high > low else 0.0
    cells = _cells(rows)
    return Study("bias", {"bias": rows, "bias_cells": cells}, _figures(cells), _summary(cells))


def _cells(rows: list[Row]) -> list[Row]:
    """Means over the pictures of an occupation and attribute, with the standard error of their spread."""
    cells = []
    for (name, occupation, attribute), same in grouped(rows, "estimator", "occupation", "attribute").items():
        values = [r["co_information"] for r in same]
        n = len(values)
        # The errors of the pictures themselves, where there is but one.
        spread = np.std(values, ddof=1) / n**0.5 if n > 1 else same[0]["co_information_stderr"]
        cells.append(
            {
                "occupation": occupation, "attribute": attribute, "estimator": name, "pictures": n,
                "co_information": mean(np.array(values)), "co_information_stderr": float(spread),
                "log_ratio_true": same[0]["log_ratio_true"],
                "redundancy_normalised": mean(np.array([r["redundancy_normalised"] for r in same])),
            }
        )  # fmt: skip
    return cells


def _summary(cells: list[Row]) -> dict[str, Row]:
    summary = {}
    for (name,), same in grouped(cells, "estimator").items():
        co = [c["co_information"] for c in same]
        if any(c["log_ratio_true"] is None for c in same):
            summary[f"co-information, mean, {name}"] = bootstrap(mean, co)
            continue
        true = [c["log_ratio_true"] for c in same]
        asked = "≥ 0.85" if name == ESTIMATORS[0] else None
        summary[f"Spearman, co-information and log P(a|o)/P(a), {name}"] = bootstrap(spearman, co, true, asked=asked)
        redundancy = [c["redundancy_normalised"] for c in same]
        summary[f"Spearman, redundancy and log P(a|o)/P(a), {name}"] = bootstrap(spearman, redundancy, true)
        error = np.subtract(co, true)
        summary[f"absolute error in nats, {name}"] = bootstrap(mean, np.abs(error))
        summary[f"mean error in nats, {name}"] = bootstrap(mean, error)
    return summary


def _figures(cells: list[Row]) -> dict[str, Figure]:
    """The default estimator's, a panel an attribute, occupations sorted by co-information."""
    shown = grouped([c for c in cells if c["estimator"] == ESTIMATORS[0]], "attribute")
    made = {}
    for value, caption in (
        ("co_information", "Co-information of occupation and attribute, nats; error bars are standard errors, "
         "rings the exact log P(a | o) / P(a)"),
        ("redundancy_normalised", "Redundancy of occupation and attribute, scaled to [0, 1] over the run"),
    ):  # fmt: skip
        most = max(len(rows) for rows in shown.values())
        figure = Figure(figsize=(3.2 * len(shown), 1 + 0.16 * min(most, 60)), dpi=120, layout="constrained")
        axes = np.atleast_1d(figure.subplots(1, len(shown)))
        for ax, ((attribute,), rows) in zip(axes, shown.items(), strict=True):
            ranked = sorted(rows, key=lambda c: float(c[value]))
            if len(ranked) > 60:  # both ends, where there are more than can be read
                ranked = ranked[:30] + ranked[-30:]
            figures.bars(ax, ranked, "occupation", value)
            ax.set_title(attribute)
        made[caption] = figure
    return made
