"""Every study, tiny, on the embedded model; resuming; the user's pictures; the command."""

import copy
import csv
import json
import sys
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch

from dpid import cli
from dpid.denoisers.loading import load_pipeline
from dpid.estimation.estimators import ESTIMATORS
from dpid.studies import STUDIES, Workbench, run, world, write
from dpid.studies.bench import KEPT, Kept, _said
from dpid.studies.data import CaptionPair, Scene
from dpid.studies.localisation import _maps
from dpid.studies.retrieval import caption_information
from dpid.zoo.emoji import scenes

COLUMNS = {
    "bias": {
        "occupation", "attribute", "picture", "co_information", "co_information_stderr", "log_ratio_true",
        "redundancy", "redundancy_normalised", "estimator",
    },
    "pairs": {"a", "b", "relation", "picture", "redundancy_share", "redundancy_share_stderr", "synergy",
              "synergy_stderr"},
    "homonyms": {"word", "modifier", "role", "picture", "synergy", "synergy_stderr"},
    "features": {"concept", "against", "picture", "unique", "unique_stderr", "inside"},
    "complex": {"a", "b", "kind", "picture", "redundancy", "redundancy_stderr", "synergy", "rank_redundancy"},
    "intervention": {"picture", "word", "change_pixel", "change_latent", "unique", "cmi", "mi", "redundancy", "daam",
                     "pixel_unique", "pixel_daam"},
    "localisation": {"picture", "concept", "map", "estimator", "evaluations", "auc", "auc_own_other", "iou"},
    "retrieval": {"picture", "true_caption", "false_caption", "estimator", "gap", "gap_stderr", "right"},
}  # fmt: skip


# What each study finds where the truth is known: {study: (options, {row of its summary: more than this})}. The studies'
# own targets need hundreds of pictures; these bounds are what a map or a number without the information would reach.
FINDINGS = {
    "homonyms": ({}, {"synergy of the right modifier above a neutral word's, rao-blackwell": 0.99}),  # a share: all
    "features": (  # the other half would lie on the other thing if the maps did not tell them apart
        {"samples": 16, "pictures": 3},
        {"share of the unique information on the concept's own thing, rao-blackwell": 0.5},
    ),
    "intervention": ({}, {"a synonym's deletion changes the latents less than a unique word's": 0.99}),
    "localisation": (  # chance is an AUC of 0.5; 0.9 is eight standard errors under what three pictures give
        {"samples": 16, "pictures": 3},
        {"AUC, all pixels, cmi, rao-blackwell": 0.9, "mIoU above DAAM's by, unique, rao-blackwell": 0},
    ),
    "retrieval": ({"samples": 16, "pictures": 3}, {"accuracy, standard": 0.99}),
    "synonyms": ({}, {}),  # test_pairs_tell_synonyms_from_things_apart
}

# diffusers' scheduler, with NumPy 2.
generates = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


@pytest.fixture(autouse=True)
def fewer(monkeypatch):
    """A homonym and a pair instead of all."""
    monkeypatch.setattr(scenes, "HOMONYMS", {"mouse": scenes.HOMONYMS["mouse"]})
    monkeypatch.setattr("dpid.studies.features._PAIRS", (("zebra", "horse"),))


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("emoji", "cpu")


@pytest.fixture
def bench(emoji, pipe):
    def make(**options):
        return Workbench("emoji", explainer=emoji, pipe=pipe, **{"samples": 8, "pictures": 1, **options})

    return make


@generates
@pytest.mark.parametrize("name", [n for n in STUDIES if n not in ("bias", "co-hyponyms", "complex-prompts")])
def test_a_study_has_its_columns_and_figures_and_finds_what_is_true(bench, name):
    options, findings = FINDINGS[name]
    study = run(name, bench(**options))
    for row, bound in findings.items():
        assert study.summary[row]["value"] > bound, row
    (table,) = study.tables
    rows = study.tables[table]
    assert rows
    assert all(COLUMNS[table] <= row.keys() for row in rows)
    assert study.figures
    for value in study.summary.values():
        assert {"value", "stderr", "interval", "n", "asked"} == value.keys()
    json.dumps([rows, study.summary], allow_nan=False)  # raises for what is not finite


