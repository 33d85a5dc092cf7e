"""Maps over their picture: colours, outlines, and the words beside them."""

import io
from itertools import combinations

import numpy as np
import pytest
import torch
from colours import BLINDNESS, lab, luminance, simulated
from matplotlib.colors import to_rgb

from dpid.results import overlay
from dpid.results.figure_style import Figure


def axes():
    return Figure(figsize=(4, 4), dpi=50).subplots()


def shown(ax, x, y):
    """The colour drawn at a pixel (x, y) of the picture."""
    image = ax.images[-1]
    left, right, bottom, top = image.get_extent()
    pixels = np.asarray(image.get_array())
    height, width = pixels.shape[:2]
    return pixels[int((y - top) / (bottom - top) * height), int((x - left) / (right - left) * width)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (2, 8), (64, 64), (1024, 2048)])
def test_a_map_colours_its_place_in_a_picture_of_any_size(height, width):
    picture = torch.full((height, width, 3), 255, dtype=torch.uint8)
    value = torch.zeros(4, 4)
    value[3, 0] = 2.0  # lower left
    ax = axes()
    overlay.paint(ax, picture, {"cow": value}, limit=2.0)
    assert ax.images[0].get_extent() == [-0.5, width - 0.5, height - 0.5, -0.5]
    place = ((0.5 / 4) * width - 0.5, (3.5 / 4) * height - 0.5)  # the middle of that pixel of the map
    # At full colour 15 % of the picture, white, show through; the pixel drawn lies up to half a pixel of 512 beside the
    # middle of the map's, where the map is up to 1/128 of its value lower.
    expected = 0.15 + 0.85 * np.array(to_rgb(overlay.WORDS[0]))
    assert np.abs(shown(ax, *place) - expected).max() < 0.02
    assert np.array_equal(shown(ax, (3.5 / 4) * width - 0.5, 0.1 * height - 0.5), (1, 1, 1))


def test_what_is_within_its_noise_fades():
    # 1 - (error / value)²: nothing at one standard error, three quarters at two, all without an error
    certain = overlay.certainty(np.array([1.0, 2.0, -2.0, 0.5, 0.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0, 0.0, 0.0]))
    assert certain == pytest.approx([0, 0.75, 0.75, 0, 0, 1])
    value, error = torch.tensor([[1.0, 1.0]]), torch.tensor([[0.0, 2.0]])
    ax = axes()
    overlay.paint(ax, None, {"cow": value}, {"cow": error}, limit=1.0)
    sure, noisy = shown(ax, 0, 0), shown(ax, 1, 0)
    assert np.abs(sure - 1).max() > 0.5
    assert np.array_equal(noisy, (1, 1, 1))


def test_below_zero_is_dark_stripes_and_not_a_words_colour():
    ax = axes()
    overlay.paint(ax, None, {"cow": torch.full((2, 2), -1.0)}, limit=1.0)
    pixels = ax.images[0].get_array().reshape(-1, 3)
    assert np.ptp(pixels, axis=1).max() < 1e-9  # grey alone
    dark = pixels[:, 0] < 0.5
    assert 0.4 < dark.mean() < 0.6  # every other stripe


def test_words_that_share_a_place_mix_in_any_order():
    maps = {"cow": torch.ones(2, 2), "dog": torch.ones(2, 2)}
    colours = overlay.colours_of(maps)
    drawn = []
    for order in (list(maps), list(reversed(maps))):
        ax = axes()
        overlay.paint(ax, None, {n: maps[n] for n in order}, colours=colours, limit=1.0)
        drawn.append(shown(ax, 0, 0))
    assert drawn[0] == pytest.approx(drawn[1])  # sums in another order
    both = np.mean([to_rgb(c) for c in colours.values()], 0)
    assert drawn[0] == pytest.approx(both * (1 - 0.15**2) + 0.15**2)


