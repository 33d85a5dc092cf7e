"""Every study on the embedded model with few pictures: columns, findings, resuming, what is refused."""

import copy
import csv
import json
import re
from itertools import pairwise

import numpy as np
import pytest
import torch

import dpid
from dpid.denoisers.loading import embedded_path, load_pipeline
from dpid.estimation.estimators import ESTIMATORS
from dpid.studies import STUDIES, Workbench, features, localisation, run, world, write
from dpid.studies.data import Scene
from dpid.studies.intervention import _predictors
from dpid.studies.localisation import _maps
from dpid.studies.retrieval import caption_information
from dpid.studies.study import pearson
from dpid.studies.workbench import KEPT, Case, Kept

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
        {
            "AUC, all pixels, cmi, rao-blackwell": 0.9,
            "mIoU above DAAM's by, unique, shrinkage": 0,
            "mIoU above OVAM's by, unique, shrinkage": 0,
        },
    ),
    "retrieval": ({"samples": 16, "pictures": 3}, {"accuracy, standard": 0.99}),
    "synonyms": ({}, {}),  # test_pairs_tell_synonyms_from_things_apart
}

pytestmark = pytest.mark.usefixtures("fewer")
# diffusers' scheduler, with NumPy 2.
generates = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


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
    assert re.fullmatch(r"[A-Z].*\d.*\.", study.finding)  # a sentence with a number
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
    assert "DiffusionPID ranks them" in study.finding
    (ringed,) = (figure for caption, figure in study.figures.items() if "rings the exact" in caption)
    assert "o" in {line.get_marker() for line in ringed.axes[0].lines}
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
    paths = [b.keep(tmp_path).path for b in (first, second)]
    assert paths[0] != paths[1]
    assert bench(pictures=3).keep(tmp_path).path == paths[0]
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
    assert write("retrieval", bench(pictures=4), str(tmp_path / "new"))
    with (tmp_path / "new" / "retrieval" / "retrieval.csv").open() as f:
        assert [float(r["gap"]) for r in csv.DictReader(f)] == [r["gap"] for r in straight["retrieval"]]


@pytest.mark.parametrize("part", ["unet/model.safetensors", "vae/model.safetensors", "scheduler/config.json", ""])
def test_rows_of_other_weights_are_measured_again(tmp_path, part):
    path = tmp_path / (part or "model.safetensors")
    path.parent.mkdir(exist_ok=True)
    large = bytearray(3 << 20)
    said = []
    for change in (0, 1, 0):
        large[1 << 20 : 2 << 20] = bytes([change]) * (1 << 20)  # not at its end
        path.write_bytes(large)
        said.append(Workbench(str(tmp_path if part else path)).arguments())
    assert said[0] == said[2] != said[1]
    assert "model a/hub-id" in Workbench("a/hub-id").arguments()


def test_rows_of_an_explainer_that_samples_otherwise_are_measured_again(emoji):
    def said(**changes):
        given = copy.copy(emoji)
        given.denoiser = copy.copy(emoji.denoiser)
        for name, value in changes.items():
            setattr(given if name == "density" else given.denoiser, name, value)
        return Workbench("emoji", explainer=given).arguments()

    others = [{"density": None}, {"density": emoji.density.flip(0)}, {"size": 32}, {"guidance": 2.0},
              {"precision": "float16"}]  # fmt: skip
    assert said() == said()
    assert len({said(), *(said(**changes) for changes in others)}) == 1 + len(others)


def test_a_given_pipeline_is_known_by_its_weights(tiny):
    pipe = tiny()
    explainer = dpid.Explainer(pipe)
    before = Workbench("mine", explainer=explainer, pipe=pipe).arguments()
    assert Workbench("mine", explainer=dpid.Explainer(tiny()), pipe=pipe).arguments() == before
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(1.5)
    assert Workbench("mine", explainer=explainer, pipe=pipe).arguments() != before


def test_a_model_is_loaded_as_it_is_said_and_its_rows_are_kept_apart(tmp_path):
    folder, how = embedded_path("emoji").parent, {"subfolder": "model", "device": "cpu"}
    bench = Workbench(str(folder), loading=how | {"precision": "bfloat16", "check": False})
    assert bench.explainer.denoiser.precision == "bfloat16"
    assert bench.pipe is bench.explainer.denoiser.family.pipe
    assert Workbench("emoji", loading={"precision": "bfloat16"}).explainer.denoiser.precision == "bfloat16"

    def said(**loading):
        return Workbench(str(tmp_path), loading=loading).arguments()

    others = {"variant": "fp16", "revision": "main", "subfolder": "a", "precision": "float32"}
    assert len({said(), *(said(**{name: value}) for name, value in others.items())}) == 1 + len(others)
    assert said() == said(device="cpu", check=False)
    weights, marks = tmp_path / "a/unet/model.safetensors", []
    weights.parent.mkdir(parents=True)
    for content in ("one", "two"):
        weights.write_text(content)
        marks.append(said(subfolder="a"))
    assert marks[0] != marks[1]