def test_bias(bench, monkeypatch):
    monkeypatch.setattr("dpid.studies.bias.OCCUPATIONS", ("doctor", "pilot"))
    monkeypatch.setattr(world, "ATTRIBUTES", {"female": "woman"})
    study = run("bias", bench())
    rows = study.tables["bias"]
    assert len(rows) == 2 * 2 * len(ESTIMATORS)  # occupations, ranges
    assert all(COLUMNS["bias"] <= row.keys() for row in rows)
    for name in ESTIMATORS:
        scaled = [r["redundancy_normalised"] for r in rows if r["estimator"] == name and r["logsnr_to"] == -1.0]
        assert (min(scaled), max(scaled)) == (0, 1)
    whole = [r for r in rows if r["logsnr_to"] > 0 and r["estimator"] == "standard"]
    for row in whole:  # r - s = i1 + i2 - i12 for any redundancy: the co-information; corrections of the minimum cancel
        assert row["redundancy"] - row["synergy"] == pytest.approx(row["co_information"], abs=1e-3)


def test_pairs_tell_synonyms_from_things_apart(bench):
    """Two names of one thing share what they tell; two things do not."""
    rows = run("synonyms", bench(samples=16, pictures=3)).tables["pairs"]
    shares = {}
    for row in rows:
        # Empty where the lesser of two words tells nothing about the picture.
        if row["estimator"] == "rao-blackwell" and row["redundancy_share"] is not None:
            shares.setdefault(row["relation"], []).append(row["redundancy_share"])
    assert len(shares["synonym"]) == 3
    assert np.median(shares["synonym"]) > 0.9
    assert np.median(shares["unrelated"]) < 0.5


def test_ranks_of_complex_prompts(bench):
    study = run("complex-prompts", bench())
    rows = study.tables["complex"]
    assert all(COLUMNS["complex"] <= row.keys() for row in rows)
    assert len(study.figures) == 2
    same = [r for r in rows if r["kind"] == "CPID" and r["estimator"] == "standard"]
    assert len(same) == 6  # pairs of four words
    ordered = sorted(same, key=lambda r: r["rank_synergy"])
    assert [r["rank_synergy"] for r in ordered] == [1, 2, 3, 4, 5, 6]
    assert all(a["synergy"] >= b["synergy"] for a, b in pairwise(ordered))


def test_captions_are_scored_as_the_explainer_scores_words(emoji):
    image = world.picture(("cow", "giraffe"), "0")
    texts = {(): "", ("a",): "a cow and a giraffe", ("b",): "a cow and a zebra", ("a", "b"): "a zebra"}
    result = emoji.explain(image, conditions=texts, samples=8, seed=3)
    found = caption_information(emoji, image, [texts[s] for s in (("a",), ("b",))], samples=8, seed=3)
    for name in ("standard", "orthogonal"):
        expected = result.replicates[name][:, :2].double().sum((-2, -1))
        # The same sums in another order of float32 additions, of some thousand nats.
        torch.testing.assert_close(found[name], expected, atol=2e-2, rtol=1e-4)


def test_kept_rows_are_not_measured_again(tmp_path):
    calls = []

    def measure(value):
        calls.append(value)
        return [{"value": value}]

    path = tmp_path / "rows.jsonl"
    kept = Kept(path, "now")
    assert kept.rows("a", lambda: measure(1)) == [{"value": 1}]
    assert kept.rows("b", lambda: measure(2)) == [{"value": 2}]
    path.write_text(path.read_text() + '{"key": "c", "ro')  # killed while it wrote
    again = Kept(path, "now")
    assert again.rows("a", lambda: measure(3)) == [{"value": 1}]
    assert again.rows("c", lambda: measure(4)) == [{"value": 4}]
    assert Kept(path, "now").rows("c", lambda: measure(5)) == [{"value": 4}]
    assert Kept(path, "otherwise").rows("a", lambda: measure(6)) == [{"value": 6}]
    assert kept.rows("d", lambda: measure(7)) == [{"value": 7}]  # beside the others
    last = Kept(path, "now")
    assert [last.rows(key, lambda: measure(8))[0]["value"] for key in "abcd"] == [1, 2, 4, 7]
    assert calls == [1, 2, 4, 6, 7]
    with pytest.raises(ValueError, match="JSON"):
        again.rows("e", lambda: [{"value": float("nan")}])


