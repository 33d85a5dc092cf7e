"""The quality of an embedded model: does it draw what a word means, and do its maps show where that is?

``python benchmarks/bench_model.py [--model emoji-flow] [--samples 16] [--only localisation …]``.
"""

import json
import random
import time
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ledger
import numpy as np
import torch
import typer
from PIL import Image
from torch.nn import functional

import dpid
from dpid.denoisers.loading import load_pipeline
from dpid.denoisers.network import from_pipeline
from dpid.denoisers.protocol import Denoiser
from dpid.estimation.estimators import ESTIMATORS, evaluate, set_function
from dpid.estimation.sampling import draw
from dpid.images import encode_pixels, open_image
from dpid.prompts.plan import Plan, plan
from dpid.results.maps import smoothed
from dpid.studies.masks import auc, cover
from dpid.zoo import generate
from dpid.zoo.emoji import scenes
from dpid.zoo.emoji.sprites import read

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"
HELDOUT = (16, 16)  # latent pixels of its pictures
EACH = 4  # pictures generated from every word
# Log-SNRs of the published maps; they are compared on every fourth scene of two things with masks, since scenes of one
# kind follow each other.
ITD, EVERY = 100, 4
SEEDS = 3  # seeds of the noise for every picture explained by an absent word


def nearest(images: list[Image.Image]) -> list[str]:
    """The name of the emoji that is most similar to each of ``images``, at any place on the image's own background.

    With D the picture and A the emoji, both less the background, pasting A at a place changes the squared error by
    |A|² - 2 D·A; the emoji with the largest drop is the nearest.
    """
    names = list(scenes.PICTURES)
    drawings = torch.stack([torch.from_numpy(np.array(read()[n])).permute(2, 0, 1).float() / 255 for n in names])
    found = []
    for image in images:
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        border = torch.cat((pixels[:, :2].flatten(1), pixels[:, -2:].flatten(1)), 1)
        background = border.median(1).values.view(3, 1, 1)
        a = drawings[:, 3:] * (drawings[:, :3] - background)
        match = functional.conv2d((pixels - background)[None], a, padding=4)[0]
        drop = 2 * match.flatten(1).amax(1) - a.square().sum((1, 2, 3))
        found.append(names[int(drop.argmax())])
    return found


def generation(model: str, rows: list[dict[str, object]]) -> None:
    """Append how often pictures generated from the word for an object or a sense show it."""
    pipe = load_pipeline(model)
    wanted = [(words[0], {name}) for name, (_, words) in scenes.THINGS.items()]
    wanted += [(p, {p}) for p in scenes.PICTURES if " " in p]
    hits: dict[str, list[bool]] = {}
    for i in range(EACH):
        images = generate(pipe, [f"a {word}" for word, _ in wanted], seed=1000 * i)
        for (word, right), drawn in zip(wanted, nearest(images), strict=True):
            hits.setdefault(word, []).append(drawn in right)
    print("drawn wrong:", {w: f"{h.count(False)}/{EACH}" for w, h in hits.items() if not all(h)})
    for case, chosen in (("things", [w for w, _ in wanted if w in scenes.THINGS]), ("things and senses", list(hits))):
        flat = [h for w in chosen for h in hits[w]]
        rows.append(ledger.share(case, "drawn right from the word", sum(flat) / len(flat), len(flat)))


def absent(explainer: dpid.Explainer, samples: int, rows: list[dict[str, object]]) -> None:
    """Append how often a word for what is not shown has information below zero by more than its error."""
    rng = random.Random(0)
    below: dict[tuple[str, str], list[float]] = {}
    for i, scene in enumerate(json.loads((DATA / "index.json").read_text())):
        shown = [n for n in scene["pictures"] if n in scenes.THINGS]
        if len(shown) != len(scene["pictures"]):
            continue
        there = scenes.THINGS[shown[0]][1][0]
        word = scenes.absent(rng, shown)
        conditions = {(): "", (there,): there, (word,): word, (there, word): f"{there} {word}"}
        results = [
            explainer.explain(
                DATA / scene["file"], scene["prompt"], conditions=conditions, reference="prompt", samples=samples,
                seed=i + 1000 * k,
            ) for k in range(SEEDS)
        ]  # fmt: skip
        for name in ESTIMATORS:
            found = [r.estimates[name].information[(word,)] for r in results]
            for how, ends in (
                ("95 % interval", [f.interval()[1] for f in found]),
                ("standard error", [f.value + f.stderr for f in found]),
            ):
                below.setdefault((name, how), []).append(sum(end < 0 for end in ends) / SEEDS)
    for (name, how), shares in below.items():
        v = np.array(shares)
        rows.append({"case": f"{name}, {samples} evaluations", "metric": f"absent word negative beyond its {how}",
                     "value": float(v.mean()), "stderr": float(v.std(ddof=1) / len(v) ** 0.5),
                     "n": SEEDS * len(v)})  # fmt: skip


