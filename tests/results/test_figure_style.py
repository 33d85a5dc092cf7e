"""Figures do not depend on matplotlib's settings and backend, and show any text."""

import dataclasses
import io
import os
import pickle
import subprocess
import sys
from threading import Thread

import matplotlib
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_up import made
from PIL import Image

from dpid.results.figure_style import Figure, literal, shortened, standard


def drawn(figure):
    """The pixels of ``figure``."""
    file = io.BytesIO()
    figure.savefig(file, format="png")
    return np.asarray(Image.open(file))


@pytest.fixture(scope="module")
def result():
    return made()


def renamed(result, prompt, concepts):
    """``result`` as if of other words."""
    return dataclasses.replace(result, metadata=dataclasses.replace(result.metadata, prompt=prompt, concepts=concepts))


KINDS = ("overlay", "strip", "profile", "graph")
ODD = {
    "text.usetex": True, "font.family": "no such font", "savefig.dpi": 7, "savefig.bbox": "tight", "figure.dpi": 11,
    "savefig.format": "svg", "image.cmap": "gray", "axes.prop_cycle": matplotlib.cycler(color=["k"]),
    "axes.titlesize": 60, "savefig.transparent": True, "figure.constrained_layout.use": False, "lines.linewidth": 9,
    "axes.facecolor": "black", "text.color": "red", "image.origin": "lower", "axes.grid": True,
}  # fmt: skip


def test_a_users_settings_change_no_picture_and_stay(result):
    expected = [drawn(figure) for figure in map(result.plot, KINDS)]
    with matplotlib.rc_context(ODD):
        before = dict(matplotlib.rcParams)
        found = [drawn(figure) for figure in map(result.plot, KINDS)]
        assert dict(matplotlib.rcParams) == before
    for one, other in zip(expected, found, strict=True):
        assert np.array_equal(one, other)


def test_threads_that_draw_leave_the_settings_alone(result):
    before, pictures = dict(matplotlib.rcParams), []
    threads = [Thread(target=lambda: pictures.append(drawn(result.plot("graph")))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert dict(matplotlib.rcParams) == before
    assert len(pictures) == 4
    assert all(np.array_equal(picture, pictures[0]) for picture in pictures)


@pytest.mark.parametrize("named", ["module://matplotlib_inline.backend_inline", "nonsense"])
def test_an_inherited_backend_that_is_not_there_is_not_needed(named, tmp_path):
    code = (
        "import os\nfrom dpid.results.figure_style import Figure\n"
        "figure = Figure(figsize=(2, 3), dpi=100)\nfigure.subplots().plot([1, 2])\nfigure.savefig('a.png')\n"
        f"assert os.environ['MPLBACKEND'] == {named!r}"
    )  # fmt: skip
    environment = {**os.environ, "MPLBACKEND": named}
    flags = ("-W", "error::UserWarning", "-W", "ignore::DeprecationWarning")  # of what old matplotlib imports
    subprocess.run([sys.executable, *flags, "-c", code], check=True, cwd=tmp_path, env=environment)
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (200, 300)


WORDS = {
    "mathematics": "$x^2$ costs $5 and \\$6 {", "no glyphs": "一只牛和一只长颈鹿", "emoji": "a 👩‍👩‍👧 cow 🐄",
    "lines": "a\ncow\r\n\tand\x0b\x0ca pizza\u2028end", "controls": "a\x00cow\x1b[31m\x7f",
    "lone surrogate": "a\ud800 cow",
    "bidi": "\u202ea cow\u202c שלום مرحبا", "long word": "cow" * 3000, "long": "a cow and " * 3000,
    "marks": "a" + "\u0301" * 500, "hidden": "_cow", "empty": "", "percent": "50% & #1_a ~b ^c \\frac{1}{0}",
}  # fmt: skip


@pytest.mark.parametrize("turn", range(-(-len(WORDS) // 4)))
@pytest.mark.parametrize(
    ("kind", "shape"),
    [
        ("overlay", (None, 1815)),  # four panels of 3 inches and 0.1 more, 150 dots each
        ("strip", (982, 1965)),  # two rows of five panels, 2.8 by 2.5 inches, a gap of 0.25, 0.7 by 0.6 more, 150 dots
        ("profile", (None, 1000)),  # 10 inches, 100 dots each
        ("graph", (816, 768)),  # 6.8 by 6.4 inches, 120 dots each
    ],
    ids=KINDS,
)
def test_any_words_make_a_picture_of_the_usual_size(kind, shape, turn):
    """Four texts at a time, of which every kind has another one as its prompt."""
    texts = [list(WORDS.values())[(4 * turn + KINDS.index(kind) + i) % len(WORDS)] for i in range(4)]
    figure = renamed(made(concepts=("a", "b", "c")), texts[0], tuple(texts[1:])).plot(kind)
    height, width, _ = drawn(figure).shape
    assert (shape[0] and height, width) == shape
    lines = [line for t in figure.findobj(matplotlib.text.Text) for line in t.get_text().splitlines()]
    assert max(map(len, lines)) < 200


@given(st.text(), st.integers(2, 30), st.integers(1, 3))
@settings(max_examples=200, deadline=None)
def test_titles_are_short_and_printable(text, columns, lines):
    plain = shortened(text, columns)
    assert len(plain) <= columns
    assert all(c.isprintable() or c in "\u200c\u200d" for c in plain)
    assert plain.startswith(" ".join(text.split())[:1] if text.split() and text.split()[0][0].isprintable() else "")
    title = literal(text, columns, lines)
    assert max(map(len, title.replace(r"\$", "$").split("\n"))) <= max(columns, 2)


@given(st.text(min_size=1, max_size=30))
@settings(max_examples=20, deadline=None)
def test_any_title_is_drawn(text):
    with standard():
        figure = Figure(figsize=(2, 1), dpi=50)
        figure.suptitle(literal(text))
        figure.subplots().plot([0, 1], label=f" {literal(text)}")
        figure.axes[0].legend()
    assert drawn(figure).shape == (50, 100, 4)


def test_every_line_of_a_profile_has_its_label(result):
    other = renamed(result, "_cow and _dog", ("_cow", "_dog"))
    legend = other.plot("profile").axes[0].get_legend()
    assert [t.get_text().strip() for t in legend.get_texts()] == ["_cow", "_dog", "_cow, _dog"]


def test_a_profile_shows_all_of_its_lines(result):
    """Atoms may be larger than any i(x; y)."""
    profiles = {name: 1 * f for name, f in result.profiles.items()}
    for f in profiles.values():
        f[:, 0], f[:, 1], f[:, 2] = 1, -9, -5  # uniqueness of the first is 10
    axes = dataclasses.replace(result, profiles=profiles).plot("profile").axes
    low, high = axes[0].get_ylim()
    assert axes[1].get_ylim() == (low, high)
    assert all(low < y < high for panel in axes for line in panel.lines for y in line.get_ydata())


def test_a_figure_can_be_pickled(result):
    assert np.array_equal(drawn(pickle.loads(pickle.dumps(result.plot("graph")))), drawn(result.plot("graph")))


def test_a_notebook_shows_a_figure(result):
    """By itself it shows figures of pyplot only."""
    shown = Image.open(io.BytesIO(result.plot("graph")._repr_png_()))
    assert shown.format == "PNG"
    assert shown.width > 100
