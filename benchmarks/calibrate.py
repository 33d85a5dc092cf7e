"""Coverage of the 95 % intervals, and bias, on models whose truth is known: ``make calibrate``.

Coverage is the share of repeated explanations in which an interval (:func:`dpid.results.intervals.interval`) contains
the truth: of f(S) and of the atoms of the image, and of those of every pixel; for every rule of
:mod:`dpid.estimation.sampling`, every estimator, and R = 4 and 8 replicates of 4, 16 and 64 samples (or of ``--each``).
A number that all explanations know exactly is left out. The truth of "standard" and "shrinkage" is the exact
log-density ratio (of pixels, where these are independent; else that of a long run); of "orthogonal" and "rao-blackwell"
it is the integral, in closed form or from a long run. For the embedded model, which is measured only when named, it is
always a long run. Pixels are those of the measured maps, of "shrinkage" those of the maps as they are shown: smoothed,
and laid out with the weight that an explanation has, which is taken as known.

``answers`` compares estimates with exact values (:mod:`answers`). ``tolerance`` measures how often ``tolerance=0.05``
is kept: the share of a hundred explanations whose f of both concepts is within 5 % of the truth; and what explanations
hold of it that meet ``tolerance=0.2`` within the default number of samples.
"""

import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Annotated

import answers
import known
import ledger
import torch
import typer
from bench_accuracy import case_of, density_of
from known import Case
from rich.console import Console
from rich.table import Table
from torch import Tensor

import dpid
from dpid.estimation.estimators import ESTIMATORS, MEASURED, are_squares
from dpid.estimation.sampling import RULES
from dpid.options import Options
from dpid.pid import decompose, decompose_replicates, mean_stderr
from dpid.pid.replicates import reaching_leads
from dpid.results.intervals import interval
from dpid.results.maps import displayed, smoothed
from dpid.results.shrinkage import layout_weight, shrinkage_weight, shrunk_layout, shrunk_sums

LEVELS = ("f(S)", "atoms", "f(S) of pixels", "atoms of pixels")
EACH = [4, 16, 64]  # samples of a replicate; by default an explanation has 4 in each of 8 replicates
USUAL = ("shifted-grid", "adaptive")  # without and with a density
SMOOTH = Options().smooth
SUBSETS = (("y1",), ("y2",), ("y1", "y2"))
NONE = torch.zeros(3, dtype=torch.bool)  # none of three f(S)
# Ranges of log-SNR, outside of which f(S) has less than 1 %. In wider ones most samples of "uniform" are wasted.
GAUSSIAN, MIXTURE, WRONG, SCENE = (-9.0, 11.0), (-9.0, 7.0), (-9.0, 13.0), (-9.0, 5.0)


@dataclass(frozen=True)
class Coverage:
    """A line of the table: the share of intervals that contain the truth by level, and the bias in standard errors."""

    model: str
    rule: str
    each: int
    replicates: int
    estimator: str
    repeats: int
    share: dict[str, float]
    bias: float


@dataclass(frozen=True)
class Truth:
    """The true f(S) of the image [3] with its standard error [3] and of the pixels [3,H,W], or [repeats, …]."""

    image: Tensor
    stderr: Tensor
    pixels: Tensor


def gaussian_truth(case: Case) -> dict[str, Truth]:
    """{estimator: truth} in closed form."""
    pixels = known.gaussian_sums(case) | {"standard": known.gaussian_log_ratios(case)}
    return {name: Truth(f.sum((-2, -1)), torch.zeros(3), f) for name, f in pixels.items()}


def long_run(case: Case, each: int, count: int, density: Tensor) -> dict[str, Truth]:
    """{estimator: truth} from ``count`` replicates of ``each`` samples.

    That of "standard" for the image is exact where the denoiser knows its density.
    """
    f = case.replicates("adaptive", each, count, seed=77, density=density)
    truth = {name: Truth(*mean_stderr(v.sum((-2, -1))), v.mean(0)) for name, v in f.items()}
    if not hasattr(case.denoiser, "log_ratio"):
        return truth
    null, *conditions = (case.plan.texts[k] for k in case.plan.index)
    exact = torch.stack([case.denoiser.log_ratio(case.x, condition, null)[0] for condition in conditions])
    return truth | {"standard": Truth(exact, torch.zeros(3), truth["standard"].pixels)}


