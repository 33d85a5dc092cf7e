"""Several pictures on the command line: a folder each, their ranks, and those that cannot be read."""

import json

PROMPT = "a cow and a giraffe"


def test_the_others_are_explained_and_the_broken_one_is_named(command, bad, tmp_path):
    files = [bad / name for name in ("noisy.png", "truncated.png", "noisy.png")]
    code, out, err = command("explain", *files, PROMPT, "-c", "cow", "-c", "giraffe", "--samples", 8, "--out", "all")
    assert code == 1
    assert err.strip().count("\n") == 0
    assert "truncated.png" in err
    assert sorted(path.name for path in (tmp_path / "all").iterdir()) == ["noisy", "noisy (2)"]
    for name in ("noisy", "noisy (2)"):
        assert json.loads((tmp_path / "all" / name / "result.json").read_text())["unet_evaluations"] == 32
    assert "noisy (2)" in out
    assert "2 pictures; a folder each: all/" in out


def test_pairs_are_of_one_picture(command, bad):
    code, _, err = command("explain", bad / "good.png", bad / "noisy.png", PROMPT, "-c", "cow", "-c", "giraffe",
                           "--pairs")  # fmt: skip
    assert code == 2
    assert "pairs: found 2 pictures, expected one" in err


def test_rank(command, two_things, bad, tmp_path):
    path, prompt, _ = two_things
    files = path.with_name("001.png"), path, bad / "text.png"
    code, out, err = command("rank", prompt, *files, "--out", "best")
    assert code == 1
    assert "text.png" in err
    assert f"{path.name} is above 001.png" in " ".join(out.split())
    found = json.loads((tmp_path / "best/ranking.json").read_text())
    assert [row["picture"] for row in found["ranked"]] == [1, 0]
    assert found["files"][1] == str(path)


def test_nothing_is_ranked_by_an_unknown_word(command, bad):
    code, out, err = command("rank", "a unicorn", bad / "good.png", bad / "noisy.png")
    assert code == 2
    assert err.count("does not know 'unicorn'") == 1
    assert out == ""
