"""Folders and files that results are written to."""

from itertools import combinations

import pytest

from dpid.cli.outputs import folders


def test_a_picture_that_cannot_be_drawn_fails_nothing(command, bad, tmp_path):
    (tmp_path / "maps.png").mkdir()
    asked = (bad / "noisy.png", "a cow and a giraffe", "-c", "cow", "-c", "giraffe", "--samples", 8)
    code, out, errors = command("explain", *asked, "--out", tmp_path)
    assert code == 0
    assert errors.startswith(f"dpid: warning: {tmp_path}/maps.png could not be drawn: ")
    assert errors.count("\n") == 1
    assert f"written: {tmp_path}/profile.png, result.json, result.safetensors" in out
    assert {p.name for p in tmp_path.iterdir()} == {"result.json", "result.safetensors", "maps.png", "profile.png"}


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
    assert folders(list(combinations(concepts, 2))) == names


def test_long_concepts_make_names_that_a_file_system_takes(tmp_path):
    concepts = ("牛" * 200, "牛" * 201, "x" * 300, "x" * 301)
    names = folders(list(combinations(concepts, 2)))
    assert len({n.casefold() for n in names}) == 6
    for name in names:
        (tmp_path / name).mkdir()  # of at most 255 bytes
