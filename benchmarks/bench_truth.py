"""Are the image's numbers true? Against the exact information of fresh scenes of the emoji world, under its model.

``python benchmarks/bench_truth.py [--model emoji-flow]`` measures what is not yet in build/truth, prints and records in
the ledger.

The world knows log P(contents | caption) / P(contents) of every picture, so that errors here include what the network
has not learned; a long run of the same network does not know those. Asked of every scene of two things a and b, with
the captions of a default explanation: ("a", "b"), both true; ("a", wrong) with the wrong word part of the reference F,
and with the true prompt as F. A wrong word has no exact value, its information is minus infinity: the share of pictures
whose interval lies below zero is told instead.

Beside it stands what the published sampling rule (ITD: Kong et al., 2023) takes for the same rms error against the
exact values: independent log-SNRs from its logistic density, with iˢ, and with i° as the papers draw it. Its error at N
evaluations is √(bias² + σ²/N), with bias and σ from ``ITD`` single samples; where the bias alone exceeds ours, no
number of evaluations is enough.
"""

import random
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import ledger
import torch
import typer

import dpid
from dpid.estimation.estimators import ESTIMATORS, MEASURED, evaluate, set_function
from dpid.estimation.sampling import draw
from dpid.images import encode_pixels, to_pixels
from dpid.options import Options
from dpid.pid import decompose_replicates, mean_stderr
from dpid.prompts.plan import Plan, merge, plan, with_reference
from dpid.results.intervals import interval
from dpid.results.shrinkage import shrinkage_weight, shrunk_sums
from dpid.studies import world
from dpid.zoo.emoji import scenes

WORK = ledger.kept(Path(__file__).parents[1] / "build" / "truth")
SIZES = (8, 16, 32, 64)
RIVALS, ITD = 40, 256  # scenes and single samples of the published rule
RESAMPLED = 2000  # bootstrap samples of the scenes
SEED = "truth 25"  # of the scenes; no training, study or other benchmark draws from it
SUBSETS = (("y1",), ("y2",), ("y1", "y2"))
NUMBERS = ("i(x; y1)", "i(x; y2)", "i(x; y1, y2)", "redundancy", "unique 1", "unique 2", "synergy")
QUESTIONS = ("true", "wrong", "absent")


def pictures(count: int) -> list[tuple[str, str, str]]:
    """``count`` triples: what the scene shows, left and right, and a thing that it does not show."""
    rng, chosen = random.Random(SEED), []
    while len(chosen) < count:
        a, b, wrong = rng.sample(list(scenes.THINGS), 3)
        if scenes.allowed(a, b):
            chosen.append((a, b, wrong))
    return chosen


def _true(shown: tuple[str, str, str]) -> Plan:
    """The plan of a default explanation by both true words."""
    a, b, _ = (scenes.THINGS[name][1][0] for name in shown)
    return plan(f"a {a} and a {b}", (a, b))


def latents(explainer: dpid.Explainer, number: int, shown: tuple[str, str, str]) -> torch.Tensor:
    """The latents [1,C,h,w] of scene ``number``."""
    pixels = to_pixels(world.picture(shown[:2], f"{SEED} {number}"), (64, 64))
    return encode_pixels(pixels[None], explainer.denoiser)


def measure(
    explainer: dpid.Explainer, number: int, shown: tuple[str, str, str], samples: int
) -> dict[str, torch.Tensor]:
    """Replicates of f(S) by every question and estimator, {"true/standard": [G,3,H,W]}, as a default explanation's."""
    a, b, wrong = (scenes.THINGS[name][1][0] for name in shown)
    asked = [_true(shown)]
    if samples <= max(SIZES):
        mistaken = plan(f"a {a} and a {wrong}", (a, wrong))
        asked += [mistaken, with_reference(mistaken, f"a {a} and a {b}")]
    plans = merge(asked)
    denoiser, x = explainer.denoiser, latents(explainer, number, shown)
    options = Options(samples=samples)
    seed = 1000 * number + samples
    drawn = draw(
        "adaptive", denoiser.logsnr_grid, options.per_replicate, options.repeats,
        torch.Generator().manual_seed(seed), density=explainer.density,
    )  # fmt: skip
    sums = evaluate(denoiser, x, plans, drawn, seed=seed)
    found = {}
    for question, one in zip(QUESTIONS, plans, strict=False):
        found |= {f"{question}/{name}": f[:, :, 0].float() for name, f in set_function(sums, one).items()}
    return found


