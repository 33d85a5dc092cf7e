"""One explanation, one of every pair or every word, and what is said of everything that cannot be explained."""

import json
import re
import shutil
from itertools import islice

import pytest
from diffusers import DDIMScheduler
from made_up import made
from tiny_pipelines import build

import dpid
from dpid.cli.outputs import draw
from dpid.cli.tables import show_result
from dpid.errors import _REPORT

PROMPT = "a cow and a giraffe"


def test_explain(command, two_things, tmp_path):
    path, prompt, (first, second) = two_things
    code, _, errors = command("explain", path, prompt, "-c", first, "-c", second, "--samples", 8, "--context")
    assert (code, errors) == (0, "")
    result = json.loads((tmp_path / "explained/result.json").read_text())
    assert result["unet_evaluations"] == 32
    assert result["context"] is True
    assert result["concepts"] == [first, second]


def test_a_terminal_says_that_the_model_is_loaded_and_checked(command, two_things, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    path, prompt, (first, second) = two_things
    code, out, errors = command("explain", path, prompt, "-c", first, "-c", second, "--samples", 8)
    assert code == 0, errors
    said = re.search(r"loading the model, and checking its pipeline unless --no-check\S* (\S*)0:00:\d\d", errors)
    assert said, errors  # with the time that it takes
    assert "loading" not in out


def test_every_word_is_judged_without_concepts(command, two_things, tmp_path):
    path, prompt, words = two_things
    code, out, errors = command("explain", path, prompt, "--samples", 8, "--smooth", 1, "--time", "1m")
    assert (code, errors) == (0, "")
    folder = tmp_path / "explained"
    assert {p.name for p in folder.iterdir()} == {"words.json", "words.png", "words.safetensors"}
    result = json.loads((folder / "words.json").read_text())
    assert list(result["words"]) == list(words)
    assert (result["samples"], result["smooth"], result["unet_evaluations"]) == (8, 1, 6 * 8)
    for word in words:
        assert word in out
        assert result["words"][word]["verdict"].removesuffix("others") in out  # beside the name of the other
    assert "48 evaluations of emoji; written: explained/words.png, words.json, words.safetensors" in out


def test_pairs_say_what_is_to_be_known_of_each(command, bad, tmp_path):
    words = ("-c", "cow", "-c", "giraffe", "-c", "pizza")
    tight = ("--pairs", "--samples", 8, "--tolerance", "1e-6", "--out", "pairs")
    code, out, errors = command("explain", bad / "noisy.png", "a cow, a giraffe and a pizza", *words, *tight)
    assert code == 0, errors
    for pair in ("cow + giraffe", "cow + pizza", "giraffe + pizza"):
        assert f"note: {pair}: the tolerance was not reached" in out
        assert (tmp_path / "pairs" / pair.replace(" ", "") / "maps.png").is_file()
    assert (tmp_path / "pairs/graph.png").is_file()


def test_a_table_says_what_an_atom_is_and_cuts_none(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    show_result(made(concepts=("pumpkin", "giraffe", "butterfly")), tmp_path)
    out = capsys.readouterr().out
    assert "the 8 largest of 18" in out  # antichains of three (Williams and Beer, 2010)
    assert "what each group of words in braces tells by itself" in out
    assert "…" not in out


def test_a_line_of_the_table_ends_between_two_concepts(capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("COLUMNS", "80")
    names = ("cow", "giraffe", "dog", "tree", "sofa")
    show_result(made(concepts=names), tmp_path)
    cells = [line.split("│")[1] for line in capsys.readouterr().out.splitlines() if "{" in line or "}" in line]
    assert any(cell.count("{") != cell.count("}") for cell in cells)  # some go on in the next line
    assert {word.strip("{}") for cell in cells for word in cell.split()} <= {*names, "+"}


def test_brackets_and_dollars_are_text(command, bad, tmp_path):
    prompt = "a [cow] for $5 and a $10 100% giraffe, $6"
    asked = ("explain", bad / "noisy.png", prompt, "-c", "giraffe", "--samples", 8)
    code, _, errors = command(*asked, "-c", "[cow]")
    assert code == 2  # the model knows no brackets, and says so
    assert "does not know '[cow]'" in errors
    code, out, errors = command(*asked, "-c", "cow")
    assert code == 0, errors
    assert prompt in out
    assert (tmp_path / "explained/profile.png").is_file()


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
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "cuda:99"), "device: 'cuda:99' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "gpu"), "device: found 'gpu', allowed are cpu, cuda, "),
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
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--samples", "32.5"),
            "samples: found '32.5', expected a whole number",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--tolerance", "5"), "tolerance: found 5.0, expected a fraction"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--tolerance", "a"), "tolerance: found 'a', expected a number\n"),
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--control-scale", "a"),
            "control_scale: found 'a', expected a number",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--seed", "9" * 5000), "seed: found '999"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--smooth", "999"), "smooth: found 999, expected a whole number"),
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--smooth", "17"),
            "smooth: found 17, expected at most the 16",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--device", "meta"), "device: 'meta' cannot be used"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "good.png"), "good.png is no .safetensors file"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--size", "7"), "size: found 7, expected a multiple of "),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--variant", "fp16"), "variant: found 'fp16', "),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--subfolder", "x"), "model: emoji/x is not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./custom"), "is a MyPipeline; supported are"),
        (
            "good.png",
            PROMPT,
            ("cow", "giraffe"),
            ("--samples", "many"),
            "samples: found 'many', expected a whole number",
        ),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--precision", "int8"), "precision: found 'int8'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--estimator", "daam"), "estimator: found 'daam'"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--time", "10s"), "time: is for every word, without -c"),
        ("good.png", "the and of", (), (), "prompt: found 'the and of', which has no content word"),
        ("good.png", "", (), (), "prompt: found an empty text"),
        ("good.png", PROMPT, (), ("--time", "soon"), "time: found 'soon', expected a time such as 10s, 2m or 1h"),
        ("good.png", PROMPT, (), ("--time", "0s"), "time: found '0s'"),
        ("good.png", PROMPT, (), ("--pairs",), "pairs: is for concepts; give two to eight with -c"),
        ("good.png", PROMPT, (), ("--context",), "context: is for concepts"),
        ("good.png", PROMPT, (), ("--tolerance", "0.1"), "tolerance: is for concepts"),
        ("good.png", PROMPT, (), ("--samples", "0"), "samples: found 0"),
        ("good.png", "a unicorn", (), (), "does not know 'unicorn'"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(command, bad, monkeypatch, image, prompt, concepts, options, message):
    monkeypatch.chdir(bad)
    before = sorted(bad.rglob("*"))
    chosen = [x for c in concepts for x in ("-c", c)]
    code, out, errors = command("explain", image, prompt, *chosen, *options)
    assert (code, out) == (2, ""), errors
    assert message in errors
    assert errors.startswith("dpid: ")
    assert errors.count("\n") == 1
    assert sorted(bad.rglob("*")) == before, "nothing may be left half-written"


@pytest.mark.parametrize(
    ("prompt", "model", "message"),
    [
        ("a cow and \udcff giraffe", "emoji", "prompt: found 'a cow and \\udcff giraffe'"),
        (PROMPT, "nobody/nothing", "model: nobody/nothing could not be loaded"),
    ],
)
def test_a_process_ends_with_one_line_and_exit_code_2(dpid, bad, prompt, model, message):
    """Of bytes that are no letters, as a terminal hands them over, and of an error inside another library."""
    done = dpid("explain", "good.png", prompt, "-c", "cow", "-c", "giraffe", "--model", model, cwd=bad)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1), done.stderr
    assert done.stderr.startswith(f"dpid: {message}")


