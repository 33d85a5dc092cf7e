"""What the page asks of the model, without the page."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
from made_up import made, made_words

from dpid.app.studio import Studio, in_order, opened, words_of
from dpid.denoisers.loading import load_pipeline


@pytest.fixture
def studio(emoji):
    return Studio(emoji, None)


def run(studio, two_things, concepts=None, samples=64, session="page", progress=lambda share: None):
    picture, prompt, found = two_things
    concepts = found if concepts is None else concepts
    return studio.explain(session, str(picture), prompt, concepts, False, samples, progress)


def test_streams_what_the_explainer_streams(studio, emoji, two_things):
    """Concepts are put into the order of the prompt, in which they were clicked or not."""
    studio.start("page")
    shares = []
    *found, (last, said) = run(studio, two_things, two_things[2][::-1], progress=shares.append)
    *expected, last_expected = emoji.stream(*two_things, max_samples=64)
    assert [result for result, _ in found] == [*expected, last_expected]
    assert last == last_expected
    assert said.startswith("Done: 64 samples")
    assert shares == sorted(shares)
    assert shares[-1] == 1


def test_streams_every_word_without_concepts(studio, emoji, two_things):
    studio.start("page")
    shares = []
    *_, (last, said) = run(studio, two_things, (), 32, progress=shares.append)
    assert last == emoji.words(*two_things[:2], samples=32)
    assert said.startswith("Done: at most 32 samples of a condition, ")  # words that are settled take no more
    assert 0.5 < max(shares) <= 1


def test_stops_between_two_results_and_before_the_first(studio, two_things):
    studio.start("page")
    running = run(studio, two_things, samples=1024)
    first, _ = next(running)
    studio.stop("page")
    assert [(result, said) for result, said in running] == [(first, "Stopped after 32 samples.")]
    assert list(run(studio, two_things)) == [(None, "Stopped after 0 samples.")]  # it was stopped while it waited


def test_a_run_of_another_page_goes_on(studio, two_things):
    assert studio.start("page") is True
    assert studio.start("another") is False
    studio.stop("another")
    *_, (_, said) = run(studio, two_things, samples=16)
    assert said.startswith("Done")


def test_runs_take_turns_and_a_stop_ends_the_wait_at_once(studio, two_things):
    for session in ("first", "second", "third"):
        studio.start(session)
    first = run(studio, two_things, samples=64, session="first")
    next(first)
    with ThreadPoolExecutor() as pool:
        second, third = (
            pool.submit(lambda s=session: list(run(studio, two_things, samples=16, session=s)))
            for session in ("second", "third")
        )
        studio.stop("second")
        assert second.result(timeout=60) == [(None, "Stopped after 0 samples.")]
        assert not third.done()
        assert [said.split()[0] for _, said in first] == ["64", "Done:"]
        assert third.result(timeout=60)[-1][1].startswith("Done: 16")


def test_a_run_that_is_dropped_lets_the_next_begin(studio, two_things):
    """As gradio drops that of a page which is gone."""
    for session in ("page", "another"):
        studio.start(session)
    dropped = run(studio, two_things, samples=64)
    next(dropped)
    dropped.close()
    *_, (_, said) = run(studio, two_things, samples=16, session="another")
    assert said.startswith("Done")


@pytest.mark.parametrize("number", [1, 9])
def test_refuses_numbers_of_words(studio, two_things, number):
    studio.start("page")
    with pytest.raises(ValueError, match=f"words: found {number}, choose two to eight"):
        next(run(studio, two_things, ["cow"] * number))
    assert studio.start("another") is True


def test_an_error_lets_the_next_page_begin(studio, two_things):
    studio.start("page")
    with pytest.raises(ValueError, match="concepts: 'tree' is not in the prompt"):
        next(run(studio, two_things, [two_things[2][0], "tree"]))
    assert studio.start("another") is True


def test_pictures_are_named_without_the_folder_of_uploads(tmp_path):
    path = tmp_path / "photo.png"
    path.write_text("no picture")
    with pytest.raises(ValueError, match=r"^image: photo.png cannot be read as a picture") as caught:
        opened(str(path))
    assert str(tmp_path) not in str(caught.value)
    with pytest.raises(ValueError, match="picture: there is none yet"):
        opened(None)
    with pytest.raises(ValueError, match="picture: this one was deleted meanwhile; drop it again"):
        opened(str(tmp_path / "gone.png"))


def test_the_file_of_a_picture_in_use_is_a_new_one(two_things, tmp_path):
    """Gradio deletes files by the time of their last change."""
    path = tmp_path / "photo.png"
    path.write_bytes(two_things[0].read_bytes())
    os.utime(path, (1e9, 1e9))
    opened(str(path))
    assert time.time() - path.stat().st_mtime < 60


@pytest.mark.parametrize("session", ["../kept", "..", ".", "", None])
def test_a_page_has_files_of_its_own_whatever_it_calls_itself(tmp_path, session):
    """The name comes from outside: it must neither delete nor write another folder."""
    page = pytest.importorskip("dpid.app.page")
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept" / "a.txt").write_text("somebody's")
    (tmp_path / "pages").mkdir()
    handlers = page.Handlers(Studio(None, None), tmp_path / "pages")
    names = str(tmp_path / "kept") if session is None else session, "another"
    requests = [SimpleNamespace(session_hash=name) for name in names]
    for request in requests:
        path, _ = handlers.file("result", made(), "overlay", "rao-blackwell", "min", "image", request)
        assert Path(path).parent.parent == tmp_path / "pages"
    handlers.leave(requests[0])
    assert [p.name for p in (tmp_path / "kept").iterdir()] == ["a.txt"]
    assert [p.name for p in (tmp_path / "pages").rglob("*.*")] == [Path(path).name]  # of the other page


def test_what_is_for_chosen_words_is_inactive_without_any(tmp_path):
    page = pytest.importorskip("dpid.app.page")
    handlers = page.Handlers(Studio(None, None), tmp_path)
    assert [handlers.given(*asked).interactive for asked in (([], " ,"), (["cow"], ""), ([], "and"))] == [0, 1, 1]
    every, two = made_words("cow", "pizza"), made()
    offered, figure, *views, note = handlers.offer(every, None, None, "graph")
    assert [choice for choice, _ in figure.choices] == ["overlay", "words", "strip"]
    assert (figure.value, [view.interactive for view in views]) == ("overlay", [False] * 3)
    assert "are for chosen words" in note
    assert handlers.offer(every, None, offered, "overlay")[0] == page.gr.skip()  # while more samples come
    for shown in ((every, two), (two, every)):  # what was kept is drawn, too
        _, figure, *views, note = handlers.offer(*shown, offered, "strip")
        assert (figure.value, [view.interactive for view in views], note) == ("strip", [True] * 3, "")


def test_the_slider_tells_of_every_result_on_the_page(tmp_path):
    """Also of every word, for which estimator, measure and level are not asked; nothing is drawn while it is closed."""
    page = pytest.importorskip("dpid.app.page")
    handlers = page.Handlers(Studio(None, None), tmp_path)
    every, two, view = made_words("cow", "pizza"), made(), ("rao-blackwell", "min", "image", 0.0)
    both = handlers.profile(every, two, *view, True)
    assert [both.count(told) for told in ("New: ", "Kept: ", "Between log-SNR")] == [1, 1, 2]
    for kept in (None, every):
        alone = handlers.profile(every, kept, *view, True)
        assert "<tr><th>cow</th><td>" in alone
        assert "New: " not in alone
    assert handlers.profile(every, two, *view, False) == page.gr.skip()


def test_words_of_a_prompt():
    """An empty prompt has none, while it is written."""
    assert words_of("a bowl and a bowl") == ("bowl", "bowl#2")
    assert words_of("") == words_of("of the") == ()
    assert in_order("a bowl and a cow and a bowl", ["bowl#2", "cow", "bowl", "cow"]) == ("bowl", "cow", "bowl#2")


@pytest.mark.filterwarnings("default")  # what diffusers deprecates
def test_makes_pictures_unless_it_is_stopped(emoji):
    """A stopped one ends after the step that it computes, and so does one that was stopped while it waited."""
    studio, shares = Studio(emoji, load_pipeline("emoji")), []
    studio.start("page")
    picture, said = studio.make("page", "a cow", shares.append)
    assert picture.size == (64, 64)
    assert "seed" in said
    assert shares == [step / 25 for step in range(26)]
    seen = []

    def stop_at_three(share):
        seen.append(share)
        if len(seen) > 3:
            studio.stop("page")

    studio.start("page")
    assert studio.make("page", "a cow", stop_at_three) == (None, "Stopped before there was a picture.")
    assert seen == shares[:4]
    assert studio.make("page", "a cow", None) == (None, "Stopped before there was a picture.")
    for prompt, wrong in ((" ", "is empty"), ("a unicorn", "does not know 'unicorn'"), ("a cow " * 9, "would be cut")):
        studio.start("page")
        with pytest.raises(ValueError, match=f"^prompt: .*{wrong}"):
            studio.make("page", prompt, None)


def test_makes_pictures_as_the_pipeline_does_by_default(tiny, monkeypatch):
    """But for the embedded models, whose settings are dpid's own."""
    pipe, asked = tiny(), {}

    def recorded(self, prompt, **given):
        asked.update(given, scheduler=type(self.scheduler))
        return SimpleNamespace(images=["picture"])

    monkeypatch.setattr(type(pipe), "__call__", recorded)
    for name, expected, own in (("./mine", (None, None), True), ("emoji", (25, 5.0), False)):
        studio = Studio(SimpleNamespace(denoiser=SimpleNamespace(name=name, lock=nullcontext())), pipe)
        studio.start("page")
        asked.clear()
        picture, said = studio.make("page", "a cow", lambda share: None)
        assert picture == "picture"
        assert (asked.get("num_inference_steps"), asked.get("guidance_scale")) == expected
        assert (asked["scheduler"] is type(pipe.scheduler)) is own
        assert ("by default" in said) is own