def test_an_outline_encloses_a_word_and_names_it_once():
    value = torch.zeros(16, 16)
    value[4:8, 2:6] = 1.0
    ax = axes()
    faint = value.flip(1) * 0.05  # below a tenth of the scale
    overlay.overlay(ax, None, {"cow": value, "dog": faint}, limit=1.0)
    (line,) = ax.collections
    inside = line.get_paths()[0]
    assert inside.contains_point((3.5, 5.5))
    assert not inside.contains_point((10, 5.5))
    assert [t.get_text() for t in ax.texts] == ["cow"]


@pytest.mark.parametrize(("height", "names"), [(16, 8), (8, 6)])
def test_names_of_words_at_one_place_do_not_cover_each_other(height, names):
    """Nor leave the picture, of which one half as high as wide has room for eight lines."""
    value = torch.zeros(height, 16)
    value[3:6, 6:9] = 1.0
    words = [f"a long phrase {i}" for i in range(names)]
    figure = Figure(figsize=(2.9, 2.9 * height / 16), dpi=100)
    ax = figure.add_axes((0, 0, 1, 1))
    overlay.overlay(ax, None, dict.fromkeys(words, value), limit=1.0)
    figure.savefig(io.BytesIO(), format="png")
    boxes = [t.get_window_extent() for t in ax.texts]
    assert len(boxes) == names
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))
    assert all(ax.bbox.y0 - 1 <= box.y0 and box.y1 <= ax.bbox.y1 + 1 for box in boxes)


def blob(x, y, height=32, width=64):
    """A map with a peak at (x, y)."""
    away = (torch.arange(width) - x) ** 2 + (torch.arange(height)[:, None] - y) ** 2
    return torch.exp(-away / 2 / 3**2)


@pytest.mark.parametrize("crowded", [False, True])
def test_a_name_is_in_its_colour_and_beside_its_region_or_led_there(crowded):
    places = [(16, 16) if crowded else (8 + 16 * (i % 4), 8 + 16 * (i // 4)) for i in range(8)]
    maps = {f"golden frame {i}": blob(*place) for i, place in enumerate(places)}
    ax = Figure(figsize=(6, 3), dpi=100).add_axes((0, 0, 1, 1))
    overlay.overlay(ax, None, maps, limit=1.0)
    ax.figure.draw_without_rendering()
    ends = {line.get_color(): (line.get_xdata()[-1], line.get_ydata()[-1]) for line in ax.lines}
    for (name, colour), place in zip(overlay.colours_of(maps).items(), places, strict=True):
        (text,) = (t for t in ax.texts if t.get_text() == name)
        box = text.get_bbox_patch()
        assert box.get_facecolor()[:3] == to_rgb(colour)
        light, dark = sorted(map(luminance, (colour, text.get_color())), reverse=True)
        assert (light + 0.05) / (dark + 0.05) > 4.5  # WCAG 2.2, AA
        # Four fifths of such a peak are within 1.8 of its widths of 3; a line of text is 2 of these pixels high.
        (x0, y1), (x1, y0) = ax.transData.inverted().transform(box.get_window_extent())
        away = np.hypot(max(x0 - place[0], place[0] - x1, 0), max(y0 - place[1], place[1] - y1, 0))
        if colour in ends:
            assert np.hypot(*np.subtract(ends[colour], place)) < 1.9 * 3
        else:
            assert away < 1.9 * 3 + 2
    assert len(ends) > 0 if crowded else not ends


@pytest.mark.parametrize("kind", BLINDNESS)
def test_colours_are_told_apart_by_everyone(kind):
    seen = [lab(simulated(c, BLINDNESS[kind])) for c in overlay.WORDS]
    pair = [lab(simulated(c, BLINDNESS[kind])) for c in (overlay.REDUNDANCY, overlay.SYNERGY)]
    # A difference of 2.3 is just noticeable (Mahy et al., 1994); of areas apart, in a legend, five times that.
    assert min(np.linalg.norm(a - b) for a, b in combinations(seen, 2)) > 5 * 2.3
    assert np.linalg.norm(pair[0] - pair[1]) > 5 * 2.3
    assert len(set(overlay.colours_of(map(str, range(8))).values())) == 8
