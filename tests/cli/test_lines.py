"""Any line that may be typed: it is understood, or refused in one line."""

import io
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dpid import cli, words
from dpid.options import Options
from dpid.prompts.plan import plan_concepts

PROMPT = "a cow and a giraffe"


def test_without_a_command_there_is_help_and_nothing_else(command):
    _, out, errors = command()
    assert "explain" in out
    assert errors == ""


class Stub:
    """An explainer that checks what it is asked and then says what it was given to say."""

    def __init__(self, result, words):
        self.result, self.judged = result, words

    def stream(self, image, prompt, concepts, progress, **options):
        chosen = Options.from_keywords(options)
        plan_concepts(prompt, concepts, context=chosen.context)
        progress(1, 2)
        return [self.result]

    def stream_pairs(self, image, prompt, concepts, progress, **options):
        self.stream(image, prompt, concepts, progress, **options)
        return [dict.fromkeys(combinations(concepts, 2), self.result)]

    def stream_words(self, image, prompt, progress, samples, seconds, **options):
        words.Budget(samples, seconds, 0.1)
        words.concepts_of(prompt, None)
        Options.from_keywords(words.allowed(options))
        progress(1, 2)
        return [self.judged]


arguments = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["", "-", "--", "0", "-1", "8", "32.0", "1e3", "nan", "inf", "-inf", "0.05", "5", "9" * 20, "9" * 5000, "true",
     "cow", "giraffe", "a/b", "black/white", "cow#2", "..", "\udcff", "min", "i_ccs", "i_ccs_plugin", "ppid", "uniform",
     "mlm:", "pixel", "logsnr", "image", "prompt", "standard", "float32", "cpu", "meta", "emoji", "bias", "all",
     "retrieval", PROMPT]
)  # fmt: skip
paths = st.sampled_from(["good.png", "~/good.png", "text.png", "none.png", "folder", "", ".", "~", "new", "x" * 300,
                         "file/inside", "~nobody/x", "\udcff", "data.csv", "good.png/", "..", "-"])  # fmt: skip
named = st.tuples(st.sampled_from(["--out", "--data", "--images", "--captions"]), paths)
valued = st.tuples(
    st.sampled_from(["-c", "--concept", "--model", "--measure", "--priors", "--level", "--reference", "--smooth",
                     "--estimator", "--samples", "--tolerance", "--precision", "--device", "--seed", "--pictures"]),
    arguments,
)  # fmt: skip
flags = st.sampled_from(["--context", "--pairs", "--debug", "--help", "--no-context", "--nothing"]).map(lambda f: (f,))
sound = st.just(("good.png", "a black/white cow, a giraffe", "-c", "cow", "-c", "giraffe", "-c", "black/white"))
lines = st.tuples(
    st.sampled_from(["explain", "explain", "explain", "study", "models", "info", "nothing"]).map(lambda c: (c,)),
    sound | st.tuples(paths, arguments) | st.tuples(arguments),
    st.lists(named | valued | flags, max_size=4).map(lambda parts: sum(parts, ())),
).map(lambda parts: sum(parts, ()))


@pytest.fixture
def stubbed(monkeypatch, tmp_path, emoji, two_things, bad):
    """No model is loaded and nothing is drawn, so that hundreds of lines take a moment; a home of its own."""
    path, prompt, concepts = two_things
    stub = Stub(emoji.explain(path, prompt, concepts, samples=8), emoji.words(path, prompt, samples=8))
    work = tmp_path / "work"
    work.mkdir()
    monkeypatch.chdir(work)
    monkeypatch.setenv("HOME", str(tmp_path))
    for folder in (work, tmp_path):
        shutil.copy(bad / "good.png", folder)
    (work / "data.csv").write_text(f"image,prompt,concepts\ngood.png,{PROMPT},cow;giraffe\n,,\ngood.png,x,y\n")
    (work / "text.png").write_text("cow")
    (work / "folder").mkdir()
    (work / "file").touch()
    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", lambda *_, **__: stub)
    monkeypatch.setattr("dpid.studies.runner.write", lambda *_: True)
    monkeypatch.setattr("dpid.cli.outputs.draw", lambda _: None)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(line=lines)
def test_no_line_ends_in_a_traceback(stubbed, line):
    out, err = io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
        patch.setattr(sys, "argv", ["dpid", *line])
        code = cli.run()
    said = [text for text in err.getvalue().splitlines() if not text.startswith("note: ")]
    assert code in (0, 2), said
    assert "Traceback" not in err.getvalue() or "--debug" in line
    if code == 2 and "--debug" not in line:
        assert len(said) == 1
        assert said[0].startswith("dpid: ")
