"""Which maps of attention studies compare with, and what they say where there are none."""

import functools

import pytest
from tiny_pipelines import build

import dpid
from dpid.studies import STUDIES, Workbench, concept_attention, daam, ovam, run
from dpid.studies.baselines import baselines

# diffusers' DPM-Solver makes an array of a tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
shared = functools.cache(build)


def test_baselines_are_chosen_by_the_network(tiny):
    assert list(baselines(tiny())) == ["daam", "ovam"]
    for name in ("sd3", "flux", "flux2", "flux2_klein"):
        assert list(baselines(shared(name))) == ["concept_attention"]
    assert baselines(shared("pixart_sigma")) == {}
    for module, pipe in ((daam, shared("sd3")), (ovam, shared("sd3")), (concept_attention, tiny())):
        with pytest.raises(ValueError, match=f"^pipe: {module.NAME} makes maps of the attention of .*; found"):
            module.attention_maps(pipe, "a cow and a giraffe", ("giraffe", "cow"))


@pytest.mark.parametrize("study", ["localisation", "intervention"])
def test_studies_of_joint_attention(own, study):
    pipe = shared("sd3")
    bench = Workbench("sd3", pipe=pipe, explainer=dpid.Explainer(pipe), scenes=own[:1], samples=4)
    found = run(study, bench)
    rows = found.tables[study]
    if study == "localisation":
        assert {row["map"] for row in rows} == {"mi", "cmi", "unique", "redundant", "concept_attention"}
        assert "mIoU above ConceptAttention's by, unique, shrinkage" in found.summary
    else:
        assert all(0 < row["concept_attention"] < 1 for row in rows)
        assert found.summary["Pearson, change_latent, image, cmi, shrinkage"]["asked"] == "|r| ≥ ConceptAttention's"


def test_models_distilled_to_a_few_steps_are_localised_and_nothing_else(own, monkeypatch):
    pipe = shared("sd3")
    monkeypatch.setattr(type(pipe), "name_or_path", "stable-diffusion-3.5-large-turbo", raising=False)
    bench = Workbench("turbo", pipe=pipe, explainer=dpid.Explainer(pipe), scenes=own[:1], samples=4)
    assert bench.explainer.denoiser.distilled
    found = run("localisation", bench)
    assert "Note: the maps show where words steer the model, in arbitrary units and not in nats, since" in found.finding
    for study in set(STUDIES) - {"localisation", "retrieval"}:
        with pytest.raises(ValueError, match=r"^model: has no nats, which this study needs .*, since 'turbo' in the"):
            run(study, bench)


@pytest.mark.parametrize("study", ["localisation", "intervention"])
def test_studies_without_attention_maps_say_that_there_are_none(own, study, monkeypatch):
    monkeypatch.setattr(concept_attention, "NETWORKS", ())
    pipe = shared("sd3")
    found = run(study, Workbench("sd3", pipe=pipe, explainer=dpid.Explainer(pipe), scenes=own[:1], samples=4))
    rows = found.tables[study]
    assert found.finding.endswith("; there are no attention maps of this network to compare with.")
    assert not any("ttention" in f"{name} {entry['asked']}" for name, entry in found.summary.items())
    if study == "localisation":
        assert {row["map"] for row in rows} == {"mi", "cmi", "unique", "redundant"}
        assert len(rows) == 2 * 4 * 4  # things, maps, estimators
    else:
        assert {name.rpartition(", image, ")[2].partition(",")[0] for name in found.summary if "image" in name} == {
            "unique", "cmi", "mi", "redundancy",
        }  # fmt: skip
