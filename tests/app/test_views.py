"""What the page shows of a result."""

import base64
import io
import json
import re
from dataclasses import replace

import pytest
import torch
from made_up import made, made_words
from PIL import Image

import dpid
from dpid.app.noise import over_noise
from dpid.app.views import FILES, KINDS, maps_of, seen, table, write_file
from dpid.results.words import WordsResult


@pytest.fixture(scope="module")
def result(emoji, two_things):
    return emoji.explain(*two_things, samples=16)


def pictures_in(html):
    """The pictures that a piece of HTML contains."""
    return [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r'base64,([^"]+)"', html)]


@pytest.fixture(scope="module")
def words(emoji, two_things):
    return emoji.words(*two_things[:2], samples=16)


@pytest.mark.parametrize(
    "options",
    [
        {"estimator": "orthogonal", "measure": "min", "level": "image"},
        {"estimator": "shrinkage", "measure": "i_ccs_plugin", "level": "pixel"},
        {"estimator": "standard", "measure": "ppid", "level": "logsnr", "priors": "uniform"},
    ],
)
def test_another_view_is_what_another_run_finds(emoji, two_things, result, options):
    """The samples are the same, so that the numbers are equal."""
    view = seen(result, *(options[name] for name in ("estimator", "measure", "level")))
    expected = emoji.explain(*two_things, samples=16, **options)
    assert view == expected
    assert view.decomposition.to_dict() == expected.decomposition.to_dict()


def test_words_have_one_view(words):
    assert seen(words, "orthogonal", "min", "pixel") is words


def test_maps_are_panels_and_other_kinds_one_figure(result, words):
    """Panels have the picture's shape, square here, and can be put below one another; what was kept follows."""
    first = pictures_in(maps_of([result], "overlay"))
    assert [picture.width == picture.height for picture in first] == [True] * 3
    for each, panels in ((result, 3), (words, 2)):  # of words the map and the bars
        assert [len(pictures_in(maps_of([each], kind))) for kind in KINDS[type(each)]] == [panels, 1, 1]
    both = maps_of([words, result], "overlay")
    assert len(pictures_in(both)) == 1 + 2 + 1 + 3  # each with its picture
    assert pictures_in(both)[-3:] == first
    assert both.index("New: “") < both.index("Kept: “")
    assert not re.search("(New|Kept): ", maps_of([words], "overlay"))
    assert maps_of([words], "graph") == maps_of([words], "overlay")  # which only chosen words have


def test_two_pictures_of_a_prompt_are_told_apart():
    """Wherever the prompt heads a column, the picture stands beside it; that of one alone is on the page already."""
    pictures = [torch.full((300, 600, 3), level, dtype=torch.uint8) for level in (40, 90)]
    chosen = [replace(made(), picture=picture) for picture in pictures]
    words = made_words("cow", "pizza").words.items()
    every = [
        WordsResult({name: replace(word, pid=replace(word.pid, picture=picture)) for name, word in words}, 64)
        for picture in pictures
    ]
    for html in (table(every), table(chosen), maps_of(chosen, "graph"), over_noise(chosen, 0.0)):
        small = [picture for picture in pictures_in(html) if picture.size == (160, 80)]
        assert [picture.getpixel((80, 40)) for picture in small] == [(40,) * 3, (90,) * 3]
        assert re.findall("(New|Kept): “a cow", html) == ["New", "Kept"]
    remarks = [line for result in every for line in result.remarks()]
    assert len(re.findall("<li>(?:New|Kept): ", table(every))) == len(remarks) > 0
    assert not re.search("(New|Kept): |<img", table(every[:1]))


def test_table_shows_text_as_it_is(result, words):
    metadata = replace(result.metadata, prompt="<script>alert(1)</script> & co")
    odd = replace(result, metadata=metadata)
    shown = table([odd, result, words])
    for html in (shown, maps_of([odd, odd], "graph")):
        assert "<script>" not in html
        assert "&lt;script&gt;" in html
    assert str(result.synergy) in shown
    assert all(f"<b>{told}" in shown for told in words.verdicts.values())


def test_table_of_words_names_the_numbers_and_says_what_is_not_settled(words):
    shown = table([words])
    assert "<th>alone</th><th>given the rest</th>" in shown  # as the table of the command line
    opened = [word for word in words.words.values() if not word.settled]
    assert shown.count("(not settled)") == len(opened) > 0


def test_table_says_how_many_words_redundancy_is_of():
    two, three = (table([made(concepts=concepts)]) for concepts in (("cow", "pizza"), ("cow", "pizza", "tree")))
    assert "redundancy: told by each<" in two
    assert "redundancy: told by two or more<" in three


def test_files(result, words, tmp_path):
    paths = {what: write_file(result, what, tmp_path, "strip") for what in FILES}
    assert {what: path.name for what, path in paths.items()} == FILES
    assert dpid.PIDResult.load(paths["result"]) == result
    assert json.loads(paths["numbers"].read_text(encoding="utf-8")) == json.loads(json.dumps(result.to_dict()))
    with Image.open(paths["figure"]) as figure:
        assert figure.width == int(150 * result.plot("strip").get_figwidth())
    assert "<td>file</td>" not in paths["report"].read_text(encoding="utf-8")  # it is of none
    for what in FILES:
        assert write_file(words, what, tmp_path, "words") == tmp_path / FILES[what]
    with Image.open(paths["figure"]) as figure:
        assert figure.width == int(150 * words.plot("words").get_figwidth())
    assert dpid.WordsResult.load(paths["result"]) == words
    assert "<h1" in paths["report"].read_text(encoding="utf-8")
