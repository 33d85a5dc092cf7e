"""The page of results, and the command that makes it."""

import base64
import io
import re
import shlex
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from html_page import Page
from made_up import made, made_words
from PIL import Image
from safetensors.torch import save_file

import dpid
from dpid.denoisers.families.control_net import Controlled
from dpid.pid.decomposition import image_priors
from dpid.report.command import of_concepts as command
from dpid.report.command import of_words
from dpid.report.pid import _times, finding
from dpid.report.results import page, read
from dpid.report.words import finding as finding_of_words
from dpid.results.file_format import FORMAT
from dpid.results.overlay import WORDS
from dpid.results.result import PIDResult
from dpid.results.word import VERDICTS
from dpid.results.words import WordsResult


def scaled(value, error=0.01):
    """A result whose i(x; y_S) are all near ``value`` nats."""
    result = made()
    base = {k: value / f[0, 0].numel() + error * f / f[0, 0].numel() for k, f in result.replicates.items()}
    return replace(result, replicates=base)


def test_a_page_contains_all_numbers_and_its_pictures():
    result = made()
    found = Page(page({"a.safetensors": result}))
    for estimate in (*result.information.values(), result.redundancy, *result.unique.values(), result.synergy):
        assert str(estimate) in found.text
        assert "{:.2f} to {:.2f}".format(*estimate.interval()) in found.text
    for line in result.remarks():
        assert line in found.text
    for image in found.all("img"):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        Image.open(io.BytesIO(base64.b64decode(data))).verify()
    assert len(found.all("img")) == 4 + 2  # picture, uniqueness, redundancy, synergy; the profile and the strip
    assert all(i["alt"] for i in found.all("img"))
    swatches = [re.search("#[0-9A-F]{6}", a["style"])[0] for a in found.all("span") if a.get("class") == "swatch"]
    assert swatches[:2] == list(WORDS[:2])


def test_a_page_needs_nothing_else_and_is_for_phones_and_paper():
    text = page({"a": made(), "b": made(concepts=("cow", "pizza", "tree"))})
    found = Page(text)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in found.all("meta")
    assert not {"script", "link", "iframe"} & {tag for tag, _ in found.elements}
    assert "http" not in text
    assert "@media print" in text
    ids = {a["id"] for _, a in found.elements if "id" in a}
    assert {a["href"].removeprefix("#") for a in found.all("a")} <= ids
    assert len(found.all("img")) == 6 + 7  # and the graph of three concepts


def test_the_page_of_words_has_their_verdicts(tmp_path):
    result = made_words("cow", "<b>pizza</b>")
    result.save(tmp_path / "words.safetensors")
    results, problems = read([tmp_path])
    assert (list(results.values()), problems) == ([result], [])
    text = Page(page(results)).text
    for name, word in result.words.items():
        for told in (name, word.told):
            assert told in text
        for number in (word.alone, word.given_rest, word.unique):
            assert f"{number}{'{:.2f} to {:.2f}'.format(*number.interval())}" in text


