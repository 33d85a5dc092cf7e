"""Plots of a result: maps over the picture, maps side by side, the profile over log-SNR, and the graph of its words."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpid.results.figure_style import Figure, columns_of, inches, literal, shortened, standard, within
from dpid.results.graph import plot_graph
from dpid.results.overlay import REDUNDANCY, SYNERGY, colours_of, legend, overlay, paint, scale_of

if TYPE_CHECKING:
    from dpid.results.intervals import Estimate
    from dpid.results.metadata import Metadata
    from dpid.results.profile import Profile
    from dpid.results.result import PIDResult

_COLUMNS = 5
_CONCEPT, _WORD, _MODEL = 26, 16, 60  # letters that fit above a panel, below it beside a number, and below the figure
_LEGEND = 43  # letters of a line below a panel
_WIDE = 1.6  # width of a picture by its height from which on only two panels are in a row
_PANEL, _TALLEST = 2.9, 4.2  # inches
_SMALL, _LETTER = 7, 0.051  # points of text in axes of the user, and inches of a letter of it
_FRAMES = 8  # most of a video that are shown
# Greys of what all words tell, and two of them, beside the words' colours. Not every two colours of a plot are told
# apart by everyone: what several words tell is dashed, and pairs have markers of their own.
_WHOLE, _SEVERAL, _DASHES, _MARKERS = "0.2", "0.4", ("--", ":", "-."), ("s", "^", "x")
_PROFILES = "i(x; y)", "atoms"
_Line = tuple[str, Tensor, Tensor, dict[str, Any]]  # name, values, standard errors, how it looks


def plot(result: PIDResult, kind: str, ax: Any) -> Any:
    """The figure of :meth:`dpid.PIDResult.plot`."""
    kinds: dict[str, Callable[..., Any]] = {
        "overlay": _plot_overlay, "strip": _plot_strip, "profile": _plot_profile, "graph": plot_graph,
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
    figure, axes = _overlay_axes(result)
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
    _frame(
        figure, result,
        f"numbers: {result.metadata.unit}; full colour: {limit:.2g} per latent pixel; faint: within the noise; "
        "stripes: below zero; line: around four fifths of what only the word tells",
        _why_two_numbers(result),
    )  # fmt: skip
    return figure


def draw_picture(ax: Any, picture: Tensor) -> None:
    """Draw a picture uint8 [H,W,3]."""
    ax.imshow(picture.numpy(), interpolation="lanczos")
    _bare(ax)


def draw_unique(ax: Any, result: PIDResult, limit: float, told: Mapping[str, str]) -> None:
    """Draw the uniqueness map of every concept over the picture, and below what is ``told`` of it."""
    colours = colours_of(result.metadata.concepts)
    errors = result.maps.stderr
    assert errors is not None
    overlay(ax, result.picture, result.maps.unique, errors.unique, colours, limit)
    legend(ax, {text: colours[c] for c, text in told.items()})


def draw_atom(ax: Any, result: PIDResult, atom: str, limit: float) -> None:
    """Draw the map of an ``atom``, "redundancy" or "synergy", over the picture, with its numbers below."""
    colour = {"redundancy": REDUNDANCY, "synergy": SYNERGY}[atom]
    values, errors = (getattr(m, atom) for m in (result.maps, result.maps.stderr))
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
    for between in ("; ", "\n"):
        told = {
            c: f"{literal(c, _WORD)}: {number_told(result, e, result.maps.unique[c], between)}"
            for c, e in result.unique.items()
        }
        if max(map(len, told.values())) <= _LEGEND:
            break
    return told


def _overlay_axes(result: PIDResult) -> tuple[Figure, list[Any]]:
    """A figure with axes for the picture, if there is one, and three maps, of the shape of the picture."""
    height, width = (result.maps.redundancy if result.picture is None else result.picture).shape[:2]
    tall = min(_PANEL * height / width, _TALLEST)
    count = 3 + (result.picture is not None)
    columns = 2 if width > _WIDE * height else count
    rows = -(-count // columns)
    wide = columns * (max(tall * width / height, 2.5) + 0.1) + 0.1
    texts = heading(result.metadata, wide), *_unique_told(result).values(), _why_two_numbers(result)
    lines = sum(len(text.splitlines()) for text in texts)
    figure = Figure(figsize=(wide, rows * (tall + 0.7) + 0.19 * lines + 0.4), dpi=150, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    axes = list(grid.T.flat)  # of two columns the left one has the words, whose legend is long, at its end
    for ax in axes:
        ax.set_anchor("N")  # what room there is, legends need
    for ax in axes[: rows * columns - count]:
        ax.set_visible(False)
    return figure, axes[rows * columns - count :]


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
    _frame(figure, result, _why_two_numbers(result))
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
        _bare(ax)
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


@standard()
def _plot_profile(result: PIDResult, ax: Any) -> Any:
    """i(x; y_S), left, and its decomposition, right, over log-SNR, with bands of one standard error."""
    from matplotlib.transforms import ScaledTranslation

    if ax is not None:
        return _profile_within(ax, result)
    both = _profile_lines(result.profile, 40)
    longest = max(columns_of(shortened(name)) for lines in both for name, *_ in lines)
    columns = max(1, int(4.7 / (0.65 + 0.058 * longest)))  # inches of a panel, of a line, and of a letter
    rows = -(-max(map(len, both)) // columns)
    figure, axes = new_panels(1, 2, (10, 3.95 + 0.17 * rows), 100)
    axes[1].sharey(axes[0])  # before there are lines: afterwards it would take the limits of the first alone
    for panel, title, lines in zip(axes, _PROFILES, both, strict=True):
        _draw_profile(panel, result.profile, lines, 40)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("log-SNR (noise on the left)")
        # Below the label: the lines of eight concepts leave no room.
        below = panel.transAxes + ScaledTranslation(0, -0.48, figure.dpi_scale_trans)
        panel.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderaxespad=0, ncols=columns,
            fontsize=8, frameon=False, handlelength=3,
        )  # fmt: skip
    axes[0].set_ylabel(f"{result.metadata.unit} per unit of log-SNR")
    _frame(figure, result)
    return figure


def _profile_within(ax: Any, result: PIDResult) -> Any:
    """The figure of ``ax``, into which the profile is drawn, with legends below: they would cover narrow panels."""
    wide, high = inches(ax)
    letters = int((0.49 * wide - 0.3) / _LETTER)  # from one legend to the next, less a line
    both = _profile_lines(result.profile, letters)
    title, labels, key = 0.2, 0.36, 0.125 * max(map(len, both))  # inches, the last of the legend
    tall = max(high - title - labels - key, high / 3)
    axes = [within(ax, left * wide, high - title - tall, 0.4 * wide, tall) for left in (0.06, 0.55)]
    axes[1].sharey(axes[0])
    for panel, name, lines in zip(axes, _PROFILES, both, strict=True):
        _draw_profile(panel, result.profile, lines, letters)
        panel.set_title(name, fontsize=_SMALL + 1, pad=2)
        panel.set_xlabel("log-SNR", fontsize=_SMALL, labelpad=1)
        panel.tick_params(labelsize=_SMALL, pad=2)
        panel.locator_params(nbins=4)
        panel.legend(
            loc="upper left", bbox_to_anchor=(-0.1, -labels / tall), borderaxespad=0, borderpad=0, frameon=False,
            fontsize=_SMALL, handlelength=2.4, handletextpad=0.3, labelspacing=0.2,
        )  # fmt: skip
    axes[1].tick_params(labelleft=False)
    axes[0].set_ylabel(f"{result.metadata.unit} per unit of log-SNR", fontsize=_SMALL, labelpad=1)
    return ax.figure


def _draw_profile(panel: Any, profile: Profile, lines: Sequence[_Line], letters: int) -> None:
    """Draw lines over log-SNR with their bands, and a line at zero; ``letters`` of their names are in the legend."""
    x = profile.logsnr.numpy()
    for name, value, error, look in lines:
        v, e = profile.shown(value).numpy(), error.numpy()
        # matplotlib leaves out labels that begin with "_".
        look = {"marker": "o", "markersize": 3} | look
        (line,) = panel.plot(x, v, label=f" {literal(name, letters)}", **look)
        panel.fill_between(x, v - e, v + e, alpha=min(0.2, 0.8 / len(lines)), color=line.get_color())
    panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def _profile_lines(profile: Profile, letters: int) -> tuple[list[_Line], list[_Line]]:
    """The lines of i(x; y_S), of four concepts and more those of each and of all, and those of the decomposition.

    That of all has all their names if there are at most ``letters`` of them.
    """
    errors, concepts = profile.stderr, tuple(profile.unique)
    assert errors is not None
    colours, pairs = colours_of(concepts), zip(_DASHES, _MARKERS, strict=True)
    information: list[_Line] = []
    for subset, f in profile.information.items():
        name = ", ".join(subset)
        look: dict[str, Any] = {"color": colours[subset[0]]}
        if subset == concepts:
            name = name if len(concepts) < 4 and len(name) <= letters else "all"
            look = {"color": _WHOLE, "linewidth": 2}
        elif len(subset) > 1:
            if len(concepts) > 3:  # 2ⁿ lines would be unreadable
                continue
            dashes, marker = next(pairs)
            look = {"color": _SEVERAL, "linestyle": dashes, "marker": marker, "markersize": 5}
        information.append((name, f, errors.information[subset], look))
    unique = [(f"unique: {c}", f, errors.unique[c], {"color": colours[c]}) for c, f in profile.unique.items()]
    return information, [
        ("redundancy", profile.redundancy, errors.redundancy, {"color": REDUNDANCY, "linestyle": _DASHES[0]}), *unique,
        ("synergy", profile.synergy, errors.synergy, {"color": SYNERGY, "linestyle": _DASHES[0]}),
    ]  # fmt: skip


def new_panels(rows: int, columns: int, size: tuple[float, float], dpi: int) -> tuple[Figure, list[Any]]:
    """A figure of ``size`` inches and its rows × columns axes."""
    figure = Figure(figsize=size, dpi=dpi, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _bare(ax: Any) -> None:
    """Leave of the axes a thin frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color("0.8")


def _frame(figure: Figure, result: PIDResult, *notes: str) -> None:
    """Add the prompt as a title, and below the panels ``notes``, none of "", and the settings."""
    metadata = result.metadata
    figure.suptitle(heading(result.metadata, figure.get_figwidth()), fontsize=11, fontweight="bold")
    settings = (
        f"{metadata.estimator}, {metadata.measure} by {metadata.level}; {metadata.unet_evaluations} evaluations of the "
        f"network; {literal(metadata.model, _MODEL)}"
    )
    below = [line for note in notes for line in textwrap.wrap(note, int(16 * figure.get_figwidth()))]
    figure.supxlabel("\n".join([*below, settings]), fontsize=7.5, color="0.4")


def heading(metadata: Metadata, width: float) -> str:
    """The prompt, in lines of ``width`` inches."""
    given = " | rest of the prompt" if metadata.context else ""
    columns = int(10 * width)  # of bold letters of 11 points
    return literal(f"“{shortened(metadata.prompt, 3 * columns)}”{given}", columns, lines=4)