def published(explainer: dpid.Explainer, number: int, shown: tuple[str, str, str]) -> dict[str, torch.Tensor]:
    """f(S) of the image from single samples of ITD's rule, {estimator: [ITD,3]}."""
    denoiser, question, x = explainer.denoiser, _true(shown), latents(explainer, number, shown)
    generator = torch.Generator().manual_seed(number)
    drawn = draw("logistic", denoiser.logsnr_grid, 1, ITD, generator, antithetic=False)
    sums = evaluate(denoiser, x, [question], drawn, seed=number)
    return {name: f[:, :, 0].sum((-2, -1)) for name, f in set_function(sums, question).items()}


def kept(weights: str, number: int, samples: int | str) -> Path:
    """Where the replicates of a scene are kept, by the model's fingerprint; "itd" for those of :func:`published`."""
    return WORK / f"{number}-{samples}-{weights}.pt"


def collect(model: str, count: int, sizes: tuple[int, ...]) -> None:
    """Measure what is missing of the first ``count`` scenes; of the first ``RIVALS`` by ITD's rule too."""
    explainer, weights = dpid.Explainer.from_pretrained(model).at("float32"), ledger.fingerprint(model)
    WORK.mkdir(parents=True, exist_ok=True)
    for number, shown in enumerate(pictures(count)):
        if model == "emoji" and number < RIVALS and not kept(weights, number, "itd").exists():
            with torch.inference_mode():
                torch.save(published(explainer, number, shown), kept(weights, number, "itd"))
        for samples in sizes:
            if not kept(weights, number, samples).exists():
                with torch.inference_mode():
                    torch.save(measure(explainer, number, shown, samples), kept(weights, number, samples))


def exact(shown: tuple[str, str, str]) -> torch.Tensor:
    """i(x; y_S) of the two true words and of both, then R, U, U and S of their minimum, [7] nats."""
    a, b = (scenes.THINGS[name][1][0] for name in shown[:2])
    one, two, both = (world.information(shown[:2], caption) for caption in (a, b, f"{a} {b}"))
    r = min(one, two)
    return torch.tensor([one, two, both, r, one - r, two - r, both - one - two + r], dtype=torch.float64)


def by_estimator(found: dict[str, torch.Tensor], question: str) -> dict[str, torch.Tensor]:
    """Replicates of f(S) of the image by every estimator, {name: [G,3]}."""
    f = {name: found[f"{question}/{name}"].double().sum((-2, -1)) for name in MEASURED}
    quiet, noisy, gaps = (f[name][..., None, None] for name in MEASURED)  # of maps of one pixel, whose sums they are
    return {"shrinkage": shrunk_sums(quiet, noisy, gaps, shrinkage_weight(noisy - quiet))[..., 0, 0]} | f


