"""Studies of the user's pictures: what is measured, which rows are left out, and what is said of these."""

from dataclasses import replace

import numpy as np
import pytest

from dpid.studies import STUDIES, Workbench, run, world
from dpid.studies.data import CaptionPair, Scene
from dpid.studies.workbench import _without_marks

pytestmark = pytest.mark.usefixtures("fewer")
# diffusers' scheduler, with NumPy 2.
generates = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.mark.parametrize("name", ["bias", "synonyms", "homonyms", "features", "complex-prompts", "localisation"])
def test_studies_take_the_users_pictures(bench, own, name):
    study = run(name, bench(scenes=own, pictures=None))
    rows = next(iter(study.tables.values()))
    assert len({row["picture"] for row in rows}) == 2
    assert all(row.get("log_ratio_true") is None for row in rows)


def test_the_mark_of_a_second_occurrence_is_no_text(bench, own):
    asked = bench(scenes=[replace(own[0], prompt="a cow and a cow", concepts=("cow", "cow#2"))])
    study = run("synonyms", asked)
    assert {row["b"] for row in study.tables["pairs"]} == {"cow#2"}
    texts = {(): "", ("cow",): "a cow", ("cow#2",): "a cow#2", ("cow", "cow#2"): "a cow and a cow#2"}
    assert _without_marks(texts, "a cow and a cow") == {
        (): "", ("cow",): "a cow", ("cow#2",): "a cow", ("cow", "cow#2"): "a cow and a cow",
    }  # fmt: skip
    csharp = {("C#",): "a C#", ("C##2",): "a C##2"}
    assert _without_marks(csharp, "a C# and a C#") == {("C#",): "a C#", ("C##2",): "a C#"}
    sign = {("route #66",): "a sign of route #66"}
    assert _without_marks(sign, "a sign of route #66") == sign


def test_other_masks_or_pixels_are_measured_again(own, tmp_path):
    def said(**changes):
        return Workbench("emoji", scenes=[replace(own[0], **changes)]).arguments()

    assert said() == said()
    assert said() != said(masks=lambda: {c: ~m for c, m in own[0].masks().items()})
    assert said() != said(masks=lambda: {f"{c}s": m for c, m in own[0].masks().items()})
    copied = tmp_path / own[0].image.name
    copied.write_bytes(own[0].image.read_bytes())
    before = said(image=copied)
    copied.write_bytes(own[1].image.read_bytes())
    assert said(image=copied) != before


def test_localisation_of_a_lone_concept_is_against_the_rest_of_the_prompt(bench, own):
    lone = Scene(own[0].image, own[0].prompt, ("giraffe",), lambda: {"giraffe": own[0].masks()["giraffe"]})
    rows = run("localisation", bench(scenes=[lone])).tables["localisation"]
    assert {row["concept"] for row in rows} == {"giraffe"}
    assert {row["map"] for row in rows} == {"mi", "cmi", "unique", "redundant", "daam", "ovam"}


def test_localisation_looks_at_every_concept_with_a_mask(bench, own):
    only = {"giraffe": own[0].masks()["giraffe"]}
    for masks, seen in ((own[0].masks(), {"cow", "giraffe"}), (only, {"giraffe"})):
        scene = Scene(own[0].image, own[0].prompt, ("cow", "giraffe"), lambda masks=masks: masks)
        rows = run("localisation", bench(scenes=[scene])).tables["localisation"]
        assert {row["concept"] for row in rows} == seen


def test_a_thing_too_small_for_a_latent_pixel_has_no_overlap(bench, own):
    small = np.zeros_like(own[0].masks()["giraffe"])
    small[0, 0] = True
    scene = replace(own[0], masks=lambda: own[0].masks() | {"giraffe": small})
    study = run("localisation", bench(scenes=[scene]))
    rows = study.tables["localisation"]
    for value in ("iou", "auc"):
        assert all((row[value] is None) == (row["concept"] == "giraffe") for row in rows)
    (own_iou,) = (r["iou"] for r in rows if (r["map"], r["estimator"], r["concept"]) == ("cmi", "shrinkage", "cow"))
    assert study.summary["mIoU, cmi, shrinkage"]["value"] == pytest.approx(own_iou)
    nothing = run("localisation", bench(scenes=[replace(own[0], masks=lambda: {"giraffe": small})]))
    assert nothing.summary["mIoU above DAAM's by, cmi, shrinkage"]["value"] is None


