"""Every kind of plot, in axes of the user too, and the graph of words."""

import io
from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path
from xml.etree import ElementTree

import matplotlib
import numpy as np
import pytest
import torch
from colours import BLINDNESS, lab, simulated
from made_up import made, made_words
from matplotlib.colors import to_rgb
from PIL import Image

from dpid.prompts.plan import subsets_of
from dpid.results import overlay
from dpid.results.graph import pair_of, plot_graph
from dpid.results.result import PIDResult
from dpid.results.words import WordsResult

KINDS = ("overlay", "strip", "profile", "graph")


@pytest.fixture(scope="module")
def three():
    return made(concepts=("cow", "pizza", "tree"))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("form", ["png", "svg"])
def test_every_kind_is_drawn_as_png_and_svg(kind, form):
    file = io.BytesIO()
    made().plot(kind).savefig(file, format=form)
    if form == "png":
        assert min(Image.open(file).size) > 300
        return
    texts = " ".join("".join(e.itertext()) for e in ElementTree.fromstring(file.getvalue()).iter() if "text" in e.tag)
    for word in ("a cow and a pizza", "cow", "redundancy", "synergy"):
        assert word in texts  # as text, not as outlines


@pytest.mark.parametrize("concepts", [("cow", "pizza"), ("cow", "pizza", "tree"), tuple("abcdefgh")])
def test_bands_of_the_profile_have_the_colour_of_their_line_and_lines_are_told_apart(concepts):
    result = made(concepts=concepts)
    for ax in result.plot("profile").axes:
        lines = [line for line in ax.lines if line.get_label().startswith(" ")]
        assert len(lines) == {2: (3, 4), 3: (7, 5), 8: (9, 10)}[len(concepts)][bool(ax.get_title() == "atoms")]
        for line, band in zip(lines, ax.collections, strict=True):
            assert tuple(band.get_facecolor()[0, :3]) == to_rgb(line.get_color())
        for a, b in combinations(lines, 2):
            # With markers on them short dashes look alike.
            assert (a.get_color(), a.get_marker()) != (b.get_color(), b.get_marker())
            if a.get_linestyle() == b.get_linestyle():
                for matrix in BLINDNESS.values():
                    seen = [lab(simulated(line.get_color(), matrix)) for line in (a, b)]
                    assert np.linalg.norm(seen[0] - seen[1]) > 5 * 2.3  # as of areas in test_overlay.py


@pytest.mark.parametrize("concepts", ["ab", "abc", "abcdefgh", ["a thing of a long name, as some have it", "W" * 60]])
def test_legends_of_the_profile_cover_nothing(concepts):
    result = made(concepts=tuple(concepts))
    figure = result.plot("profile")
    figure.savefig(io.BytesIO(), format="png")
    panels = figure.axes
    legends = [ax.get_legend().get_window_extent() for ax in panels]
    assert min(ax.get_window_extent().height for ax in panels) > 230  # of 100 an inch
    others = [part.get_window_extent() for ax in panels for part in (ax, ax.xaxis.label)]
    settings = figure.texts[-1].get_window_extent()
    for a, b in combinations((*legends, settings), 2):
        assert not a.overlaps(b)
    for box in legends:
        assert not any(box.overlaps(other) for other in others)
        assert 0 < box.x0 < box.x1 < figure.bbox.x1


@pytest.mark.parametrize("level", ["image", "logsnr"])
def test_the_profile_says_what_is_split_and_what_its_bands_are(level):
    note = " ".join(made(level=level).plot("profile").get_supxlabel().split())
    assert "atoms: every bin is split by itself" in note
    assert ("do not add up to those of the whole picture" in note) == (level == "image")
    assert "bands: one standard error, of 4 groups of samples" in note
    assert "min by bin of log-SNR" in note
    assert "bands: one standard error, of 4 groups" in made_words("cow", "pizza").plot("profile").get_supxlabel()


def test_the_profile_of_a_single_bin_shows_all_of_it():
    result = made()
    one = replace(
        result, profiles={name: f[..., :1] for name, f in result.profiles.items()}, edges=result.edges[[0, -1]],
        products=result.products[..., :1],
    )  # fmt: skip
    for drawn in (result, one):
        assert [ax.get_xlim() for ax in drawn.plot("profile").axes] == [(-5, 7)] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_says_what_is_given_and_how_it_was_made(kind, three):
    figures = [made(context=True).plot(kind)]
    if kind == "graph":
        figures.append(plot_graph({p: pair_of(three, p) for p in combinations(three.metadata.concepts, 2)}))
    for figure in figures:
        figure.draw_without_rendering()
        assert "evaluations of the network; emoji" in figure.get_supxlabel()
        others = [figure._suptitle.get_window_extent(), *texts_of(figure.axes[-1])]
        assert not any(figure._supxlabel.get_window_extent().padded(-1).overlaps(box) for box in others)
    assert figures[0].get_suptitle() == "“a cow and a pizza” | rest of the prompt"


