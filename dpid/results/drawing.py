"""matplotlib for pictures that look the same wherever they are drawn, whatever backend and settings the user has."""

from __future__ import annotations

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

# A notebook's MPLBACKEND is inherited where that backend may not be installed, and then matplotlib cannot be imported.
# None is needed here; the user's is set where there is one.
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

# For letters that DejaVu Sans lacks, where one of these is installed.
_FONTS = (
    "Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans SC", "Noto Sans JP", "Noto Sans KR", "Source Han Sans SC",
    "WenQuanYi Micro Hei", "PingFang SC", "Hiragino Sans", "Apple SD Gothic Neo", "Microsoft YaHei", "Yu Gothic",
    "Malgun Gothic", "Noto Sans Thai", "Leelawadee UI", "Thonburi", "Noto Sans Devanagari", "Nirmala UI",
    "Arial Unicode MS", "Noto Emoji", "Segoe UI Emoji",
)  # fmt: skip
_JOINERS = "\u200c\u200d"  # are not printed and yet belong to the letters around them
_drawing = RLock()  # rcParams and warning filters belong to the whole process


@cache
def _settings() -> dict[str, Any]:
    """matplotlib's own defaults but for the backend, which is the user's, and the fonts there are."""
    installed = {font.name for font in font_manager.fontManager.ttflist}
    fonts = ["DejaVu Sans", *(name for name in _FONTS if name in installed)]
    return {k: v for k, v in matplotlib.rcParamsDefault.items() if k != "backend"} | {"font.family": fonts}


@contextmanager
def standard() -> Iterator[None]:
    """Draw inside with matplotlib's defaults, one thread at a time; the user's settings are as before afterwards.

    What matplotlib warns of (letters that no font has, a layout without room) is not worth more than the picture.
    """
    with _drawing, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with matplotlib.rc_context(_settings()):
            yield


class Figure(_figure.Figure):
    """matplotlib's, drawn and saved as :func:`standard` says."""

    @standard()
    def draw(self, renderer: Any) -> None:
        """Draw it; see matplotlib."""
        super().draw(renderer)

    @standard()
    def savefig(self, *args: Any, **kwargs: Any) -> None:
        """Write it to a file; see matplotlib."""
        super().savefig(*args, **kwargs)


def shortened(text: str, columns: int = 40) -> str:
    """``text`` on one line of at most ``columns`` (two for a wide letter), without what cannot be printed."""
    plain = " ".join(text.split())
    plain = "".join(c for c in plain if c.isprintable() or c in _JOINERS)
    most = _letters(plain, columns)
    return plain if len(plain) <= most else plain[: most - 1].rstrip() + "…"


def literal(text: str, columns: int = 40, lines: int = 1) -> str:
    """A user's words in a figure, where $…$ would be a formula: :func:`shortened`, on about so many lines."""
    plain = shortened(text, columns * lines)
    if lines > 1:
        plain = "\n".join(textwrap.wrap(plain, _letters(plain, columns)))
    return plain.replace("$", r"\$")


def _letters(text: str, columns: int) -> int:
    """How many letters of ``text`` take ``columns``, at least 2."""
    taken = sum(2 if unicodedata.east_asian_width(c) in "WF" else 1 for c in text)
    return max(2, columns * len(text) // max(1, taken))
