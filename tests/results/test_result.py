"""The numbers of a result, and results that are compared, copied and sent."""

import copy
import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from made_up import from_bytes, made, made_words, to_bytes

from dpid.results.intervals import Estimate
from dpid.results.result import PIDResult


def test_an_estimate_is_a_number():
    e = Estimate(3.14159, 0.2, 7)
    assert (f"{e:.3f}", f"{e:8.1f}", f"{e}", str(e)) == ("3.142", "     3.1", "3.14 ± 0.20", "3.14 ± 0.20")
    assert float(e) == 3.14159
    assert e > 3 and e >= np.float32(3) and e < Estimate(4.0, 9.0, 7) and e <= 4  # noqa: PT018
    assert max([e, Estimate(1.0, 0.0, 7)]) == e
    assert np.array([e, Estimate(1.0, 0.0, 7)], dtype=float).tolist() == [3.14159, 1.0]
    assert e != Estimate(3.14159, 0.3, 7)
    assert len({e, replace(e)}) == 1
    with pytest.raises(TypeError, match="not supported"):
        _ = e > "3"


def test_json_has_the_interval_that_two_numbers_do_not_tell():
    """Student's t of 7 degrees of freedom is 2.3646 at 97.5 %; the end farther from zero is the logarithmic one."""
    half = 2.3646 * 0.2
    low, high = Estimate(1.0, 0.2, 7).to_dict()["interval95"]
    assert (low, high) == pytest.approx((1 - half, np.exp(half)), abs=1e-4)
    low, high = Estimate(-1.0, 0.2, 7).to_dict()["interval95"]
    assert (low, high) == pytest.approx((-np.exp(half), half - 1), abs=1e-4)
    assert Estimate(2.0, 0.0, 7).to_dict() == {"value": 2.0, "stderr": 0.0, "interval95": [2.0, 2.0]}
    assert Estimate(np.nan, np.inf, 7).to_dict() == {"value": None, "stderr": None, "interval95": [None, None]}
    json.dumps(made().to_dict(), allow_nan=False)


def test_what_would_be_lost_without_a_concept():
    """The mean over replicates of f(all) - f(all without it), and its standard error."""
    result = made(concepts=("cow", "pizza", "tree"), reference="cow pizza tree")  # f: c, p, t, cp, ct, pt, cpt
    for estimator in ("rao-blackwell", "standard"):
        f = result.replicates[estimator].double().sum((-2, -1)).numpy()
        for concept, others in (("cow", 5), ("pizza", 4), ("tree", 3)):
            lost = f[:, 6] - f[:, others]
            found = result.given(concept, estimator=estimator)
            assert found.value == pytest.approx(lost.mean())
            assert found.stderr == pytest.approx(lost.std(ddof=1) / len(lost) ** 0.5)
            assert found.dof == len(lost) - 1
            assert found.positive == (estimator == "rao-blackwell")
    assert result.given("cow") == result.given("cow", estimator=result.metadata.estimator)
    assert not made(reference="a cow").given("cow").positive  # (F - rest)² - (F - all)² is no square
    two = made()
    assert float(two.given("cow")) == pytest.approx(two.unique["cow"].value + two.synergy.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ({"concept": "dog"}, "^concept: found 'dog', allowed are cow, pizza$"),
        ({"concept": 3}, "^concept: found 3, expected a text$"),
        ({"concept": "cow", "estimator": "best"}, "^estimator: found 'best', allowed are shrinkage, "),
    ],
)
def test_what_is_lost_is_of_a_concept(arguments, told):
    with pytest.raises((ValueError, TypeError), match=told):
        made().given(**arguments)


def test_two_concepts_are_not_taken_for_one_and_an_estimator():
    with pytest.raises(TypeError, match="positional argument"):
        made().given("cow", "pizza")


def test_replicates_are_by_an_estimator():
    result = made()
    assert torch.equal(result.replicates_by("standard"), result.replicates["standard"].double())
    with pytest.raises(ValueError, match=r"^estimator: found 'best', allowed are shrinkage, "):
        result.replicates_by("best")


def test_subsets_are_found_by_a_text_and_in_any_order():
    result = made(concepts=("cow", "C++", "tree"))
    found, maps = result.information, result.maps.information
    assert [found[s] for s in (("cow",), ("cow", "C++"))] == [found["cow"], found["C+++cow"]]
    assert found["tree + cow"] is found["tree", "cow"] is found[frozenset(("cow", "tree"))] is found[("cow", "tree")]
    assert found["C++"] is found[("C++",)]
    assert maps["cow+tree"] is maps[("cow", "tree")]
    assert result.cross_term["cow"] == result.cross_term[("cow",)]
    assert list(found)[-1] == ("cow", "C++", "tree")
    assert found == dict(found) == pickle.loads(pickle.dumps(found)) == copy.deepcopy(found)
    assert pickle.loads(pickle.dumps(found))["tree+cow"] == found[("cow", "tree")]


@pytest.mark.parametrize("name", ["dog", "cow+dog", "", (), ("dog",), ("cow", "cow"), 3, None])
def test_other_subsets_are_told_the_keys(name):
    with pytest.raises(KeyError, match=r"subset: found .*, allowed are cow, pizza, cow\+pizza"):
        made().information[name]


