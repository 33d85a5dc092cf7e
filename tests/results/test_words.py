"""Verdicts on words whose information is chosen, and results that are saved, loaded and drawn."""

import json
import pickle
from dataclasses import replace

import pytest
import torch
from made_up import metadata
from matplotlib.figure import Figure
from safetensors.torch import save_file

import dpid
from dpid.cli.tables import show_words
from dpid.results import words_file
from dpid.results.result import PIDResult
from dpid.results.word import REST, Word, pooled
from dpid.results.words import WordsResult
from dpid.results.words_plot import coloured, outer
from dpid.words import _partner

# Nats of two latent pixels: of i(x; w), i(x; rest) and i(x; w, rest), and the verdict that they mean.
HERE, THERE, NOWHERE = torch.tensor([[4.0, 0.0]]), torch.tensor([[0.0, 4.0]]), torch.zeros(1, 2)
VERDICTS = {
    "another thing of the picture": (HERE, THERE, HERE + THERE, "used"),
    "the only word": (HERE, NOWHERE, HERE, "used"),
    "what the rest says, too": (HERE, HERE, HERE, "redundant"),
    "part of what the rest says": (HERE / 2, HERE, HERE, "redundant"),
    "nothing, but with the rest": (NOWHERE, HERE, HERE * 1.5, "works only with others"),
    "the same thing as the rest, with it as much again": (HERE, HERE, HERE * 2.2, "used"),
    "less than the rest of the same thing, more with it": (HERE / 2, HERE, HERE * 1.3, "works only with others"),
    "a lie, but with the rest": (-HERE / 4, HERE, HERE * 1.5, "works only with others"),
    "nothing": (NOWHERE, HERE, HERE, "ignored"),
    "a lie": (-THERE, HERE, HERE - THERE, "misleading"),
    "true alone, a lie with the rest": (HERE / 4, HERE, HERE / 2, "misleading"),
    "true beside a lie": (HERE, -3 * THERE, -3 * THERE - HERE, "used"),
    "a lie beside a lie": (-HERE, -3 * THERE, -2 * THERE, "misleading"),
}


def made(alone, rest, both, noise=0.01, text="cow", seed=0, **facts):
    """The result of a word whose replicates vary by about ``noise`` nats about what is given."""
    f = torch.stack((alone, rest, both))  # [3,h,w]
    rng = torch.Generator().manual_seed(seed)
    spread = torch.randn(8, *f.shape, generator=rng)
    replicates = f + torch.as_tensor(noise).expand(3)[:, None, None] * (spread - spread.mean(0))
    conditions = {"": "", text: text, REST: "a and a dog", f"{text}+{REST}": f"a {text} and a dog"}
    known = {
        "prompt": f"a {text} and a dog", "conditions": conditions, "reference": f"a {text} and a dog",
        "estimator": "shrinkage", "level": "pixel", "smooth": 1, "samples": 32, "replicates": 8,
        "unet_evaluations": 128, "seed": seed,
    }  # fmt: skip
    names = ("rao-blackwell", "standard", "orthogonal")
    return PIDResult(
        metadata((text, REST), **known | facts), {name: replicates.clone() for name in names},
        {name: torch.randn(4, 3, 5, generator=rng) for name in names}, torch.linspace(-5, 7, 6, dtype=torch.float64),
        torch.rand(4, 2, 5, generator=rng), torch.zeros(8, 8, 3, dtype=torch.uint8),
    )  # fmt: skip


PROMPT = "a cow, a couch, a pizza and a dog"


def several(**changes):
    numbers = {"cow": "another thing of the picture", "couch": "what the rest says, too", "pizza": "a lie"}
    return WordsResult(
        {text: Word(made(*VERDICTS[kind][:3], text=text, prompt=PROMPT), 0.05,
                    "sofa" if text == "couch" else "")
         for text, kind in numbers.items()}, 384, **changes,
    )  # fmt: skip


