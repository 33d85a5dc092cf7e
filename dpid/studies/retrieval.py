"""Study of retrieval: choosing the true caption of two, as ITD does with ARO (Yuksekgonul et al., 2023)."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor

from dpid.estimation.estimators import evaluate, set_function
from dpid.estimation.sampling import draw
from dpid.explainer import Explainer
from dpid.images import ImageLike
from dpid.options import Options
from dpid.pid.replicates import mean_stderr
from dpid.prompts.plan import Plan
from dpid.results.figure_style import Figure
from dpid.studies import figures, world
from dpid.studies.depends import fixed_rule
from dpid.studies.study import Row, Study, column, grouped, proportion, told
from dpid.studies.workbench import Case, Workbench
from dpid.videos import encode, read
from dpid.zoo.emoji import scenes

_PICTURES = 80  # for the embedded model
COMPARED = ("standard", "orthogonal")  # Rao–Blackwell needs a text that is known to describe the picture


def caption_information(
    explainer: Explainer, image: ImageLike, captions: Sequence[str], *, samples: int = 32,
    replicates: int | None = None, seed: int = 0,
) -> dict[str, Tensor]:  # fmt: skip
    """Estimates of i(x; caption) in nats for every caption: {estimator: float64 [replicates, captions]}.

    All captions are evaluated with the same noise. That with the highest "standard" estimate has the highest
    log p(x | caption). Raises as :meth:`dpid.Explainer.explain`.
    """
    denoiser = explainer.denoiser
    if "float32" in denoiser.precisions:  # nothing here would notice rounding
        denoiser = denoiser.at("float32")
    x = encode(read(image, denoiser)[None], denoiser)
    texts = tuple(dict.fromkeys(("", *captions)))
    names = tuple(map(str, range(len(captions))))
    index = (0, *(texts.index(c) for c in captions))
    plan = Plan(names, ((), *((n,) for n in names)), texts, index, index[-1])
    options = Options(samples=samples, replicates=replicates, seed=seed)
    drawn = draw(
        fixed_rule(explainer), denoiser.logsnr_grid, options.per_replicate, options.repeats,
        torch.Generator().manual_seed(seed), density=explainer.density,
    )  # fmt: skip
    f = set_function(evaluate(denoiser, x, (plan,), drawn, seed=seed), plan)
    return {name: f[name][:, :, 0].sum((-2, -1)).cpu() for name in COMPARED}


def _swapped(rng: random.Random, kind: str) -> tuple[tuple[str, ...], str, str]:
    """The names of a scene's pictures, its caption, and one with a word replaced by another of its kind."""
    if kind == "gender":
        thing, occupation = rng.choice(list(scenes.THINGS)), rng.choice(list(scenes.OCCUPATIONS))
        (gender, (_, right)), (_, (_, wrong)) = rng.sample(list(scenes.GENDERS.items()), 2)
        shown = (f"{occupation}/{gender}/{rng.choice(list(scenes.TONES))}", thing)
        return shown, f"a {right} {occupation} and a {thing}", f"a {wrong} {occupation} and a {thing}"
    if kind == "sense":
        word = rng.choice(list(scenes.HOMONYMS))
        (right, _, _), (wrong, _, _) = rng.sample(scenes.HOMONYMS[word], 2)
        thing = rng.choice(list(scenes.THINGS))
        first, second = (f"{m} {word}" if scenes.BEFORE.get(word, True) else f"{word} {m}" for m in (right, wrong))
        return (first, thing), f"a {first} and a {thing}", f"a {second} and a {thing}"
    while True:
        words = world.KINDS[rng.choice(list(world.KINDS))]
        right, wrong = rng.sample(words, 2)
        thing = rng.choice(list(scenes.THINGS))
        if thing != wrong and scenes.allowed(right, thing) and scenes.allowed(wrong, thing):
            return (right, thing), f"a {right} and a {thing}", f"a {wrong} and a {thing}"


def _cases(bench: Workbench) -> list[Case]:
    """Cases whose prompt is the true caption and whose concept is the false one; ``ValueError`` if there are none."""
    if bench.pairs:
        return [
            Case(f"{i:05d} {p.image.name}", p.open, p.true, (p.false,), columns={"kind": "own"}, row=p.row or i)
            for i, p in enumerate(bench.pairs, 1)
        ][: bench.pictures]
    if not bench.embedded:
        raise ValueError(
            "data: retrieval needs pictures with captions; give --data a CSV or JSON of true and false ones"
        )
    rng = random.Random(f"retrieval {bench.seed}")
    cases = []
    for i in range(bench.pictures or _PICTURES):
        kind = ("thing", "thing", "sense", "gender")[i % 4]
        shown, true, false = _swapped(rng, kind)
        picture = f"{true} {i}"
        cases.append(Case(picture, partial(world.picture, shown, picture), true, (false,), columns={"kind": kind}))
    return cases


def retrieval(bench: Workbench) -> Study:
    """How often the information i(x; caption) of the true caption is above that of a false one.

    ``retrieval.csv`` has a row for every picture and estimator. For the embedded model the false caption has one word
    replaced: by another object of its kind, the other sense of a homonym, or the other gender.
    """

    cases = _cases(bench)  # raises before the model is loaded

    def measure(case: Case) -> list[Row]:
        (false,) = case.concepts
        found = caption_information(
            bench.exact, case.open(), (case.prompt, false), samples=bench.samples, replicates=bench.replicates,
            seed=bench.seed_of(case.picture),
        )  # fmt: skip
        rows = []
        for name, f in found.items():
            (true, other), _ = mean_stderr(f)
            gap, error = mean_stderr(f[:, 0] - f[:, 1])
            rows.append(
                {
                    "true_caption": case.prompt, "false_caption": false, "estimator": name,
                    "information_true": float(true), "information_false": float(other),
                    "gap": float(gap), "gap_stderr": float(error), "right": bool(gap > 0),
                }
            )  # fmt: skip
        return rows

    rows = bench.measure(cases, measure)
    summary = {}
    for (name,), same in grouped(rows, "estimator").items():
        asked = "≥ 0.95" if name == COMPARED[0] else None
        summary[f"accuracy, {name}"] = proportion([r["right"] for r in same], asked)
        for (kind,), of in grouped(same, "kind").items():
            summary[f"accuracy, {kind} swapped, {name}"] = proportion([r["right"] for r in of])
    found = told(summary[f"accuracy, {COMPARED[0]}"], ".0%")
    finding = f"The true caption tells more about its picture than a false one in {found} of the pictures."
    return Study("retrieval", {"retrieval": rows}, {
        "i(x; true caption) - i(x; false caption), nats; a dot a picture": _figure(rows),
    }, summary, finding)  # fmt: skip


def _figure(rows: list[Row]) -> Figure:
    """The gaps between true and false captions by kind and estimator, a dot for each picture."""
    gaps: Callable[[str], dict[str, list[float]]] = lambda name: {  # noqa: E731
        f"{kind}\n{name}": column(of, "gap")
        for (kind,), of in grouped([r for r in rows if r["estimator"] == name], "kind").items()
    }
    return figures.strips({**gaps(COMPARED[0]), **gaps(COMPARED[1])}, "gap, nats")