def test_home(command, bad, tmp_path, monkeypatch):
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path))
    monkeypatch.chdir(bad)
    shutil.copy(bad / "noisy.png", tmp_path)
    asked = ("explain", "~/noisy.png", PROMPT, "-c", "cow", "-c", "giraffe", "--samples", 8, "--out=~/made")
    assert "~/none is not a folder" in command(*asked, "--model", "~/none")[2]
    code, _, errors = command(*asked)
    assert code == 0, errors
    assert (tmp_path / "made/result.json").is_file()


@pytest.mark.parametrize(("option", "expected"), [((), True), (("--no-check",), False)])
def test_the_comparison_with_the_pipeline_can_be_left_out(command, bad, monkeypatch, option, expected):
    asked = {}

    def from_pretrained(model, **given):
        asked.update(given)
        raise ValueError("model: none here")

    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", from_pretrained)
    code, _, errors = command("explain", bad / "noisy.png", PROMPT, "-c", "cow", "-c", "giraffe", *option)
    assert (code, asked.get("check", True)) == (2, expected), errors


@pytest.fixture(scope="module")
def flow(tmp_path_factory):
    """A folder of a pipeline with three text encoders and a transformer."""
    folder = tmp_path_factory.mktemp("flow") / "model"
    build("sd3").save_pretrained(folder)
    return folder