def _atoms(f: Tensor, corrected: bool) -> tuple[Tensor, Tensor]:
    """Redundancy, uniqueness of both, synergy and their errors, [4,repeats,*], from replicates [R,repeats,3,*]."""
    values, errors = decompose_replicates(
        {s: f[:, :, i] for i, s in enumerate(SUBSETS)}, corrected=corrected, coarse=True
    )
    if f.ndim == 3:  # numbers of images, which are decomposed one by one in an explanation
        errors = reaching_leads(values, errors, f[:, :, :2].transpose(1, 2))
    return values.coarse, errors.coarse


def _held(
    values: Tensor, errors: Tensor, truth: Tensor, replicates: int, positive: Tensor | bool = False, repeats: int = 0
) -> float:
    """The share of intervals of ``values`` that contain ``truth``; ``repeats`` is the dimension of repeats.

    What is known exactly in every repeat (the uniqueness of one of two words, pixels that no word changes) is left out.
    Rounding, which can make 1e-30 of a value at such pixels, is ignored.
    """
    negligible = 1e-12 * truth.abs().max()
    low, high = interval(values, errors, replicates - 1, positive=positive)
    held = (low <= truth) & (truth <= high)
    known_exactly = ((values - truth).abs() <= negligible) & (errors <= negligible)
    unknown = ~known_exactly.all(repeats, keepdim=True)
    return float(held[unknown.expand_as(held)].double().mean())


def coverage(f: Tensor, truth: Truth, replicates: int, positive: Tensor = NONE) -> dict[str, float]:
    """The coverage {level: share} of explanations, each of ``replicates`` of the replicates ``f`` [G,3,H,W].

    ``truth`` may be that of all explanations, or one for each; ``positive`` [3] says which f(S) are integrals of
    squares.
    """
    f = f.unflatten(0, (-1, replicates)).transpose(0, 1)  # [R,repeats,3,H,W]
    shares = []
    for values, exact, corrected, above in (
        (f.sum((-2, -1)), truth.image.view(-1, 3), True, positive),
        (f, truth.pixels.view(-1, *f.shape[2:]), False, positive[:, None, None]),
    ):  # fmt: skip
        shares.append(_held(*mean_stderr(values), exact, replicates, above))
        right = decompose({s: exact[:, i] for i, s in enumerate(SUBSETS)}, coarse=True).coarse
        shares.append(_held(*_atoms(values, corrected), right, replicates, repeats=1))
    return dict(zip(LEVELS, shares, strict=True))


def calibrate(
    case: Case, truth: dict[str, Truth], rule: str, each: int, repeats: int, density: Tensor,
    replicates: tuple[int, ...] = (4, 8),
) -> Iterator[Coverage]:  # fmt: skip
    """Coverage and bias of ``repeats`` explanations, by every estimator and R of ``replicates``."""
    for r in replicates:
        f = case.replicates(rule, each, r * repeats, 1 + r, density=density, together=r)
        for estimator in ESTIMATORS:
            yield judge(case, f, truth, rule, each, r, estimator)


def judge(
    case: Case, f: dict[str, Tensor], truth: dict[str, Truth], rule: str, each: int, r: int, estimator: str
) -> Coverage:
    """Coverage and bias of the worst f(S) by one estimator, of {estimator: [G,3,H,W]}, ``r`` replicates at a time."""
    if estimator == "shrinkage":
        f, truth = shrunk(f, truth, r)
    # The error of the bias is that among explanations: replicates within one share a grid and are not independent.
    repeats = f[estimator].sum((-2, -1)).unflatten(0, (-1, r)).mean(1)
    mean, error = mean_stderr(repeats)
    z = (mean - truth[estimator].image) / error.hypot(truth[estimator].stderr)
    bias = float(z[z.abs().argmax()])
    positive = torch.tensor(are_squares(estimator, case.plan.index[1:], case.plan.full))
    held = coverage(f[estimator], truth[estimator], r, positive)
    return Coverage(case.name, rule, each, r, estimator, len(repeats), held, bias)


def shrunk(f: dict[str, Tensor], truth: dict[str, Truth], r: int) -> tuple[dict[str, Tensor], dict[str, Truth]]:
    """{"shrinkage": maps [G,3,H,W] as shown} of explanations of ``r`` replicates, and their truth.

    Of the image it is that of "standard"; of the pixels [repeats,3,H,W] that of the maps with the same weights.
    """
    quiet, noisy, gaps = (truth[name].pixels[None] for name in MEASURED)
    maps, exact = [], []
    for q, s, g in zip(*(f[name].split(r) for name in MEASURED), strict=True):
        w = shrinkage_weight((s - q).sum((-2, -1)))
        sums = shrunk_sums(q, s, g, w)
        layout = layout_weight(smoothed(sums, SMOOTH), smoothed(s, SMOOTH))
        maps.append(displayed(sums, SMOOTH, s, rest=(1 - w) * (s - q).sum((-2, -1))))
        right = smoothed(shrunk_sums(quiet, noisy, gaps, w), SMOOTH)
        exact.append(shrunk_layout(right, smoothed(noisy, SMOOTH), layout)[0])
    known = truth["standard"]
    return {"shrinkage": torch.cat(maps)}, {"shrinkage": Truth(known.image, known.stderr, torch.stack(exact))}


