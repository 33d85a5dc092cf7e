"""How long the first and the tenth explanation take, many pictures at a call against a loop, and eight words.

``python benchmarks/bench_batch.py [--runs 7] [--model emoji] [--device cpu]``, on an idle machine. Both ways to explain
many pictures are timed in turn, and their numbers compared in float32.
"""

import statistics
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import ledger
import numpy as np
import typer
from PIL import Image, ImageChops

import dpid
from dpid.bench.timing import seconds, timed

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
    """The picture, moved by another number of pixels each time: as many that no cache knows."""
    with Image.open(IMAGE) as opened:
        image = opened.convert("RGB")
    return [ImageChops.offset(image, i) for i in range(COUNT)]


Way = Callable[[dpid.Explainer], list[dpid.PIDResult]]  # to explain the pictures


def batches(explainer: dpid.Explainer, samples: int, runs: int) -> list[dict[str, object]]:
    """Rows of explanations in a loop and in one call."""
    images, options = pictures(), {"samples": samples, "rule": "shifted-grid"}

    def loop(by: dpid.Explainer) -> list[dpid.PIDResult]:
        return [by.explain(image, PROMPT, CONCEPTS, **options) for image in images]

    def together(by: dpid.Explainer) -> list[dpid.PIDResult]:
        return [result for _, result in by.explain_many(images, PROMPT, CONCEPTS, **options)]

    return paired(f"{COUNT} pictures, {samples} samples", explainer, loop, together, runs)


def batches_of_words(explainer: dpid.Explainer, runs: int) -> list[dict[str, object]]:
    """Rows of judgements of every word in a loop and in one call, of a single round each."""
    images, options = pictures(), {"samples": 32, "rule": "shifted-grid"}

    def loop(by: dpid.Explainer) -> list[dpid.PIDResult]:
        return [word.pid for image in images for word in by.words(image, PROMPT, **options).words.values()]

    def together(by: dpid.Explainer) -> list[dpid.PIDResult]:
        return [word.pid for _, found in by.words_many(images, PROMPT, **options) for word in found.words.values()]

    return paired(f"words of {COUNT} pictures", explainer, loop, together, runs)


def compare(alone: list[dpid.PIDResult], together: list[dpid.PIDResult]) -> None:
    """End the program if a picture of a batch has other numbers than alone; both in float32."""
    for one, other in zip(alone, together, strict=True):
        for name, f in one.replicates.items():  # sums in another order: a thousandth of the largest
            if not (f - other.replicates[name]).abs().max() <= 1e-3 * f.abs().max():
                raise SystemExit(f"{name}: a picture of a batch has other numbers than alone")


def paired(case: str, explainer: dpid.Explainer, loop: Way, together: Way, runs: int) -> list[dict[str, object]]:
    """Rows of the median times of both ways, and of their ratio, in paired runs; ends the program as ``compare``."""
    exact, device = explainer.at("float32"), explainer.denoiser.device
    compare(loop(exact), together(exact))  # a half type's rounding differs by batch
    loop(explainer), together(explainer)  # untimed: the first run allocates
    times = np.array([[seconds(partial(way, explainer), device) for way in (loop, together)] for _ in range(runs)])
    ratio = times[:, 0] / times[:, 1]
    named = {"a loop, s a picture": times[:, 0] / COUNT, "one call, s a picture": times[:, 1] / COUNT,
             "one call is so many times faster": ratio}  # fmt: skip
    return [
        {"case": case, "metric": f"{metric}, median", "value": float(np.median(v)), "low": float(v.min()),
         "high": float(v.max()), "n": runs, "unit": "" if v is ratio else "s"}
        for metric, v in named.items()
    ]  # fmt: skip


def latencies(model: str, device: str | None, runs: int, warm: bool) -> list[dict[str, object]]:
    """Rows of the first and the tenth explanation in fresh processes, cold or after ``warm_up``."""
    code = FRESH.format(model=model, device=device, warm=warm, image=str(IMAGE), prompt=PROMPT, concepts=CONCEPTS)
    found = [
        [float(line) for line in subprocess.run(
            [sys.executable, "-c", code], check=True, capture_output=True, text=True
        ).stdout.split()]
        for _ in range(runs)
    ]  # fmt: skip
    return [
        {"case": "explain, two words" + (", after warm_up" if warm else ""), "metric": f"{name}, median",
         "value": statistics.median(values), "low": min(values), "high": max(values), "n": runs, "unit": "s"}
        for name, values in zip(("first", "tenth"), zip(*found, strict=True), strict=True)
    ]  # fmt: skip


def words(explainer: dpid.Explainer, runs: int) -> list[dict[str, object]]:
    """Rows of the time that all words of a prompt take, and of the evaluations."""
    explainer.words(IMAGE, EIGHT, EIGHT.split())
    judge = partial(explainer.words, IMAGE, EIGHT, EIGHT.split())
    found = [timed(partial(judge, seed=turn), explainer.denoiser.device) for turn in range(runs)]
    times, counted = [took for _, took in found], [result.unet_evaluations for result, _ in found]
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
        lambda: latencies(model, device, runs, warm=False), lambda: latencies(model, device, runs, warm=True),
        lambda: batches(explainer, 8, runs), lambda: batches(explainer, 32, runs),
        lambda: batches_of_words(explainer, runs), lambda: words(explainer, runs),
    )  # fmt: skip
    for part in parts:
        ledger.record(ledger.of_model("batch", model), part(), model)  # what is measured is kept


if __name__ == "__main__":
    typer.run(main)
