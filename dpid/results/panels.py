"""What figures of results share: the prompt above, notes below, and between them panels in their places."""

from __future__ import annotations

import textwrap
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.results.figure_style import Figure, literal, shortened

if TYPE_CHECKING:
    from dpid.results.metadata import Metadata

_MODEL = 60  # letters that fit below the figure
_BETWEEN = 0.25  # inches between rows of panels
COARSEST = 150
"""Dots per inch of a figure with a picture, at least"""
FINEST = 2048
"""Pixels of the longer side of a picture up to which it is drawn pixel by pixel"""


def resolution(picture: Tensor | None, side: float) -> float:
    """Dots per inch of a figure in which ``side`` inches have the pixels of a ``picture`` [H,W,3], at least 150."""
    pixels = 0 if picture is None else min(max(picture.shape[:2]), FINEST)
    return max(COARSEST, pixels / side)


def new_panels(rows: int, columns: int, size: tuple[float, float], dpi: int) -> tuple[Figure, list[Any]]:
    """A figure of ``size`` inches, and more for the gaps between rows, and its rows × columns axes."""
    wide, high = size
    figure = Figure(figsize=(wide, high + (rows - 1) * _BETWEEN), dpi=dpi, layout="constrained")
    if rows > 1:  # else titles touch the row above
        engine: Any = figure.get_layout_engine()
        engine.set(hspace=_BETWEEN * rows / high)  # of the mean height of a row
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def put(ax: Any, left: float, top: float, width: float, height: float) -> None:
    """Place axes so many inches from the upper left corner of their figure; they touch the upper end of their place."""
    wide, high = ax.figure.get_size_inches()
    ax.set_anchor("N")
    ax.set_position((left / wide, 1 - (top + height) / high, width / wide, height / high))


def bare(ax: Any) -> None:
    """Leave of the axes a thin frame."""
    ax.set_xticks([])
    ax.set_yticks([])
    ax.spines[:].set_color("0.8")


def frame(figure: Figure, metadata: Metadata, *notes: str, parts: str = "") -> tuple[Any, Any]:
    """The title, which is the prompt, and the text below the panels: ``notes``, none of "", and the settings.

    ``parts``: what the measure acts on, where that is not the level.
    """
    settings = (
        f"{metadata.estimator}, {metadata.measure} by {parts or metadata.level}; {metadata.unet_evaluations} "
        f"evaluations of the network; {literal(metadata.model, _MODEL)}"
    )
    columns = int(16 * figure.get_figwidth())
    below = [line for note in (*notes, settings) for line in textwrap.wrap(note, columns)]
    return _entitle(figure, metadata), figure.supxlabel("\n".join(below), fontsize=7.5, color="0.4")


def how_drawn(limit: float, unit: str) -> str:
    """The note that explains an overlay with ``limit`` as full colour, and the ``unit`` of all numbers."""
    return (
        f"numbers: {unit}; full colour: {limit:.2g} per latent pixel; faint: within the noise; stripes: below zero; "
        "line: around four fifths of what only the word tells"
    )


def _entitle(figure: Figure, metadata: Metadata) -> Any:
    """The title of a figure: the prompt, in lines that fit."""
    given = " | rest of the prompt" if metadata.context else ""
    columns = int(10 * figure.get_figwidth())  # of bold letters of 11 points
    text = literal(f"“{shortened(metadata.prompt, 3 * columns)}”{given}", columns, lines=4)
    return figure.suptitle(text, fontsize=11, fontweight="bold")


def tall(text: Any) -> float:
    """The height of a text or legend of a figure in inches."""
    height: float = text.get_window_extent().height / text.get_figure().dpi
    return height