def show(lines: list[Coverage]) -> None:
    """Print the table of coverages; those outside 93…97 % (images) or 92…98 % (pixels) are red."""
    table = Table(
        "model", "rule", "each", "R", "estimator", "repeats", *LEVELS, "bias [s.e.]", title="coverage of 95 %"
    )
    for c in lines:
        cells = []
        for level in LEVELS:
            slack = 0.03 if "pixels" in level else 0.02
            text = f"{100 * c.share[level]:.1f}"
            cells.append(text if abs(c.share[level] - 0.95) <= slack else f"[red]{text}[/red]")
        table.add_row(
            c.model,
            c.rule,
            str(c.each),
            str(c.replicates),
            c.estimator,
            str(c.repeats),
            *cells,
            f"{c.bias:+.1f}",
        )
    Console(width=150).print(table)


def ledger_rows(lines: list[Coverage]) -> list[dict[str, object]]:
    """Rows of the ledger: lowest and highest coverage over rules and R, by model, estimator, samples and level.

    "usual" is the lowest of the rules and R that an explanation has by default.
    """
    rows: list[dict[str, object]] = []
    for model, estimator, each in dict.fromkeys((c.model, c.estimator, c.each) for c in lines):
        among = [c for c in lines if (c.model, c.estimator, c.each) == (model, estimator, each)]
        usual = [c for c in among if c.rule in USUAL and c.replicates == 8]
        ends = [("lowest ", min, among), ("highest ", max, among)] if len(among) > 1 else [("", min, among)]
        if len(among) > 1 and usual:
            ends.append(("usual ", min, usual))
        for level, (word, end, chosen) in product(among[0].share, ends):
            found = end(chosen, key=lambda c: c.share[level])
            case, metric = f"{model}, {estimator}, {each} a replicate", f"{word}coverage of 95 % of {level}"
            row = ledger.share(case, metric, found.share[level], found.repeats)
            rows.append(row | {"note": f"{found.rule}, R = {found.replicates}"})
    return rows


def gaussian(repeats: int, each: list[int]) -> Iterator[Coverage]:
    """Coverage for the Gaussian: many small independent contributions, where often only the shift of a grid varies."""
    case, density = known.gaussian(GAUSSIAN), known.gaussian(GAUSSIAN, seed=1).density(seed=2)
    yield from every_rule(case, gaussian_truth(case), repeats, each, density)


def long_enough(each: list[int]) -> int:
    """The samples in each of 4096 replicates of a long run: 128 times those of the longest explanation.

    The error of the truth, a tenth of an explanation's, then lowers the coverage by 0.1 %; at 32 times it would be 0.4
    %.
    """
    return max(256, *each) // 4


def mixture(repeats: int, each: list[int], wrong: bool = False) -> Iterator[Coverage]:
    """Coverage for the mixture: the component is decided in a narrow band of log-SNR, where rare noise matters most."""
    ends = WRONG if wrong else MIXTURE
    case, density = known.mixture(ends, wrong=wrong), known.mixture(ends, wrong=wrong, seed=1).density(seed=2)
    yield from every_rule(case, long_run(case, long_enough(each), 4096, density), repeats, each, density)


def scene(repeats: int, each: list[int]) -> Iterator[Coverage]:
    """Coverage for an emoji scene: background, place and pictures are decided in different bands of log-SNR."""
    case, density = known.scene(SCENE), known.scene(SCENE, seed=1).density(seed=2)
    yield from every_rule(case, long_run(case, long_enough(each), 4096, density), repeats, each, density)


def embedded(repeats: int, each: list[int]) -> Iterator[Coverage]:
    """Coverage for two held-out scenes under the embedded model by default options.

    The truth is that of a long run, so that errors of the network are not part of it.
    """
    for name in ("emoji-0", "emoji-80"):
        case, density = case_of(name), density_of(name)
        truth = long_run(case, 64, 16 * max(each), density)  # 128 times the longest explanation
        for samples in each:
            f = case.replicates("adaptive", samples, 8 * repeats, 9, density=density, together=8)
            yield from (judge(case, f, truth, "adaptive", samples, 8, estimator) for estimator in ESTIMATORS)


