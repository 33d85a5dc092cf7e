"""Maps laid over their picture: a colour for every word, faint where a map is within its noise.

Every function draws into matplotlib axes. Maps [h,w] of any size cover the whole picture [H,W,3], are enlarged to it
bilinearly, and have one scale, from nothing at zero to full colour at ``limit``. The picture is shown in light grey, so
that all colour is that of words. What is below zero is striped in dark grey.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from dpid.results.figure_style import standard
from dpid.results.labels import write
from dpid.results.panels import FINEST, bare

# Okabe and Ito's (2008) colours, which people with colour blindness tell apart, those that stand out from grey first.
WORDS = ("#E69F00", "#56B4E9", "#009E73", "#CC79A7", "#0072B2", "#D55E00", "#F0E442", "#000000")
REDUNDANCY, SYNERGY = "#332288", "#EE3377"  # Tol's (2021) indigo and magenta
_BELOW = "#333333"  # stripes
_STRONGEST = 0.85  # opacity of full colour: the picture shows through
_ENCLOSED = 0.8  # share of a word's positive map within its outline
_FAINTEST = 0.1  # of the scale: the strongest pixel of a word that is outlined
# Pixels of the longer side: those drawn, at least, so that maps of small pictures are smooth; those coloured, at most.
_SIDE, _COLOURED = 512, 1024


def colours_of(names: Iterable[str]) -> dict[str, str]:
    """A colour for every name, which people with colour blindness tell apart; from the ninth on they repeat."""
    return {name: WORDS[i % len(WORDS)] for i, name in enumerate(names)}


def scale_of(maps: Iterable[Tensor]) -> float:
    """The value of full colour for ``maps`` [h,w]: all but the highest 0.5 % of their values are below it.

    A few extreme pixels must not wash out the rest, nor what is far below zero what is above, up to a tenth of it.
    """
    values = torch.cat([m.detach().cpu().double().flatten() for m in maps]).numpy()
    return float(max(np.quantile(values, 0.995), np.quantile(np.abs(values), 0.995) / 10, 1e-9))


def certainty(values: np.ndarray, errors: np.ndarray) -> np.ndarray:
    """How far ``values`` [*] stand out of their standard errors, 0…1: 1 - (error / value)², or 0 if that is negative.

    It is the share of the value's square that noise does not explain: nothing at one standard error, three quarters at
    two.
    """
    ratio = np.divide(errors, np.abs(values), out=np.ones_like(values), where=np.abs(values) > errors)
    certain: np.ndarray = 1 - ratio**2
    return certain


@standard()
def paint(
    ax: Any, picture: Tensor | None, maps: Mapping[str, Tensor], errors: Mapping[str, Tensor] | None = None,
    colours: Mapping[str, str] | None = None, limit: float | None = None,
) -> dict[str, np.ndarray]:  # fmt: skip
    """The strength of every map at the pixels coloured, -1…1; draws the maps in their colours over a picture.

    Parameters
    ----------
    picture : uint8 [H,W,3], whose pixels the axes count; None draws on white, and the axes count those of the maps
    maps : {name: map [h,w]}
    errors : their standard errors in the same form; without them nothing fades
    colours : {name: colour}; by default :func:`colours_of` the names
    limit : the value of full colour; by default :func:`scale_of` the maps
    """
    from matplotlib.colors import to_rgb

    colours, limit = colours or colours_of(maps), limit or scale_of(maps.values())
    canvas, extent = _canvas(picture, next(iter(maps.values())).shape)
    # Maps are smooth: of a large picture fewer pixels are coloured than drawn.
    height, width = (-(-n // -(-max(canvas.shape) // _COLOURED)) for n in canvas.shape)
    stripes = np.add.outer(np.arange(height), np.arange(width)) // max(2, max(height, width) // 80) % 2
    strengths: dict[str, np.ndarray] = {}
    mixed, total, clear = np.zeros((height, width, 3)), np.zeros((height, width)), np.ones((height, width))
    for name, value in maps.items():
        strength = _enlarged(value, (height, width))
        if errors is not None:
            strength = strength * certainty(strength, _enlarged(errors[name], (height, width)))
        strengths[name] = strength = (strength / limit).clip(-1, 1)
        for part, colour in ((strength.clip(min=0), colours[name]), ((-strength).clip(min=0) * stripes, _BELOW)):
            # Colours mix by their strengths, so that no word lies above another.
            mixed += part[..., None] * np.array(to_rgb(colour))
            total += part
            clear *= 1 - _STRONGEST * part
    tint = mixed * ((1 - clear) / np.maximum(total, 1e-12))[..., None]
    layers = torch.from_numpy(np.dstack((tint, clear))).unbind(-1)
    *tints, through = (_enlarged(layer, canvas.shape) for layer in layers)
    shown = np.dstack([(canvas * through + layer).clip(0, 1) for layer in tints])
    ax.imshow(shown, extent=extent, interpolation="antialiased")
    bare(ax)
    return strengths


@standard()
def overlay(
    ax: Any, picture: Tensor | None, maps: Mapping[str, Tensor], errors: Mapping[str, Tensor] | None = None,
    colours: Mapping[str, str] | None = None, limit: float | None = None,
) -> None:  # fmt: skip
    """Draw as :func:`paint`, with an outline around most of every word's map and the word in a box of its colour.

    The outline encloses four fifths of what is positive in the map, less what noise explains. A word that is faint
    everywhere has none. The word is above its outline, or where it covers no other one, with a line that leads there.
    """
    colours = colours or colours_of(maps)
    strengths = paint(ax, picture, maps, errors, colours, limit)
    regions = {}
    for name, strength in strengths.items():
        step = -(-max(strength.shape) // _SIDE)  # a line needs no more
        strength = strength[::step, ::step]
        if strength.max() < _FAINTEST:
            continue
        ordered = np.sort(strength[strength > 0])[::-1]
        level = ordered[np.searchsorted(sums := ordered.cumsum(), _ENCLOSED * sums[-1])]
        _outline(ax, strength, level, colours[name])
        regions[name] = strength >= level
    write(ax, regions, colours)


@standard()
def legend(ax: Any, entries: Mapping[str, str]) -> None:
    """Write {text: colour} below the axes, on lines of its own, with a patch of the colour."""
    from matplotlib.patches import Patch

    # matplotlib leaves out labels that begin with "_".
    patches = [Patch(facecolor=colour, label=" " + text.replace("\n", "\n ")) for text, colour in entries.items()]
    ax.legend(
        handles=patches, loc="upper left", bbox_to_anchor=(0, -0.02), borderaxespad=0, borderpad=0, frameon=False,
        fontsize=8, labelspacing=0.4, handlelength=1, handletextpad=0.2,
    )  # fmt: skip


def _outline(ax: Any, strength: np.ndarray, level: float, colour: str) -> None:
    """Draw the line of ``strength`` [H,W] at ``level``, and along the picture's border where the inside reaches it."""
    from matplotlib.patheffects import Normal, Stroke

    left, right, bottom, top = ax.images[-1].get_extent()
    height, width = strength.shape
    x = left + (np.arange(width) + 0.5) / width * (right - left)
    y = top + (np.arange(height) + 0.5) / height * (bottom - top)
    closed = np.pad(strength, 1, constant_values=min(0.0, float(strength.min())))
    level *= 1 - 1e-6  # below what is flat at its top, as a map of one pixel is
    lines = ax.contour([left, *x, right], [top, *y, bottom], closed, [level], colors=[colour], linewidths=1.8)
    lines.set_path_effects([Stroke(linewidth=3.4, foreground="white"), Normal()])


def _canvas(picture: Tensor | None, shape: tuple[int, ...]) -> tuple[np.ndarray, tuple[float, float, float, float]]:
    """The picture in light grey, [H,W] in 0…1, of a size to draw, and its extent on the axes.

    Without a picture it is white, of the ``shape`` [h,w] of maps.
    """
    height, width = shape if picture is None else picture.shape[:2]
    side = max(height, width)
    drawn = min(max(side, _SIDE), FINEST)
    rows, columns = (max(1, round(n * drawn / side)) for n in (height, width))
    grey = np.ones((rows, columns))
    if picture is not None:
        image = Image.fromarray(picture.cpu().numpy()).convert("L").resize((columns, rows))
        grey = 0.5 + 0.5 * np.asarray(image) / 255
    return grey, (-0.5, width - 0.5, height - 0.5, -0.5)


def _enlarged(values: Tensor, size: tuple[int, int]) -> np.ndarray:
    """A map [h,w] enlarged bilinearly to ``size``, float64."""
    values = values.detach().cpu().double()[None, None]
    enlarged: np.ndarray = functional.interpolate(values, size, mode="bilinear", align_corners=False)[0, 0].numpy()
    return enlarged