def test_bias_of_the_users_pictures_is_given_a_person(bench, tmp_path, monkeypatch):
    world.picture(("doctor/woman/dark",), "0").save(tmp_path / "0.png")
    asked = []
    real = Workbench.explain
    monkeypatch.setattr(Workbench, "explain", lambda self, case, *rest: asked.append(case) or real(self, case, *rest))
    scene = Scene(tmp_path / "0.png", "a female doctor", ("female", "doctor"))
    study = run("bias", bench(scenes=[scene]))
    assert asked[0].conditions[()] == "person"
    assert not any("rings" in caption for caption in study.figures)  # of the truth, which is not known here
    lines = [line for figure in study.figures.values() for ax in figure.axes for line in ax.lines]
    assert "o" not in {line.get_marker() for line in lines}


OWN = [n for n in STUDIES if n not in ("co-hyponyms", "localisation", "retrieval")]


@generates
@pytest.mark.parametrize("name", OWN)
def test_a_row_that_a_study_cannot_use_is_left_out(bench, own, tmp_path, name):
    """Whatever is wrong with a row is named, and the others are as if it were not there."""
    (tmp_path / "broken.png").write_bytes(b"no picture")
    bad = [
        Scene(own[0].image, "a cow and a unicorn", ("cow", "unicorn"), row=2),
        Scene(tmp_path / "broken.png", own[0].prompt, own[0].concepts, row=3),
        Scene(own[0].image, "cow " * 20 + "dog", ("cow " * 20, "dog"), row=4),
    ]
    if name == "intervention":  # which makes its pictures anew
        del bad[1]
    asked = bench(scenes=[*bad, replace(own[1], row=9)], pictures=None)
    rows = next(iter(run(name, asked).tables.values()))
    assert len({row["picture"] for row in rows}) == 1
    assert [p.row for p in asked.problems] == [s.row for s in bad]
    assert all(row["prompt"] == own[1].prompt for row in rows if "prompt" in row)
    nothing = bench(scenes=bad, pictures=None)
    with pytest.raises(ValueError, match="data: no row can be used by this study"):
        run(name, nothing)


def test_localisation_and_retrieval_leave_out_rows(bench, own):
    bad = Scene(own[0].image, "a cow and a unicorn", ("cow", "unicorn"), lambda: {"cow": own[0].masks()["cow"]}, row=5)
    asked = bench(scenes=[bad, own[1]], pictures=None)
    assert {r["concept"] for r in run("localisation", asked).tables["localisation"]} == {"dog", "pizza"}
    assert [p.row for p in asked.problems] == [5]
    good = CaptionPair(own[0].image, "a cow and a giraffe", "a bus and a giraffe")
    asked = bench(pairs=[replace(good, false="a unicorn", row=7), good], pictures=None)
    assert {r["false_caption"] for r in run("retrieval", asked).tables["retrieval"]} == {"a bus and a giraffe"}
    assert [str(p)[:33] for p in asked.problems] == ["row 7, column prompt: this model d"[:33]]
    assert run("retrieval", asked)
    assert len(asked.problems) == 1  # and not twice


def test_retrieval_takes_the_users_pairs(bench, own):
    pairs = [CaptionPair(own[0].image, "a cow and a giraffe", "a bus and a giraffe")]
    (row, _) = run("retrieval", bench(pairs=pairs, samples=16)).tables["retrieval"]
    assert row["true_caption"] == "a cow and a giraffe"
    assert row["right"]
