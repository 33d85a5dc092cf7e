"""The names of regions of a picture, each in a box of the region's colour at a place where it covers no other name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib.colors import to_rgb
from matplotlib.patheffects import Normal, Stroke

from dpid.results.figure_style import inches, literal

_NAME = 18  # letters of a name
_SIZE, _PAD = 9.0, 0.2  # points of text, and what its box is wider by on every side, in sizes of text
# Heights of a box that a name goes away from its region rather than lie on another one, or cover all of its own.
_COVERING, _HIDING = 20.0, 3.0
_NEAR = 0.8  # heights of a box beside its region from which on a line leads there


def write(ax: Any, regions: Mapping[str, np.ndarray], colours: Mapping[str, str]) -> None:
    """Write the name of every region, bool [h,w] over all of the picture in ``ax``, above it or near by.

    Names cover each other only where there is no room, and other regions as little as can be. A line leads from a name
    to its region if it is not beside it.
    """
    main = {name: _main(region) for name, region in regions.items()}
    covered = np.sum([*regions.values()], 0)
    taken: list[tuple[float, float, float, float]] = []
    for name in sorted(main, key=lambda name: int(np.nonzero(main[name])[0].min())):
        text = ax.text(
            0, 0, literal(name, _NAME), fontsize=_SIZE, fontweight="bold", ha="center", va="center",
            color=_ink(colours[name]), zorder=4,
            bbox={"boxstyle": f"square,pad={_PAD}", "facecolor": colours[name], "edgecolor": "white", "linewidth": 0.8},
        )  # fmt: skip
        size = _size(ax, text, covered.shape)
        text.set_clip_on(size[0] <= covered.shape[1])  # in a picture narrower than the name that would be cut
        place = _place(size, main[name], covered - regions[name], taken)
        taken.append((*place, *size))
        text.set_position(_at(ax, place, covered.shape))
        _lead(ax, (*place, *size), main[name], colours[name])


def _main(region: np.ndarray) -> np.ndarray:
    """The largest connected part of a region."""
    from scipy.ndimage import label

    parts, _ = label(region)
    largest: np.ndarray = parts == 1 + np.bincount(parts[region] - 1).argmax()
    return largest


def _ink(colour: str) -> str:
    """The colour of text that is read on ``colour``."""
    linear = np.array(to_rgb(colour)) ** 2.2
    # Beyond this luminance black has more contrast than white (WCAG 2.2).
    return "black" if linear @ (0.2126, 0.7152, 0.0722) > 0.179 else "white"


def _size(ax: Any, text: Any, shape: tuple[int, ...]) -> tuple[float, float]:
    """Width and height of a text's box, in pixels of regions of ``shape`` [h,w] over the picture."""
    dpi = ax.figure.dpi
    pixel = min(side / count for side, count in zip(inches(ax), reversed(shape), strict=True))
    extent, pad = text.get_window_extent(), 2 * _PAD * _SIZE / 72 + 0.02  # and its edge
    return (extent.width / dpi + pad) / pixel, (extent.height / dpi + pad) / pixel


def _place(
    size: tuple[float, float], region: np.ndarray, others: np.ndarray, taken: list[tuple[float, float, float, float]]
) -> tuple[float, float]:
    """Where the middle of a box of ``size`` is: near the upper end of its region, and not on boxes ``taken``."""
    (wide, high), (height, width) = size, region.shape
    rows, columns = np.nonzero(region)
    best = columns.mean(), rows.min() - 0.6 * high
    (x, y) = (
        np.unique(np.clip([*np.arange(box / 2, side, high / 4), first], *sorted((box / 2, side - box / 2))))
        for box, side, first in zip(size, (width, height), best, strict=True)
    )
    distance = np.hypot(x - best[0], (y - best[1])[:, None]) / high
    cost = distance + _COVERING * _within(others, x, y, size) / (wide * high)
    cost += _HIDING * _within(region, x, y, size) / region.sum()
    for left, top, other_wide, other_high in taken:
        beside = np.abs(x - left) >= 0.999 * (wide + other_wide) / 2
        above = np.abs(y - top) >= 0.999 * (high + other_high) / 2
        cost += np.where(beside | above[:, None], 0, 1e3)
    row, column = np.unravel_index(cost.argmin(), cost.shape)
    return float(x[column]), float(y[row])


def _within(values: np.ndarray, x: np.ndarray, y: np.ndarray, size: tuple[float, float]) -> np.ndarray:
    """The sums of ``values`` [h,w] within boxes of ``size`` around every pair of a place in y and one in x, [y,x]."""
    sums = np.pad(values.cumsum(0, dtype=int).cumsum(1), ((1, 0), (1, 0)))
    (left, right), (top, bottom) = (
        [np.clip(np.rint(at + side * length / 2), 0, most).astype(int) for side in (-1, 1)]
        for at, length, most in zip((x, y), size, reversed(values.shape), strict=True)
    )
    found: np.ndarray = (
        sums[np.ix_(bottom, right)] - sums[np.ix_(top, right)] - sums[np.ix_(bottom, left)] + sums[np.ix_(top, left)]
    )
    return found


def _lead(ax: Any, box: tuple[float, float, float, float], region: np.ndarray, colour: str) -> None:
    """Draw a line from a box to the nearest pixel of its region, if that is not beside it."""
    x, y, wide, high = box
    rows, columns = np.nonzero(region)
    away = np.hypot(np.maximum(np.abs(columns - x) - wide / 2, 0), np.maximum(np.abs(rows - y) - high / 2, 0))
    nearest = away.argmin()
    if away[nearest] < _NEAR * high:
        return
    ends = [_at(ax, place, region.shape) for place in ((x, y), (columns[nearest], rows[nearest]))]
    ax.plot(
        *zip(*ends, strict=True), color=colour, linewidth=1.6, marker="o", markersize=4, markevery=[1], zorder=3,
        path_effects=[Stroke(linewidth=3, foreground="white"), Normal()], scalex=False, scaley=False,
    )  # fmt: skip


def _at(ax: Any, place: tuple[float, float], shape: tuple[int, ...]) -> tuple[float, float]:
    """Where on the axes a ``place`` (x, y) of regions of ``shape`` [h,w] is."""
    left, right, bottom, top = ax.images[-1].get_extent()
    height, width = shape
    return left + (place[0] + 0.5) / width * (right - left), top + (place[1] + 0.5) / height * (bottom - top)