def test_several_runs_into_one_folder_do_not_mix(bench, tmp_path):
    """Of two runs with other arguments, begun at once, each goes on with its own rows."""
    first, second = bench(pictures=3), bench(pictures=2)
    paths = [b.keep(tmp_path) for b in (first, second)]
    assert paths[0] != paths[1]
    assert bench(pictures=3).keep(tmp_path) == paths[0]
    first._kept.rows("a", lambda: [{"value": 1}])
    second._kept.rows("a", lambda: [{"value": 2}])
    for pictures, value in ((3, 1), (2, 2)):
        again = bench(pictures=pictures)
        again.keep(tmp_path)
        assert again._kept.rows("a", list) == [{"value": value}]


def test_a_stopped_study_goes_on_and_a_finished_one_stays(bench, tmp_path, monkeypatch):
    seen = []

    class Stop(Exception):
        pass

    def stop_after(count):
        def tell(done, planned):
            seen.append(done)
            if done == count:
                raise Stop

        return tell

    with pytest.raises(Stop):
        write("retrieval", bench(pictures=4, progress=stop_after(2)), tmp_path)
    (kept,) = (tmp_path / "retrieval").glob(f"*.{KEPT}")
    assert len(kept.read_text().splitlines()) == 2  # pictures
    explained = []
    real = caption_information
    monkeypatch.setattr(
        "dpid.studies.retrieval.caption_information", lambda *a, **k: explained.append(1) or real(*a, **k)
    )
    assert write("retrieval", bench(pictures=4), tmp_path)
    assert len(explained) == 2
    files = {p.name for p in (tmp_path / "retrieval").iterdir()}
    assert files == {"retrieval.csv", "retrieval.parquet", "figure-1.png", "summary.json"}
    (tmp_path / "report.html").unlink()
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "summary.json").write_text("{}")
    assert not write("retrieval", bench(pictures=4), tmp_path)
    assert (tmp_path / "report.html").is_file()
    assert write("retrieval", bench(pictures=2), tmp_path)  # other arguments
    with (tmp_path / "retrieval" / "retrieval.csv").open() as f:
        assert len({row["picture"] for row in csv.DictReader(f)}) == 2
    straight = run("retrieval", bench(pictures=4)).tables
    assert write("retrieval", bench(pictures=4), tmp_path / "new")
    with (tmp_path / "new" / "retrieval" / "retrieval.csv").open() as f:
        assert [float(r["gap"]) for r in csv.DictReader(f)] == [r["gap"] for r in straight["retrieval"]]


def test_rows_of_other_weights_are_measured_again(tmp_path):
    (tmp_path / "unet").mkdir()
    said = []
    for weights in (b"one", b"two", b"one"):
        (tmp_path / "unet" / "model.safetensors").write_bytes(weights)
        said.append(Workbench(str(tmp_path)).arguments())
    assert said[0] == said[2] != said[1]
    assert "model a/hub-id" in Workbench("a/hub-id").arguments()


@pytest.fixture(scope="module")
def own(tmp_path_factory):
    """Two pictures of a user, with masks."""
    folder = tmp_path_factory.mktemp("own")
    made = []
    for i, pair in enumerate((("cow", "giraffe"), ("dog", "pizza"))):
        world.picture(pair, str(i)).save(folder / f"{i}.png")
        masks = dict(zip(pair, world.draw(pair, str(i))[1], strict=True))
        made.append(Scene(folder / f"{i}.png", "a {} and a {}".format(*pair), pair, lambda masks=masks: masks))
    return made


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
    assert _said({(): "", ("cow",): "a cow", ("cow#2",): "a cow#2", ("cow", "cow#2"): "a cow and a cow#2"}) == {
        (): "", ("cow",): "a cow", ("cow#2",): "a cow", ("cow", "cow#2"): "a cow and a cow",
    }  # fmt: skip
    assert _said({("C#",): "a C#", ("C##2",): "a C##2"}) == {("C#",): "a C#", ("C##2",): "a C#"}