@pytest.mark.parametrize("kind", VERDICTS)
def test_verdicts_are_those_of_the_definition(kind):
    alone, rest, both, verdict = VERDICTS[kind]
    word = Word(made(alone, rest, both), 0.05)
    assert word.verdict == verdict
    assert word.settled
    # Of 8 replicates that vary by 0.01 nats a pixel the mean of two pixels' sum is exact to 0.01 · √2 / √8; 6 errors.
    assert float(word.alone) == pytest.approx(float(alone.sum()), abs=0.03)
    assert float(word.given_rest) == pytest.approx(float((both - rest).sum()), abs=0.03)
    assert float(word.co_information) == pytest.approx(float((alone + rest - both).sum()), abs=0.03)
    assert float(word.co_information) == pytest.approx(word.redundancy.value - word.synergy.value, abs=1e-5)  # float32
    torch.testing.assert_close(word.map, both - rest, rtol=0, atol=0.03)


def test_a_verdict_that_hangs_on_the_sign_of_the_co_information_waits_for_it():
    """R is surely above U; whether the word tells less beside the rest than alone is within the error of 0.5."""
    word = Word(made(HERE, HERE, HERE * 1.95, noise=1.0), 0.05)
    low, high = word.co_information.interval()
    assert low < 0 < high
    assert word.unique.interval()[1] < word.redundancy.interval()[0]
    assert not word.settled


def test_a_word_that_may_tell_nothing_alone_is_not_settled_by_what_it_adds():
    """Beside the rest it surely tells more than alone, where it is not known whether it tells anything, nor U > R."""
    word = Word(made(HERE / 2, THERE, THERE + 3 * HERE, noise=2.0), 0.05)
    assert word.co_information.interval()[1] < 0
    assert word.alone.interval()[0] < 0 < word.alone.value
    assert word._lead[0] < 0
    assert not word.settled


def test_the_partner_is_the_word_of_the_largest_co_information_if_it_stands_out():
    """Of 2 nats alone, the word loses 1 beside "bull" and gains 1 beside "dog"."""
    word = Word(made(*VERDICTS["part of what the rest says"][:3], text="cow"), 0.05)
    pairs = {"bull": made(HERE / 2, HERE, HERE * 1.25), "dog": made(HERE / 2, HERE, HERE * 1.75)}
    assert _partner(word, pairs) == "bull"
    pairs["ox"] = made(HERE / 2, HERE, HERE * 1.3)
    assert _partner(word, pairs) == ""


@pytest.mark.parametrize("kind", ["what the rest says, too", "nothing", "a lie, but with the rest", "a lie"])
def test_noise_leaves_a_verdict_open(kind):
    word = Word(made(*VERDICTS[kind][:3], noise=6.0), 0.05)
    assert word.verdict == "undecided"
    assert not word.settled


def believed(kind, told, noise):
    """A word of ``kind`` to the model, by Rao-Blackwell, of which ``told`` is what the picture says of the prompt."""
    alone, rest, both, _ = VERDICTS[kind]
    pid, model = made(alone, rest, told, noise=torch.tensor([0.01, 0.01, noise])), made(alone, rest, both)
    return Word(replace(pid, replicates=pid.replicates | {"rao-blackwell": model.replicates["rao-blackwell"]}), 0.05)


@pytest.mark.parametrize("kind", ["another thing of the picture", "what the rest says, too", "nothing"])
def test_noise_of_the_whole_prompt_does_not_hide_what_a_word_does(kind):
    word = believed(kind, VERDICTS[kind][2], noise=4.0)
    low, high = word.given_rest.interval()
    assert low < 0 < high
    assert word.effect.interval()[1] - word.effect.interval()[0] < 0.1
    assert word.verdict == VERDICTS[kind][3]


@pytest.mark.parametrize(("lost", "verdict"), [(-1.0, "misleading"), (-0.1, "undecided"), (1.0, "used")])
def test_a_change_has_to_be_towards_the_picture(lost, verdict):
    """With the word the model predicts otherwise, by four nats of its own; the picture says what it gains by that."""
    word = believed("another thing of the picture", THERE + lost / 2, noise=0.01)
    assert float(word.effect) == pytest.approx(4.0, abs=0.03)  # 6 errors, as above
    assert word.verdict == verdict


