"""The command line as a user meets it: a process, its files, its one-line errors."""

import io
import json
import os
import shutil
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors import safe_open

from dpid import cli
from dpid.denoisers.loading import embedded_path
from dpid.options import Options
from dpid.process import told
from dpid.prompts.plan import plan_concepts

PROMPT = "a cow and a giraffe"


COMMAND = [sys.executable, "-c", "from dpid.cli import main; main()"]


def dpid(*arguments, cwd, **environment):
    return subprocess.run(
        [*COMMAND, *map(str, arguments)],
        capture_output=True, text=True, errors="replace", cwd=cwd, env={**os.environ, "COLUMNS": "200", **environment},
    )  # fmt: skip


def test_demo_makes_a_picture_and_explains_it(tmp_path):
    done = dpid("demo", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "made").iterdir()} == {
        "picture.png", "maps.png", "profile.png", "result.json", "result.safetensors",
    }  # fmt: skip
    with Image.open(tmp_path / "made/picture.png") as picture:
        assert picture.size == (64, 64)
    assert "unique: giraffe" in done.stdout
    assert "iʳ" in done.stdout
    assert "iˢ" in done.stdout
    assert done.stderr == ""
    with safe_open(tmp_path / "made/result.safetensors", "pt") as f:
        assert {"maps/redundancy", "maps/unique/cow", "maps/stderr/synergy"} <= set(f.keys())


def test_explain(two_things, tmp_path):
    path, prompt, (first, second) = two_things
    done = dpid("explain", path, prompt, "-c", first, "-c", second, "--samples", 8, "--context", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "explained/result.json").read_text())
    assert result["unet_evaluations"] == 32
    assert result["context"] is True
    assert result["concepts"] == [first, second]


def test_info(tmp_path):
    done = dpid("info", cwd=tmp_path)
    assert done.returncode == 0
    assert "giraffe" in done.stdout


@pytest.fixture(scope="module")
def bad(tmp_path_factory):
    """A folder of everything that can be wrong with a file."""
    root = tmp_path_factory.mktemp("bad")
    Image.new("RGB", (64, 64), "white").save(root / "good.png")
    whole = (root / "good.png").read_bytes()
    noisy = Image.effect_noise((64, 64), 90).convert("RGB")
    noisy.save(root / "noisy.png")
    (root / "truncated.png").write_bytes((root / "noisy.png").read_bytes()[:600])
    (root / "text.png").write_text("cow")
    (root / "empty.png").write_bytes(b"")
    Image.new("RGB", (1, 1)).save(root / "pixel.png")
    Image.new("RGBA", (64, 64)).save(root / "clear.png")
    (root / "folder").mkdir()
    model = root / "pickled"
    shutil.copytree(embedded_path("emoji"), model)
    (model / "unet/diffusion_pytorch_model.safetensors").rename(model / "unet/diffusion_pytorch_model.bin")
    (root / "file").write_bytes(whole)
    (root / "custom").mkdir()
    (root / "custom/model_index.json").write_text('{"_class_name": "MyPipeline"}')
    return root


def test_pairs_say_what_is_to_be_known_of_each(bad, tmp_path):
    words = ("-c", "cow", "-c", "giraffe", "-c", "pizza")
    tight = ("--pairs", "--samples", "8", "--tolerance", "1e-6", "--out", tmp_path)
    done = dpid("explain", "noisy.png", "a cow, a giraffe and a pizza", *words, *tight, cwd=bad)
    assert done.returncode == 0, done.stderr
    for pair in ("cow + giraffe", "cow + pizza", "giraffe + pizza"):
        assert f"note: {pair}: the tolerance was not reached" in done.stdout
        assert (tmp_path / pair.replace(" ", "") / "maps.png").is_file()


def test_brackets_and_dollars_are_text(bad, tmp_path):
    prompt = "a [cow] for $5 and a $10 100% giraffe, $6"
    done = dpid("explain", "noisy.png", prompt, "-c", "[cow]", "-c", "giraffe", "--samples", "8", "--out", tmp_path,
                cwd=bad)  # fmt: skip
    assert done.returncode == 2  # the model knows no brackets, and says so
    assert "does not know '[cow]'" in done.stderr
    done = dpid(
        "explain", "noisy.png", prompt, "-c", "cow", "-c", "giraffe", "--samples", "8", "--out", tmp_path, cwd=bad
    )
    assert done.returncode == 0, done.stderr
    assert prompt in done.stdout
    assert (tmp_path / "profile.png").is_file()


