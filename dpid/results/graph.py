"""The graph of words: what each tells, what every two of them share, and what they tell only together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import combinations
from typing import TYPE_CHECKING, Any

import numpy as np

from dpid.checks import found
from dpid.prompts.plan import subsets_of
from dpid.results.figure_style import Figure, inches, literal, standard, within
from dpid.results.intervals import Estimate
from dpid.results.overlay import REDUNDANCY, SYNERGY, certainty
from dpid.results.panels import frame

if TYPE_CHECKING:
    from dpid.results.result import PIDResult

Pair = tuple[str, str]
_NAME = 22  # letters of a word
_KEY = 0.12  # inches of the key of five lines, by the points of text
_WIDEST, _LARGEST = 9.0, 0.3  # the line, in points, and the node's radius of the largest numbers
_NUMBERED, _ROOMY = 3, 4.5  # most pairs whose numbers are written at their lines, and inches that more than one needs
_FACE, _EDGE = 0.82, 0.35  # greys of a circle
_SIZE, _SMALLEST = 9.0, 6.0  # points of text, the latter in small axes of the user


def pair_of(result: PIDResult, pair: Pair) -> PIDResult:
    """The decomposition of two of the concepts of ``result``, in their order there, from the same evaluations.

    ``ValueError`` unless ``pair`` are two of them.
    """
    concepts = result.metadata.concepts
    if not isinstance(pair, (tuple, list)) or len(pair) != 2 or sum(c in pair for c in concepts) != 2:
        raise ValueError(f"pair: found {found(pair)}, expected two of {', '.join(concepts)}")
    first, second = (c for c in concepts if c in pair)
    pair, subsets = (first, second), subsets_of(concepts)[1:]
    kept = subsets_of(pair)[1:]
    rows, names = [subsets.index(s) for s in kept], {"+".join(s) for s in kept}
    metadata = result.metadata
    priors = metadata.priors and {name: nats for name, nats in metadata.priors.items() if name in names}
    return replace(
        result, metadata=replace(metadata, concepts=pair, priors=priors),
        replicates={name: f[:, rows] for name, f in result.replicates.items()},
        profiles={name: f[:, rows] for name, f in result.profiles.items()},
    )  # fmt: skip


@standard()
def plot_graph(results: PIDResult | Mapping[Pair, PIDResult], ax: Any = None) -> Any:
    """A figure of words as circles, and of lines between every two for what they share and tell only together.

    A circle's area is i(x; word), a line's width the redundancy or the synergy. What is below zero is dashed, what is
    within its noise faint.

    Parameters
    ----------
    results : a result of two to eight concepts, or those of pairs from :meth:`dpid.Explainer.explain_pairs`
    ax : axes of matplotlib to draw into; by default those of a new figure
    """
    if isinstance(results, Mapping):
        nodes = {c: r.information[(c,)] for pair, r in results.items() for c in pair}
    else:
        if not hasattr(results, "replicates"):  # the class of results imports this module
            raise TypeError(f"results: found {found(results)}, expected a result, or those of pairs")
        result, concepts = results, results.metadata.concepts
        nodes = {c: result.information[(c,)] for c in concepts}
        results = {pair: pair_of(result, pair) for pair in combinations(concepts, 2)}
    if not results:
        raise ValueError("results: found none, expected those of at least one pair of concepts")
    first = next(iter(results.values()))
    size = _SIZE
    if ax is None:
        figure = Figure(figsize=(6.4, 6.8 if len(nodes) > 2 else 4.2), dpi=120, layout="constrained")
        ax = figure.subplots()
        frame(figure, first.metadata)
    else:
        figure, (wide, high) = ax.figure, inches(ax)
        size = min(_SIZE, max(_SMALLEST, 2 * min(wide, high)))
        key = _KEY * size  # stays within the axes of the user
        ax = within(ax, 0, key, wide, max(high - key, high / 3))
    numbered = len(results) == 1 or (len(results) <= _NUMBERED and min(inches(ax)) > _ROOMY)
    angles = np.pi * (1 - 2 * np.arange(len(nodes)) / len(nodes))
    places = {c: np.array((np.cos(a), np.sin(a))) for c, a in zip(nodes, angles, strict=True)}
    widest = max(max(abs(r.redundancy.value), abs(r.synergy.value)) for r in results.values())
    for pair, r in results.items():
        ends = [places[c] for c in pair]
        for estimate, colour, bend in ((r.redundancy, REDUNDANCY, 0.13), (r.synergy, SYNERGY, -0.13)):
            _line(ax, ends, estimate, colour, bend, widest, size, numbered=numbered)
    _circles(ax, nodes, places, size)
    _key(ax, widest, first.metadata.unit, size)
    return figure


def _line(
    ax: Any, ends: list[np.ndarray], estimate: Estimate, colour: str, bend: float, widest: float, size: float, *,
    numbered: bool,
) -> None:  # fmt: skip
    """Draw a bent line between two places, as wide as the estimate is large."""
    from matplotlib.patches import FancyArrowPatch

    ax.add_patch(FancyArrowPatch(
        tuple(ends[0]), tuple(ends[1]), arrowstyle="-", connectionstyle=f"arc3,rad={bend}", color=colour, zorder=1,
        linewidth=max(0.4, _WIDEST * size / _SIZE * abs(estimate.value) / max(widest, 1e-9)),
        alpha=0.12 + 0.75 * _certain(estimate),
        linestyle="-" if estimate.value >= 0 else (0, (1.2, 0.8)), capstyle="butt",
    ))  # fmt: skip
    if numbered:
        # At the middle a bent line lies half the bend beside the straight one; the two numbers of a pair keep apart.
        along, beside = 0.5 - np.sign(bend) * 0.1, 0.9 * bend / 2 + np.sign(bend) * 0.03
        (x, y), (dx, dy) = ends[0] + along * (ends[1] - ends[0]), ends[1] - ends[0]
        place = x + beside * dy, y - beside * dx
        ax.text(
            *place, str(estimate), ha="center", va="center", fontsize=size, color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1, "alpha": 0.85},
        )  # fmt: skip


def _certain(estimate: Estimate) -> float:
    return float(certainty(np.array(estimate.value), np.array(estimate.stderr)))


def _grey(shade: float, certain: float) -> str:
    """A grey of matplotlib: ``shade``, lighter the less ``certain`` it is; one that is clear would show lines below."""
    return f"{1 - (1 - shade) * (0.3 + 0.7 * certain):.3f}"


def _circles(ax: Any, nodes: Mapping[str, Estimate], places: Mapping[str, np.ndarray], size: float) -> None:
    """Draw a circle for every word, its area what the word tells, and its name and number."""
    from matplotlib.patches import Circle
    from matplotlib.patheffects import withStroke

    most = max(max(abs(e.value) for e in nodes.values()), 1e-9)
    for name, estimate in nodes.items():
        radius = _LARGEST * (abs(estimate.value) / most) ** 0.5
        below, certain = estimate.value < 0, _certain(estimate)
        ax.add_patch(Circle(
            tuple(places[name]), max(radius, 0.02), facecolor="white" if below else _grey(_FACE, certain),
            edgecolor=_grey(_EDGE, certain), zorder=2, linestyle="--" if below else "-",
        ))  # fmt: skip
        x, y = places[name]
        # Beside a small circle, away from the middle, where the lines do not cross the text.
        side = 0 if radius > _LARGEST / 2 else 1 if y > -0.01 else -1
        ax.text(
            x, y + side * (radius + 0.04), f"{literal(name, _NAME)}\n{estimate}", ha="center",
            va=("center", "bottom", "top")[side], fontsize=size, zorder=3,
            path_effects=[withStroke(linewidth=2.5, foreground="white")],
        )  # fmt: skip
    ax.set_xlim(-1.45, 1.45)
    ax.set_ylim(*((-0.5, 0.5) if len(nodes) == 2 else (-1.45, 1.45)))
    ax.set_aspect("equal")
    ax.set_axis_off()


def _key(ax: Any, widest: float, unit: str, size: float) -> None:
    """Explain colours, widths and areas below the axes."""
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    ax.legend(
        handles=[
            Line2D([], [], color=REDUNDANCY, linewidth=4, label="redundancy: what either of two words tells"),
            Line2D([], [], color=SYNERGY, linewidth=4, label="synergy: what only both together tell"),
            Patch(facecolor=str(_FACE), edgecolor=str(_EDGE), label="i(x; word): what the word alone tells, by area"),
            Patch(facecolor="none", label=f"widest line {widest:.2f}, numbers ± standard errors, in {unit};"),
            Patch(facecolor="none", label="faint: within the noise; dashed: below zero"),
        ],
        loc="upper center", bbox_to_anchor=(0.5, 0), frameon=False, fontsize=size - 0.5, handlelength=1.6,
    )  # fmt: skip