def test_the_map_is_what_is_lost_without_the_word():
    word = Word(made(HERE, THERE, HERE + THERE, noise=0.0), 0.05)
    assert torch.equal(word.map, HERE)
    assert torch.equal(word.map_stderr, NOWHERE)


def test_rounds_are_pooled_to_their_mean():
    first, second, third = (made(HERE, THERE, HERE + THERE, noise=1.0, seed=seed) for seed in range(3))
    both = pooled(pooled(first, 1, second), 2, third)
    for name in ("rao-blackwell", "standard"):
        mean = torch.stack([r.replicates[name] for r in (first, second, third)]).mean(0)
        torch.testing.assert_close(both.replicates[name], mean, rtol=1e-5, atol=1e-6)  # float32 rounds to 6e-8 of 4
    assert (both.metadata.samples, both.metadata.unet_evaluations) == (96, 384)


def test_corrections_are_pooled_with_their_errors():
    change = [{"standard": {"cow": (value, 0.3)}} for value in (1.0, 2.0)]
    first, second = (made(HERE, THERE, HERE, correction=c, precision="bfloat16") for c in change)
    found = pooled(first, 1, second).metadata.correction["standard"]["cow"]
    assert found == pytest.approx((1.5, 0.3 / 2**0.5))  # independent rounds


def test_rounds_in_float32_need_no_correction():
    change = {"standard": {"cow": (1.0, 0.3)}}
    fast = made(HERE, THERE, HERE, correction=change, precision="float16")
    slow = made(HERE, THERE, HERE, correction=None, precision="float32")
    for first, second in ((fast, slow), (slow, fast)):
        metadata = pooled(first, 1, second).metadata
        assert metadata.precision == "float16"
        assert metadata.correction["standard"]["cow"] == pytest.approx((0.5, 0.15))  # of one round of two
    assert pooled(slow, 1, slow).metadata.correction is None
    unknown = made(HERE, THERE, HERE, correction={}, precision="float16")
    assert pooled(pooled(fast, 1, slow), 2, unknown).metadata.correction == {}


def test_the_change_of_predictions_is_an_integral_of_squares():
    word = Word(made(HERE, THERE, HERE + THERE, noise=1.0), 0.05)
    assert word.effect.positive
    assert word.effect.interval()[0] > 0
    assert not word.given_rest.positive


def test_results_are_saved_loaded_and_pickled(tmp_path):
    result = several()
    result.save(tmp_path / "words.safetensors")
    loaded = dpid.WordsResult.load(tmp_path / "words.safetensors")
    assert loaded == result == pickle.loads(pickle.dumps(result))
    assert loaded.verdicts == {"cow": "used", "couch": "redundant with sofa", "pizza": "misleading"}
    assert torch.equal(loaded.words["pizza"].pid.picture, result.picture)
    assert json.loads(json.dumps(loaded.to_dict())) == json.loads(json.dumps(result.to_dict()))
    assert "redundant with sofa" in repr(loaded)


def test_a_file_without_a_picture(tmp_path):
    words = {k: replace(w, pid=replace(w.pid, picture=None)) for k, w in several().words.items()}
    WordsResult(words, 3).save(tmp_path / "words.safetensors")
    assert dpid.WordsResult.load(tmp_path / "words.safetensors").picture is None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda words: words.update(words=[]), "list of words"),
        (lambda words: words.update(unet_evaluations=-1), "unet_evaluations is -1"),
        (lambda words: words["words"][0].update(margin=2.0), "margin 2.0"),
        (lambda words: words["words"][0].update(partner=3), "partner 3"),
        (lambda words: words["words"][0].pop("outdated"), "outdated None, expected true or false"),
        (lambda words: words["words"][1]["metadata"].update(concepts=["couch", "sofa"]), "conditions lack"),
        (lambda words: words["words"].append("x"), "found str"),
        (lambda words: words["words"].append(words["words"][0]), "lacks the tensor"),
    ],
)
def test_a_file_that_was_edited_is_refused(tmp_path, change, message):
    from safetensors.torch import load, save

    result, path = several(), tmp_path / "words.safetensors"
    data = words_file.to_bytes(result.words, 384, {})
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
    stored = json.loads(header["words"])
    change(stored)
    path.write_bytes(save(load(data), header | {"words": json.dumps(stored)}))
    with pytest.raises(ValueError, match=message):
        dpid.WordsResult.load(path)


