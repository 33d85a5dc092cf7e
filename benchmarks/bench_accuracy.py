"""How many evaluations of the network ITD's sampling rule and those of dpid need for the same error.

``python benchmarks/bench_accuracy.py`` measures what is not yet in build/accuracy, then prints, draws docs/accuracy.png
and records in the ledger; ``--only PIECE`` measures one piece (those of the embedded model take minutes).

ITD draws independent log-SNRs from a logistic density (Kong et al., 2023), and all conditions share the noise, as in
its code. Its error is exactly σ/√N, so that single samples suffice to measure σ. The error of dpid, of the mean of
interleaved replicates as :meth:`dpid.Explainer.explain` computes it, is measured at every N; for the same error ITD
needs (σ / error)² evaluations.
"""

import json
from functools import cache
from pathlib import Path
from typing import Annotated

import known
import ledger
import matplotlib
import numpy as np
import torch
import typer

import dpid
from dpid.estimation.estimators import MEASURED
from dpid.images import encode_pixels, open_image, to_pixels
from dpid.prompts.plan import plan

ROOT = Path(__file__).parents[1]
HELDOUT, FIGURE = ROOT / "tests" / "data" / "heldout", ROOT / "docs" / "accuracy.png"
WORK = ledger.kept(ROOT / "build" / "accuracy")
TRAINED = (-5.364, 7.069)  # Stable Diffusion's log-SNRs, whose grid the embedded model shares
PICTURES = range(0, 160, 20)  # every twentieth of the held-out scenes of two objects
REPLICATES, SIZES = 4, (8, 16, 32, 64)
LEVELS = ("image", "pixel")
RULES = {"itd": "iid logistic (ITD)", "shifted-grid": "shifted antithetic grid", "adaptive": "adaptive grid"}


@cache
def explainer() -> dpid.Explainer:
    """The explainer of the embedded model."""
    return dpid.Explainer.from_pretrained("emoji")


def heldout(number: int) -> known.Case:
    """A held-out scene under the embedded model in float32, which ``precision="auto"`` chooses for so few samples."""
    scene = json.loads((HELDOUT / "index.json").read_text())[number]
    denoiser = explainer().denoiser.at("float32")
    picture = to_pixels(open_image(HELDOUT / scene["file"]), (64, 64))
    x = encode_pixels(picture[None], denoiser)
    return known.Case(f"emoji-{number}", denoiser, x, plan(scene["prompt"], scene["concepts"]), None)


@cache
def case_of(name: str, seed: int = 0) -> known.Case:
    """The case ``name``; for an exact model, ``seed`` draws the picture."""
    if name.startswith("emoji"):
        return heldout(int(name.split("-")[1]))
    return {"gaussian": known.gaussian, "mixture": known.mixture}[name](TRAINED, seed=seed)


@cache
def density_of(name: str) -> torch.Tensor:
    """The density for "adaptive": that of the embedded model; for an exact model, one learnt from another picture."""
    shipped = explainer().density if name.startswith("emoji") else None
    return case_of(name, seed=1).density(seed=2) if shipped is None else shipped


MODELS = {"gaussian": ("gaussian",), "mixture": ("mixture",), "emoji": tuple(f"emoji-{i}" for i in PICTURES)}


def stacked(f: dict[str, torch.Tensor]) -> torch.Tensor:
    """Estimates {estimator: [G,3,H,W]} as one tensor [G,3,3,H,W]."""
    return torch.stack([f[name] for name in MEASURED], 1)


def truth(name: str) -> torch.Tensor:
    """The truth [G, 3 estimators, 3 subsets, H, W]: in closed form, G = 1, or G replicates of a long run."""
    case = case_of(name)
    if name == "gaussian":
        return stacked({k: v[None] for k, v in known.gaussian_sums(case).items()})
    return stacked(case.replicates("shifted-grid", 64, 1024 if name == "mixture" else 24, seed=1000))


