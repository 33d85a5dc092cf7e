"""The measurement of one model on one device.

A fixed picture, a cow beside a giraffe as the embedded model's world draws them, is explained by both words, so that
figures of different machines are of the same task.
"""

from __future__ import annotations

import datetime
import random
import statistics
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from itertools import chain
from typing import Any

import numpy as np
import torch
from PIL import Image

from dpid import __version__
from dpid.bench.accuracy import TARGET, errors, price
from dpid.bench.report import Report, Row
from dpid.bench.speed import Contender, Speed, contenders, speed
from dpid.bench.timing import machine, matmul_peak, timed
from dpid.denoisers.loading import load_pipeline
from dpid.denoisers.modes import PRECISIONS, undisturbed
from dpid.denoisers.network import NetworkDenoiser
from dpid.device import peak_memory
from dpid.estimation.engine import fitting
from dpid.estimation.estimators import needed_pairs
from dpid.estimation.sampling import Samples, draw
from dpid.explainer import Explainer
from dpid.options import Options
from dpid.prompts.plan import plan_concepts
from dpid.results.result import PIDResult
from dpid.videos import encode, read
from dpid.zoo import CONCEPTS, PROMPT
from dpid.zoo.emoji import scenes, sprites

_RATE = "evaluations a second"
_SMALL = f"an error of i of {100 * TARGET:.0f} %"
_TO_TARGET = f"time for {_SMALL}"


@dataclass(frozen=True)
class Effort:
    """How long is measured.

    Attributes
    ----------
    calls : warm explanations at most, of which there are at least three
    seconds : of warm explanations, and of each pair of contenders
    compiling : whether networks compiled by torch are measured too, which takes minutes on a CPU
    sizes, runs, long : samples of the explanations whose errors are measured, how many of each, and samples of the one
        that they are compared with
    most : seconds that errors may take
    """

    calls: int
    seconds: float
    compiling: bool
    sizes: tuple[int, ...]
    runs: int
    long: int
    most: float


FULL = Effort(calls=100, seconds=10, compiling=True, sizes=(8, 16, 32, 64), runs=8, long=512, most=1800)
QUICK = Effort(calls=20, seconds=2, compiling=False, sizes=(8, 32), runs=4, long=128, most=120)


def picture() -> Image.Image:
    """The picture that is explained, 64 × 64 pixels."""
    return Image.fromarray(sprites.draw(scenes.place(random.Random(0), CONCEPTS, ""))[0])