def every_rule(
    case: Case, truth: dict[str, Truth], repeats: int, each: list[int], density: Tensor
) -> Iterator[Coverage]:
    """Coverage by every rule, for every number of samples of a replicate."""
    for rule, samples in product(RULES, each):
        yield from calibrate(case, truth, rule, samples, repeats, density)


MODELS = {
    "gaussian": gaussian, "mixture": mixture, "wrong-word": partial(mixture, wrong=True), "scene": scene,
    "embedded": embedded,
}  # fmt: skip


def tolerance(most: float = 0.05, runs: int = 100) -> Iterator[dict[str, object]]:
    """Rows of the ledger: the share of explanations with ``tolerance=most`` whose f(12) errs by less than ``most``."""
    density = known.mixture(MIXTURE, seed=1).density(seed=2)
    mixture, gaussian = known.mixture(MIXTURE), known.gaussian(GAUSSIAN)
    for case, truth in ((gaussian, gaussian_truth(gaussian)), (mixture, long_run(mixture, 64, 4096, density))):
        explainer = dpid.Explainer(case.denoiser)
        conditions = {s: case.plan.texts[k] for s, k in zip(case.plan.subsets, case.plan.index, strict=True)}
        for name in ("rao-blackwell", "standard"):
            results = [
                explainer.explain(
                    latents=case.x[0], conditions=conditions, seed=i, estimator=name, tolerance=most, max_samples=2**16,
                    max_batch_size=case.batch,
                ) for i in range(runs)
            ]  # fmt: skip
            exact = float(truth[name].image[-1])
            kept = [abs(r.information[("y1", "y2")].value / exact - 1) < most for r in results]
            spent = [r.metadata.samples for r in results]
            yield ledger.share(f"{case.name}, {name}", f"tolerance {most} kept", sum(kept) / runs, runs)
            yield {"case": f"{case.name}, {name}", "metric": f"samples for tolerance {most}, mean", "n": runs,
                   "value": sum(spent) / runs}  # fmt: skip


def stopped(most: float = 0.2, runs: int = 400) -> Iterator[dict[str, object]]:
    """Rows of the ledger: how many explanations of the mixture meet ``tolerance=most``, and what these hold of it.

    Options are the defaults, so that those end early whose error happens to look small.
    """
    case = known.mixture(MIXTURE)
    explainer, texts = dpid.Explainer(case.denoiser), [case.plan.texts[k] for k in case.plan.index]
    none, all_ = (float(case.denoiser.log_density(case.x, texts[i])) for i in (0, -1))
    conditions = dict(zip(case.plan.subsets, texts, strict=True))
    met = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dpid.ConvergenceWarning)
        for i in range(runs):
            result = explainer.explain(
                latents=case.x[0], conditions=conditions, seed=i, tolerance=most, rule="shifted-grid",
                max_batch_size=case.batch,
            )  # fmt: skip
            if result.metadata.converged:
                met.append(result.information[("y1", "y2")])
    held = [low <= all_ - none <= high for low, high in (number.interval() for number in met)]
    kept = [abs(number.value / (all_ - none) - 1) < most for number in met]
    for metric, of in (("met", [True] * len(met)), ("met: truth in the interval", held), ("met: truth within", kept)):
        n = runs if metric == "met" else len(met)
        yield ledger.share(f"{case.name}, shrinkage", f"tolerance {most} {metric}", sum(of) / n, n)


def main(
    models: Annotated[
        list[str] | None, typer.Argument(help=f"Of {', '.join(MODELS)}, answers, tolerance; default: all but embedded.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Explanations for every rule, number of samples and R.")] = 500,
    each: Annotated[
        list[int] | None, typer.Option(min=1, help=f"Samples of a replicate; default: {EACH}, embedded: [4].")
    ] = None,
) -> None:
    """Measure, print and record in the ledger."""
    allowed = [*MODELS, "answers", "tolerance"]
    chosen = models or [name for name in allowed if name != "embedded"]  # which takes twice as long as all the others
    if unknown := [name for name in chosen if name not in allowed]:
        raise typer.BadParameter(f"models: found {', '.join(unknown)}, allowed are {', '.join(allowed)}")
    lines: list[Coverage] = []
    for name in (name for name in chosen if name in MODELS):
        lines += MODELS[name](repeats, each or ([4] if name == "embedded" else EACH))
    if lines:
        show(lines)
    rows = ledger_rows(lines)
    rows += answers.measure() if "answers" in chosen else []
    rows += [*tolerance(), *stopped()] if "tolerance" in chosen else []
    ledger.record("calibration", rows, "emoji" if "embedded" in chosen else "")


if __name__ == "__main__":
    typer.run(main)