def run(name: str, rule: str, size: int, repeats: int) -> torch.Tensor:
    """``repeats`` estimates from ``size`` samples each, [repeats, replicates, 3 estimators, 3 subsets, H, W]."""
    case = case_of(name)
    if rule == "itd":
        return stacked(case.replicates("logistic", 1, repeats, seed=1, antithetic=False))[:, None]
    density = density_of(name) if rule == "adaptive" else None
    f = stacked(case.replicates(rule, size // REPLICATES, REPLICATES * repeats, seed=size, density=density))
    return f.unflatten(0, (repeats, REPLICATES))


def repeats(name: str, rule: str, size: int) -> int:
    """The number of estimates: a piece of the embedded model then takes minutes, and bootstrap intervals are narrow."""
    if name.startswith("emoji"):
        return 1024 if rule == "itd" else 16 if size == 64 else 40
    return 20000 if rule == "itd" else 500


def pieces() -> dict[str, tuple[str, str]]:
    """{piece: (case, "truth" or a rule)}."""
    return {f"{name}-{what}": (name, what) for names in MODELS.values() for name in names for what in ("truth", *RULES)}


def kept(piece: str) -> Path:
    """The file of a piece; for the embedded model its name contains the fingerprint of weights and density."""
    return WORK / (f"{piece}-{ledger.fingerprint('emoji')}.npz" if piece.startswith("emoji") else f"{piece}.npz")


def measure(piece: str) -> None:
    """Measure one piece and save it in ``WORK``."""
    name, what = pieces()[piece]
    with torch.inference_mode():
        if what == "truth":
            out = {"0": truth(name)}
        else:
            sizes = (1,) if what == "itd" else SIZES
            out = {str(n): run(name, what, n, repeats(name, what, n)) for n in sizes}
    WORK.mkdir(parents=True, exist_ok=True)
    np.savez(kept(piece), **{n: f.float().numpy() for n, f in out.items()})


def squares(name: str, rule: str) -> dict[int, np.ndarray]:
    """Squared errors {N: [repeats, 3 estimators, 2 levels]}, means over subsets and pixels.

    The variance of the truth, which is known from the replicates of its long run, is subtracted.
    """
    long = np.load(kept(f"{name}-truth"))["0"].astype(np.float64)
    exact = long.mean(0)

    def both(error: np.ndarray) -> np.ndarray:
        image, pixel = error.sum((-2, -1)) ** 2, (error**2).mean((-2, -1))
        return np.stack([image.mean(-1), pixel.mean(-1)], -1)

    own = both(long - exact).sum(0) / (len(long) * max(1, len(long) - 1))
    found = np.load(kept(f"{name}-{rule}"))
    return {int(n): both(f.astype(np.float64).mean(1) - exact) - own for n, f in found.items()}


def resampled(rng: np.random.Generator, values: list[np.ndarray], share: np.ndarray) -> np.ndarray:
    """Means [1000,3,2] of bootstrap resamples of every picture's ``values`` [repeats,3,2], weighted by ``share``.

    ``share`` [1000, pictures] are the weights of resampled pictures, the same for all rules, since these are compared.
    """
    means = []
    for v in values:
        counts = rng.multinomial(len(v), np.full(len(v), 1 / len(v)), size=1000)
        means.append(np.tensordot(counts, v, 1) / len(v))
    return np.einsum("bp,pbek->bek", share, np.stack(means))


def summarise(model: str) -> tuple[dict[str, dict[int, np.ndarray]], list[dict[str, object]]]:
    """Root mean square errors {rule: {N: [3,2]}} over the pictures of a model, and the ledger's rows of ratios."""
    rng, curves, rows = np.random.default_rng(0), {}, []
    data = {rule: [squares(name, rule) for name in MODELS[model]] for rule in RULES}
    single = np.mean([d[1].mean(0) for d in data["itd"]], 0)
    count = len(MODELS[model])
    share = rng.multinomial(count, np.full(count, 1 / count), size=1000) / count
    single_boot = resampled(rng, [d[1] for d in data["itd"]], share)
    curves["itd"] = {n: (single / n) ** 0.5 for n in SIZES}
    for rule in ("shifted-grid", "adaptive"):
        curves[rule] = {}
        for n in SIZES:
            ours = np.mean([d[n].mean(0) for d in data[rule]], 0)
            ratio = single / ours / n
            boot = single_boot / resampled(rng, [d[n] for d in data[rule]], share) / n
            low, high = np.percentile(boot, (2.5, 97.5), axis=0)
            curves[rule][n] = ours**0.5
            for e, k in np.ndindex(3, 2):
                rows.append({
                    "case": f"{model}, {MEASURED[e]}, {LEVELS[k]}", "unit": "x",
                    "n": sum(len(d[n]) for d in data[rule]),
                    "metric": f"evaluations ITD / {rule} at the error of {n}", "value": float(ratio[e, k]),
                    "stderr": float(boot[:, e, k].std()), "low": float(low[e, k]), "high": float(high[e, k]),
                })  # fmt: skip
    return curves, rows


def draw(curves: dict[str, dict[str, dict[int, np.ndarray]]]) -> None:
    """Draw the error against evaluations: a column for every model, images above, pixels below."""
    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    style = {"itd": ("o", ":"), "shifted-grid": ("s", "-"), "adaptive": ("^", "--")}
    figure, axes = pyplot.subplots(2, len(curves), figsize=(4 * len(curves), 7), sharex=True, layout="constrained")
    for column, (model, rules) in zip(axes.T, curves.items(), strict=True):
        for k, (axis, level) in enumerate(zip(column, LEVELS, strict=True)):
            for rule, points in rules.items():
                for e, colour, symbol in ((0, "tab:blue", "iʳ"), (1, "tab:orange", "iˢ")):
                    marker, line = style[rule]
                    axis.plot(
                        [4 * n for n in points], [v[e, k] for v in points.values()], marker=marker, linestyle=line,
                        color=colour, label=f"{symbol}, {RULES[rule]}",
                    )  # fmt: skip
            axis.set(xscale="log", yscale="log", title=f"{model}: {level}", ylabel="rms error [nats]")
            axis.set_xticks([4 * n for n in SIZES], [str(4 * n) for n in SIZES], minor=False)
            axis.xaxis.set_minor_locator(ticker.NullLocator())
            axis.grid(alpha=0.3)
        column[-1].set_xlabel("evaluations of the network (4 conditions)")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    figure.savefig(FIGURE, dpi=120)


def main(
    only: Annotated[str, typer.Option(help="Measure this piece and stop; an unknown one lists them.")] = "",
) -> None:
    """Measure what is missing; print, draw and record in the ledger."""
    if only:
        if only not in pieces():
            raise typer.BadParameter(f"--only: found {only!r}, allowed are {', '.join(pieces())}")
        return measure(only)
    for piece in pieces():
        if not kept(piece).exists():
            measure(piece)
    curves, rows = {}, []
    for model in MODELS:
        curves[model], found = summarise(model)
        rows += found
    draw(curves)
    ledger.record("accuracy", rows, "emoji")
    return None


if __name__ == "__main__":
    torch.set_num_threads(1)
    typer.run(main)
