"""Plots of what every word of a prompt tells: its map over the picture, and its numbers with intervals and verdict."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from dpid.prompts.phrases import holds, span_of
from dpid.results.figure_style import Figure, inches, literal, standard, within
from dpid.results.overlay import WORDS, colours_of, overlay, scale_of
from dpid.results.panels import COARSEST, frame, how_drawn, new_panels, put, resolution, tall
from dpid.results.plot import colour_bar, draw_maps, draw_picture, drawn_as, strip_within
from dpid.results.profile_plot import plot_words_profile
from dpid.results.word import verdict

if TYPE_CHECKING:
    from dpid.results.intervals import Estimate
    from dpid.results.word import Word
    from dpid.results.words import WordsResult

_PLAIN = "0.55"  # the colour of a word that the overlay leaves out
_COLUMNS, _WORD, _TOLD = 5, 24, 36  # maps side by side; letters of a word; of a verdict
_PANEL, _HEAD, _GAP = 3.2, 0.3, 0.15  # inches of the longer side of a picture, above it, and between panels
_BARS, _BAR, _AXIS = 2.6, 0.42, 0.68  # inches of the width of bars, of the height of a word's, and below them


def plot(result: WordsResult, kind: str, ax: Any) -> Any:
    """The figure of :meth:`dpid.WordsResult.plot`."""
    kinds: dict[str, Callable[..., Any]] = {
        "overlay": _plot_overlay, "words": _plot_words, "strip": _plot_strip, "profile": _plot_profile,
    }  # fmt: skip
    return drawn_as(kinds, result, kind, ax)


def outer(result: WordsResult) -> list[Word]:
    """The words without those that are part of a phrase."""
    spans = {w: span_of(result.metadata.prompt, w) for w in result.words}
    return [word for w, word in result.words.items() if not any(v != w and holds(spans[v], spans[w]) for v in spans)]


def coloured(result: WordsResult) -> dict[str, str]:
    """The colour of every word that the overlay draws: of :func:`outer`, as many as there are colours.

    Of more words these are the ones that tell most that no other does.
    """
    words = outer(result)
    drawn = {word.text for word in sorted(words, key=lambda word: -word.unique.value)[: len(WORDS)]}
    return colours_of(word.text for word in words if word.text in drawn)


def left_out(result: WordsResult) -> list[str]:
    """The words of :func:`outer` for which there is no colour."""
    colours = coloured(result)
    return [word.text for word in outer(result) if word.text not in colours]


@standard()
def _plot_overlay(result: WordsResult, ax: Any) -> Any:
    """The uniqueness maps over the picture; without ``ax`` beside the picture and the numbers of every word."""
    if ax is not None:
        _overlay(ax, result)
        return ax.figure
    height, width = (outer(result)[0].map if result.picture is None else result.picture).shape[:2]
    wide, high = _PANEL * min(1, width / height), _PANEL * min(1, height / width)
    figure = Figure(figsize=(12, 6), dpi=COARSEST)
    axes = [figure.add_axes((0, 0, 1, 1)) for _ in range(1 + (result.picture is not None))]
    for panel in axes:  # names are placed in panels of known size
        put(panel, 0, 0, wide, high)
    if result.picture is not None:
        draw_picture(axes[0], result.picture)
        axes[0].set_title("picture", fontsize=10)
    limit = _overlay(axes[-1], result)
    axes[-1].set_title("what only this word tells", fontsize=10)
    _arrange(figure, axes, result, how_drawn(limit, result.metadata.unit))
    figure.set_dpi(resolution(result.picture, _PANEL))  # at last: texts are measured faster before
    return figure


def _arrange(figure: Figure, axes: Sequence[Any], result: WordsResult, told: str) -> None:
    """Put panels of a figure beside bars of all words, the prompt above them, and what is ``told`` of them below.

    Panels are below one another where that is about as high as the bars, else side by side.
    """
    wide, high = inches(axes[0])
    bars, bars_high = figure.add_axes((0, 0, 1, 1)), _BAR * len(result.words)
    bars_all, panel_all = bars_high + _AXIS, _HEAD + high + _GAP
    columns = 1 if len(axes) * panel_all < 1.25 * bars_all else len(axes)
    put(bars, 0, 0, _BARS, bars_high)
    _bars(bars, result)
    words = bars.bbox.x0 - min(text.get_window_extent().x0 for text in bars.texts)
    left = _GAP + columns * (max(wide, 1.8) + _GAP) + words / figure.dpi  # 1.8 for the title of a narrow panel
    figure.set_size_inches(left + _BARS + 2 * _GAP, 6)
    title, note = frame(figure, result.metadata, told)
    rows = -(-len(axes) // columns)
    below = tall(axes[-1].xaxis.label) + 0.05 if left_out(result) else 0
    panels_high = rows * panel_all + below
    top, most = tall(title) + _GAP, max(panels_high, bars_all)
    total = top + most + _GAP + tall(note) + _GAP
    figure.set_size_inches(figure.get_figwidth(), total)
    title.set_y(1 - _GAP / 2 / total)
    note.set_y(_GAP / 2 / total)
    first = top + (most - panels_high) / 2 + _HEAD
    for i, panel in enumerate(axes):
        row, column = divmod(i, columns)
        put(panel, _GAP + column * (max(wide, 1.8) + _GAP), first + row * panel_all, max(wide, 1.8), high)
    put(bars, left, top + (most - bars_all) / 2, _BARS, bars_high)


@standard()
def _plot_words(result: WordsResult, ax: Any) -> Any:
    """i(x; w) and i(x; w | rest) of every word with 95 % intervals and verdicts."""
    if ax is not None:
        wide, high = inches(ax)
        left, below = min(1.3, wide / 2), 0.5  # what words and verdicts take, and the labels of x
        _bars(within(ax, left, below, wide - left, max(high - below, high / 3)), result, size=7)
        return ax.figure
    figure = Figure(figsize=(7, 1.4 + 0.42 * len(result.words)), dpi=150, layout="constrained")
    frame(figure, result.metadata)
    _bars(figure.subplots(), result)
    return figure


@standard()
def _plot_strip(result: WordsResult, ax: Any) -> Any:
    """The picture and the maps of i(x; w | rest) side by side, on one colour scale, white at zero."""
    words = list(result.words.values())
    count = len(words) + (result.picture is not None)
    if ax is not None:
        titles = ["picture"] * (result.picture is not None) + [word.text for word in words]
        return strip_within(ax, result, titles, [word.map for word in words])
    columns = 1 if result.metadata.frames is not None else min(count, _COLUMNS)
    rows = -(-count // columns)
    figure, axes = new_panels(rows, columns, (max(5.0, 2.3 * columns), 0.6 + 2.4 * rows), 150)
    for unused in axes[count:]:
        unused.set_visible(False)
    drawn = draw_maps(axes[:count], result.picture, [word.map for word in words])
    for panel, word in zip(axes[count - len(words) : count], words, strict=True):
        panel.set_title(f"{literal(word.text, _WORD)}\n{word.given_rest}", fontsize=9)
    colour_bar(drawn, axes, result.metadata.unit)
    frame(figure, result.metadata)
    return figure


def _plot_profile(result: WordsResult, ax: Any) -> Any:
    """What the words that have a colour tell over log-SNR."""
    return plot_words_profile(result, coloured(result), ax)


def _overlay(ax: Any, result: WordsResult) -> float:
    """Draw the uniqueness of words that have a colour over the picture; the value of full colour."""
    colours, missing = coloured(result), left_out(result)
    # Uniqueness rather than i(x; w | rest), whose difference of two long prompts has more noise.
    maps = {word: result.words[word].pid.maps for word in colours}
    errors = {word: m.stderr.unique[word] for word, m in maps.items() if m.stderr}
    unique = {word: m.unique[word] for word, m in maps.items()}
    limit = scale_of(unique.values())
    overlay(ax, result.picture, unique, errors, colours, limit)
    if missing:
        told = f"not drawn (least unique): {', '.join(missing)}"
        columns = max(20, int(14 * inches(ax)[0]))  # of letters of 8 points
        ax.set_xlabel(literal(told, columns, lines=4), fontsize=8, color="0.4")
    return limit


def _bars(ax: Any, result: WordsResult, size: float = 9) -> None:
    """Draw i(x; w) as an outline and i(x; w | rest) filled, with 95 % intervals, and the verdict below the word.

    ``size``: points of text.
    An interval that goes on beyond the axis ends in an arrow; see :func:`_range`.
    """
    from matplotlib.patheffects import withStroke

    words = list(result.words.values())
    colours = coloured(result)
    low, high = _range([(word.alone, word.given_rest) for word in words])
    line = {
        "color": "0.2",
        "linewidth": 1.2,
        "clip_on": False,
        "path_effects": [withStroke(linewidth=2.2, foreground="white")],
    }
    for place, word in enumerate(words):
        colour = colours.get(word.text, _PLAIN)
        for number, shift, face in ((word.alone, -0.17, "none"), (word.given_rest, 0.17, colour)):
            ax.barh(place + shift, number.value, 0.3, color=face, edgecolor=colour)
            ends = number.interval()
            ax.plot([min(max(end, low), high) for end in ends], (place + shift,) * 2, **line)
            for end, limit, marker in ((ends[0], low, "<"), (ends[1], high, ">")):
                if min(max(end, low), high) != end:
                    ax.plot(limit, place + shift, marker, markersize=4, **line)
        beside = {"xy": (0, place), "xycoords": ax.get_yaxis_transform(), "textcoords": "offset points", "ha": "right"}
        ax.annotate(literal(word.text, _WORD), xytext=(-10, 0), va="bottom", fontsize=size + 1, **beside)
        ax.annotate(
            literal(verdict(word, "?"), _TOLD), xytext=(-10, -1), va="top", fontsize=size, color="0.35", **beside
        )
    ax.set_xlim(low, high)
    ax.set_ylim(len(words) - 0.4, -0.6)
    ax.set_yticks([])
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    told = f"{result.metadata.unit}, with 95 % intervals\noutline: alone; filled: given the rest"
    told += "; ?: not settled" if any(verdict(word) != word.told for word in words) else ""
    ax.set_xlabel(told, fontsize=size, loc="right")
    ax.tick_params(labelsize=size + 1)


def _range(numbers: Sequence[tuple[Estimate, Estimate]]) -> tuple[float, float]:
    """The ends of an axis that shows both ``numbers`` of every word with their intervals.

    Of one word that is far less certain than all others, which it would squeeze, it shows as far as three times theirs.
    """
    ends = [[end for number in pair for end in number.interval()] for pair in numbers]
    values = [number.value for pair in numbers for number in pair]
    *others, widest = sorted(max(map(abs, word)) for word in ends)
    reach = max(min(widest, 3 * others[-1]), *map(abs, values)) if others else widest
    low = max(min(0.0, *map(min, ends)), -reach)
    high = min(max(0.0, *map(max, ends)), reach)
    margin = 0.04 * (high - low) or 1.0
    return low - margin, high + margin