def test_other_concepts_and_words_are_told_the_names():
    """And the dictionaries are otherwise as any."""
    result, words = made(), made_words("cow", "pizza")
    for named in (result.unique, result.maps.unique, result.profile.unique, words.words):
        with pytest.raises(KeyError, match=r"name: found 'dog', allowed are cow, pizza"):
            named["dog"]
        assert named.get("dog") is None
        assert "dog" not in named
        assert list(dict(named)) == list(pickle.loads(pickle.dumps(named))) == ["cow", "pizza"]
    assert result.unique == dict(result.unique) == copy.deepcopy(result.unique)
    assert pickle.loads(pickle.dumps(words)) == words == replace(words, words=dict(words.words))
    json.dumps([result.to_dict(), words.to_dict()])


def test_weights_that_the_model_reads_as_text_are_remarked_on():
    """Where it is given them: of its concepts alone it sees nothing else of the prompt."""

    def remarks(prompt, null=""):
        conditions = {"": null, "cow": "cow", "pizza": "pizza", "cow+pizza": "cow pizza"}
        return [line for line in made(prompt=prompt, conditions=conditions).remarks() if "plain text" in line]

    assert remarks("a cow and a (pizza:1.3)") == []
    assert remarks("a (red:1.3) cow and a pizza") == []
    (line,) = remarks("a (red:1.3) cow and a pizza", null="a (red:1.3) and a")
    assert "'(red:1.3)'" in line
    assert remarks("a red cow and a pizza", null="a red and a") == []


def test_equal_results_are_equal_and_hash_alike():
    r, same, other = made(), made(peak_memory=2), made(1)
    assert r == same
    assert hash(r) == hash(same)
    assert [other, same].index(r) == 1
    assert r not in [other]
    assert len({r, same, other}) == 2
    for part in ("metadata", "maps", "profile", "decomposition"):
        assert getattr(r, part) == getattr(same, part)
        assert hash(getattr(r, part)) == hash(getattr(same, part))
        assert getattr(r, part) != getattr(other, part)
    assert r.atom_maps() == same.atom_maps()
    assert r.atom_maps() != other.atom_maps()
    assert r != r.metadata
    assert r != 3


def test_results_are_compared_bit_by_bit():
    r = made()
    for value in (torch.nan, 0.0, -0.0):
        changed = {**r.replicates, "standard": torch.full_like(r.replicates["standard"], value)}
        one, other = (replace(r, replicates={k: v.clone() for k, v in changed.items()}) for _ in range(2))
        assert one == other
        assert hash(one) == hash(other)
        assert one != r
    assert replace(r, edges=r.edges.float()) != r
    assert replace(r, picture=None) != r


def test_results_travel():
    r = made()
    small = len(pickle.dumps(r))
    assert r.redundancy.stderr > 0  # what is computed from the fields does not travel
    assert len(pickle.dumps(r)) == small
    for other in (pickle.loads(pickle.dumps(r)), copy.deepcopy(r), copy.copy(r), from_bytes(to_bytes(r))):
        assert other == r
        assert other.to_dict() == r.to_dict()


def test_numbers_of_the_image_need_no_map(monkeypatch):
    monkeypatch.setattr("dpid.results.decomposition.displayed", None)
    for decomposition in made().estimates.values():
        assert decomposition.to_dict()["information"]
        with pytest.raises(TypeError):
            decomposition.maps  # noqa: B018


def test_decompositions_are_equal_hash_alike_and_travel():
    first, second = (made(priors={"cow": 1.0, "pizza": 1.0, "cow+pizza": 2.0}).estimates for _ in range(2))
    assert first == second
    assert len({*first.values(), *second.values()}) == 4
    for decomposition in first.values():
        other = pickle.loads(pickle.dumps(decomposition))
        assert other == decomposition
        assert other.maps == decomposition.maps
        assert repr(other) == repr(decomposition)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_the_surroundings_change_no_number(dtype, tmp_path):
    expected = made().to_dict(), made(), made().atom_maps(), made(measure="i_ccs_plugin").maps
    torch.set_default_dtype(dtype)
    torch.set_default_device("meta")
    try:
        with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
            r = replace(pickle.loads(PICKLED), edges=torch.linspace(-5, 7, 6, dtype=torch.float64, device="cpu"))
            assert (r.to_dict(), from_bytes(to_bytes(r)), r.atom_maps()) == expected[:3]
            assert replace(r, metadata=replace(r.metadata, measure="i_ccs_plugin")).maps == expected[3]
            r.save(tmp_path / "a")
            assert PIDResult.load(tmp_path / "a") == r
            assert r.information["cow", "pizza"].interval() == made_interval
            for kind in ("overlay", "strip", "profile", "graph"):
                r.plot(kind)
    finally:
        torch.set_default_device(None)
        torch.set_default_dtype(torch.float32)


PICKLED = pickle.dumps(made())
made_interval = made().information["cow", "pizza"].interval()


def test_smoothing_over_more_than_the_picture_is_the_mean_of_it():
    r = made(smooth=999)
    # Every pixel is shared evenly among all: sums stay, and 16 float32 numbers are one.
    mean = r.maps.information["cow",].mean()
    torch.testing.assert_close(r.maps.information["cow",], mean.expand(4, 4))