def numbers(f: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The seven of :func:`exact` from replicates [G,3], and their standard errors."""
    atoms, errors = decompose_replicates({s: f[:, i] for i, s in enumerate(SUBSETS)}, corrected=True, coarse=True)
    mean, error = mean_stderr(f)
    return torch.cat((mean, atoms.coarse)), torch.cat((error, errors.coarse))


def true_words(weights: str, samples: int, shown: list[tuple[str, str, str]]) -> Iterator[dict[str, object]]:
    """Bias, root mean square error, and coverage of 95 % intervals, of every number by every estimator."""
    numbered = [(kept(weights, i, samples), one) for i, one in enumerate(shown) if kept(weights, i, samples).exists()]
    truth = torch.stack([exact(one) for _, one in numbered])
    replicates = [by_estimator(torch.load(path), "true") for path, _ in numbered]
    for name in ESTIMATORS:
        values, errors = (torch.stack(t) for t in zip(*(numbers(f[name]) for f in replicates), strict=True))
        # i(x; both) of iʳ is an integral of squares, as all of i° are.
        squares = torch.tensor([name == "orthogonal"] * 2 + [name in ("orthogonal", "rao-blackwell")] + [False] * 4)
        low, high = interval(values, errors, len(replicates[0][name]) - 1, positive=squares)
        slack = 1e-9  # of two words that tell the same, what every picture knows
        held, gap = ((low - slack <= truth) & (truth <= high + slack)).double(), values - truth
        case, n = f"{name}, {samples} evaluations", len(truth)
        for k, number in enumerate(NUMBERS):
            root = gap[:, k].square().mean().sqrt()
            yield {"case": case, "metric": f"bias of {number}; exact {float(truth[:, k].mean()):.2f}", "n": n,
                   "value": float(gap[:, k].mean()), "stderr": float(gap[:, k].std() / n**0.5),
                   "unit": "nats"}  # fmt: skip
            yield {"case": case, "metric": f"rms error of {number}", "n": n, "unit": "nats", "value": float(root),
                   "stderr": float(gap[:, k].square().std() / n**0.5 / (2 * root))}  # fmt: skip
            metric = f"coverage of the truth by 95 % intervals of {number}"
            yield ledger.share(case, metric, float(held[:, k].mean()), n)


def evaluations_of_itd(
    weights: str, samples: int, shown: list[tuple[str, str, str]]
) -> Iterator[dict[str, object]]:  # fmt: skip
    """How many times ``samples`` ITD's rule takes for our rms error against the exact values, with 95 % intervals."""
    both = (samples, "itd")
    numbered = [(i, one) for i, one in enumerate(shown[:RIVALS]) if all(kept(weights, i, k).exists() for k in both)]
    truth = torch.stack([exact(one)[:3] for _, one in numbered])
    itd = [torch.load(kept(weights, i, "itd")) for i, _ in numbered]
    ours = [by_estimator(torch.load(kept(weights, i, samples)), "true") for i, _ in numbered]
    chosen = torch.randint(len(truth), (RESAMPLED, len(truth)), generator=torch.Generator().manual_seed(0))
    for mine, theirs in (("shrinkage", "standard"), ("rao-blackwell", "standard"), ("shrinkage", "orthogonal")):
        square = (torch.stack([f[mine].mean(0) for f in ours]) - truth).square()  # [scenes,3]
        noise = torch.stack([f[theirs].var(0) for f in itd])
        bias = (torch.stack([f[theirs].mean(0) for f in itd]) - truth).square() - noise / ITD
        for k, number in enumerate(NUMBERS[:3]):
            room = square[:, k] - bias[:, k]

            def factor(
                rows: torch.Tensor, room: torch.Tensor = room, sigma: torch.Tensor = noise[:, k]
            ) -> torch.Tensor:
                left = room[rows].mean(-1)
                return torch.where(left > 0, sigma[rows].mean(-1) / left, torch.inf) / samples

            drawn = factor(chosen).sort().values.tolist()
            low, high = drawn[RESAMPLED // 40], drawn[-RESAMPLED // 40]
            yield {"case": f"{mine}, {samples} evaluations", "n": len(truth), "unit": "x",
                   "metric": f"evaluations of ITD with {theirs} for the same error of {number}",
                   "value": float(factor(torch.arange(len(truth)))), "low": low, "high": high}  # fmt: skip


def wrong_words(weights: str, samples: int, count: int) -> Iterator[dict[str, object]]:
    """How often a wrong word is below zero, and by how much beyond its error, by the question and the estimator."""
    paths = [path for path in (kept(weights, i, samples) for i in range(count)) if path.exists()]
    for question in QUESTIONS[1:]:
        replicates = [by_estimator(torch.load(path), question) for path in paths]
        for name in ESTIMATORS:
            mean, error = (torch.stack(t)[:, 1] for t in zip(*(mean_stderr(f[name]) for f in replicates), strict=True))
            _, high = interval(mean, error, len(replicates[0][name]) - 1, positive=name == "orthogonal")
            case = f"{name}, {samples} evaluations, {question}"
            for what, below in (("value", mean), ("95 % interval", high)):
                p = float((below < 0).double().mean())
                yield ledger.share(case, f"wrong word's {what} below zero", p, len(paths))


def main(
    count: Annotated[int, typer.Option(help="Scenes.")] = 40,
    samples: Annotated[list[int] | None, typer.Option(help=f"Evaluations a condition; default: {SIZES}.")] = None,
    model: Annotated[str, typer.Option(help="An embedded model, or the folder of one at another stage.")] = "emoji",
) -> None:
    """Measure, print and record in the ledger."""
    sizes, weights = tuple(samples or SIZES), ledger.fingerprint(model)
    collect(model, count, sizes)
    rows: list[dict[str, object]] = []
    for size in sizes:
        rows += true_words(weights, size, pictures(count))
        if kept(weights, 0, "itd").exists():
            rows += evaluations_of_itd(weights, size, pictures(count))
        if size <= max(SIZES):
            rows += wrong_words(weights, size, count)
    ledger.record(ledger.of_model("truth", model), rows, model)


if __name__ == "__main__":
    typer.run(main)
