"""The result of a study, and the statistics of its summary."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from dpid.pid.replicates import perturbed, stderr
from dpid.results.intervals import Estimate
from dpid.results.maps import smoothed
from dpid.results.result import PIDResult

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure

Row = dict[str, Any]
_RESAMPLES = 2000
_FEWEST = 5  # units, of which resamples are enough for an interval


@dataclass
class Study:
    """The tables, figures and summary of a study.

    Attributes
    ----------
    name : name of the study
    tables : {name of the table: rows}, a row {column: value} for every measurement; information in nats
    figures : {caption: Figure}
    summary : {name of the number: {"value", "stderr", "interval", "n", "asked"}}, the value, its standard error and
        95 % interval [low, high], the number of measurements, and the target that it should reach; None if absent
    finding : what was found, in a sentence with its intervals
    """

    name: str
    tables: dict[str, list[Row]]
    figures: dict[str, Figure] = field(default_factory=dict)
    summary: dict[str, Row] = field(default_factory=dict)
    finding: str = ""


def estimate(result: PIDResult, estimator: str, of: Callable[[Tensor], Tensor]) -> Estimate:
    """A statistic ``of`` the maps f(S) float64 [3,h,w] of two concepts (each, then both), with its standard error."""
    replicates = result.replicates_by(estimator)
    points, mean = perturbed(replicates)
    value = of(mean)
    return Estimate(float(value), float(stderr(torch.stack([of(f) for f in points]), value)), len(replicates) - 1)


def conditional(result: PIDResult, concept: str, estimator: str) -> Tensor:
    """The map [h,w] of i(x; concept | the other concept) in nats, of a result of two concepts, smoothed as its maps."""
    f = result.estimates[estimator].maps.information
    if estimator == "orthogonal":  # its CMI, g(other, both), is the Rao–Blackwell f(both) - f(other)
        raw = smoothed(result.replicates_by("rao-blackwell").mean(0), result.metadata.smooth)
        f = dict(zip(f, raw, strict=True))
    (other,) = (c for c in result.metadata.concepts if c != concept)
    return f[result.metadata.concepts] - f[(other,)]


def entry(
    value: float | None, stderr: float | None = None, interval: Sequence[float] | None = None, n: int | None = None,
    asked: str | None = None,
) -> Row:  # fmt: skip
    """An entry of a summary; its value is None if ``value`` is not finite."""
    if value is None or not np.isfinite(value):
        return {"value": None, "stderr": None, "interval": None, "n": n, "asked": asked}
    ends = None if interval is None else [float(v) for v in interval]
    return {"value": float(value), "stderr": stderr, "interval": ends, "n": n, "asked": asked}


def told(found: Row, form: str = ".2f") -> str:
    """The value of an entry of a summary with its 95 % interval, such as "0.92 [0.86, 0.95]"; ``form`` formats each."""
    if found["value"] is None:
        return "not known"
    value, *ends = (format(v, form).replace("%", " %") for v in (found["value"], *(found["interval"] or ())))
    return f"{value} [{', '.join(ends)}]" if ends else value


def proportion(hits: Sequence[bool], asked: str | None = None) -> Row:
    """The share of ``hits`` that are true, as an entry with the exact binomial (Clopper–Pearson) interval."""
    n = len(hits)
    if not n:
        return entry(None, n=0, asked=asked)
    p = sum(hits) / n
    return entry(p, (p * (1 - p) / n) ** 0.5, stats.binomtest(sum(hits), n).proportion_ci(), n, asked)


def bootstrap(statistic: Callable[..., float], *samples: Sequence[float], asked: str | None = None) -> Row:
    """A statistic of paired ``samples``, as an entry with an interval by the expanded bootstrap (Hesterberg, 2015).

    A sample has a number for every independent unit, such as a picture (:func:`by_picture`). Resamples of n units vary
    by the factor √((n - 1)/n) too little, and as if their spread were known: percentiles farther out make the interval
    of a mean about that of Student's t. Resamples of which the statistic is not finite, such as a correlation with a
    constant, are left out. Fewer than five units have no interval: their resamples are too few.
    """
    columns = [np.asarray(s, dtype=float) for s in samples]
    n = len(columns[0])
    if n < _FEWEST:
        return entry(statistic(*columns) if n else None, n=n, asked=asked)
    rng = np.random.default_rng(0)
    drawn = (rng.integers(n, size=n) for _ in range(_RESAMPLES))
    repeats = np.array([statistic(*(c[i] for c in columns)) for i in drawn])
    repeats = repeats[np.isfinite(repeats)]
    if len(repeats) < 2:
        return entry(statistic(*columns), n=n, asked=asked)
    beyond = float(stats.norm.cdf(-((n / (n - 1)) ** 0.5) * stats.t.ppf(0.975, n - 1)))
    ends = np.quantile(repeats, (beyond, 1 - beyond)).tolist()
    return entry(statistic(*columns), float(repeats.std(ddof=1)), ends, n, asked)


def pearson(a: np.ndarray, b: np.ndarray) -> float:
    """Pearson's correlation of ``a`` [n] and ``b`` [n]; NaN where one of them is constant."""
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        return float("nan")
    return float(np.corrcoef(a, b)[0, 1])


def spearman(a: np.ndarray, b: np.ndarray) -> float:
    """Spearman's rank correlation of ``a`` [n] and ``b`` [n]; NaN where one of them is constant."""
    return pearson(stats.rankdata(a), stats.rankdata(b))


def median(a: np.ndarray) -> float:
    """The median of the numbers ``a`` [n], as a Python float."""
    return float(np.median(a))


def mean(a: np.ndarray) -> float:
    """The mean of the numbers ``a`` [n], as a Python float."""
    return float(np.mean(a))


def grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    """{values of ``columns``: rows that have them}, in the order of first occurrence."""
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row[c] for c in columns), []).append(row)
    return groups


def by_picture(rows: Iterable[Row], name: str) -> list[float]:
    """The mean of a column in every picture, without its values that are None, and pictures that have no other.

    What is resampled: two concepts of one picture are not independent.
    """
    found = (column(of, name) for of in grouped(rows, "picture").values())
    return [mean(np.array(values)) for values in found if values]


def column(rows: Iterable[Mapping[str, Any]], name: str) -> list[float]:
    """The values under ``name`` in all ``rows``, without those that are None."""
    return [row[name] for row in rows if row[name] is not None]
