"""Figures that several studies draw."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor

from dpid.results.figure_style import Figure, literal, shortened, standard
from dpid.results.plot import draw_maps
from dpid.results.result import PIDResult
from dpid.studies.study import Row


def bars(ax: Any, rows: Sequence[Row], label: str, value: str) -> None:
    """Draw horizontal bars of the column ``value``, with standard errors and true values where the rows have them."""
    errors = [r.get(f"{value}_stderr") for r in rows]
    known = None if any(e is None for e in errors) else errors
    at = range(len(rows))
    ax.barh(at, [r[value] for r in rows], xerr=known, color="C0", alpha=0.7, error_kw={"elinewidth": 0.7})
    true = [r.get("log_ratio_true") for r in rows]
    if value == "co_information" and all(t is not None for t in true):
        ax.plot(true, at, "o", mfc="none", color="k", ms=4)
    ax.axvline(0, color="0.5", lw=0.5)
    ax.set_yticks(at, [literal(str(r[label])) for r in rows], fontsize=7)


@standard()
def strips(groups: Mapping[str, Sequence[float]], ylabel: str, limits: tuple[float, float] | None = None) -> Figure:
    """A figure with a column of dots, one for every value, and the median of every group.

    ``limits`` (low, high) cut the axis; values outside are drawn at its ends.
    """
    figure = Figure(figsize=(1.2 + 1.1 * len(groups), 3.2), dpi=120, layout="constrained")
    ax = figure.subplots()
    for i, values in enumerate(groups.values()):
        shown = np.clip(values, *limits) if limits else np.asarray(values)
        spread = np.linspace(-0.25, 0.25, len(shown)) if len(shown) > 1 else np.zeros(len(shown))
        ax.plot(i + spread, shown, ".", color="C0", alpha=0.6)
        if len(shown):
            ax.hlines(
                np.clip(np.median(values), *limits) if limits else np.median(values), i - 0.35, i + 0.35, color="k"
            )
    ax.axhline(0, color="0.6", lw=0.5)
    ax.set_xticks(range(len(groups)), [literal(name) for name in groups], rotation=20 if len(groups) > 3 else 0)
    ax.set_ylabel(ylabel)
    return figure


@standard()
def maps(results: Mapping[str, PIDResult]) -> Figure:
    """A row for every result: picture, redundancy, uniqueness and synergy maps, each row on one scale."""
    figure = Figure(figsize=(11, 2.4 * len(results)), dpi=110, layout="constrained")
    axes = figure.subplots(len(results), 5, squeeze=False)
    for line, (name, result) in zip(axes, results.items(), strict=True):
        panels: list[tuple[str, Tensor]] = [(f"redundancy {result.redundancy}", result.maps.redundancy)]
        panels += [(f"unique {shortened(c, 20)!r} {e}", result.maps.unique[c]) for c, e in result.unique.items()]
        panels += [(f"synergy {result.synergy}", result.maps.synergy)]
        row_of_maps(figure, line, name, result.picture, panels)
    return figure


def row_of_maps(figure: Figure, axes: Any, name: str, picture: Any, panels: Sequence[tuple[str, Tensor]]) -> None:
    """Draw a picture and ``panels``, titles and maps [h,w] in nats, on one diverging scale that is white at zero."""
    drawn = draw_maps(axes, picture, [m for _, m in panels])
    for ax, title in zip(axes, (name, *(title for title, _ in panels)), strict=True):
        ax.set_title(literal(title), fontsize=8)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8, pad=0.01, label="nats", extend="both")
