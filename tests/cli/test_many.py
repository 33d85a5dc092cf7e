"""Several pictures on the command line: a folder each, their ranks, and those that cannot be read."""

import errno
import json
import os

import pytest

from dpid.denoisers import NetworkDenoiser

PROMPT = "a cow and a giraffe"


@pytest.mark.parametrize(("concepts", "file"), [(("cow", "giraffe"), "result.json"), ((), "words.json")])
@pytest.mark.parametrize("broken", ["truncated.png", "good.png"])
def test_the_others_are_explained_and_the_broken_one_is_named(
    command, bad, tmp_path, monkeypatch, concepts, file, broken
):
    """One that cannot be read, and one, all white, for which the memory does not suffice."""
    encode, given = NetworkDenoiser.encode_image, [word for concept in concepts for word in ("-c", concept)]

    def encode_image(self, image):
        if image.min() == 1:
            raise RuntimeError("out of memory at one evaluation")
        return encode(self, image)

    monkeypatch.setattr(NetworkDenoiser, "encode_image", encode_image)
    files = [bad / name for name in ("noisy.png", broken, "noisy.png")]
    code, out, err = command("explain", *files, PROMPT, *given, "--samples", 8, "--out", "all")
    assert code == 1
    assert err.strip().count("\n") == 0
    assert broken in err
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["noisy", "noisy (2)"]
    for name in ("noisy", "noisy (2)"):
        assert json.loads((tmp_path / "all" / name / file).read_text())["prompt"] == PROMPT
    assert "noisy (2)" in out
    assert not concepts or "2 pictures; a folder each: all/" in out


def test_one_picture_that_is_left_is_named(command, bad):
    pictures = bad / "noisy.png", bad / "truncated.png"
    code, out, _ = command("explain", *pictures, PROMPT, "-c", "cow", "-c", "giraffe", "--samples", 8, "--out", "all")
    assert code == 1
    assert out.endswith("1 picture: all/noisy/\n")


def test_nan_in_a_later_round_is_a_note_and_exit_code_1(command, bad, broken_later, monkeypatch):
    monkeypatch.setattr("dpid.cli.many.draw", lambda _: broken_later.clear())  # the next picture begins well, too
    code, out, err = command("explain", bad / "good.png", bad / "noisy.png", PROMPT, "-c", "cow", "-c", "giraffe",
                             "--tolerance", 1e-6, "--samples", 64)  # fmt: skip
    assert (code, err) == (1, "")
    assert "NaN or infinity" in " ".join(out.split())
    assert "2 pictures; a folder each" in out


@pytest.mark.parametrize("concepts", [("cow", "giraffe"), ()])
def test_every_picture_may_have_a_prompt_of_its_own(command, bad, tmp_path, concepts):
    (tmp_path / "prompts.txt").write_text("a cow and a giraffe\r\na giraffe and a cow\n", encoding="utf-8-sig")
    given = [word for concept in concepts for word in ("-c", concept)]
    code, out, err = command("explain", bad / "good.png", bad / "noisy.png", "--prompts", "prompts.txt", *given,
                             "--samples", 8, "--out", "all")  # fmt: skip
    assert (code, err) == (0, "")
    name = "result.json" if concepts else "words.json"
    for folder, prompt in (("good", "a cow and a giraffe"), ("noisy", "a giraffe and a cow")):
        assert json.loads((tmp_path / "all" / folder / name).read_text())["prompt"] == prompt
        assert prompt in out


