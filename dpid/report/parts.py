"""What the sections of a page share: panels over the picture, lists of words, settings."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from dpid.report.page import drawn, number
from dpid.results.figure_style import Figure
from dpid.results.intervals import Estimate
from dpid.results.metadata import Metadata
from dpid.results.panels import resolution

# What settings are called on a page, where that is not their name in Python.
_NAMES = {
    "unet_evaluations": "evaluations of the network", "logsnr_range": "log-SNR", "paired": "samples in float32 too",
    "density": "density over log-SNR, checksum", "peak_memory": "peak memory",
}  # fmt: skip
_PANEL = 4.2  # inches: text of 9 points is of 10 pixels on a phone, 360 wide
Panel = dict[str, Any]  # for the template: title, meaning, data, and legend, a list of (colour, text)


def listed(concepts: Sequence[str]) -> str:
    """“cow”, “giraffe” and “tree”."""
    quoted = [f"“{c}”" for c in concepts]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}" if len(quoted) > 1 else quoted[0]


def picture_panels(picture: Tensor | None) -> list[Panel]:
    """The panel of a picture uint8 [H,W,3], if there is one."""
    if picture is None:
        return []
    return [panel("picture", "", Image.fromarray(picture.numpy()), [])]


def panel(title: str, meaning: str, shown: Figure | Image.Image, legend: list[tuple[str, str]]) -> Panel:
    """The panel of a figure or a picture, with a legend (colour, text) below."""
    return {"title": title, "meaning": meaning, "data": drawn(shown), "legend": legend}


def frameless(shown: Tensor) -> tuple[Figure, Any]:
    """A figure of the shape of a picture [H,W,3] or map [h,w], and axes that fill it."""
    height, width = shown.shape[:2]
    scale = _PANEL / max(height, width)
    size = max(width * scale, 0.5), max(height * scale, 0.5)
    figure = Figure(figsize=size, dpi=resolution(shown, _PANEL))
    return figure, figure.add_axes((0, 0, 1, 1))


def interval(estimate: Estimate) -> str:
    """The 95 % interval of a number: "0.12 to 3.45"."""
    return "{:.2f} to {:.2f}".format(*(round(end, 2) + 0.0 for end in estimate.interval()))  # and never -0.00


def settings(metadata: Metadata) -> list[tuple[str, str]]:
    """(name, value) of everything that is known of how a result was made."""
    known = vars(metadata) | {"peak_memory": metadata.peak_memory and f"{metadata.peak_memory / 1e6:.0f} MB"}
    rows = [
        (_NAMES.get(name, name), ", ".join(map(number, value)) if isinstance(value, tuple) else number(value))
        for name, value in known.items()
        if value not in (None, "", {}) and name not in ("prompt", "concepts", "conditions")
    ]
    texts = [(f"condition {k or '∅'}", text or "the empty prompt") for k, text in metadata.conditions.items()]
    return [*rows, *texts]