def without(name):
    return lambda folder: shutil.rmtree(folder / name)


def another_scheduler(folder):
    DDIMScheduler().save_pretrained(folder / "scheduler")
    index = json.loads((folder / "model_index.json").read_text())
    (folder / "model_index.json").write_text(json.dumps(index | {"scheduler": ["diffusers", "DDIMScheduler"]}))


def pickled(folder):
    for path in (folder / "transformer").glob("*.safetensors"):
        path.rename(path.with_suffix(".bin"))


@pytest.mark.parametrize(
    ("change", "options", "message"),
    [
        (without("tokenizer_2"), (), "model: {} has no folder tokenizer_2, expected all of a StableDiffusion3Pipeline"),
        (without("text_encoder_3"), (), "model: {} has no folder text_encoder_3, expected all of"),
        (without("transformer"), (), "model: {} has no folder transformer, expected all of"),
        (pickled, (), "model: the weights of {}/transformer are pickle files"),
        (another_scheduler, (), "pipe: the network of StableDiffusion3Pipeline predicts the velocity of a flow, but"),
        (None, ("--size", "40"), "size: found 40, expected a multiple of 16 up to the model's 64"),
        (None, ("--precision", "int8"), "precision: found 'int8'"),
        (None, ("--variant", "bf16"), "variant: found 'bf16', {} has none"),
        (None, ("--reference", "x" * 80), "reference: 82 tokens, but text_encoder takes 77"),
    ],
)
def test_bad_input_of_a_transformer(command, flow, bad, tmp_path, change, options, message):
    folder = flow
    if change:
        folder = shutil.copytree(flow, tmp_path / "model")
        change(folder)
    asked = ("explain", bad / "good.png", PROMPT, "-c", "cow", "-c", "giraffe", "--model", folder, "--device", "cpu")
    code, out, errors = command(*asked, *options)
    assert (code, out, errors.count("\n")) == (2, "", 1)
    assert errors.startswith(f"dpid: {message.format(folder)}")
    assert not (tmp_path / "explained").exists()


@pytest.fixture
def ended(command, two_things, tmp_path, monkeypatch):
    """Runs ``dpid explain`` until ``error`` is raised after the second result: as ``command``, with that result."""

    def run(method, error, *options):
        path, prompt, _ = two_things
        stream, given = getattr(dpid.Explainer, method), []

        def interrupted(*arguments, **named):
            for result in islice(stream(*arguments, **named), 2):
                given.append(result)
                yield result
            raise error

        monkeypatch.setattr(dpid.Explainer, method, interrupted)
        return *command("explain", path, prompt, *options), given[-1]

    return run


ENDS = [
    (KeyboardInterrupt, 130, "interrupted"),
    (RuntimeError("model: changed"), 2, "model: changed"),
    (FloatingPointError("no numbers"), 1, f"FloatingPointError: no numbers; {_REPORT}"),
]


@pytest.mark.parametrize(("error", "code", "told"), ENDS[::2])
def test_what_ends_a_run_leaves_the_words_that_were_found(ended, tmp_path, error, code, told):
    folder = tmp_path / "explained"
    folder.mkdir()
    (folder / "words.png").write_text("of an earlier run, with other numbers")
    found, _, errors, result = ended("stream_words", error, "--samples", 64)
    assert found == code
    assert errors == f"dpid: warning: what was found before is in explained\ndpid: {told}\n"
    assert dpid.WordsResult.load(folder / "words.safetensors") == result
    assert (folder / "words.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("concepts", [True, False])
def test_an_interrupt_before_anything_is_found_says_so(command, two_things, tmp_path, monkeypatch, concepts):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("dpid.run.integrate", interrupted)
    path, prompt, words = two_things
    code, out, errors = command("explain", path, prompt, *(x for c in words * concepts for x in ("-c", c)))
    assert (code, out) == (130, "")
    assert errors == "dpid: warning: nothing was found before, and nothing is written\ndpid: interrupted\n"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("error", "code", "told"), ENDS[:2])
