"""What the sections of a page share: panels over the picture, lists of words, settings."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from PIL import Image
from torch import Tensor

from dpid.report.page import drawn, number, png
from dpid.results.figure_style import Figure
from dpid.results.metadata import Metadata

Panel = dict[str, Any]  # for the template: title, meaning, data, and legend, a list of (colour, text)


def listed(concepts: Sequence[str]) -> str:
    """“cow”, “giraffe” and “tree”."""
    quoted = [f"“{c}”" for c in concepts]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}" if len(quoted) > 1 else quoted[0]


def picture_panels(picture: Tensor | None) -> list[Panel]:
    """The panel of a picture uint8 [H,W,3], if there is one."""
    if picture is None:
        return []
    file = io.BytesIO()
    Image.fromarray(picture.numpy()).save(file, format="png")
    return [{"title": "picture", "meaning": "", "data": png(file.getvalue()), "legend": []}]


def panel(title: str, meaning: str, figure: Figure, legend: list[tuple[str, str]]) -> Panel:
    """The panel of a figure, with a legend (colour, text) below."""
    return {"title": title, "meaning": meaning, "data": drawn(figure), "legend": legend}


def frameless(shown: Tensor) -> tuple[Figure, Any]:
    """A figure of the shape of a picture [H,W,3] or map [h,w], and axes that fill it."""
    height, width = shown.shape[:2]
    scale = 3.2 / max(height, width)
    figure = Figure(figsize=(max(width * scale, 0.5), max(height * scale, 0.5)), dpi=180)
    return figure, figure.add_axes((0, 0, 1, 1))


def summed(values: Tensor) -> str:
    """The sum of a map, for a legend."""
    return f"map sum {float(values.sum()):.1f}"


def settings(metadata: Metadata) -> list[tuple[str, str]]:
    """(name, value) of everything that is known of how a result was made."""
    shown = {
        name: value
        for name, value in vars(metadata).items()
        if value not in (None, "", {}) and name not in ("prompt", "concepts", "conditions")
    }
    rows = [
        (name.replace("_", " "), ", ".join(map(number, value)) if isinstance(value, tuple) else number(value))
        for name, value in shown.items()
    ]
    texts = [(f"condition {k or '∅'}", text or "the empty prompt") for k, text in metadata.conditions.items()]
    return [*rows, *texts]
