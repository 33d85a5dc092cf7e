"""A picture is made and explained."""

import json

from PIL import Image
from safetensors import safe_open


def test_demo_makes_a_picture_and_explains_it(dpid, tmp_path):
    done = dpid("demo", "--out", "made", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert {p.name for p in (tmp_path / "made").iterdir()} == {
        "report.html", "picture.png", "maps.png", "profile.png", "result.json", "result.safetensors",
        "words.json", "words.png", "words.safetensors",
    }  # fmt: skip
    with Image.open(tmp_path / "made/picture.png") as picture:
        assert picture.size == (64, 64)
    words = json.loads((tmp_path / "made/words.json").read_text())["words"]
    assert {word: found["verdict"] for word, found in words.items()} == {"cow": "used", "giraffe": "used"}
    assert "unique: giraffe" in done.stdout
    assert "iʳ" in done.stdout
    assert done.stdout.endswith("\nA page of all this: made/report.html\n")
    assert "iˢ" in done.stdout
    assert done.stderr == ""
    with safe_open(tmp_path / "made/result.safetensors", "pt") as f:
        assert {"maps/redundancy", "maps/unique/cow", "maps/stderr/synergy"} <= set(f.keys())