@pytest.mark.parametrize("kind", KINDS)
def test_axes_of_the_user_are_drawn_into(kind):
    figure = matplotlib.figure.Figure(figsize=(8, 4))
    left, right = figure.subplots(1, 2)
    assert made().plot(kind, ax=right) is figure
    assert not left.has_data()
    drawn = [right, *right.child_axes]
    assert any(ax.has_data() or ax.patches for ax in drawn)
    figure.savefig(io.BytesIO(), format="png")


def texts_of(ax):
    """The extents of all texts of axes and of those within, a pixel smaller on every side."""
    own = [ax.title, *ax.texts, *(ax.get_legend().get_texts() if ax.get_legend() else [])]
    if ax.axison:
        own += [ax.xaxis.label, ax.yaxis.label]
        for axis, (low, high) in ((ax.xaxis, ax.get_xlim()), (ax.yaxis, ax.get_ylim())):
            ticks = [tick for tick in axis.get_major_ticks() if low <= tick.get_loc() <= high]
            own += [label for tick in ticks for label in (tick.label1, tick.label2)]
    shown = [t for t in own if t.get_visible() and t.get_text().strip()]
    return [t.get_window_extent().padded(-1) for t in shown] + [b for inner in ax.child_axes for b in texts_of(inner)]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(3, 3), (4, 4), (4, 3)])
@pytest.mark.parametrize("concepts", [2, 3])
def test_axes_of_usual_size_have_room_for_every_kind(kind, size, concepts):
    """No text covers another one or leaves the figure, and maps are not tiny."""
    figure = matplotlib.figure.Figure(figsize=size, dpi=100)
    ax = figure.subplots()
    made(concepts=("cow", "pizza", "tree")[:concepts]).plot(kind, ax=ax)
    figure.savefig(io.BytesIO(), format="png")
    boxes = texts_of(ax)
    assert len(boxes) > 2
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    if kind != "overlay":  # its legend has a line for every word
        assert all(box.y0 > 0 and box.x0 > 0 for box in boxes)
    if kind == "strip":
        assert min(panel.get_window_extent().width for panel in ax.child_axes if panel.images) > 50


def test_overlays_side_by_side_keep_apart():
    figure = matplotlib.figure.Figure(figsize=(12, 3.5), dpi=100)
    axes = figure.subplots(1, 4)
    for ax in axes:
        made().plot("overlay", ax=ax)
    figure.savefig(io.BytesIO(), format="png")
    for ax, following in pairwise(axes):
        assert ax.get_legend().get_window_extent().x1 < following.get_window_extent().x0


def test_the_overlay_has_a_panel_for_everything():
    result = made()
    titles = [t.get_text() for ax in result.plot().axes for t in ax.texts]
    assert [t for t in titles if t not in result.metadata.concepts] == ["picture", "unique", "redundancy", "synergy"]
    without = replace(result, picture=None).plot()
    assert len(without.axes) == 3


NAMES = [f"a golden frame {i}" for i in range(12)]


def with_picture(result, height, width):
    return replace(result, picture=torch.zeros(height, width, 3, dtype=torch.uint8))


def overlay_of(every, count, shape):
    """The overlay of so many words, of ``every`` word or of chosen ones, over a picture of a shape."""
    if not every:
        return with_picture(made(concepts=tuple(NAMES[:count])), *shape).plot()
    words = made_words(*NAMES[:count]).words
    return WordsResult({k: replace(w, pid=with_picture(w.pid, *shape)) for k, w in words.items()}, 64).plot()


@pytest.mark.parametrize(("every", "count"), [(False, 2), (False, 3), (False, 8), (True, 2), (True, 12)])
@pytest.mark.parametrize("shape", [(128, 64), (64, 128), (64, 64), (70, 120)])
def test_nothing_around_an_overlay_covers_anything(every, count, shape):
    figure = overlay_of(every, count, shape)
    figure.draw_without_rendering()
    assert "faint: within the noise" in " ".join(figure.get_supxlabel().split())
    texts = [figure._suptitle, figure._supxlabel]
    for ax in figure.axes:
        outside = [t for t in ax.texts if t.get_bbox_patch() is None]  # not the names in the picture
        texts += [ax.title, ax.xaxis.label, *outside, ax.get_legend()]
    shown = [t for t in texts if t is not None and not (hasattr(t, "get_text") and not t.get_text())]
    boxes = [t.get_window_extent() for t in [*shown, *figure.axes]]
    assert len(boxes) > 5
    for a, b in combinations(boxes, 2):
        assert not a.padded(-1).overlaps(b)
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_more_words_than_colours_are_named_and_not_drawn():
    result = made_words(*NAMES)
    figure = result.plot()
    (panel,) = (ax for ax in figure.axes if ax.get_title() == "what only this word tells")
    told = " ".join(panel.get_xlabel().split())
    least = sorted(NAMES, key=lambda name: result.words[name].unique.value)[:4]
    assert told == f"not drawn (least unique): {', '.join(n for n in NAMES if n in least)}"
    named = [t.get_text() for t in panel.texts]
    colours = [t.get_bbox_patch().get_facecolor() for t in panel.texts]
    assert not {*named} & {*least}
    assert len({*colours}) == len(named) > 4


