"""Study of localisation: do the maps of a word lie on its object? AUC and IoU with masks, as for COCO-WL in ITD."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import product

import numpy as np
import torch
from torch import Tensor

from dpid.estimation.estimators import ESTIMATORS
from dpid.results.figure_style import Figure, standard
from dpid.results.result import PIDResult
from dpid.studies import world
from dpid.studies.baselines import BASELINES, NO_PEER, attention_of, baselines
from dpid.studies.masks import THRESHOLDS, auc, cover, overlaps
from dpid.studies.study import Row, Study, bootstrap, by_picture, column, conditional, grouped, mean, told
from dpid.studies.workbench import Case, Workbench

_SCENES = 60  # pictures, for the embedded model
_BUDGETS = (8, 16, 32)  # evaluations of every condition, at most the workbench's


def _cases(bench: Workbench) -> list[Case]:
    """Cases of drawn pictures, or of the user's pictures with masks; ``ValueError`` if there are none."""
    if bench.scenes:
        return bench.own_cases(1, None, masked=True)
    if not bench.embedded:
        raise ValueError("data: localisation needs pictures with masks; give --data a CSV with a mask column")
    pairs = world.things(bench.pictures or _SCENES, bench.seed)
    return [world.case(a, b, f"a {a} and a {b} {i}") for i, (a, b) in enumerate(pairs)]


def _maps(result: PIDResult, concept: str, estimator: str) -> dict[str, Tensor]:
    """The maps [h,w] of a concept in nats: i(x; y), i(x; y | the other concept), uniqueness and redundancy."""
    d = result.estimates[estimator].maps
    return {
        "mi": d.information[(concept,)], "cmi": conditional(result, concept, estimator),
        "unique": d.unique[concept], "redundant": d.redundancy,
    }  # fmt: skip


def _results(bench: Workbench, case: Case, samples: int) -> list[tuple[str, PIDResult]]:
    """(concept, explanation) of every concept with a mask; the second of a single concept is the rest of the prompt."""
    concepts, masks = _two_concepts(case), case.masks()
    if len(concepts) == 2:
        result = bench.explain(replace(case, concepts=concepts), samples=samples)
        return [(c, result) for c in concepts if c in masks]
    (word,) = concepts
    return [(word, bench.explain_beside_rest(case, word, samples=samples))]


def _two_concepts(case: Case) -> tuple[str, ...]:
    """At most two concepts of a case, those with masks first."""
    masks = case.masks()
    masked = [c for c in case.concepts if c in masks]
    return tuple((masked + [c for c in case.concepts if c not in masked])[:2])


def localisation(bench: Workbench) -> Study:
    """The agreement with masks of information, uniqueness and redundancy maps, and of attention maps.

    Attention maps of a UNet are DAAM's and OVAM's, those of Stable Diffusion 3, Flux.1 and Flux.2 ConceptAttention's;
    of other networks there are none to compare with.

    ``localisation.csv`` has a row for every picture, concept, map, estimator and number of evaluations of a condition:
    ``auc`` over all latent pixels; ``auc_own_other`` over those of the two objects; ``iou`` of the map, scaled to
    [0, 1], above the best threshold, chosen on these pictures: that at which its mean over them is highest. mIoU is
    this mean. All are empty for a thing that covers no latent pixel by more than half.
    """
    cases, peers = _cases(bench), baselines(bench.pipe)
    budgets = sorted({min(b, bench.samples) for b in _BUDGETS} | {bench.samples})

    def measure(case: Case) -> list[Row]:
        asked, every = _two_concepts(case), case.masks()
        masks = {c: every[c] for c in asked if c in every}
        rows = []
        for samples in budgets:
            for concept, result in _results(bench, case, samples):
                for name in ESTIMATORS:
                    columns = {"concept": concept, "estimator": name, "evaluations": result.metadata.samples}
                    rows += [columns | {"map": kind} | _scores(m, masks, concept)
                             for kind, m in _maps(result, concept, name).items()]  # fmt: skip
        for kind, peer in peers.items():
            found = attention_of(bench, case, list(masks), peer)
            columns = {"estimator": "", "evaluations": found.unet_evaluations, "map": kind}
            rows += [columns | {"concept": c} | _scores(found.maps[c], masks, c) for c in masks]
        return rows

    rows = bench.measure(cases, measure, nats=False)
    for same in grouped(rows, "map", "estimator", "evaluations").values():
        known = [r["ious"] for r in same if r["ious"] is not None]
        best = int(np.mean(known, 0).argmax()) if known else 0
        for row in same:
            ious = row.pop("ious")
            row["iou"], row["threshold"] = ious and ious[best], float(THRESHOLDS[best]) if known else None
    summary = _summary(rows)
    return Study("localisation", {"localisation": rows}, {
        "AUC over all pixels, and of the own against the other thing, by evaluations of a condition": _curves(rows),
    }, summary, _finding(summary, list(peers)))  # fmt: skip