def test_results_of_two_kinds_are_told_apart(tmp_path):
    several().save(tmp_path / "words.safetensors")
    made(HERE, THERE, HERE).save(tmp_path / "result.safetensors")
    with pytest.raises(ValueError, match=r"has the result of an explanation, which dpid.PIDResult.load reads"):
        dpid.WordsResult.load(tmp_path / "result.safetensors")
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="is not a dpid result of words"):
        dpid.WordsResult.load(tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"has the results of words, which dpid.WordsResult.load reads"):
        dpid.PIDResult.load(tmp_path / "words.safetensors")


def test_words_inside_a_phrase_are_told_by_their_place():
    prompt = "a bowl, a wooden bowl and a dog's dish"
    names = ("bowl", "wooden bowl", "wooden", "bowl#2", "dog's dish", "dog")
    words = {name: Word(made(HERE, THERE, HERE + THERE, text=name, prompt=prompt), 0.05) for name in names}
    assert [word.text for word in outer(WordsResult(words, 1))] == ["bowl", "wooden bowl", "dog's dish"]


def test_remarks_name_what_misleads_and_what_is_open():
    words = dict(several().words) | {"dog": Word(made(NOWHERE, HERE, HERE, noise=6.0, text="dog"), 0.05)}
    text = "\n".join(WordsResult(words, 1).remarks())
    assert "'pizza' speaks against this picture" in text
    assert "'dog': not settled" in text
    assert several().settled
    assert not WordsResult(words, 1).settled


def test_no_word_of_a_model_without_nats_is_said_to_speak_against_the_picture():
    result = several()
    few = {
        name: replace(word, pid=replace(word.pid, metadata=replace(word.pid.metadata, distilled="it jumps")))
        for name, word in result.words.items()
    }
    lines = WordsResult(few, 3).remarks()
    assert lines[0].endswith("in arbitrary units and not in nats, since it jumps")
    assert not any("speaks against" in line for line in lines)


def test_a_remark_has_the_margin_within_which_a_word_is_ignored():
    """Of the 4 nats that the prompt tells here, 5 %."""
    words = {"dog": Word(made(NOWHERE, HERE, HERE, text="dog"), 0.05)}
    (line,) = WordsResult(words, 1).remarks()
    assert line == "'dog': ignored, since up to ± 0.2 nats count as nothing, 5 % of what the prompt tells"
    assert "nothing" not in "".join(several().remarks())


def texts_of(figure):
    return {t.get_text() for ax in figure.axes for t in (*ax.texts, *ax.get_yticklabels(), ax.title)}


@pytest.mark.parametrize("kind", ["overlay", "words"])
def test_plot_shows_every_word_and_its_verdict(kind):
    told = {"used", "redundant with sofa", "misleading", "cow", "couch", "pizza"}
    assert told <= texts_of(several().plot(kind))


def test_plot_marks_verdicts_that_are_not_settled():
    figure = with_dog(2.0).plot("words")  # with it the numbers are used, but an error of 2 nats could be all of them
    assert {"used", "used?"} <= texts_of(figure)
    assert figure.axes[0].get_xlabel().endswith("filled: given the rest; ?: not settled")
    assert several().plot("words").axes[0].get_xlabel().endswith("filled: given the rest")


def test_verdicts_that_are_not_settled_are_marked_wherever_they_are_told(capsys, tmp_path):
    result = with_dog(2.0)
    assert (result.unsettled, several().unsettled) == (("dog",), ())
    assert (result.settled, several().settled) == (False, True)
    assert result.verdicts["dog"] == "used"
    assert "'cow' used, 'couch'" in repr(result)
    assert "'dog' used?;" in repr(result)
    assert repr(result.words["dog"]).startswith("Word('dog': used?; alone")
    show_words(result, tmp_path)
    rows = {row.split("│")[1].strip(): row.split("│")[2].strip() for row in capsys.readouterr().out.splitlines()
            if row.startswith("│")}  # fmt: skip
    assert (rows["cow"], rows["dog"]) == ("used", "used?")