def test_two_studies_on_one_workbench_have_rows_of_their_own(bench, own, tmp_path):
    asked = bench(scenes=own)
    assert write("features", asked, tmp_path)
    after, alone = run("synonyms", asked).tables, run("synonyms", bench(scenes=own)).tables
    assert after == alone
    assert not list(tmp_path.rglob(f"*{KEPT}"))


def test_pictures_are_generated_at_the_guidance_of_the_pipeline(monkeypatch):
    asked = []
    monkeypatch.setattr("dpid.zoo.generate", lambda *_, guidance, **__: asked.append(guidance) or ["picture"])
    flow = load_pipeline("emoji-flow", "cpu")
    for model in ("./mine", "emoji-flow"):
        assert Workbench(model, pipe=flow).generate("a cow", "0") == "picture"
    assert asked == [7.0, 5.0]  # of StableDiffusion3Pipeline; what the embedded model was made for


def test_cmi_of_orthogonal_is_an_integral_of_squares(emoji, own):
    result = emoji.explain(own[0].image, own[0].prompt, own[0].concepts, samples=8)
    for concept in own[0].concepts:
        # g(F, other) of every pixel; what is left of a difference of two such sums in fp32.
        assert float(_maps(result, concept, "orthogonal")["cmi"].min()) > -1e-5


def test_the_map_given_the_rest_is_smoothed_as_the_others(emoji, own):
    """So that correlations with the change of a picture's pixels compare like with like."""
    word, *_ = own[0].concepts
    result = emoji.explain(own[0].image, own[0].prompt, own[0].concepts, samples=8)
    change = torch.rand(16, 16, generator=torch.Generator().manual_seed(0))
    found = {}
    for name in ESTIMATORS:
        d = result.estimates[name].maps
        rest = d.information[own[0].concepts] - d.information[own[0].concepts[1:]]
        found[name] = _predictors(result, result, word, name, {}, change)["pixel_cmi"]
        if name != "orthogonal":
            expected = pearson(rest.flatten().double().numpy(), change.flatten().double().numpy())
            assert found[name] == pytest.approx(expected, abs=1e-6)  # float32
    assert found["orthogonal"] != found["shrinkage"]


def test_retrieval_is_computed_in_float32_whatever_the_explainer_is_in(emoji, pipe):
    coarse = copy.copy(emoji)
    coarse.denoiser = emoji.denoiser.at("bfloat16")
    benches = (Workbench("emoji", explainer=e, pipe=pipe, samples=8, pictures=1) for e in (coarse, emoji))
    first, second = (run("retrieval", bench).tables for bench in benches)
    assert first == second
    assert coarse.denoiser.precision == "bfloat16"


def test_rows_do_not_depend_on_the_rows_before_them(emoji, pipe):
    """Of a model without a density, of which an explainer would learn: a stopped run goes on with the same rows."""
    unseen = copy.copy(emoji)
    unseen.density = None
    cases = [Case(a, world.picture((a, "dog"), a), f"a {a} and a dog", (a, "dog")) for a in ("cow", "pizza")]
    bench = Workbench("emoji", explainer=unseen, pipe=pipe, samples=8)
    there, back = ([bench.explain(case) for case in order] for order in (cases, cases[::-1]))
    for one, other in zip(there, back[::-1], strict=True):
        assert torch.equal(one.replicates["standard"], other.replicates["standard"])
    (pair,) = bench.explain_pairs(cases[0]).values()
    assert {r.metadata.rule for r in (*there, pair)} == {"shifted-grid"}
    assert not unseen.learnt.rounds


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


def test_what_has_nothing_to_measure_is_refused(bench, own, tmp_path):
    with pytest.raises(ValueError, match="masks for localisation"):
        run("localisation", bench(scenes=[Scene(own[0].image, own[0].prompt, ("cow",))]))
    with pytest.raises(ValueError, match="name: found 'biases', allowed are bias, homonyms"):
        run("biases", bench())
    with pytest.raises(ValueError, match="localisation needs pictures with masks"):
        write("localisation", Workbench("./a/model"), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_seed_is_of_which_things_are_shown_and_not_of_where(bench):
    def shown(of, seed):
        return [(c.picture, np.asarray(c.open()).tobytes()) for c in of._cases(bench(seed=seed, pictures=2))]

    assert shown(features, 0) == shown(features, 1)  # as the documentation says
    assert shown(localisation, 0) != shown(localisation, 1)


def test_noise_of_a_picture_depends_on_its_name_and_the_seed(bench):
    assert bench().seed_of("a") == bench().seed_of("a")
    assert len({bench(seed=s).seed_of(n) for s in (0, 1) for n in "ab"}) == 4