@pytest.mark.parametrize(
    ("text", "pictures", "message"),
    [
        ("a cow and a giraffe\n" * 3, 2, "prompts: found 3 lines in prompts.txt for 2 pictures, expected one each"),
        ("a cow and a giraffe\n\na giraffe and a cow", 2, "prompts: found 3 lines in prompts.txt for 2 pictures"),
        ("", 1, "prompt: found an empty text"),
        ("a cow and a giraffe\na cow\n", 2, "prompts: line 2: concepts: 'giraffe' is not in the prompt"),
        ("a cow\na cow and a giraffe\na cow\n", 3, "prompts: line 1: concepts: 'giraffe' is not in the prompt"),
        (b"\xff\xfe", 1, "prompts: prompts.txt cannot be read as text"),
        (None, 1, "prompts: prompts.txt cannot be read as text"),
        ("a cow", 0, "prompts: found 1 lines in prompts.txt for 0 pictures"),
    ],
)
def test_prompts_that_do_not_fit_their_pictures_are_refused(command, bad, tmp_path, text, pictures, message):
    if text is not None:
        (tmp_path / "prompts.txt").write_bytes(text if isinstance(text, bytes) else text.encode())
    code, _, err = command("explain", *[bad / "good.png"] * pictures, "--prompts", "prompts.txt", "-c", "cow", "-c",
                           "giraffe")  # fmt: skip
    assert code == 2
    assert err.startswith("dpid: ")
    assert message in err


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (("explain", "good.png", "a", "cow", "and", "a", "giraffe"), "'a', 'cow', 'and', 'a'; the prompt comes last"),
        (("explain", "good.png", "noisy.png", "a", "cow"), "'a'; the prompt comes last, in quotes"),
        (("rank", "a", "cow", "good.png", "noisy.png"), "'cow'; the prompt comes first, in quotes"),
    ],
)
def test_a_prompt_without_quotes_is_refused_before_anything_is_computed(command, bad, monkeypatch, line, words):
    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", lambda *_, **__: pytest.fail("loaded"))
    code, out, err = command(*(bad / word if word.endswith(".png") else word for word in line))
    assert (code, out) == (2, "")
    assert err.startswith(f"dpid: images: there is no file {words}")


def test_arguments_of_rank_in_the_order_of_explain_are_refused(command, bad):
    code, out, err = command("rank", bad / "good.png", "a cow")
    assert (code, out) == (2, "")
    assert err.startswith(
        f"dpid: prompt: found the file '{bad / 'good.png'}', expected a text; the prompt comes before"
    )


@pytest.mark.parametrize("missing", ["x.tif", "x.avif", "folder/x"])
def test_a_file_that_is_missing_is_no_word_of_a_prompt(command, bad, missing):
    """It is named, and the others are explained."""
    code, out, err = command("explain", bad / "good.png", missing, PROMPT, "-c", "cow", "-c", "giraffe", "--samples", 8)
    assert code == 1
    assert "1 picture" in out
    assert err == f"dpid: warning: image: {missing} does not exist\n"


def test_a_prompt_beside_prompts_is_told_to_be_left_out(command, bad, tmp_path):
    (tmp_path / "prompts.txt").write_text("a cow and a giraffe\n")
    code, out, err = command("explain", bad / "good.png", "a cow", "--prompts", "prompts.txt")
    assert (code, out) == (2, "")
    assert err.startswith("dpid: prompt: found 'a cow' beside --prompts")


@pytest.mark.parametrize("given", [(), ("good.png",)])
def test_pictures_without_a_prompt_are_refused(command, given):
    code, _, err = command("explain", *given)
    assert code == 2
    assert "expected pictures and a prompt, or --prompts" in err


def test_pairs_are_of_one_picture(command, bad):
    code, _, err = command("explain", bad / "good.png", bad / "noisy.png", PROMPT, "-c", "cow", "-c", "giraffe",
                           "--pairs")  # fmt: skip
    assert code == 2
    assert "pairs: found 2 pictures, expected one" in err


@pytest.mark.parametrize("concepts", [("cow", "unicorn"), ()])
def test_what_is_wrong_with_the_question_is_said_once(command, bad, tmp_path, concepts):
    """The embedded model has no unicorn: no picture could be explained."""
    given = [word for concept in concepts for word in ("-c", concept)]
    code, out, err = command("explain", bad / "good.png", bad / "noisy.png", "a cow and a unicorn", *given,
                             "--samples", 8, "--out", "all")  # fmt: skip
    assert (code, out) == (2, "")
    assert err.startswith("dpid: ")
    assert err.count("unicorn") == err.count("\n") == 1
    assert not (tmp_path / "all").exists()