def localisation(explainer: dpid.Explainer, samples: int, smooth: int, rows: list[dict[str, object]]) -> None:
    """Append the AUC, for masks, of information maps and of uniqueness maps by every estimator."""
    scores: dict[tuple[str, str], list[float]] = {}
    for i, scene in enumerate(json.loads((DATA / "index.json").read_text())):
        labels = torch.from_numpy(np.array(Image.open(DATA / scene["masks"]).convert("P")))
        concepts = tuple(scene["concepts"])
        result = explainer.explain(
            DATA / scene["file"], scene["prompt"], concepts, samples=samples, smooth=smooth, seed=i
        )
        # A latent pixel belongs to an object that covers more than half of its 4×4 pixels. A word such as "female" has
        # no mask.
        own = [n and cover(labels == n, HELDOUT) for n in scene["labels"]]
        two = len(scene["pictures"]) == 2
        kind = "two things" if two else "one thing"
        for name, d in result.estimates.items():
            for concept, mine, other in zip(concepts, own, reversed(own), strict=True):
                if mine is None:
                    continue
                maps = {f"i(x; y), {kind}": d.maps.information[(concept,)]}
                maps["i(x; y), all scenes"] = d.maps.information[(concept,)]
                if two:
                    maps["U, two things"] = d.maps.unique[concept]
                for what, m in maps.items():
                    scores.setdefault((name, f"{what}, all pixels"), []).append(auc(m, mine))
                    if two and "all scenes" not in what:
                        either = mine | other
                        scores.setdefault((name, f"{what}, own against other"), []).append(auc(m[either], mine[either]))
    for (name, what), values in scores.items():
        v = np.array(values)
        rows.append({"case": f"{name}, {samples} evaluations", "metric": f"AUC of {what}", "value": float(v.mean()),
                     "stderr": float(v.std(ddof=1) / len(v) ** 0.5), "n": len(v)})  # fmt: skip


def itd_maps(pipe: Denoiser, scene: dict[str, Any], seed: int, count: int = ITD) -> torch.Tensor:
    """ITD's maps [2,h,w] of a scene's two words: ½∫ (ε̂_rest - ε̂_both)² at ``count`` log-SNRs of its density.

    Smoothed as ours are. Only what they need is evaluated: the text of both words, and each word alone.
    """
    asked = plan(scene["prompt"], scene["concepts"])
    _, *alone, both = (asked.texts[k] for k in asked.index)
    question = Plan(asked.concepts, asked.subsets[:3], (both, *alone), (0, 1, 2), 0)
    drawn = draw("logistic", pipe.logsnr_grid, count, 1, torch.Generator().manual_seed(seed), antithetic=False)
    pixels = torch.from_numpy(np.array(open_image(DATA / scene["file"])))
    with torch.inference_mode():
        sums = evaluate(pipe, encode_pixels(pixels[None], pipe), [question], drawn, seed=seed)
    f = set_function(sums, question)["orthogonal"][0, :, 0]
    return smoothed(f.flip(0), 3).float()  # the map of a word is the gap between both and the other alone


def published(explainer: dpid.Explainer, model: str, samples: int, rows: list[dict[str, object]]) -> None:
    """Append the AUC of the maps that ITD (Kong et al., 2023) draws and of our uniqueness maps, and their seconds.

    Its map of a word is that of the conditional information, by the pipeline's own network. Both see the same scenes.
    """
    pipe = from_pipeline(load_pipeline(model), fused=False, precision="float32")
    scores: dict[str, list[float]] = {}
    numbered = enumerate(json.loads((DATA / "index.json").read_text()))
    two = [(i, s) for i, s in numbered if len(s["pictures"]) == 2 and None not in s["labels"]]
    for i, scene in two[::EVERY]:
        concepts = tuple(scene["concepts"])
        labels = torch.from_numpy(np.array(Image.open(DATA / scene["masks"]).convert("P")))
        own = [cover(labels == n, HELDOUT) for n in scene["labels"]]
        began = time.perf_counter()
        result = explainer.explain(DATA / scene["file"], scene["prompt"], concepts, samples=samples, seed=i)
        unique = result.estimates[ESTIMATORS[0]].maps.unique
        scores.setdefault("ours: seconds a picture", []).append(time.perf_counter() - began)
        began = time.perf_counter()
        maps = itd_maps(pipe, scene, i)
        scores.setdefault("ITD: seconds a picture", []).append(time.perf_counter() - began)
        for whose, of_words in (("ITD", maps), ("ours", [unique[c] for c in concepts])):
            for m, mine, other in zip(of_words, own, reversed(own), strict=True):
                either = mine | other
                scores.setdefault(f"{whose}: AUC, all pixels", []).append(auc(m, mine))
                scores.setdefault(f"{whose}: AUC, own against other", []).append(auc(m[either], mine[either]))
    for metric, values in scores.items():
        v = np.array(values)
        row = {"case": f"two things, {samples} evaluations and {ITD} of ITD", "metric": metric, "n": len(v)}
        if "seconds" in metric:
            rows.append(row | {"value": float(np.median(v)), "unit": "s"})
        else:
            rows.append(row | {"value": float(v.mean()), "stderr": float(v.std(ddof=1) / len(v) ** 0.5)})


def main(
    model: str = "emoji",
    samples: Annotated[int, typer.Option(help="Evaluations of every condition.")] = 16,
    smooth: Annotated[int, typer.Option(help="Side of the square that maps are smoothed over.")] = 3,
    only: Annotated[list[str] | None, typer.Option(help="Of generation, localisation, absent, published.")] = None,
) -> None:
    """Measure and record in the ledger; a model other than "emoji" has a benchmark of its own there."""
    explainer = dpid.Explainer.from_pretrained(model)
    rows: list[dict[str, object]] = []
    measures = {
        "generation": partial(generation, model),
        "localisation": partial(localisation, explainer, samples, smooth),
        "absent": partial(absent, explainer, 32),
        "published": partial(published, explainer, model, samples),
    }
    for name in only or measures:
        measures[name](rows)
    ledger.record(ledger.of_model("model", model), rows, model)


if __name__ == "__main__":
    typer.run(main)
