"""Many pictures at a call against a loop, how long the first and the tenth explanation take, and eight words.

``python benchmarks/bench_batch.py [--runs 7] [--model emoji] [--device cpu]``, on an idle machine. Both ways are
timed in turn, and their numbers compared.
"""

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import ledger
import numpy as np
import torch
import typer
from PIL import Image

import dpid

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"
IMAGE, PROMPT, CONCEPTS = DATA / "040.png", "a horse and a cake", ("horse", "cake")
EIGHT = "horse cake dog frog fish car clock key"  # the model takes no longer one with commas
COUNT = 16  # pictures of a batch
# Seconds of the first explanation, {}, and of the tenth, in a process of its own; loading is not counted.
FRESH = """
import sys, time, dpid
explainer = dpid.Explainer.from_pretrained({model!r}, device={device!r})
if {warm}: explainer.warm_up([(64, 64)])
for i in range(10):
    began = time.perf_counter()
    explainer.explain({image!r}, {prompt!r}, {concepts!r}, rule="shifted-grid")
    if i in (0, 9): print(time.perf_counter() - began)
"""


def pictures() -> list[Image.Image]:
    """The picture, turned and mirrored: as many that no cache knows."""
    with Image.open(IMAGE) as opened:
        image = opened.convert("RGB")
    return [image.rotate(90 * (i % 4)).resize(image.size) for i in range(COUNT)]


def seconds(run: Callable[[], object], device: str | None) -> float:
    """The wall time of ``run``."""
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.synchronize()
    began = time.perf_counter()
    run()
    if torch.cuda.is_available() and device != "cpu":
        torch.cuda.synchronize()
    return time.perf_counter() - began


def batches(explainer: dpid.Explainer, samples: int, runs: int, device: str | None) -> list[dict[str, object]]:
    """Rows of explanations in a loop and in one call."""
    images, options = pictures(), {"samples": samples, "rule": "shifted-grid"}

    def loop() -> list[dpid.PIDResult]:
        return [explainer.explain(image, PROMPT, CONCEPTS, **options) for image in images]

    def together() -> list[dpid.PIDResult]:
        return [result for _, result in explainer.explain_many(images, PROMPT, CONCEPTS, **options)]

    compare(loop(), together(), explainer.denoiser.precision)
    return paired(f"{COUNT} pictures, {samples} samples", loop, together, runs, device)


def batches_of_words(explainer: dpid.Explainer, runs: int, device: str | None) -> list[dict[str, object]]:
    """Rows of judgements of every word in a loop and in one call, of a single round each."""
    images, options = pictures(), {"samples": 32, "rule": "shifted-grid"}

    def loop() -> list[dpid.WordsResult]:
        return [explainer.words(image, PROMPT, **options) for image in images]

    def together() -> list[dpid.WordsResult]:
        return [result for _, result in explainer.words_many(images, PROMPT, **options)]

    one, other = ([word.pid for words in run() for word in words.words.values()] for run in (loop, together))
    compare(one, other, explainer.denoiser.precision)
    return paired(f"words of {COUNT} pictures", loop, together, runs, device)


def compare(alone: list[dpid.PIDResult], together: list[dpid.PIDResult], precision: str) -> None:
    """End the program if a picture of a batch has other numbers than alone."""
    for one, other in zip(alone, together, strict=True):
        for name, f in one.replicates.items():  # sums of float32 in another order, a thousandth of the largest
            scale = 1e-3 * float(f.abs().max()) if precision == "float32" else float("inf")
            if not (f - other.replicates[name]).abs().max() <= scale:
                raise SystemExit(f"{name}: a picture of a batch has other numbers than alone")


def paired(
    case: str, loop: Callable[[], object], together: Callable[[], object], runs: int, device: str | None
) -> list[dict[str, object]]:  # fmt: skip
    """Rows of the median times of both ways, and of their ratio, in paired runs."""
    times = np.array([[seconds(loop, device), seconds(together, device)] for _ in range(runs)])
    ratio = times[:, 0] / times[:, 1]
    named = {"a loop, s a picture": times[:, 0] / COUNT, "one call, s a picture": times[:, 1] / COUNT,
             "one call is so many times faster": ratio}  # fmt: skip
    return [
        {"case": case, "metric": f"{metric}, median", "value": float(np.median(v)), "low": float(v.min()),
         "high": float(v.max()), "n": runs, "unit": "" if v is ratio else "s"}
        for metric, v in named.items()
    ]  # fmt: skip


def latencies(model: str, device: str | None, runs: int) -> list[dict[str, object]]:
    """Rows of the first and the tenth explanation in fresh processes, cold and after ``warm_up``."""
    rows = []
    for warm in (False, True):
        code = FRESH.format(model=model, device=device, warm=warm, image=str(IMAGE), prompt=PROMPT, concepts=CONCEPTS)
        found = [
            [float(line) for line in subprocess.run(
                [sys.executable, "-c", code], check=True, capture_output=True, text=True
            ).stdout.split()]
            for _ in range(runs)
        ]  # fmt: skip
        for name, values in zip(("first", "tenth"), zip(*found, strict=True), strict=True):
            rows.append({
                "case": "explain, two words" + (", after warm_up" if warm else ""), "metric": f"{name}, median",
                "value": statistics.median(values), "low": min(values), "high": max(values), "n": runs, "unit": "s",
            })  # fmt: skip
    return rows


def words(explainer: dpid.Explainer, runs: int, device: str | None) -> list[dict[str, object]]:
    """Rows of the time that all words of a prompt take, and of the evaluations."""
    explainer.words(IMAGE, EIGHT, EIGHT.split())
    counted: list[int] = []
    times = [
        seconds(
            lambda turn=turn: counted.append(explainer.words(IMAGE, EIGHT, EIGHT.split(), seed=turn).unet_evaluations),
            device,
        )
        for turn in range(runs)
    ]  # fmt: skip
    return [
        {"case": "words, eight", "metric": f"{metric}, median", "value": statistics.median(values),
         "low": min(values), "high": max(values), "n": runs, "unit": unit}
        for metric, values, unit in (("time", times, "s"), ("evaluations of the network", counted, ""))
    ]  # fmt: skip


def main(
    runs: Annotated[int, typer.Option(help="Paired runs, and fresh processes.")] = 7,
    model: Annotated[str, typer.Option(help="As of dpid explain.")] = "emoji",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, …; the fastest if left out.")] = None,
) -> None:
    """Measure and record in the ledger."""
    explainer = dpid.Explainer.from_pretrained(model, device=device)
    parts = (
        lambda: batches(explainer, 8, runs, device), lambda: batches(explainer, 32, runs, device),
        lambda: batches_of_words(explainer, runs, device), lambda: words(explainer, runs, device),
        lambda: latencies(model, device, runs),
    )  # fmt: skip
    for part in parts:
        ledger.record(ledger.of_model("batch", model), part(), model)  # what is measured is kept


if __name__ == "__main__":
    typer.run(main)