def test_without_a_command_there_is_help_and_nothing_else(tmp_path):
    done = dpid(cwd=tmp_path)
    assert "explain" in done.stdout
    assert done.stderr == ""


@pytest.mark.parametrize(
    ("image", "prompt", "concepts", "options", "message"),
    [
        ("good.png", PROMPT, ("cow", "dog"), (), "'dog' is not in the prompt; its words are a, cow, and, giraffe"),
        ("good.png", PROMPT, ("cow", "cow"), (), "each may be given once"),
        ("good.png", PROMPT, ("a cow", "cow"), (), "overlap"),
        ("good.png", PROMPT, ("cow",), (), "concepts: found 1 ('cow'), allowed are 2…8, each on its own"),
        ("good.png", "", ("cow", "dog"), (), "prompt: found an empty text"),
        ("good.png", "cow " * 20 + "dog", ("cow", "dog"), ("--context",), "would be cut: shorten it"),
        ("good.png", "a cow and a unicorn", ("cow", "unicorn"), (), "does not know 'unicorn'"),
        ("none.png", PROMPT, ("cow", "giraffe"), (), "none.png does not exist"),
        ("text.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("empty.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("truncated.png", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("folder", PROMPT, ("cow", "giraffe"), (), "cannot be read as a picture"),
        ("pixel.png", PROMPT, ("cow", "giraffe"), (), "1×1 pixels"),
        ("clear.png", PROMPT, ("cow", "giraffe"), (), "transparent"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./nowhere"), "nowhere is not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "nowhere"), "not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./folder"), "no model_index.json"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./pickled"), "pickle files"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "nobody/nothing"), "could not be loaded"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "cuda:99"), "device: 'cuda:99' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "gpu"), "device: 'gpu' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--reference", "Prompt"), "reference: found 'Prompt'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--out", "file"), "out: file cannot be written"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--out", "file/inside"), "cannot be written"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "0"), "samples: found 0"),
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--samples", str(10**12), "--tolerance", "0.1"),
            "samples: found 1000",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "32.5"), "Invalid value for '--samples'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--tolerance", "5"), "tolerance: found 5.0, expected a fraction"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--smooth", "999"), "smooth: found 999, expected a whole number"),
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--smooth", "17"),
            "smooth: found 17, expected at most the 16",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "meta"), "device: 'meta' cannot be used"),
        ("good.png", "a cow and \udcff giraffe", ("cow", "giraffe"), (), "prompt: found 'a cow and \\udcff giraffe'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "good.png"), "is a single file, expected a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./custom"), "is a MyPipeline; supported are"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "many"), "Invalid value for '--samples'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--precision", "int8"), "precision: found 'int8'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--estimator", "daam"), "estimator: found 'daam'"),
        ("good.png", PROMPT, (), (), "concept"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(bad, image, prompt, concepts, options, message):
    before = sorted(bad.rglob("*"))
    chosen = [x for c in concepts for x in ("-c", c)]
    done = dpid("explain", image, prompt, *chosen, *options, cwd=bad)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("dpid: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(bad.rglob("*")) == before, "nothing may be left half-written"


QUICK = ("noisy.png", PROMPT, "-c", "cow", "-c", "giraffe", "--samples", "8")
NUMBERS = {"result.json", "result.safetensors"}


@pytest.mark.parametrize(
    "environment",
    [
        {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "0", "MPLBACKEND": "module://no.such_backend"},
        {"PYTHONIOENCODING": "cp1252:strict", "COLUMNS": "3", "TERM": "dumb"},
        {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "many", "NO_COLOR": "1"},
    ],
)  # fmt: skip
def test_environments(bad, tmp_path, environment):
    """Letters that a code page lacks are replaced, and a terminal of no width shows the numbers all the same."""
    done = dpid("explain", *QUICK, "--out", tmp_path, cwd=bad, **environment)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert {p.name for p in tmp_path.iterdir()} == NUMBERS | {"maps.png", "profile.png"}
    value = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["synergy"]["value"]
    assert f"{value:.2f}" in next(line for line in done.stdout.splitlines() if "synergy" in line)


@pytest.mark.parametrize("streams", [">&-", "2>&-", ">&- 2>&- <&-", "> /dev/full", "2> /dev/full", "| true"])
def test_streams_that_are_closed_or_full(bad, tmp_path, streams):
    """What was computed is written whoever listens."""
    line = f'set -o pipefail; exec 3>&2; "$@" {streams}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *COMMAND, "explain", *QUICK, "--out", str(tmp_path)],
        capture_output=True, text=True, cwd=bad, env=dict(os.environ),
    )  # fmt: skip
    assert done.returncode == 0
    assert {p.name for p in tmp_path.iterdir()} == NUMBERS | {"maps.png", "profile.png"}
    warned = "dpid: warning: the table could not be printed: [Errno 28]"
    assert done.stderr[: len(warned)] == (warned if streams == "> /dev/full" else "")
    assert done.stderr.count("\n") <= 1


def test_a_picture_that_cannot_be_drawn_fails_nothing(bad, tmp_path):
    (tmp_path / "maps.png").mkdir()
    done = dpid("explain", *QUICK, "--out", tmp_path, cwd=bad)
    assert done.returncode == 0
    assert done.stderr.startswith(f"dpid: warning: {tmp_path}/maps.png could not be drawn: ")
    assert done.stderr.count("\n") == 1
    assert "written: " + str(tmp_path) + "/profile.png, result.json, result.safetensors" in done.stdout
    assert {p.name for p in tmp_path.iterdir()} == NUMBERS | {"maps.png", "profile.png"}


def test_home(bad, tmp_path):
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    shutil.copy(bad / "noisy.png", tmp_path)
    done = dpid("explain", "~/noisy.png", *QUICK[1:], "--out=~/made", "--model", "~/none", cwd=bad, **home)
    assert "~/none is not a folder" in done.stderr
    done = dpid("explain", "~/noisy.png", *QUICK[1:], "--out=~/made", cwd=bad, **home)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/result.json").is_file()


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``dpid`` in this process and in a folder of its own: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dpid", *map(str, arguments)])
        return cli.run(), *capsys.readouterr()

    return call


class Odd(Exception):
    """What nobody expects."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("samples: found 0"), 2, "samples: found 0"),
        (TypeError("prompt, concepts: found\n 3"), 2, "prompt, concepts: found 3"),
        (FloatingPointError("denoiser: returned NaN"), 2, "denoiser: returned NaN"),
        (RuntimeError("studies: they need pyarrow"), 2, "studies: they need pyarrow"),
        (OSError(28, "No space left on device"), 2, "[Errno 28] No space left on device"),
        (MemoryError(), 2, "not enough memory; give fewer samples"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "not enough memory (CUDA out of memory. Tried); give"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), 2, "not enough memory ([enforce fail]"),
        (DeprecationWarning("old"), 2, "DeprecationWarning: old (a warning that -W"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
        (ValueError("too many values to unpack (expected 2)"), 1, "ValueError: too many values to unpack"),
        (ValueError("could not convert string to float: 'a'"), 1, "ValueError: could not"),
        (TypeError("unsupported operand type(s) for +: 'int' and 'str'"), 1, "TypeError: unsupported"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), 1, "RuntimeError: mat1"),
        (RecursionError("maximum recursion depth exceeded"), 1, "RecursionError: maximum"),
        (NotImplementedError(), 1, "NotImplementedError; this is a fault of dpid"),
        (AttributeError("x"), 1, "AttributeError: x; "), (KeyError("x"), 1, "KeyError: 'x'; "),
        (AssertionError(), 1, "AssertionError; this"), (EOFError("x"), 1, "EOFError: x; "),
        (StopIteration(), 1, "StopIteration; "),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "no"), 1, "UnicodeEncodeError: 'utf-8' codec"),
        (Odd("x\ny"), 1, "Odd: x y; this is a fault of dpid; please report it with what --debug prints, see .github/"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_whatever_is_raised_becomes_a_line(command, monkeypatch, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dpid.denoisers.loading.embedded_path", fail)
    found, out, err = command("info")
    assert found == code
    assert out == ""
    err = err.lstrip()  # click ends the line on which a terminal shows ^C
    assert err.startswith(f"dpid: {line}" if line else "")
    assert err.count("\n") == bool(line)
    if code == 1:
        assert err.rstrip().endswith(".github/ISSUE_TEMPLATE/unexpected-error.md")
        assert "Traceback" in command("info", "--debug")[2]
        assert "Traceback" in command("--debug", "info")[2]


def test_the_template_for_what_should_not_happen_is_there():
    assert (Path(__file__).parents[1] / told(KeyError())[0].rpartition(" ")[2]).is_file()


def test_debug_is_a_word_after_a_double_dash(command):
    code, _, err = command("explain", "none.png", "-c", "a", "-c", "b", "--", "--debug")
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("concepts", "names"),
    [
        (("cow", "giraffe", "dog"), ["cow+giraffe", "cow+dog", "giraffe+dog"]),
        (("a/b", "a_b", "c"), ["a_b+a_b", "a_b+c", "a_b+c (2)"]),
        (("Cow", "cow#2", "COW#2"), ["Cow+cow#2", "Cow+COW#2 (2)", "cow#2+COW#2"]),
        (("caf\u00e9", "cafe\u0301", "x"), ["caf\u00e9+cafe\u0301", "caf\u00e9+x", "cafe\u0301+x (2)"]),
        (("..", "."), ["__+_"]),
        (("U.S.", "con "), ["U_S_+con"]),
        (('<>:"|?*\n', "x"), ["_______+x"]),
        (("\udcff", "x"), ["_+x"]),
    ],
)
def test_every_pair_has_a_folder_of_its_own(concepts, names):
    assert cli._folders(list(combinations(concepts, 2))) == names


def test_long_concepts_make_names_that_a_file_system_takes(tmp_path):
    concepts = ("牛" * 200, "牛" * 201, "x" * 300, "x" * 301)
    names = cli._folders(list(combinations(concepts, 2)))
    assert len({n.casefold() for n in names}) == 6
    for name in names:
        (tmp_path / name).mkdir()  # of at most 255 bytes


class Stub:
    """An explainer that checks what it is asked and then says what it was given to say."""

    def __init__(self, result):
        self.result = result

    def explain(self, image, prompt, concepts, progress, **options):
        chosen = Options.from_keywords(options)
        plan_concepts(prompt, concepts, context=chosen.context)
        progress(1, 2)
        return self.result

    def explain_pairs(self, image, prompt, concepts, progress, **options):
        self.explain(image, prompt, concepts, progress, **options)
        return dict.fromkeys(combinations(concepts, 2), self.result)


arguments = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=6) | st.sampled_from(
    ["", "-", "--", "0", "-1", "8", "32.0", "1e3", "nan", "inf", "-inf", "0.05", "5", "9" * 20, "9" * 5000, "true",
     "cow", "giraffe", "a/b", "black/white", "cow#2", "..", "\udcff", "min", "i_ccs", "ppid", "uniform", "mlm:",
     "pixel", "logsnr", "image", "prompt", "standard", "float32", "cpu", "meta", "emoji", "bias", "all", "retrieval",
     PROMPT]
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
    st.sampled_from(["explain", "explain", "explain", "study", "info", "nothing"]).map(lambda c: (c,)),
    sound | st.tuples(paths, arguments) | st.tuples(arguments),
    st.lists(named | valued | flags, max_size=4).map(lambda parts: sum(parts, ())),
).map(lambda parts: sum(parts, ()))


@pytest.fixture
def stubbed(monkeypatch, tmp_path, emoji, two_things, bad):
    """No model is loaded and nothing is drawn, so that hundreds of lines take a moment; a home of its own."""
    path, prompt, concepts = two_things
    stub = Stub(emoji.explain(path, prompt, concepts, samples=8))
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
    monkeypatch.setattr(cli, "_draw", lambda _: None)


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