class Bench:
    """Measures one model.

    Parameters
    ----------
    model, device, precision, options : as of :meth:`dpid.Explainer.from_pretrained`
    effort : ``FULL`` or ``QUICK``

    Attributes
    ----------
    report : what has been measured
    """

    def __init__(
        self, model: str, device: str | None = None, effort: Effort = FULL, *, precision: str = "auto", **options: Any
    ) -> None:
        self._model, self._effort = model, effort
        load = partial(Explainer.from_pretrained, model, device=device, precision=precision, **options)
        self.explainer, took = timed(load, torch.device("cpu"))
        denoiser = self.explainer.denoiser
        assert isinstance(denoiser, NetworkDenoiser)  # which has a name, as no other kind of model does
        self._denoiser, self._picture = denoiser, picture()
        self._question: dict[str, Any] = {"image": self._picture, "prompt": PROMPT, "concepts": CONCEPTS}
        self.report = Report({
            "model": model, "device": machine(denoiser.device), "precision": precision,
            "pixels": "×".join(map(str, denoiser.size_for(*self._picture.size))), "dpid": __version__,
            "torch": str(torch.__version__), "diffusers": version("diffusers"),
            "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        })  # fmt: skip
        self.report.rows.append(Row("loading", took, "s"))

    def run(self, tell: Callable[[str], None], keep: Callable[[Report], None]) -> None:
        """Measure everything.

        ``tell`` is called with what is measured next, ``keep`` with the report, again after every row.
        ``FloatingPointError`` where a network predicts NaN or infinity, ``ValueError`` where two ways to call it
        predict something else.
        """
        self._tell = tell
        keep(self.report)  # which has the time of loading
        for row in chain(self._latency(), self._accuracy(), self._speed()):
            self.report.rows.append(row)
            keep(self.report)
        self.report.whole = True
        keep(self.report)

    @contextmanager
    def _working(self) -> Iterator[None]:
        with self._denoiser.lock, undisturbed():
            yield

    def _explained(self) -> tuple[PIDResult, float]:
        """An explanation by default options, and its seconds."""
        return timed(partial(self.explainer.explain, **self._question), self._denoiser.device)

    def _latency(self) -> Iterator[Row]:
        self._tell("the first explanation")
        result, took = self._explained()
        # Of "auto" the type depends on the number of samples, and on what overflows.
        self._denoiser = self._denoiser.at(result.metadata.precision)
        self.report.about["precision"] = self._denoiser.precision
        yield Row("explanation, first", took, "s")
        self._tell("warm explanations")
        times: list[float] = []
        while len(times) < 3 or (len(times) < self._effort.calls and sum(times) < self._effort.seconds):
            times.append(self._explained()[1])
        self._warm = statistics.median(times)
        yield Row("explanation, p50", self._warm, "s", len(times))
        yield Row("explanation, p99", float(np.percentile(times, 99)), "s", len(times))
        yield Row("memory, peak", peak_memory(self._denoiser.device) / 1e9, "GB")

    def _accuracy(self) -> Iterator[Row]:
        effort = self._effort
        expected = (effort.long + effort.runs * sum(effort.sizes)) / Options.samples * self._warm
        if expected > effort.most:
            note = f"not measured, as it would take {expected / 60:.0f} minutes"
            yield Row(_TO_TARGET, None, "s", note=note)
            return
        points, own = errors(self.explainer, effort.sizes, effort.runs, effort.long, self._tell, **self._question)
        for point in points:
            of = f"{point.evaluations} evaluations"
            yield Row(f"{of}: time", point.seconds, "s", point.runs)
            yield Row(f"{of}: error of i", 100 * point.image, "%", point.runs)
            yield Row(f"{of}: error of maps", 100 * point.maps, "%", point.runs)
        samples, took, note = price(points)
        per_sample = points[0].evaluations / points[0].samples
        notes = [note] * bool(note) + [f"the long explanation's own error is {100 * own:.1f} %"] * (own > TARGET)
        yield Row(f"evaluations for {_SMALL}", samples * per_sample, "", effort.runs, ", ".join(notes))
        yield Row(_TO_TARGET, took, "s", effort.runs, ", ".join(notes))

    def _batch(self) -> tuple[torch.Tensor, Samples]:
        """Latents [1,C,h,w] of the picture, and the samples of a batch of the size of an explanation's."""
        denoiser, conditions = self._denoiser, 2 ** len(CONCEPTS)
        x = encode(read(self._picture, denoiser)[None], denoiser)
        count = max(1, fitting(denoiser, x, conditions) // conditions)
        generator = torch.Generator().manual_seed(0)
        return x, draw("shifted-grid", denoiser.logsnr_grid, count, 1, generator, antithetic=count % 2 == 0)

    def _speed(self) -> Iterator[Row]:
        denoiser = self._denoiser
        self._tell("a matrix product")
        peak = matmul_peak(PRECISIONS[denoiser.precision], denoiser.device)
        yield Row("matrix product", peak / 1e12, "TFLOP/s", 5)
        question = plan_concepts(PROMPT, CONCEPTS)
        with self._working():
            x, samples = self._batch()
            only_fused = denoiser.family.only_fused
            pipe = load_pipeline(self._model, str(denoiser.device)) if only_fused else denoiser.family.pipe
        ways = contenders(denoiser, pipe, question.texts, self._effort.compiling)
        plain: Contender | None = None
        while True:
            with self._working():
                name, contender = next(ways, ("", None))
                if contender is None:
                    return
                self._tell(name)
                try:
                    found = speed(
                        name, contender, plain, x, samples, needed_pairs([question]), self._effort.seconds
                    )  # fmt: skip
                except RuntimeError as error:
                    if "compiled" not in name:
                        raise
                    found = None
                    reason = next(iter(str(error).splitlines()), type(error).__name__)
            plain = plain or contender
            yield from rows_of(name, found, peak) if found else [Row(f"{name}: {_RATE}", None, "1/s", note=reason)]


def rows_of(name: str, found: Speed, peak: float) -> Iterator[Row]:
    """The rows of a contender, where a matrix product has ``peak`` FLOP/s."""
    runs = len(found.times)
    yield Row(f"{name}: {_RATE}", found.per_second, "1/s", runs)
    yield Row(f"{name}: share of the matrix product's speed", 100 * found.flops * found.per_second / peak, "%", runs)
    if found.reference:
        # What else the machine did while plain was alone need not be what it does now.
        note = f"the median of runs in turn with plain, which made {found.reference_per_second:.3g} a second meanwhile"
        yield Row(f"{name}: times as fast as plain", found.ratio, "x", runs, note)
        yield Row(f"{name}: difference of its predictions from plain", 100 * found.difference, "%")
    else:
        yield Row("evaluations a call", found.evaluations)
    if "compiled" in name:
        yield Row(f"{name}: compiling, with the first call", found.first, "s")