def _scores(values: Tensor, masks: dict[str, np.ndarray], concept: str) -> Row:
    """AUC over all pixels, AUC over those of all objects, and the IoU at every threshold, of a map [h,w]."""
    values = values.cpu().float()
    covered = {c: cover(torch.from_numpy(m), values.shape) for c, m in masks.items()}
    own = covered[concept]
    either = torch.stack([*covered.values()]).any(0)
    return {
        "auc": auc(values, own), "auc_own_other": auc(values[either], own[either]), "ious": overlaps(values, own),
    }  # fmt: skip


def _summary(rows: list[Row]) -> dict[str, Row]:
    """Mean AUC and IoU of every map at the most evaluations, and how far they exceed those of attention maps."""
    most = max(r["evaluations"] for r in rows if r["map"] not in BASELINES)
    peers = dict.fromkeys(r["map"] for r in rows if r["map"] in BASELINES)
    targets = {"auc": "≥ 0.95", "auc_own_other": "≥ 0.985", "iou": "> attention maps'" if peers else None}
    names = {"auc": "AUC, all pixels", "auc_own_other": "AUC, own against other", "iou": "mIoU"}
    summary = {}
    shown = [r for r in rows if r["map"] in BASELINES or r["evaluations"] == most]
    for (kind, estimator), same in grouped(shown, "map", "estimator").items():
        for value, name in names.items():
            target = targets[value] if kind in ("cmi", "unique") and estimator == ESTIMATORS[0] else None
            of = f"{name}, {kind}" + (f", {estimator}" if estimator else "")
            summary[of] = bootstrap(mean, by_picture(same, value), asked=target)
    for kind, peer, (value, name) in product(("unique", "cmi"), peers, names.items()):
        theirs = {(r["picture"], r["concept"]): r[value] for r in shown if r["map"] == peer}
        ours = [r for r in shown if r["map"] == kind and r["estimator"] == ESTIMATORS[0]]
        gaps = [
            {"picture": r["picture"], "gap": r[value] - theirs[r["picture"], r["concept"]]}
            for r in ours if r[value] is not None
        ]  # fmt: skip
        summary[f"{name} above {BASELINES[peer].NAME}'s by, {kind}, {ESTIMATORS[0]}"] = bootstrap(
            mean, by_picture(gaps, "gap"), asked="> 0"
        )
    return summary


def _finding(summary: dict[str, Row], peers: Sequence[str]) -> str:
    """How well maps tell the pixels of a word's thing from all others, beside attention maps."""
    known = ", ".join(f"{BASELINES[p].NAME} {told(summary[f'AUC, all pixels, {p}'], '.3f')}" for p in peers)
    theirs = f"attention maps: {known}" if peers else NO_PEER
    ours = summary[f"AUC, all pixels, unique, {ESTIMATORS[0]}"]
    return (
        "A word's uniqueness map tells the pixels of its thing from all others with an AUC (0.5 is chance, 1 is "
        f"perfect) of {told(ours, '.3f')}; {theirs}."
    )


@standard()
def _curves(rows: list[Row]) -> Figure:
    """Mean AUC against the number of evaluations, a line for every map and estimator."""
    made = Figure(figsize=(11, 4), dpi=120, layout="constrained")
    axes = made.subplots(1, 2)
    for ax, value in zip(axes, ("auc", "auc_own_other"), strict=True):
        for (kind, estimator), same in grouped(
            [r for r in rows if r["map"] != "redundant"], "map", "estimator"
        ).items():
            points = {n: column(of, value) for (n,), of in grouped(same, "evaluations").items()}
            ends = sorted(n for n, v in points.items() if v)
            style = {"unique": "-", "cmi": "--", "mi": ":", "daam": "-", "ovam": "--", "concept_attention": "-"}[kind]
            colour = f"C{ESTIMATORS.index(estimator)}" if estimator else "k"
            ax.plot(ends, [float(np.mean(points[n])) for n in ends], style, marker=".", color=colour,
                    label=f"{kind} {estimator}".strip())  # fmt: skip
        ax.set_xscale("log", base=2)
        every = sorted({r["evaluations"] for r in rows})
        ax.set_xticks(every, every)
        ax.set_xlabel("evaluations of a condition")
        ax.set_title({"auc": "AUC, all pixels", "auc_own_other": "AUC, own against other thing"}[value])
    axes[1].legend(fontsize=7, ncols=2)
    return made