def test_strip_shows_every_map():
    figure = several().plot("strip")
    assert figure.axes[1].images[0].get_array().shape == (1, 2)  # a map of a latent pixel each


def test_profile_has_what_every_word_tells_alone_and_given_the_rest():
    """Over all of log-SNR the lines sum up to the words' numbers; words have the colours of the overlay."""
    words = {}
    for text, word in several().words.items():
        f = word.pid.replicates["standard"].unflatten(0, (2, 4)).mean(0).sum((-2, -1))
        evenly = dict.fromkeys(word.pid.profiles, f[:, :, None].expand(-1, -1, 5) / 5)
        words[text] = replace(word, pid=replace(word.pid, profiles=evenly))
    result = WordsResult(words, 1)
    figure = result.plot("profile")
    assert [ax.get_title() for ax in figure.axes] == ["alone", "given the rest"]
    colours = coloured(result)
    for ax, number in zip(figure.axes, ("alone", "given_rest"), strict=True):
        lines = {line.get_label().strip(): line for line in ax.lines if line.get_label().startswith(" ")}
        assert {name: line.get_color() for name, line in lines.items()} == colours
        for name, line in lines.items():
            expected = getattr(result.words[name], number).value
            assert float(12 / 5 * line.get_ydata().sum()) == pytest.approx(expected, abs=1e-5)  # bins from -5 to 7
    own = Figure().subplots()
    assert result.plot("profile", own) is own.figure
    assert [panel.get_title() for panel in own.child_axes] == ["alone", "given the rest"]


def test_a_word_is_drawn_as_its_decomposition():
    word, figure = several().words["cow"], Figure()
    ax = figure.subplots()
    assert word.plot("profile", ax) is figure
    assert texts_of(word.plot("strip")) == texts_of(word.pid.plot("strip"))


def test_words_are_drawn_into_axes_that_are_given():
    figure = Figure()
    axes = figure.subplots(1, 2)
    for ax, kind in zip(axes, ("overlay", "words"), strict=True):
        assert several().plot(kind, ax) is figure
    assert "cow" in {t.get_text() for t in axes[0].texts}
    assert "misleading" in {t.get_text() for panel in axes[1].child_axes for t in panel.texts}
    ax = axes[0]
    assert several().plot("strip", ax) is figure
    assert "cow" in {panel.get_title() for panel in ax.child_axes}
    assert ax.child_axes[-1].get_ylabel() == "nats per latent pixel"


@pytest.mark.parametrize(
    ("kind", "ax", "told"),
    [("bars", None, "^kind: found 'bars'"), ("words", 3, "^ax: found int"), ("strip", "own", "^ax: found str")],
)
def test_plots_refuse_what_they_cannot_draw(kind, ax, told):
    with pytest.raises((ValueError, TypeError), match=told):
        several().plot(kind, ax)


def with_dog(noise):
    """The words of :func:`several`, and one as uncertain as ``noise``."""
    dog = Word(made(HERE, THERE, HERE + THERE, noise=noise, text="dog", prompt=PROMPT), 0.05)
    return WordsResult(dict(several().words) | {"dog": dog}, 1)


def ends_of(words):
    return [end for word in words for n in (word.alone, word.given_rest) for end in n.interval()]


def test_an_uncertain_word_does_not_squeeze_the_others():
    figure = with_dog(100.0).plot("words")
    reach = 3 * max(map(abs, ends_of(several().words.values())))
    low, high = figure.axes[0].get_xlim()
    assert -1.2 * reach < low < high < 1.2 * reach  # and some margin
    assert {line.get_marker() for line in figure.axes[0].lines} >= {"<", ">"}


def test_intervals_are_whole_where_no_word_is_far_less_certain():
    result = with_dog(1.0)
    ax = result.plot("words").axes[0]
    low, high = ax.get_xlim()
    assert low < min(ends_of(result.words.values())) < max(ends_of(result.words.values())) < high
    assert {line.get_marker() for line in ax.lines} == {"None"}
