"""What rounding does to i(x; y_S) of the embedded model, what the correction to float32 leaves of it, at which time.

``python benchmarks/bench_precision.py [--scenes 12] [--types bfloat16] [--rules adaptive,shifted-grid]``. Every scene
is explained in float32 and in the fast type in turn, on the same samples. Deviations are divided by float32's
standard error: one of 1 is as much as the noise of the estimate. With ``--model sd2.1 --side 32`` the network is one of
true size with random weights, its texts random hidden states, and a scene random latents of that side. ``--types
float8_e4m3fn,int8`` are simulated (:mod:`eight_bits`), on ``--model emoji-flow`` too: without times.
"""

import json
import statistics
import time
from pathlib import Path
from typing import Any

import ledger
import torch
import typer
from bench_unet import denoisers
from eight_bits import ROUNDING, EightBits

import dpid
from dpid.denoisers.loading import EMBEDDED

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"
ESTIMATORS = ("rao-blackwell", "standard")


def explainers_of(model: str, *precisions: str) -> list[dpid.Explainer]:
    """An embedded model in each of ``precisions``, or one network of true size with random weights."""
    if model in EMBEDDED:
        exact = dpid.Explainer.from_pretrained(model, precision="float32")
        found = [dpid.Explainer(EightBits(model, p)) if p in ROUNDING else exact.at(p) for p in precisions]
        for explainer in found:
            explainer.density = exact.density
        return found
    fused = denoisers(model, "float32")[-1]
    return [dpid.Explainer(fused.at(p)) for p in precisions]


def scenes_of(model: str, count: int, side: int) -> list[dict[str, Any]]:
    """The arguments of :meth:`dpid.Explainer.explain` for ``count`` scenes."""
    if model in EMBEDDED:
        held_out = [s for s in json.loads((DATA / "index.json").read_text()) if len(s["pictures"]) == 2]
        return [{"image": DATA / s["file"]} | {k: s[k] for k in ("prompt", "concepts")} for s in held_out[:count]]
    generator = torch.Generator().manual_seed(0)
    asked = {"prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe")}
    return [asked | {"latents": torch.randn(4, side, side, generator=generator)} for _ in range(count)]


def timed(explainer: dpid.Explainer, scene: dict[str, Any], **options: object) -> tuple[dpid.PIDResult, float]:
    """The explanation of a ``scene``, and the seconds that it took."""
    began = time.perf_counter()
    result = explainer.explain(**scene, **options)
    return result, time.perf_counter() - began


def deviations(fast: dpid.PIDResult, exact: dpid.PIDResult, estimator: str) -> dict[str, list[float]]:
    """How far every i(x; y_S) and its standard error are from float32's, in the latter."""
    found: dict[str, list[float]] = {"corrected": [], "not corrected": [], "errors": []}
    for subset, e in exact.estimates[estimator].information.items():
        own = fast.estimates[estimator].information[subset]
        added, _ = (fast.metadata.correction or {}).get(estimator, {}).get("+".join(subset), (0.0, 0.0))
        found["corrected"].append((own.value - e.value) / e.stderr)
        found["not corrected"].append((own.value - added - e.value) / e.stderr)
        found["errors"].append(own.stderr / e.stderr)
    return found


def mean_square_root(values: list[float]) -> float:
    """The root mean square of ``values``."""
    return float(torch.tensor(values, dtype=torch.float64).square().mean().sqrt())


def measured(
    model: str, precision: str, rule: str, chosen: list[dict[str, Any]], samples: int
) -> list[dict[str, object]]:
    """Rows of the ledger for one type and one rule."""
    explainers = explainers_of(model, "float32", precision)
    for explainer in explainers:
        timed(explainer, chosen[0], rule=rule, samples=samples if model in EMBEDDED else 2)  # weights are packed
    found: dict[tuple[str, str], list[float]] = {}
    speed, paired = [], []
    for i, scene in enumerate(chosen):
        order = (0, 1) if i % 2 else (1, 0)
        runs = {j: timed(explainers[j], scene, rule=rule, samples=samples, seed=i, estimator="standard") for j in order}
        (exact, slow), (fast, quick) = runs[0], runs[1]
        speed.append(slow / quick)
        paired.append(fast.metadata.paired)
        for estimator in ESTIMATORS:
            for kind, values in deviations(fast, exact, estimator).items():
                found.setdefault((estimator, kind), []).extend(values)
    shape = "x".join(map(str, chosen[0]["latents"].shape)) if "latents" in chosen[0] else ""
    about = f"{model} {shape}, " if shape else "" if model == "emoji" else f"{model}, "
    case = f"{about}{precision}, {rule}, {samples} samples"
    low, _, high = statistics.quantiles(speed, n=4)
    rows: list[dict[str, object]] = [
        {"case": case, "metric": "samples in float32 too", "value": statistics.mean(paired), "n": len(paired)}
    ]
    if precision not in ROUNDING:
        rows.append(
            {"case": case, "metric": "time: float32 / corrected", "value": statistics.median(speed), "low": low,
             "high": high, "unit": "", "n": len(speed), "note": "median and quartiles of pairs"}
        )  # fmt: skip
    for (estimator, kind), values in found.items():
        value = statistics.median(values) if kind == "errors" else mean_square_root(values)
        metric = "standard error over float32's, median" if kind == "errors" else f"deviation, {kind}, in its errors"
        rows.append({"case": f"{case}, {estimator}", "metric": metric, "value": value, "n": len(values)})
    return rows


def main(
    model: str = "emoji", scenes: int = 12, samples: int = 32, types: str = "bfloat16",
    rules: str = "adaptive,shifted-grid", side: int = 64,
) -> None:  # fmt: skip
    """Measure and record in the ledger."""
    chosen = scenes_of(model, scenes, side)
    for precision in types.split(","):
        for rule in rules.split(","):
            rows = measured(model, precision, rule, chosen, samples)
            ledger.record("precision", rows, model if model in EMBEDDED else "")


if __name__ == "__main__":
    typer.run(main)