def test_other_masks_or_pixels_are_measured_again(own, tmp_path):
    def said(**changes):
        return Workbench("emoji", scenes=[replace(own[0], **changes)]).arguments()

    assert said() == said()
    assert said() != said(masks=lambda: {c: ~m for c, m in own[0].masks().items()})
    copied = tmp_path / own[0].image.name
    copied.write_bytes(own[0].image.read_bytes())
    before = said(image=copied)
    copied.write_bytes(own[1].image.read_bytes())
    assert said(image=copied) != before


def test_cmi_of_orthogonal_is_an_integral_of_squares(emoji, own):
    result = emoji.explain(own[0].image, own[0].prompt, own[0].concepts, samples=8)
    for concept in own[0].concepts:
        # g(F, other) of every pixel; what is left of a difference of two such sums in fp32.
        assert float(_maps(result, concept, "orthogonal")["cmi"].min()) > -1e-5


def test_localisation_of_a_lone_concept_is_against_the_rest_of_the_prompt(bench, own):
    lone = Scene(own[0].image, own[0].prompt, ("giraffe",), lambda: {"giraffe": own[0].masks()["giraffe"]})
    rows = run("localisation", bench(scenes=[lone])).tables["localisation"]
    assert {row["concept"] for row in rows} == {"giraffe"}
    assert {row["map"] for row in rows} == {"mi", "cmi", "unique", "redundant", "daam"}


def test_localisation_looks_at_every_concept_with_a_mask(bench, own):
    only = {"giraffe": own[0].masks()["giraffe"]}
    for masks, seen in ((own[0].masks(), {"cow", "giraffe"}), (only, {"giraffe"})):
        scene = Scene(own[0].image, own[0].prompt, ("cow", "giraffe"), lambda masks=masks: masks)
        rows = run("localisation", bench(scenes=[scene])).tables["localisation"]
        assert {row["concept"] for row in rows} == seen


def test_bias_of_the_users_pictures_is_given_a_person(bench, tmp_path, monkeypatch):
    world.picture(("doctor/woman/dark",), "0").save(tmp_path / "0.png")
    asked = []
    real = Workbench.explain
    monkeypatch.setattr(Workbench, "explain", lambda self, case, *rest: asked.append(case) or real(self, case, *rest))
    scene = Scene(tmp_path / "0.png", "a female doctor", ("female", "doctor"))
    run("bias", bench(scenes=[scene]))
    assert asked[0].conditions[()] == "person"


def test_retrieval_is_computed_in_float32_whatever_the_explainer_is_in(emoji, pipe):
    coarse = copy.copy(emoji)
    coarse.denoiser = emoji.denoiser.at("bfloat16")
    benches = (Workbench("emoji", explainer=e, pipe=pipe, samples=8, pictures=1) for e in (coarse, emoji))
    first, second = (run("retrieval", bench).tables for bench in benches)
    assert first == second
    assert coarse.denoiser.precision == "bfloat16"


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


def test_what_a_study_made_itself_is_not_left_out(bench, monkeypatch):
    def fail(*_, **__):
        raise ValueError("prompt: is wrong")

    monkeypatch.setattr("dpid.studies.retrieval.caption_information", fail)
    with pytest.raises(ValueError, match="prompt: is wrong"):
        run("retrieval", bench())


def test_whole_numbers_of_others(bench):
    made = bench(samples=np.int64(8), pictures=np.int32(2), seed=np.uint8(3))
    assert [type(v) for v in (made.samples, made.pictures, made.seed)] == [int] * 3
    for pictures in (True, 2.0, "2", 0):
        with pytest.raises(ValueError, match="pictures: found"):
            bench(pictures=pictures)


