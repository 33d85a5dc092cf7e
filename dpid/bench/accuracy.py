"""How far explanations are from the truth of the model, by the number of their evaluations, and what that costs.

The truth is one long explanation with noise of its own, whose own error is subtracted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from math import log
from statistics import fmean, linear_regression, median
from typing import Any

from dpid.bench.timing import timed
from dpid.estimation.learning import Learnt
from dpid.explainer import Explainer
from dpid.results.result import PIDResult

TARGET = 0.05  # the relative error whose price is told
_LONG_SEED = 10**6  # of the long explanation; short ones have the seeds 1, 2, …


@dataclass
class Point:
    """The errors of explanations of one length.

    Attributes
    ----------
    samples, evaluations : of every condition, and of all of them
    seconds : the time of one explanation, the median
    image : root mean square error of i(x; all concepts), relative to it
    maps : root mean square error of its map, relative to the map's root mean square
    runs : how many explanations
    """

    samples: int
    evaluations: int
    seconds: float
    image: float
    maps: float
    runs: int


def explained(explainer: Explainer, samples: int, seed: int, **question: Any) -> tuple[PIDResult, float]:
    """An explanation as the first one of a picture, and its seconds."""
    explainer.learnt = Learnt()  # else it would profit from what was learnt of this picture before
    return timed(partial(explainer.explain, samples=samples, seed=seed, **question), explainer.denoiser.device)


def errors(
    explainer: Explainer, sizes: Sequence[int], runs: int, long: int, tell: Callable[[str], None], **question: Any
) -> tuple[list[Point], float]:
    """The errors at every number of samples in ``sizes``, each of ``runs`` explanations, against one of ``long``.

    And the standard error of i(x; all concepts) in that long one, relative to it. ``tell`` is called with what is done
    next, ``question`` are arguments of :meth:`dpid.Explainer.explain`.
    """
    tell(f"the long explanation, {long} samples")
    truth, _ = explained(explainer, long, _LONG_SEED, **question)
    found = []
    for samples in sizes:
        tell(f"{runs} explanations of {samples} samples")
        found.append(_point([explained(explainer, samples, 1 + run, **question) for run in range(runs)], truth))
    exact = truth.information[truth.metadata.concepts]
    return found, exact.stderr / abs(exact.value)


def _point(runs: Sequence[tuple[PIDResult, float]], truth: PIDResult) -> Point:
    whole, first = truth.metadata.concepts, runs[0][0].metadata
    exact, known = truth.information[whole], truth.maps.information[whole]
    assert truth.maps.stderr is not None  # maps of a result have errors
    own = float(truth.maps.stderr.information[whole].square().mean())
    image = fmean((result.information[whole].value - exact.value) ** 2 for result, _ in runs) - exact.stderr**2
    maps = fmean(float((result.maps.information[whole] - known).square().mean()) for result, _ in runs) - own
    return Point(
        samples=first.samples, evaluations=first.unet_evaluations, seconds=median(seconds for _, seconds in runs),
        image=max(0.0, image) ** 0.5 / abs(exact.value),
        maps=max(0.0, maps) ** 0.5 / float(known.square().mean()) ** 0.5,
        runs=len(runs),
    )  # fmt: skip


def price(points: Sequence[Point]) -> tuple[float, float, str]:
    """The samples and the seconds of an explanation whose i(x; all concepts) has the relative error ``TARGET``.

    They lie between the first two lengths whose errors enclose it. Where all errors are larger, or all smaller, errors
    are taken to fall as the root of the number of samples from the nearest length, which the third, a note, says.
    """
    ordered = sorted(points, key=lambda point: point.samples)
    for before, after in pairwise(ordered):
        if before.image > TARGET >= after.image:
            # At an error of zero, which is one below that of the long explanation, the whole step counts.
            share = log(before.image / TARGET) / log(before.image / after.image) if after.image else 1.0
            samples = before.samples * (after.samples / before.samples) ** share
            return samples, _seconds(ordered, samples), ""
    nearest = ordered[-1] if ordered[-1].image > TARGET else ordered[0]
    samples = max(1.0, nearest.samples * (nearest.image / TARGET) ** 2)
    return samples, _seconds(ordered, samples), "extrapolated"


def _seconds(ordered: Sequence[Point], samples: float) -> float:
    """The seconds of an explanation of ``samples``, by the line through all lengths; never less than nothing."""
    if len(ordered) == 1:
        return ordered[0].seconds * samples / ordered[0].samples
    slope, start = linear_regression([point.samples for point in ordered], [point.seconds for point in ordered])
    return max(0.0, start + slope * samples)
