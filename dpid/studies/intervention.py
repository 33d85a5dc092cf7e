"""Study of interventions (Kong et al., 2024): does a word's information predict how its deletion changes the picture?

A word is deleted from the prompt, the picture is generated again from the same noise, and the change is compared with
the word's information about the first picture.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from functools import partial

import numpy as np
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dpid.estimation.estimators import ESTIMATORS
from dpid.results.figure_style import Figure, standard
from dpid.results.result import PIDResult
from dpid.studies import figures, words, world
from dpid.studies.baselines import BASELINES, NO_PEER, attention_of, baselines
from dpid.studies.study import (
    Row,
    Study,
    bootstrap,
    column,
    conditional,
    estimate,
    grouped,
    mean,
    pearson,
    proportion,
    told,
)
from dpid.studies.workbench import Case, Workbench
from dpid.videos import encode, read
from dpid.zoo.emoji import scenes

_EACH = 12  # prompts of every kind, for the embedded model
PREDICTORS = ("unique", "cmi", "mi", "redundancy")


def _embedded(bench: Workbench) -> Iterator[tuple[str, str, str, str]]:
    """(kind, prompt, word to delete, second concept); the prompt without the word is a caption of the model's, too."""
    each, rng = bench.pictures or _EACH, random.Random(f"intervention {bench.seed}")
    for a, b in world.pairs("synonym", each, bench.seed):
        yield "synonym", f"a {a} {b}", b, a
    for a, b in world.pairs("unrelated", each, bench.seed):
        yield "unique", f"a {a} and a {b}", b, a
    for _ in range(each):
        word = rng.choice(list(scenes.HOMONYMS))
        modifier = rng.choice(scenes.HOMONYMS[word])[0]
        after = not scenes.BEFORE.get(word, True)
        yield "modifier", f"a {word} {modifier}" if after else f"a {modifier} {word}", modifier, word
    for _ in range(each):
        occupation, (_, gender) = rng.choice(list(scenes.OCCUPATIONS)), rng.choice(list(scenes.GENDERS.values()))
        yield "attribute", f"a {gender} {occupation}", gender, occupation


def _cases(bench: Workbench) -> list[Case]:
    """The prompts whose pictures are made with and without a word, as cases; that word is the first concept."""
    rows: list[int | None] = []
    if bench.scenes:  # the prompts alone: the picture that changes must be generated
        own = bench.own_cases()
        found, rows = [("own", c.prompt, *c.concepts[::-1]) for c in own], [c.row for c in own]
    elif bench.embedded:
        found = list(_embedded(bench))
    else:
        found = [("own", prompt, word, _beside(prompt, word)) for prompt, word in words.INTERVENTIONS]
    return [
        Case(
            f"{prompt} {i}", partial(bench.generate, prompt, f"{prompt} {i}"), prompt, (word, other),
            columns={"prompt": prompt, "word": word, "kind": kind}, row=row,
        )
        for i, ((kind, prompt, word, other), row) in enumerate(zip(found, rows or [None] * len(found), strict=True))
    ]  # fmt: skip


def _beside(prompt: str, word: str) -> str:
    """The other content word of a prompt of two."""
    return next(w for w in prompt.split() if w not in (word, "a", "an", "and"))


def intervention(bench: Workbench) -> Study:
    """The correlation between a word's information and the change of the picture when the word is deleted.

    The picture is generated again from the same noise. ``intervention.csv`` has a row for every prompt and estimator:
    ``change_pixel``, the root mean square change of the pixels in [0, 1]; ``change_latent``, that of the latents; the
    predictors of the image, ``unique``, ``redundancy``, ``mi`` = i(x; word), ``cmi`` = i(x; word | rest of the prompt),
    all in nats, and the mean attention: ``daam`` of a UNet, ``concept_attention`` of Stable Diffusion 3, Flux.1 and
    Flux.2, none of other networks; and for each of them ``pixel_…``, Pearson's correlation between its map and the map
    of the latents' squared change.

    Of the user's data the prompts and concepts are used; the second concept is deleted, and redundancy is that with the
    first. The pictures are generated, since their noise must be known.
    """
    cases = _cases(bench)
    usual = dict([*baselines(bench.pipe).items()][:1])

    def measure(case: Case) -> list[Row]:
        before = case.open()
        word = case.concepts[0]
        shorter = case.without(word)
        after = bench.generate(shorter, case.picture)
        change = _latents(bench, after) - _latents(bench, before)
        moved = np.asarray(after, dtype=float) - np.asarray(before, dtype=float)
        changed = {
            "change_pixel": float(np.sqrt((moved**2).mean()) / 255),
            "change_latent": float(change.square().mean().sqrt()),
        }
        # From the second follows i(x; word | rest) = f(both) - f(rest).
        pid, cpid = bench.explain(case), bench.explain_beside_rest(case, word)
        attention = {peer: attention_of(bench, case, (word,), module).maps[word] for peer, module in usual.items()}
        squares = change.square().sum(0)
        return [
            {"estimator": name, "without": shorter} | changed | _predictors(pid, cpid, word, name, attention, squares)
            for name in ESTIMATORS
        ]

    rows = bench.measure(cases, measure)
    default = [r for r in rows if r["estimator"] == ESTIMATORS[0]]
    kinds = {kind: column(of, "change_latent") for (kind,), of in grouped(default, "kind").items()}
    summary = _summary(rows)
    return Study("intervention", {"intervention": rows}, {
        "Change of the latents (root mean square) against the information of the deleted word": _scatter(default),
        "Change of the latents by the kind of the deleted word": figures.strips(kinds, "change"),
    }, summary, _finding(summary, [*usual]))  # fmt: skip