def test_retrieval_takes_the_users_pairs(bench, own):
    pairs = [CaptionPair(own[0].image, "a cow and a giraffe", "a bus and a giraffe")]
    (row, _) = run("retrieval", bench(pairs=pairs, samples=16)).tables["retrieval"]
    assert row["true_caption"] == "a cow and a giraffe"
    assert row["right"]


def test_what_has_nothing_to_measure_is_refused(bench, own, tmp_path):
    with pytest.raises(ValueError, match="masks for localisation"):
        run("localisation", bench(scenes=[Scene(own[0].image, own[0].prompt, ("cow",))]))
    with pytest.raises(ValueError, match="name: found 'biases', allowed are bias, homonyms"):
        run("biases", bench())
    with pytest.raises(ValueError, match="localisation needs pictures with masks"):
        write("localisation", Workbench("./a/model", explainer=object()), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_noise_of_a_picture_depends_on_its_name_and_the_seed(bench):
    assert bench().seed_of("a") == bench().seed_of("a")
    assert len({bench(seed=s).seed_of(n) for s in (0, 1) for n in "ab"}) == 4


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``dpid study`` in a folder of its own: (exit code, output, errors)."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dpid", "study", *map(str, arguments)])
        return cli.run(), *capsys.readouterr()

    return call


def test_command(command, tmp_path):
    arguments = ("retrieval", "--pictures", 2, "--samples", 8, "--out", "made")
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "retrieval: written" in out
    assert (tmp_path / "made/report.html").is_file()
    assert "was there already" in command(*arguments)[1]


def test_command_names_bad_rows_and_goes_on(command, own, tmp_path):
    (tmp_path / "data.csv").write_text(
        f"image,true,false\n{own[0].image},a cow and a giraffe,a dog\nnone.png,a cow,a dog\n"
    )
    code, _, err = command("retrieval", "--data", "data.csv", "--samples", 8)
    assert code == 0, err
    assert "row 3, column image: none.png does not exist" in " ".join(err.split())


def test_command_names_rows_that_the_model_cannot_use(command, own, tmp_path):
    image = own[0].image
    rows = f"{image},a cow and a unicorn,cow;unicorn\n{image},a cow and a giraffe,cow;giraffe\n"
    (tmp_path / "data.csv").write_text("image,prompt,concepts\n" + rows)
    code, out, err = command("features", "--data", "data.csv", "--samples", 8)
    assert code == 0, err
    assert err.startswith("note: data.csv: row 2, column prompt: this model does not know 'unicorn'")
    assert err.count("\n") == 1
    assert "features: written" in out
    summary = json.loads((tmp_path / "report/features/summary.json").read_text())["summary"]
    (left_out,) = summary["left out"]
    assert left_out.startswith("row 2, column prompt: this model does not know 'unicorn'")
    assert "row 2, column prompt" in (tmp_path / "report/report.html").read_text()
    (tmp_path / "data.csv").write_text("image,prompt,concepts\n" + rows.splitlines()[0])
    code, out, err = command("features", "--data", "data.csv", "--samples", 8, "--out", "none")
    assert code == 2
    assert [line[:20] for line in err.splitlines()] == ["note: data.csv: row ", "dpid: data: no row c"]
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("biases",), "name: found 'biases'"),
        (("all", "--data", "bad.csv"), "data: found with all"),
        (("retrieval", "--data", "nowhere.csv"), "data: nowhere.csv is not a file"),
        (("retrieval", "--data", "bad.csv"), "has no row that can be used"),
        (("bias", "--pictures", "0"), "pictures: found 0"),
        (("bias", "--samples", "0"), "samples: found 0"),
        (("bias", "--model", "./nowhere"), "nowhere is not a folder"),
        (("localisation", "--model", "./nowhere"), "localisation needs pictures with masks"),
    ],
)
def test_command_refuses_in_a_line(command, tmp_path, arguments, message):
    (tmp_path / "bad.csv").write_text("image,true,false\nnone.png,a cow,a dog\n")
    code, out, err = command(*arguments, "--out", "bad")
    assert code == 2
    assert message in err
    assert err.splitlines()[-1].startswith("dpid: ")
    assert out == ""
    assert not (tmp_path / "bad").exists()