@pytest.mark.parametrize(("side", "drawn"), [(64, 512), (700, 700), (4096, 2048)])
def test_a_picture_is_drawn_pixel_by_pixel(side, drawn):
    figure = with_picture(made(), side // 4, side).plot()
    panel = figure.axes[-1]
    assert panel.images[0].get_array().shape == (drawn // 4, drawn, 3)
    pixels = panel.get_position().width * figure.get_figwidth() * figure.dpi
    # At 150 dots per inch what is small is drawn coarser.
    assert pixels == pytest.approx(max(drawn, 150 * 2.9) if side > 512 else 150 * 2.9)
    file = io.BytesIO()
    if side < 1000:
        figure.savefig(file, format="png")
        assert Image.open(file).width == pytest.approx(figure.get_figwidth() * figure.dpi, abs=1)
        assert Image.open(io.BytesIO(figure._repr_png_())).width == pytest.approx(figure.get_figwidth() * 150, abs=1)


def test_the_picture_in_the_readme_has_the_colours_of_its_legend():
    """It is that of ``dpid demo``, in RGB at 110 dots per inch: a palette may lack the colours of small areas."""
    path = Path(__file__).parents[2] / "docs" / "maps.png"
    pixels = np.asarray(Image.open(path).convert("RGB")).reshape(-1, 3)
    for colour in (*overlay.WORDS[:2], overlay.REDUNDANCY, overlay.SYNERGY):
        same = (pixels == np.rint(255 * np.array(to_rgb(colour)))).all(1)
        assert same.sum() > 50  # about 14 × 9 of a swatch
    assert path.stat().st_size < 250e3


def legends(figure):
    return [" ".join(t.get_text().split()) for ax in figure.axes for t in ax.get_legend().get_texts()]


@pytest.mark.parametrize("level", ["image", "pixel"])
def test_the_number_under_a_map_is_the_maps(level):
    """That of the whole picture is named where it is another one, and a note says why."""
    result = replace(made(level=level, smooth=1), picture=None)
    parts = {**result.unique, "redundancy": result.redundancy, "synergy": result.synergy}
    maps = {**result.maps.unique, "redundancy": result.maps.redundancy, "synergy": result.maps.synergy}
    told = {
        name: f"map {float(maps[name].sum()):.1f}; whole picture {e}" if level == "image" else str(e)
        for name, e in parts.items()
    }
    same = [float(maps[name].sum()) == pytest.approx(e.value, abs=1e-4) for name, e in parts.items()]
    assert all(same) == (level == "pixel")
    figure = result.plot()
    assert legends(figure) == [f"{name}: {text}" if name in result.unique else text for name, text in told.items()]
    titles = " ".join(" ".join(ax.get_title() for ax in result.plot("strip").axes).split())
    assert all(text.replace("; ", " ") in titles for text in told.values())
    for kind in ("overlay", "strip"):
        assert ("map: its sum" in result.plot(kind).get_supxlabel()) == (level == "image")


@pytest.mark.parametrize("concepts", [("cow", "pizza"), ("cow", "pizza", "tree")])
def test_titles_of_the_strip_stay_below_the_prompt(concepts):
    figure = made(concepts=concepts).plot("strip")
    figure.savefig(io.BytesIO(), format="png")
    heights = [ax.title.get_window_extent().y1 for ax in figure.axes]
    assert max(heights) < figure._suptitle.get_window_extent().y0


def test_titles_of_the_strip_keep_away_from_the_row_above():
    """By a line of their own, 9 points."""
    figure = made(concepts=tuple("abcdef")).plot("strip")
    figure.draw_without_rendering()
    above, below = figure.axes[0], figure.axes[5]
    gap = above.get_window_extent().y0 - below.title.get_window_extent().y1
    assert gap > 9 / 72 * figure.dpi


def test_numbers_of_a_video_are_not_called_those_of_a_picture():
    figure = replace(made(frames=2), picture=None).plot("strip")
    texts = [*(ax.get_title() for ax in figure.axes), figure.get_supxlabel()]
    assert sum("whole video" in text for text in texts) == 4 + 1
    assert not any("whole picture" in text for text in texts)


def test_numbers_of_long_words_stay_below_their_map():
    result = made(concepts=("female scientist", "a horse on a tree"))
    figure = result.plot()
    figure.savefig(io.BytesIO(), format="png")
    unique, redundancy = figure.axes[-3:-1]
    assert unique.get_legend().get_window_extent().x1 < redundancy.get_window_extent().x0
    (label, _) = (" ".join(t.get_text().split()) for t in unique.get_legend().get_texts())
    assert label.endswith(f"whole picture {result.unique['female scientist']}")


def test_bad_arguments_of_a_plot_are_named():
    with pytest.raises(ValueError, match="kind: found 'pie', allowed are overlay, strip, profile, graph"):
        made().plot("pie")
    with pytest.raises(TypeError, match="ax: found str, expected axes"):
        made().plot(ax="here")
    with pytest.raises(ValueError, match="results: found none"):
        plot_graph({})


def test_a_graph_has_a_circle_for_every_word_and_two_lines_for_every_pair(three):
    for results in (three, {p: pair_of(three, p) for p in combinations(three.metadata.concepts, 2)}):
        (ax,) = plot_graph(results).axes
        kinds = [type(p).__name__ for p in ax.patches]
        assert kinds.count("Circle") == 3
        assert kinds.count("FancyArrowPatch") == 2 * 3
        areas = [p.radius**2 for p in ax.patches if hasattr(p, "radius")]
        told = [abs(three.information[(c,)].value) for c in three.metadata.concepts]
        assert areas == pytest.approx([max(areas) * t / max(told) for t in told])


def test_a_circle_within_its_noise_is_faint():
    """As its key says of all that is; the numbers are far above their errors, and within them."""
    sure, unsure = made(seed=0), made(seed=0)
    for result, spread in ((sure, 1e-3), (unsure, 3.0)):
        f = torch.tensor([1.0, 1.0, -1.0, -1.0]).view(4, 1, 1, 1) * spread + 1
        result.replicates.update({name: f.expand(4, 3, 4, 4) for name in result.replicates})
    greys = [
        [p.get_facecolor()[0] for p in r.plot("graph").axes[0].patches if hasattr(p, "radius")] for r in (sure, unsure)
    ]
    assert max(greys[0]) == pytest.approx(0.82, abs=0.01)
    assert min(greys[1]) > 0.9


def test_circles_are_the_numbers_of_the_result_by_the_default_estimator():
    """It weighs its two estimators once for all concepts, and not for every pair anew."""
    result = made(concepts=("cow", "pizza", "tree"), estimator="shrinkage", size=8)
    pairs = [pair_of(result, pair) for pair in combinations(result.metadata.concepts, 2)]
    assert len({pair.shrinkage for pair in pairs}) == 3
    (ax,) = plot_graph(result).axes
    areas = [p.radius**2 for p in ax.patches if hasattr(p, "radius")]
    told = [abs(result.information[(c,)].value) for c in result.metadata.concepts]
    assert areas == pytest.approx([max(areas) * t / max(told) for t in told])


def test_a_pair_is_saved_and_loaded(tmp_path):
    names = ("cow", "pizza", "tree")
    priors = {"+".join(s): 1.0 * len(s) for s in subsets_of(names)[1:]}
    pair = pair_of(made(concepts=names, measure="ppid", priors=priors), ("cow", "tree"))
    pair.save(tmp_path / "pair.safetensors")
    assert PIDResult.load(tmp_path / "pair.safetensors") == pair


@pytest.mark.parametrize("pair", [("cow", "unicorn"), ("cow", "cow"), "cow", ("cow",), None])
def test_what_is_no_pair_is_refused(three, pair):
    with pytest.raises(ValueError, match=r"^pair: found .*, expected two of cow, "):
        pair_of(three, pair)


def test_a_graph_of_what_is_no_result_is_refused():
    with pytest.raises(TypeError, match=r"^results: found None, expected a result, or those of pairs"):
        plot_graph(None)


def test_a_pair_of_three_is_what_the_pair_alone_would_be(three):
    a, b, _ = three.metadata.concepts
    pair = pair_of(three, (a, b))
    assert pair_of(three, (b, a)) == pair
    for subset in ((a,), (b,), (a, b)):
        assert pair.estimates["standard"].information[subset] == three.estimates["standard"].information[subset]
    total = pair.redundancy.value + sum(e.value for e in pair.unique.values()) + pair.synergy.value
    assert total == pytest.approx(pair.information[a, b].value)  # float64 sums
