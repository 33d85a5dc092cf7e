"""matplotlib figures that do not depend on the user's backend and settings, and texts that fit into them."""

from __future__ import annotations

import io
import os
import sys
import textwrap
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from threading import RLock
from typing import Any

# A process started from a notebook inherits MPLBACKEND; if that backend is not installed, importing matplotlib fails.
# Figures need no backend here, but the user's own code may: so it is set afterwards, where it is known.
_backend = None if "matplotlib" in sys.modules else os.environ.pop("MPLBACKEND", None)
try:
    import matplotlib
finally:
    if _backend is not None:
        os.environ["MPLBACKEND"] = _backend
if _backend:
    with suppress(ValueError):
        matplotlib.rcParams["backend"] = _backend
from matplotlib import figure as _figure  # noqa: E402
from matplotlib import font_manager  # noqa: E402

# Fallbacks for letters that DejaVu Sans lacks.
_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Noto Sans Thai", "Leelawadee UI", "Thonburi", "Noto Sans Devanagari", "Nirmala UI",
    "Arial Unicode MS", "Noto Emoji", "Segoe UI Emoji",
)  # fmt: skip
_JOINERS = "\u200c\u200d"  # not printable themselves, but they shape the letters around them
_NOTEBOOK = 150  # dots per inch, at most: a notebook shows no more, and contains every one
_drawing = RLock()  # rcParams and warning filters are global to the process


@cache
def _settings() -> dict[str, Any]:
    """matplotlib's default settings, with installed fallback fonts, and without a backend: the user's stays."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    ours = {"font.family": fonts, "svg.fonttype": "none"}  # text of an SVG stays text
    return {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"} | ours


@contextmanager
def standard() -> Iterator[None]:
    """A context, for one thread at a time, with matplotlib's default settings; the user's are restored at its end.

    Warnings of matplotlib (a letter that no font has, a layout without room) are silenced.
    """
    with _drawing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with matplotlib.rc_context(_settings()):
            yield


class Figure(_figure.Figure):
    """A matplotlib figure that is drawn and saved within :func:`standard`."""

    @standard()
    def draw(self, renderer: Any) -> None:
        """Draw the figure; see matplotlib."""
        super().draw(renderer)

    @standard()
    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Write the figure to a file, with the dots per inch that it has; see matplotlib."""
        super().savefig(*args, **{"dpi": self.dpi} | kwargs)

    def _repr_png_(self) -> bytes:
        """The figure as a notebook shows it, which by itself shows those of pyplot only."""
        buffer = io.BytesIO()
        self.savefig(buffer, format="png", dpi=min(self.dpi, _NOTEBOOK))
        return buffer.getvalue()


def inches(ax: Any) -> tuple[float, float]:
    """Width and height of matplotlib axes."""
    return ax.bbox.width / ax.figure.dpi, ax.bbox.height / ax.figure.dpi


def within(ax: Any, left: float, bottom: float, width: float, height: float) -> Any:
    """New axes in the place of ``ax``, whose frame is hidden, at so many inches from its lower left corner."""
    ax.set_axis_off()
    wide, high = inches(ax)
    return ax.inset_axes((left / wide, bottom / high, width / wide, height / high))


def shortened(text: str, columns: int = 40) -> str:
    """``text`` on one line of at most ``columns`` (a wide letter takes two), without unprintable characters."""
    plain = " ".join(text.split())
    plain = "".join(c for c in plain if c.isprintable() or c in _JOINERS)
    most = _letters(plain, columns)
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


def literal(text: str, columns: int = 40, lines: int = 1) -> str:
    """``text`` for a figure: :func:`shortened` to about ``lines`` lines, with $, the mark of a formula, escaped."""
    plain = shortened(text, columns * lines)
    if lines > 1:
        plain = "\n".join(textwrap.wrap(plain, _letters(plain, columns)))
    return plain.replace("$", r"\$")


def columns_of(text: str) -> int:
    """How many columns ``text`` takes: a wide letter two, others one."""
    return sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)


def _letters(text: str, columns: int) -> int:
    """The number of letters of ``text`` that fit into ``columns``, at least 2."""
    return max(2, columns * len(text) // max(1, columns_of(text)))
