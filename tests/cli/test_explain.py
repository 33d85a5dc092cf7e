"""One explanation, one of every pair or every word, and what is said of everything that cannot be explained."""

import json
import shutil

import pytest
from diffusers import DDIMScheduler
from tiny_pipelines import build

PROMPT = "a cow and a giraffe"


def test_explain(dpid, two_things, tmp_path):
    path, prompt, (first, second) = two_things
    done = dpid("explain", path, prompt, "-c", first, "-c", second, "--samples", 8, "--context", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads((tmp_path / "explained/result.json").read_text())
    assert result["unet_evaluations"] == 32
    assert result["context"] is True
    assert result["concepts"] == [first, second]


def test_every_word_is_judged_without_concepts(dpid, two_things, tmp_path):
    path, prompt, words = two_things
    done = dpid("explain", path, prompt, "--samples", 8, "--smooth", 1, "--time", "1m", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    folder = tmp_path / "explained"
    assert {p.name for p in folder.iterdir()} == {"words.json", "words.png", "words.safetensors"}
    result = json.loads((folder / "words.json").read_text())
    assert list(result["words"]) == list(words)
    assert (result["samples"], result["smooth"], result["unet_evaluations"]) == (8, 1, 6 * 8)
    for word in words:
        assert word in done.stdout
        assert result["words"][word]["verdict"] in done.stdout
    assert "48 evaluations of the network; written: explained/words.png, words.json, words.safetensors" in done.stdout


def test_pairs_say_what_is_to_be_known_of_each(dpid, bad, tmp_path):
    words = ("-c", "cow", "-c", "giraffe", "-c", "pizza")
    tight = ("--pairs", "--samples", "8", "--tolerance", "1e-6", "--out", tmp_path)
    done = dpid("explain", "noisy.png", "a cow, a giraffe and a pizza", *words, *tight, cwd=bad)
    assert done.returncode == 0, done.stderr
    for pair in ("cow + giraffe", "cow + pizza", "giraffe + pizza"):
        assert f"note: {pair}: the tolerance was not reached" in done.stdout
        assert (tmp_path / pair.replace(" ", "") / "maps.png").is_file()
    assert (tmp_path / "graph.png").is_file()


def test_brackets_and_dollars_are_text(dpid, bad, tmp_path):
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
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "good.png"), "good.png is no .safetensors file"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--size", "7"), "size: found 7, expected a multiple of "),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--variant", "fp16"), "variant: found 'fp16', "),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--subfolder", "x"), "model: emoji/x is not a folder"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--model", "./custom"), "is a MyPipeline; supported are"),
        ("good.png", PROMPT, ("cow", "giraffe"), ("--samples", "many"), "Invalid value for '--samples'"),
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
def test_bad_input_is_one_line_and_exit_code_2(dpid, bad, image, prompt, concepts, options, message):
    before = sorted(bad.rglob("*"))
    chosen = [x for c in concepts for x in ("-c", c)]
    done = dpid("explain", image, prompt, *chosen, *options, cwd=bad)
    assert done.returncode == 2, done.stderr
    assert message in done.stderr
    assert done.stderr.startswith("dpid: ")
    assert done.stderr.count("\n") == 1
    assert done.stdout == ""
    assert sorted(bad.rglob("*")) == before, "nothing may be left half-written"


def test_home(dpid, bad, tmp_path):
    home = {"HOME": str(tmp_path), "USERPROFILE": str(tmp_path)}
    shutil.copy(bad / "noisy.png", tmp_path)
    asked = ("explain", "~/noisy.png", PROMPT, "-c", "cow", "-c", "giraffe", "--samples", "8", "--out=~/made")
    done = dpid(*asked, "--model", "~/none", cwd=bad, **home)
    assert "~/none is not a folder" in done.stderr
    done = dpid(*asked, cwd=bad, **home)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "made/result.json").is_file()


@pytest.mark.parametrize(("option", "expected"), [((), True), (("--no-check",), False)])
def test_the_comparison_with_the_pipeline_can_be_left_out(command, bad, monkeypatch, option, expected):
    asked = {}

    def from_pretrained(model, **given):
        asked.update(given)
        raise ValueError("model: none here")

    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", from_pretrained)
    code, _, errors = command("explain", bad / "noisy.png", PROMPT, "-c", "cow", "-c", "giraffe", *option)
    assert (code, asked["check"]) == (2, expected), errors


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
        (None, ("--reference", "x" * 80), "prompt: 82 tokens, but text_encoder takes 77"),
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
