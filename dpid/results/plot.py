"""Plots of a result: maps over the picture, and maps side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpid.results.figure_style import Figure, inches, literal, standard, within
from dpid.results.graph import plot_graph
from dpid.results.overlay import REDUNDANCY, SYNERGY, colours_of, legend, overlay, paint, scale_of
from dpid.results.panels import COARSEST, bare, frame, how_drawn, new_panels, put, resolution, tall
from dpid.results.profile_plot import plot_profile

if TYPE_CHECKING:
    from dpid.results.intervals import Estimate
    from dpid.results.result import PIDResult

_COLUMNS = 5
_CONCEPT, _WORD = 26, 16  # letters that fit above a panel, and below it beside a number
_LEGEND = 43  # letters of a line below a panel
_WIDE = 1.6  # width of a picture by its height from which on only two panels are in a row
_PANEL, _TALLEST, _HEAD, _GAP = 2.9, 4.2, 0.46, 0.1  # inches of a panel, at most, above it, and between
_SMALL = 7  # points of text in axes of the user
_FRAMES = 8  # most of a video that are shown


def plot(result: PIDResult, kind: str, ax: Any) -> Any:
    """The figure of :meth:`dpid.PIDResult.plot`."""
    kinds: dict[str, Callable[..., Any]] = {
        "overlay": _plot_overlay, "strip": _plot_strip, "profile": plot_profile, "graph": plot_graph,
    }  # fmt: skip
    return drawn_as(kinds, result, kind, ax)


def drawn_as(kinds: Mapping[str, Callable[..., Any]], result: Any, kind: str, ax: Any) -> Any:
    """The figure that ``kinds[kind]`` makes of ``result``, that of "strip" in place of "overlay" for a video.

    ``ValueError`` if there is no such kind; ``TypeError`` if ``ax`` is no axes of matplotlib.
    """
    if kind not in kinds:
        raise ValueError(f"kind: found {kind!r}, allowed are {', '.join(kinds)}")
    if ax is not None and not hasattr(ax, "inset_axes"):
        raise TypeError(f"ax: found {type(ax).__name__}, expected axes of matplotlib")
    if kind == "overlay" and result.metadata.frames is not None:
        kind = "strip"
    return kinds[kind](result, ax)


@standard()
def _plot_overlay(result: PIDResult, ax: Any) -> Any:
    """Uniqueness over the picture; without ``ax`` beside the picture, redundancy and synergy, all on one scale."""
    maps = result.maps
    if ax is not None:
        # Axes side by side leave no room below them for the sums of the maps.
        whole = "" if result.metadata.level == "pixel" else f"{_whole(result)} "
        told = {c: f"{literal(c, _WORD)}: {whole}{e}" for c, e in result.unique.items()}
        draw_unique(ax, result, scale_of(maps.unique.values()), told)
        return ax.figure
    limit = scale_of([*maps.unique.values(), maps.redundancy, maps.synergy])
    figure, axes, rows = _overlay_axes(result)
    if result.picture is not None:
        draw_picture(axes[0], result.picture)
        _entitle(axes[0], "picture", "")
    several = len(result.metadata.concepts) > 2
    draw_unique(axes[-3], result, limit, _unique_told(result))
    _entitle(axes[-3], "unique", "what only this word tells")
    draw_atom(axes[-2], result, "redundancy", limit)
    _entitle(axes[-2], "redundancy", "what two or more words tell" if several else "what either word tells")
    draw_atom(axes[-1], result, "synergy", limit)
    _entitle(axes[-1], "synergy", "what words tell only together" if several else "what only both together tell")
    texts = frame(figure, result.metadata, how_drawn(limit, result.metadata.unit), _why_two_numbers(result))
    _arrange(figure, axes, rows, *texts)
    figure.set_dpi(resolution(result.picture, max(inches(axes[0]))))  # at last: texts are measured faster before
    return figure


def draw_picture(ax: Any, picture: Tensor) -> None:
    """Draw a picture uint8 [H,W,3]."""
    ax.imshow(picture.numpy(), interpolation="lanczos")
    bare(ax)


def draw_unique(ax: Any, result: PIDResult, limit: float, told: Mapping[str, str]) -> None:
    """Draw the uniqueness map of every concept over the picture, and below what is ``told`` of it."""
    colours = colours_of(result.metadata.concepts)
    maps = result.maps
    assert maps.stderr is not None
    overlay(ax, result.picture, maps.unique, maps.stderr.unique, colours, limit)
    legend(ax, {text: colours[c] for c, text in told.items()})


def draw_atom(ax: Any, result: PIDResult, atom: str, limit: float) -> None:
    """Draw the map of an ``atom``, "redundancy" or "synergy", over the picture, with its numbers below."""
    colour = {"redundancy": REDUNDANCY, "synergy": SYNERGY}[atom]
    maps = result.maps
    values, errors = (getattr(m, atom) for m in (maps, maps.stderr))
    paint(ax, result.picture, {atom: values}, {atom: errors}, {atom: colour}, limit)
    legend(ax, {number_told(result, getattr(result, atom), values): colour})


def number_told(result: PIDResult, number: Estimate, values: Tensor, between: str = "; ") -> str:
    """The sum of a map, ``between``, and the ``number`` of the whole picture; the number alone if both are the same."""
    if result.metadata.level == "pixel":
        return str(number)
    return f"map {float(values.sum()):.1f}{between}{_whole(result)} {number}"


def _whole(result: PIDResult) -> str:
    """What the numbers of a result are of."""
    return "whole picture" if result.metadata.frames is None else "whole video"


def _why_two_numbers(result: PIDResult) -> str:
    """Why the sum of a map is not the number of the whole picture, "" where it is."""
    if result.metadata.level == "pixel":
        return ""
    return f"map: its sum, each pixel split into parts by itself; {_whole(result)}: split once, from their totals"


def _unique_told(result: PIDResult) -> dict[str, str]:
    """{concept: its name and its numbers}, on two lines each if those of any are too long for one."""
    maps = result.maps.unique
    for between in ("; ", "\n"):
        told = {c: f"{literal(c, _WORD)}: {number_told(result, e, maps[c], between)}" for c, e in result.unique.items()}
        if max(map(len, told.values())) <= _LEGEND:
            break
    return told


def _overlay_axes(result: PIDResult) -> tuple[Figure, list[Any], int]:
    """A figure with axes for the picture, if there is one, and three maps, of its shape; in so many rows.

    The figure is as high as the panels alone, until :func:`_arrange` knows what is to be written around them.
    """
    height, width = (result.maps.redundancy if result.picture is None else result.picture).shape[:2]
    high = min(_PANEL * height / width, _TALLEST)
    wide = high * width / height
    count = 3 + (result.picture is not None)
    columns = 2 if width > _WIDE * height else count
    rows, room = -(-count // columns), max(wide, 2.5)
    figure = Figure(figsize=(columns * (room + _GAP) + _GAP, rows * high), dpi=COARSEST)
    axes = [figure.add_axes((0, 0, 1, 1)) for _ in range(count)]
    for ax in axes:
        put(ax, 0, 0, room, high)
    return figure, axes, rows


def _arrange(figure: Figure, axes: Sequence[Any], rows: int, title: Any, note: Any) -> None:
    """Make a figure as high as its title, rows of panels, the legends below these, and its note need."""
    columns = -(-len(axes) // rows)
    room, high = inches(axes[0])
    # Of two columns the left one has the words, whose legend is long, at its end.
    places = [divmod(columns * rows - len(axes) + i, rows) for i in range(len(axes))]
    legends = [0.0] * rows
    for ax, (_, row) in zip(axes, places, strict=True):
        if ax.get_legend():
            legends[row] = max(legends[row], tall(ax.get_legend()) + 0.02 * high)
    tops, top = [], tall(title) + _GAP
    for below in legends:
        tops.append(top + _HEAD)
        top += _HEAD + high + below + _GAP
    total = top + tall(note) + _GAP
    figure.set_size_inches(figure.get_figwidth(), total)
    for ax, (column, row) in zip(axes, places, strict=True):
        put(ax, _GAP + column * (room + _GAP), tops[row], room, high)
        ax.apply_aspect()
        if key := ax.get_legend():  # of narrow pictures numbers are wider
            key.set_bbox_to_anchor(((1 - room / inches(ax)[0]) / 2, -0.02), ax.transAxes)
    title.set_y(1 - _GAP / 2 / total)
    note.set_y(_GAP / 2 / total)


def _entitle(ax: Any, name: str, meaning: str) -> None:
    """Write the name of a part in bold above the axes, and what it means below the name."""
    ax.set_title(meaning, fontsize=9, color="0.3")
    ax.annotate(
        name, (0.5, 1), (0, 19), xycoords="axes fraction", textcoords="offset points", ha="center", fontsize=11,
        fontweight="bold",
    )  # fmt: skip


@standard()
def _plot_strip(result: PIDResult, ax: Any) -> Any:
    """The picture and the maps of redundancy, uniqueness and synergy on one colour scale, white at zero.

    Of a video, a row each, with up to eight frames side by side.
    """
    maps = result.maps
    panels = [("redundancy", result.redundancy, maps.redundancy)]
    panels += [(f"unique: {literal(c, _CONCEPT)}", result.unique[c], maps.unique[c]) for c in result.metadata.concepts]
    panels += [("synergy", result.synergy, maps.synergy)]
    count = len(panels) + (result.picture is not None)
    columns, width, height = min(count, _COLUMNS), 2.5, 2.8  # inches of a panel
    if result.metadata.frames is not None:
        columns, width = 1, max(5.0, 1.8 * min(result.metadata.frames, _FRAMES))
        height = 0.6 + 1.8 * maps.redundancy.shape[1] / maps.redundancy.shape[2]
    rows = -(-count // columns)
    pictures = [] if result.picture is None else ["picture" if result.metadata.frames is None else "video"]
    if ax is not None:
        return strip_within(ax, result, [*pictures, *(name for name, _, _ in panels)], [m for _, _, m in panels])
    figure, axes = new_panels(rows, columns, (width * columns + 0.6, height * rows + 0.7), 150)
    for spare in axes[count:]:
        spare.set_visible(False)
    for title in pictures:
        axes[0].set_title(title, fontsize=10)
    drawn = draw_maps(axes[:count], result.picture, [m for _, _, m in panels])
    for panel, (name, estimate, value) in zip(axes[count - len(panels) : count], panels, strict=True):
        numbers = number_told(result, estimate, value, "\n" if result.metadata.frames is None else "; ")
        panel.set_title(f"{name}\n{numbers}", fontsize=9)
    colour_bar(drawn, axes, result.metadata.unit)
    frame(figure, result.metadata, _why_two_numbers(result))
    return figure


def strip_within(ax: Any, result: Any, titles: Sequence[str], maps: Sequence[Tensor]) -> Any:
    """The figure of ``ax``, into which the picture of ``result`` and ``maps`` are drawn, as large as they fit."""
    height, width = maps[0].shape[-2:]
    if maps[0].ndim == 3:
        width *= min(len(maps[0]), _FRAMES)
    wide, high = inches(ax)
    bar, title, gap = min(0.65, wide / 3), 0.18, 0.06  # inches

    def size(columns: int) -> float:
        """Inches of a latent pixel."""
        rows = -(-len(titles) // columns)
        return min(((wide - bar) / columns - gap) / width, (high / rows - title) / height)

    columns = max(range(1, len(titles) + 1), key=size)
    rows, room = -(-len(titles) // columns), (wide - bar) / columns
    panels = []
    for i, text in enumerate(titles):
        row, column = divmod(i, columns)
        tall = max(high / rows - title, high / rows / 3)
        panels.append(within(ax, column * room, high * (1 - (row + 1) / rows), max(room - gap, room / 3), tall))
        panels[-1].set_title(literal(text, int(room / 0.047) - 1), fontsize=6.5, pad=2)  # inches of a letter
    drawn = draw_maps(panels, result.picture, maps)
    scale = ax.figure.colorbar(drawn, cax=within(ax, wide - bar, 0, 0.08, max(high - title, high / 3)), extend="both")
    scale.set_label(f"{result.metadata.unit} per latent pixel", fontsize=_SMALL)
    scale.ax.tick_params(labelsize=_SMALL)
    return ax.figure


def colour_bar(drawn: Any, axes: Sequence[Any], unit: str) -> None:
    """Draw the scale of maps beside ``axes``."""
    below = 0.5, 0.0  # of its room a panel takes the lower part: titles need the rest
    axes[0].figure.colorbar(
        drawn, ax=axes, shrink=0.7, pad=0.01, extend="both", panchor=below, label=f"{unit} per latent pixel"
    )


def draw_maps(axes: Sequence[Any], picture: Tensor | None, maps: Sequence[Tensor]) -> Any:
    """Draw a picture on the first of ``axes`` and maps [h,w] on the last ones; returns an image for a colour bar.

    All maps have one diverging colour scale, white at zero. Frames of a video are side by side.
    """
    values = [m.cpu().numpy() for m in maps]
    if values[0].ndim == 3:
        if picture is not None:
            picture = torch.from_numpy(_strip(picture.numpy(), picture.shape[2] // values[0].shape[2], 204))
        values = [_strip(value, 1, np.nan) for value in values]
    # A few extreme pixels must not wash out the rest; they are drawn in the end colour.
    limit = max(float(np.nanquantile(np.abs(np.stack(values)), 0.995)), 1e-9)
    if picture is not None:
        draw_picture(axes[0], picture)
    for ax, value in zip(axes[len(axes) - len(values) :], values, strict=True):
        ax.set_facecolor("0.8")  # between frames
        drawn = ax.imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        bare(ax)
    return drawn


def _strip(video: Any, factor: int, empty: float) -> Any:
    """Up to eight frames of ``video`` [T,h,w,*] side by side, [h,W,*], ``empty`` between them.

    ``factor``: the side of a latent pixel, in which the gaps are measured.
    """
    shown = np.linspace(0, len(video) - 1, min(len(video), _FRAMES)).round().astype(int)
    gap = max(1, video.shape[2] // factor // 32) * factor
    around = [(0, 0), (0, 0), (0, gap), *[(0, 0)] * (video.ndim - 3)]
    spaced = np.pad(video[shown], around, constant_values=empty)
    return np.concatenate(list(spaced), 1)[:, :-gap]