def test_what_ends_a_run_leaves_the_rounds_before_it(ended, two_things, tmp_path, error, code, told):
    concepts = [word for concept in two_things[2] for word in ("-c", concept)]
    found, out, errors, result = ended("stream", error, *concepts, "--tolerance", 1e-6, "--samples", 96)
    assert (found, out) == (code, "")
    assert errors == f"dpid: warning: what was found before is in explained\ndpid: {told}\n"
    assert result.metadata.samples == 64
    folder = tmp_path / "explained"
    assert dpid.PIDResult.load(folder / "result.safetensors") == result
    assert {path.name for path in folder.iterdir()} == {
        "result.safetensors", "result.json", "maps.png", "profile.png"
    }  # fmt: skip


def test_an_interrupt_leaves_the_rounds_of_every_pair(ended, two_things, tmp_path, monkeypatch):
    """Also if another one ends the drawing of their figures, which takes longer."""
    drawn = []

    def interrupted(pictures):
        drawn.extend(pictures)
        raise KeyboardInterrupt

    monkeypatch.setattr("dpid.cli.outputs.draw", interrupted)
    concepts = [word for concept in (*two_things[2], "and") for word in ("-c", concept)]
    options = "--pairs", "--tolerance", 1e-6, "--samples", 96
    found, out, errors, results = ended("stream_pairs", KeyboardInterrupt, *concepts, *options)
    assert (found, out) == (130, "")
    assert errors == "dpid: warning: what was found before is in explained\ndpid: interrupted\n"
    assert [result.metadata.samples for result in results.values()] == [64] * 3
    for pair, result in results.items():
        folder = tmp_path / "explained" / "+".join(pair)
        assert dpid.PIDResult.load(folder / "result.safetensors") == result
        assert json.loads((folder / "result.json").read_text())["samples"] == 64
    assert (len(drawn), drawn[0].name) == (2 * 3 + 1, "graph.png")


@pytest.mark.parametrize(
    ("options", "name"),
    [(("--tolerance", 1e-6), "result"), (("--tolerance", 1e-6, "--pairs"), "{}+{}/result"), ((), "words")],
)
def test_nan_in_a_later_round_leaves_the_first(command, two_things, broken_later, tmp_path, options, name):
    path, prompt, concepts = two_things
    if name == "words":
        prompt = f"a {concepts[1]}"  # whose verdict takes more rounds
    else:
        options = (*options, "-c", concepts[0], "-c", concepts[1])
    code, out, errors = command("explain", path, prompt, *options, "--samples", 96)
    assert (code, out) == (2, "")
    kept, ended = errors.splitlines()
    assert kept == "dpid: warning: what was found before is in explained"
    assert ended.startswith("dpid: denoiser: returned NaN or infinity for condition ")
    kind = dpid.WordsResult if name == "words" else dpid.PIDResult
    found = tmp_path / "explained" / name.format(*concepts)
    assert json.loads(found.with_suffix(".json").read_text())["samples"] == 32
    assert kind.load(found.with_suffix(".safetensors")).metadata.samples == 32


def test_a_tolerance_that_is_missed_is_a_note(command, two_things):
    concepts = [word for concept in two_things[2] for word in ("-c", concept)]
    code, out, errors = command("explain", *two_things[:2], *concepts, "--tolerance", 1e-6, "--samples", 8)
    assert (code, errors) == (0, "")
    assert "note: the tolerance was not reached" in out


def test_a_second_interrupt_leaves_no_picture_of_other_numbers(tmp_path):
    def interrupted():
        raise KeyboardInterrupt

    pictures = [tmp_path / name for name in ("maps.png", "profile.png")]
    for path in pictures:
        path.write_text("of an earlier run")
    with pytest.raises(KeyboardInterrupt):
        draw(dict.fromkeys(pictures, interrupted))
    assert list(tmp_path.iterdir()) == []
