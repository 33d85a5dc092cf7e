"""What rounding does to i(x; y_S) of the embedded model, what the correction to float32 leaves of it, at which time.

``python benchmarks/bench_precision.py [--scenes 12] [--types bfloat16] [--rules adaptive,shifted-grid]``. Every scene
is explained in float32 and in the fast type in turn, on the same samples. Deviations are divided by float32's
standard error: one of 1 is as much as the noise of the estimate.
"""

import json
import statistics
import time
from pathlib import Path

import ledger
import torch
import typer

import dpid

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"
ESTIMATORS = ("rao-blackwell", "standard")


def timed(explainer: dpid.Explainer, scene: dict, **options: object) -> tuple[dpid.PIDResult, float]:
    """The explanation of a held-out ``scene``, and the seconds that it took."""
    began = time.perf_counter()
    result = explainer.explain(DATA / scene["file"], scene["prompt"], scene["concepts"], **options)
    return result, time.perf_counter() - began


def deviations(fast: dpid.PIDResult, exact: dpid.PIDResult, estimator: str) -> dict[str, list[float]]:
    """How far every i(x; y_S) and its standard error are from float32's, in the latter."""
    found: dict[str, list[float]] = {"corrected": [], "not corrected": [], "errors": []}
    for subset, e in exact.estimates[estimator].information.items():
        own = fast.estimates[estimator].information[subset]
        added = (fast.metadata.correction or {})[estimator]["+".join(subset)][0]
        found["corrected"].append((own.value - e.value) / e.stderr)
        found["not corrected"].append((own.value - added - e.value) / e.stderr)
        found["errors"].append(own.stderr / e.stderr)
    return found


def mean_square_root(values: list[float]) -> float:
    """The root mean square of ``values``."""
    return float(torch.tensor(values, dtype=torch.float64).square().mean().sqrt())


def measured(precision: str, rule: str, chosen: list[dict], samples: int) -> list[dict[str, object]]:
    """Rows of the ledger for one type and one rule."""
    explainers = [dpid.Explainer.from_pretrained("emoji", precision=p) for p in ("float32", precision)]
    for explainer in explainers:
        timed(explainer, chosen[0], rule=rule, samples=samples)  # weights are converted and packed
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
    case = f"{precision}, {rule}, {samples} samples"
    low, _, high = statistics.quantiles(speed, n=4)
    rows: list[dict[str, object]] = [
        {"case": case, "metric": "samples in float32 too", "value": statistics.mean(paired), "n": len(paired)},
        {"case": case, "metric": "time: float32 / corrected", "value": statistics.median(speed), "low": low,
         "high": high, "unit": "", "n": len(speed), "note": "median and quartiles of pairs"},
    ]  # fmt: skip
    for (estimator, kind), values in found.items():
        value = statistics.median(values) if kind == "errors" else mean_square_root(values)
        metric = "standard error over float32's, median" if kind == "errors" else f"deviation, {kind}, in its errors"
        rows.append({"case": f"{case}, {estimator}", "metric": metric, "value": value, "n": len(values)})
    return rows


def main(scenes: int = 12, samples: int = 32, types: str = "bfloat16", rules: str = "adaptive,shifted-grid") -> None:
    """Measure and record in the ledger."""
    pairs = [s for s in json.loads((DATA / "index.json").read_text()) if len(s["pictures"]) == 2][:scenes]
    for precision in types.split(","):
        for rule in rules.split(","):
            ledger.record("precision", measured(precision, rule, pairs, samples), "emoji")


if __name__ == "__main__":
    typer.run(main)