def test_paths_may_be_texts(tmp_path):
    made().save(tmp_path / "a.safetensors")
    made_words("cow").save(tmp_path / "b.safetensors")
    both, problems = dpid.report.results.read(str(tmp_path))
    assert [type(result) for result in both.values()] == [PIDResult, WordsResult]
    assert problems == []
    assert read([str(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"]) == (both, [])
    dpid.report.results.write(both, str(tmp_path / "page.html"))
    assert "a cow and a pizza" in Page((tmp_path / "page.html").read_text()).text
    with pytest.raises(TypeError, match=r"^out: found int, expected a path"):
        dpid.report.results.write(both, 3)
    with pytest.raises(TypeError, match=r"^path: found int, expected a path"):
        read([3])
    with pytest.raises(TypeError, match=r"^paths: found None, expected a path, or several"):
        read(None)
    with pytest.raises(ValueError, match=r"^out: found .*page\.html, but there is no folder .*nowhere"):
        dpid.report.results.write(both, tmp_path / "nowhere" / "page.html")
    with pytest.raises(ValueError, match=r"^out: .* is a folder; give the name of a file"):
        dpid.report.results.write(both, tmp_path)


@pytest.mark.parametrize("results", [[made()], made(), {"a.safetensors": 3}])
def test_a_page_is_of_results_by_their_files(results, tmp_path):
    with pytest.raises(TypeError, match=r"^results: found .*, expected \{path of its file: result\}"):
        dpid.report.results.write(results, tmp_path / "page.html")


@pytest.mark.parametrize("result", [made(), made_words("cow", "pizza")])
def test_a_section_opens_with_the_words_over_the_picture_large_enough_to_read(result):
    first = Page(page({"": result})).all("img")[0]
    assert first["alt"] == "unique: what only this word tells"
    width, _ = Image.open(io.BytesIO(base64.b64decode(first["src"].split(",")[1]))).size
    # Text of 9 points at 150 dots per inch is 10 pixels high where the picture fills a phone, 390 less margins wide.
    assert width >= 2 * 300
    assert 9 / 72 * 150 * (390 - 32) / width > 10


def test_words_without_a_colour_are_named_on_the_page():
    names = [f"cow {i}" for i in range(10)]
    result = made_words(*names)
    found = Page(page({"": result}))
    least = sorted(names, key=lambda name: result.words[name].unique.value)[:2]
    assert f"not drawn (least unique): {', '.join(n for n in names if n in least)}" in found.text
    swatches = [a["style"] for a in found.all("span") if a.get("class") == "swatch"]
    assert len(swatches) == len(set(swatches)) == 8 + 1


@pytest.mark.parametrize("every", [True, False])
def test_the_page_explains_the_terms_of_what_it_shows(every):
    reading = page({"": made_words("cow", "pizza") if every else made()}).partition("How to read this")[2]
    verdicts = [verdict.removesuffix("others") for verdict in (*VERDICTS, "not settled")]
    assert [f"<dt>{verdict}" in reading for verdict in verdicts] == [every] * len(verdicts)
    assert [f"{term}: " in reading for term in ("Alone", "Given the rest", "Unique, by pixel")] == [every] * 3
    assert ("redundancy, what words tell" in reading) == (not every)


@pytest.mark.parametrize("level", ["image", "pixel"])
def test_the_sum_of_a_map_is_given_where_it_is_another_number(level):
    result = made(level=level, smooth=1)
    same = [float(result.maps.unique[c].sum()) == pytest.approx(e.value, abs=1e-4) for c, e in result.unique.items()]
    text = Page(page({"": result})).text
    assert all(same) == ("whole picture" not in text) == (level == "pixel")
    assert "whole picture" not in Page(page({"": made_words("cow", "pizza")})).text  # which are judged by pixel


@pytest.mark.parametrize(("file", "shown"), [("/home/me/secret/cow.safetensors", "filecow.safetensors"), ("", "")])
def test_a_page_that_is_sent_says_nothing_of_folders(file, shown):
    made_how = "".join(Page(page({file: made(peak_memory=531_476_480)})).text.partition("How it was made")[2].split())
    assert made_how.startswith(f"settingvalue{shown}context")
    assert "peakmemory531MB" in made_how


def test_the_finding_of_words_is_a_sentence_for_each_verdict():
    verdicts = {"a cow": "used", "pizza": "redundant with pie", "big": "works only with cow", "tree": "used",
                "red": "works only with cow", "hat": "used", "sky": "undecided"}  # fmt: skip
    words = {
        name: SimpleNamespace(told=told, verdict=told.partition(" with ")[0], settled=name not in ("hat", "sky"))
        for name, told in verdicts.items()
    }
    assert finding_of_words(SimpleNamespace(words=words)) == (
        "“a cow” and “tree” are used. “pizza” is redundant with pie. “big” and “red” work only with cow. "
        "“hat” is used (not settled). “sky” is undecided."
    )


def test_a_video_is_shown_frame_by_frame():
    result = made()
    video = replace(
        result, metadata=replace(result.metadata, frames=2), picture=torch.zeros(2, 8, 8, 3, dtype=torch.uint8)
    )
    assert len(Page(page({"a": video})).all("img")) == 2  # the strip of frames, and the profile


def test_markup_in_prompts_is_text():
    evil = '<script>alert("1")</script>'
    result = made(concepts=(evil, "' onload='alert(1)"), model=evil)
    found = Page(page({evil + '"': result}))
    assert "script" not in {tag for tag, _ in found.elements}
    assert not any("onload" in a for _, a in found.elements)
    assert evil in found.text


def test_the_finding_says_what_the_numbers_do():
    assert "tell nothing about this picture that stands out of the noise" in finding(scaled(0.0, 5.0))
    assert "mislead about this picture" in finding(scaled(-3.0))
    told = finding(scaled(3.0))
    assert told.startswith("“cow” and “pizza” together tell 3.0")
    noisy = scaled(3.0, 0.2)
    ends = re.search(r"finds it ([\d.]+) to ([\d.]+) times as likely", finding(noisy)).groups()
    # Two digits are within 5 % of what they stand for.
    assert [float(end) for end in ends] == pytest.approx(np.exp(noisy.information["cow+pizza"].interval()), rel=0.05)
    assert "is redundancy" in told  # both words tell the same three nats
    assert _times(0.5, 20.0) == "1.6 to 10^9"  # 20 / ln 10 = 8.7
    assert "10^22 times" in finding(scaled(50.0))  # 50 / ln 10 = 21.7, both ends alike
    assert finding(made(concepts=("a", "b", "c", "d"))).startswith("The 4 words together")


def test_no_words_of_a_model_without_nats_are_said_to_mislead_about_the_picture():
    result = scaled(-3.0)
    told = finding(replace(result, metadata=replace(result.metadata, distilled="it jumps")))
    assert "mislead" not in told
    assert told.startswith("“cow” and “pizza” together tell -3.0")
    assert "arbitrary units of steering" in told


def test_squares_alone_do_not_say_that_words_make_a_picture_more_likely():
    """Of words that mislead they are above zero as well."""
    result = scaled(3.0)
    wrong = result.replicates | {"standard": -result.replicates["standard"]}
    result = replace(result, metadata=replace(result.metadata, estimator="orthogonal"), replicates=wrong)
    assert "times as likely" not in finding(result)
    assert any("misleads about this picture: -" in line and "by standard" in line for line in result.remarks())


def test_there_is_no_command_for_what_has_no_option():
    given = f"{Controlled.beside}; and more"  # with a picture that is not known
    for facts in ({"rule": "logistic"}, {"antithetic": False}, {"replicates": 2}, {"model": "FluxPipeline"},
                  {"caveat": given}):  # fmt: skip
        assert command(made(**{"rule": "adaptive"} | facts)) is None, facts
    words = shlex.split(command(made(prompt="--a cow and a pizza", rule="adaptive")))
    assert words[-3:] == ["--", "PICTURE", "--a cow and a pizza"]


def test_the_command_is_one_that_the_command_line_reads():
    priors = {"cow": 0.5, "pizza": 0.6, "cow+pizza": 0.9}
    result = made(
        prompt="a cow's $5 and a pizza", model="./my model", measure="ppid", context=False, priors=priors,
        rule="adaptive",
    )  # fmt: skip
    uniform = image_priors("uniform", ("cow", "pizza"), "ppid", None)
    assert command(result) is None  # the user's own priors
    result = replace(result, metadata=replace(result.metadata, priors={"+".join(s): h for s, h in uniform.items()}))
    words = shlex.split(command(result))
    assert words[words.index("--priors") + 1] == "uniform"
    assert words[:2] == ["dpid", "explain"]
    assert words[-2:] == ["PICTURE", "a cow's $5 and a pizza"]
    assert words[words.index("--measure") + 1] == "ppid"
    assert words[words.index("--estimator") + 1] == "rao-blackwell"
    assert "--level" not in words
    assert command(made(prompt="another prompt")) is None
    own = {"": "", "cow": "a cow", "pizza": "a pizza", "cow+pizza": "both"}
    assert command(made(conditions=own)) is None


def options_of(words):
    """{option: value} of a command, and what stands last."""
    words = shlex.split(words)
    assert words[:2] == ["dpid", "explain"]
    return dict(zip(words[2:-2:2], words[3:-2:2], strict=True)), words[-2:]


def test_the_command_of_every_word_finds_the_same(emoji, two_things):
    picture, prompt, _ = two_things
    result = emoji.words(picture, prompt, samples=16, seed=3)
    options, last = options_of(of_words(result))
    assert last == ["PICTURE", prompt]
    assert options.keys() == {"--samples", "--seed", "--model"}
    assert emoji.words(picture, prompt, samples=int(options["--samples"]), seed=int(options["--seed"])) == result


def test_there_is_no_command_for_words_that_it_does_not_find():
    def words(*names, margin=0.05, given=None, **facts):
        facts = {"rule": "adaptive", "level": "pixel"} | facts
        asked = {}
        for name, word in made_words(*names).words.items():
            reference = given if given and name == "pizza" else word.pid.metadata.prompt
            pid = replace(word.pid, metadata=replace(word.pid.metadata, reference=reference, **facts))
            asked[name] = replace(word, margin=margin, pid=pid)
        return WordsResult(asked, 64)

    options, _ = options_of(of_words(words("cow", "pizza", estimator="standard")))
    assert options == {"--samples": "8", "--seed": "0", "--model": "emoji", "--estimator": "standard"}
    assert of_words(words("cow", "pizza", margin=0.1)) is None  # 0.1 of the prompt for each of two words is 0.05
    assert of_words(words("cow", "and")) is None  # "and" is no word that it asks for
    assert of_words(words("cow", "pizza", frames=2)) is None
    assert of_words(words("cow", "pizza", given="a pizza")) is None  # not settled, after who knows how many rounds


def test_files_and_folders_are_read_and_what_is_none_is_named(tmp_path):
    (tmp_path / "deep" / "er").mkdir(parents=True)
    (tmp_path / "empty").mkdir()
    made().save(tmp_path / "deep" / "b.safetensors")
    made(1).save(tmp_path / "deep" / "er" / "a.safetensors")
    (tmp_path / "text.txt").write_text("no result")
    paths = [tmp_path / n for n in ("deep", "text.txt", "empty", "missing.safetensors")]
    results, problems = read(paths)
    assert list(results.values()) == [made(), made(1)]
    assert [p.split(" ")[0] for p in problems] == [f"{paths[1]}:", f"{paths[2]}", f"{paths[3]}"]


def test_weights_beside_results_are_not_read(tmp_path, monkeypatch):
    """They may be of gigabytes."""
    save_file({"weight": torch.zeros(2)}, tmp_path / "model.safetensors", {"format": "pt"})
    made().save(tmp_path / "result.safetensors")
    opened, whole = [], Path.read_bytes
    monkeypatch.setattr(Path, "read_bytes", lambda path: opened.append(path.name) or whole(path))
    results, problems = read([tmp_path])
    assert (list(results), opened) == ([str(tmp_path / "result.safetensors")], ["result.safetensors"])
    assert problems == [f"{tmp_path / 'model.safetensors'}: is not a dpid result of format {FORMAT}"]


@pytest.fixture
def report(command, tmp_path):
    """Runs ``dpid report`` in a folder with a result: (exit code, output, errors)."""
    made().save(tmp_path / "cow.safetensors")
    (tmp_path / "text.txt").write_text("no result")
    return partial(command, "report")


def test_command(report, tmp_path):
    assert report("cow.safetensors", "--out", "new/page.html") == (0, "new/page.html: 1 result\n", "")
    assert "a cow and a pizza" in Page((tmp_path / "new/page.html").read_text()).text
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["page.html"]


def test_command_leaves_out_what_is_no_result(report, tmp_path):
    code, out, err = report("cow.safetensors", "text.txt")
    assert (code, out) == (1, "report.html: 1 result\n")
    assert err.startswith("dpid: warning: left out: text.txt: ")
    assert err.count("\n") == 1
    assert (tmp_path / "report.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("text.txt",), "results: text.txt: "),
        (("none.safetensors", "text.txt"), "results: none.safetensors does not exist; text.txt: "),
        (("cow.safetensors", "--out", "."), "out: . is a folder; give the name of a file, such as report.html"),
        (("cow.safetensors", "--out", "text.txt/a.html"), "out: text.txt cannot be written"),
        ((), "Missing argument"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(report, tmp_path, arguments, message):
    before = sorted(p.name for p in tmp_path.iterdir())
    code, out, err = report(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith(f"dpid: {message}")
    assert err.count("\n") == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == before