def _latents(bench: Workbench, image: Image.Image) -> Tensor:
    """The latents [C,h,w] of a picture, on the CPU."""
    denoiser = bench.explainer.denoiser
    return encode(read(image, denoiser)[None], denoiser)[0].cpu()


def _predictors(
    pid: PIDResult, cpid: PIDResult, word: str, estimator: str, attention: dict[str, Tensor], change: Tensor
) -> Row:
    """The predictors of the image, and the correlations of their maps with ``change`` [h,w].

    ``attention`` is {name: map [h,w]}.
    """
    d = pid.estimates[estimator]
    mi = d.information[(word,)]
    # The orthogonal CMI, g(rest, both) of docs/theory.md, eq. (6), is the Rao–Blackwell f(both) - f(rest).
    source = "rao-blackwell" if estimator == "orthogonal" else estimator
    cmi = estimate(cpid, source, lambda f: (f[2] - f[1]).sum())
    maps = {
        "unique": d.maps.unique[word], "redundancy": d.maps.redundancy, "mi": d.maps.information[(word,)],
        "cmi": conditional(cpid, word, estimator),
        **{k: functional.interpolate(m[None, None], change.shape, mode="bilinear")[0, 0] for k, m in attention.items()},
    }  # fmt: skip
    row: Row = {
        "unique": d.unique[word].value, "unique_stderr": d.unique[word].stderr,
        "redundancy": d.redundancy.value, "redundancy_stderr": d.redundancy.stderr,
        "mi": mi.value, "mi_stderr": mi.stderr, "cmi": cmi.value, "cmi_stderr": cmi.stderr,
        **{k: float(m.mean()) for k, m in attention.items()},
    }  # fmt: skip
    flat = change.flatten().double().numpy()
    for name, values in maps.items():
        found = pearson(values.flatten().double().numpy(), flat)
        row[f"pixel_{name}"] = found if np.isfinite(found) else None
    return row


def _peers(rows: list[Row]) -> list[str]:
    """The name of the attention maps among the predictors, if there are any."""
    return [name for name in BASELINES if name in rows[0]]


def _summary(rows: list[Row]) -> dict[str, Row]:
    """Correlations of all predictors with the change, for the image and its pixels."""
    summary = {}
    peers = _peers(rows)
    for (name,), same in grouped(rows, "estimator").items():
        first = name == ESTIMATORS[0]
        asked = f"|r| ≥ {BASELINES[peers[0]].NAME}'s" if peers and first else None
        for predictor in (*PREDICTORS, *(peers if first else ())):  # attention has no estimator
            values = column(same, predictor)
            of = predictor if predictor in peers else f"{predictor}, {name}"
            wanted = asked if predictor in ("unique", "cmi") else None
            for change in ("change_latent", "change_pixel"):
                summary[f"Pearson, {change}, image, {of}"] = bootstrap(
                    pearson, values, column(same, change), asked=wanted
                )
            summary[f"Pearson, latents' change, pixels, mean, {of}"] = bootstrap(
                mean, column(same, f"pixel_{predictor}")
            )
    default = [r for r in rows if r["estimator"] == ESTIMATORS[0]]
    kinds = {kind: column(of, "change_latent") for (kind,), of in grouped(default, "kind").items()}
    if {"synonym", "unique"} <= kinds.keys():
        hits = [a < b for a, b in zip(kinds["synonym"], kinds["unique"], strict=True)]
        summary["a synonym's deletion changes the latents less than a unique word's"] = proportion(hits, "≥ 0.9")
    return summary


def _finding(summary: dict[str, Row], peers: list[str]) -> str:
    """How well information and attention, if ``peers`` names any, predict what a deletion changes."""
    ours, *theirs = (summary[f"Pearson, change_latent, image, {of}"] for of in (f"cmi, {ESTIMATORS[0]}", *peers))
    attention = [
        f", and with its attention ({BASELINES[peer].NAME}) with one of {told(found)}"
        for peer, found in zip(peers, theirs, strict=True)
    ]
    return (
        "How much a picture changes when a word is deleted goes with what the word tells given the rest, with a "
        f"correlation of {told(ours)}{''.join(attention) or f'; {NO_PEER}'}."
    )


@standard()
def _scatter(rows: list[Row]) -> Figure:
    """The change of the latents against every predictor, a dot for each picture."""
    predictors = (*PREDICTORS, *(peers := _peers(rows)))
    figure = Figure(figsize=(2.6 * len(predictors), 3), dpi=120, layout="constrained")
    axes = figure.subplots(1, len(predictors), sharey=True)
    for ax, predictor in zip(axes, predictors, strict=True):
        for (kind,), of in grouped(rows, "kind").items():
            ax.plot(column(of, predictor), column(of, "change_latent"), ".", label=kind)
        ax.set_xlabel(f"{predictor}, mean attention" if predictor in peers else f"{predictor}, nats")
    axes[0].set_ylabel("change of the latents")
    axes[0].legend(fontsize=7)
    return figure