@pytest.mark.parametrize("concepts", [("cow", "giraffe"), ()])
def test_a_folder_that_cannot_be_written_is_found_before_anything_is_computed(
    command, bad, tmp_path, monkeypatch, concepts
):
    given = [word for concept in concepts for word in ("-c", concept)]
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "noisy").write_text("a file")
    for name in ("explain_many", "stream_words"):
        monkeypatch.setattr(f"dpid.Explainer.{name}", lambda *a, **b: pytest.fail("computed"))
    code, _, err = command("explain", bad / "good.png", bad / "noisy.png", PROMPT, *given, "--out", "all")
    assert code == 2
    assert err.startswith("dpid: out: all/noisy cannot be written")
    assert [path.name for path in (tmp_path / "all").iterdir()] == ["noisy"]


@pytest.mark.parametrize(("concepts", "file"), [(("cow", "giraffe"), "result.json"), ((), "words.json")])
def test_a_full_disk_ends_the_run_and_keeps_what_is_written(command, bad, tmp_path, monkeypatch, concepts, file):
    replace, given = os.replace, [word for concept in concepts for word in ("-c", concept)]

    def full(source, target):
        if "noisy" in str(target):
            raise OSError(errno.ENOSPC, "No space left on device", str(target))
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    files = [bad / name for name in ("good.png", "noisy.png")]
    code, _, err = command("explain", *files, PROMPT, *given, "--samples", 8, "--out", "all")
    assert code == 2
    assert "No space left on device" in err
    assert err.strip().count("\n") == 0
    assert json.loads((tmp_path / "all/good" / file).read_text())["prompt"] == PROMPT
    assert not any("partial" in path.name for path in (tmp_path / "all").rglob("*"))


def test_pictures_of_one_name_are_ranked_by_their_folders(command, two_things, bad, tmp_path):
    """And what was found is kept of a file whose name is no text."""
    names = ["one/0.png", "two/0.png", os.fsdecode(b"caf\xe9.png")]
    for name, source in zip(names, (two_things[0], bad / "noisy.png", bad / "noisy.png"), strict=True):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(source.read_bytes())
    code, out, err = command("rank", two_things[1], *names, "--samples", 8, "--out", "best")
    assert (code, err) == (0, "")
    assert "one/0.png" in out
    assert "two/0.png" in out
    assert json.loads((tmp_path / "best/ranking.json").read_text())["files"][:2] == names[:2]


def test_rank(command, two_things, bad, tmp_path):
    path, prompt, _ = two_things
    files = path.with_name("001.png"), path, bad / "text.png"
    code, out, err = command("rank", prompt, *files, "--out", "best")
    assert code == 1
    assert "text.png" in err
    assert f"{path.name} is above 001.png" in " ".join(out.split())
    assert out.endswith("\nwritten: best/ranking.json\n")
    found = json.loads((tmp_path / "best/ranking.json").read_text())
    assert [row["picture"] for row in found["ranked"]] == [1, 0]
    assert found["files"][1] == str(path)


def test_a_terminal_says_what_a_ranking_does(command, bad, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    code, out, err = command("rank", PROMPT, bad / "noisy.png", bad / "good.png", "--samples", 8)
    assert code == 0
    assert "loading the model" in err
    assert "evaluations of the network" in err
    assert "32/32" in err  # of two texts by 8 samples, of two pictures
    assert "loading" not in out


def test_nothing_is_ranked_by_an_unknown_word(command, bad):
    code, out, err = command("rank", "a unicorn", bad / "good.png", bad / "noisy.png")
    assert code == 2
    assert err.startswith("dpid: prompt: this model does not know 'unicorn'")
    assert out == ""
