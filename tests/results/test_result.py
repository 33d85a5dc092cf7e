"""Results are compared, copied, saved by several processes at once, and loaded, also from files that were edited."""

import copy
import json
import pickle
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import made

import dpid
from dpid.results import file_format
from dpid.results.intervals import Estimate
from dpid.results.result import PIDResult


def to_bytes(result):
    return file_format.to_bytes(result.metadata, result.tensors(), result.to_dict())


def from_bytes(data):
    return PIDResult(**file_format.from_bytes(data))


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
            found = result.given(concept, estimator)
            assert found.value == pytest.approx(lost.mean())
            assert found.stderr == pytest.approx(lost.std(ddof=1) / len(lost) ** 0.5)
            assert found.dof == len(lost) - 1
            assert found.positive == (estimator == "rao-blackwell")
    assert result.given("cow") == result.given("cow", result.metadata.estimator)
    assert not made(reference="a cow").given("cow").positive  # (F - rest)² - (F - all)² is no square
    two = made()
    assert float(two.given("cow")) == pytest.approx(two.unique["cow"].value + two.synergy.value)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("dog",), "^concept: found 'dog', allowed are cow, pizza$"), ((3,), "^concept: found 3, expected a text$"),
        (("cow", "best"), "^estimator: found 'best', allowed are shrinkage, "),
    ],
)  # fmt: skip
def test_what_is_lost_is_of_a_concept(arguments, told):
    with pytest.raises((ValueError, TypeError), match=told):
        made().given(*arguments)


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


def test_a_home_folder_is_written_as_a_wave(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    for path in ("~/a b", Path("~/é"), b"~/c"):
        made().save(path)
        assert PIDResult.load(path) == made()
    assert len(list(tmp_path.iterdir())) == 3


def test_where_nothing_can_be_saved_is_said_by_name(tmp_path):
    for path, message in ((tmp_path / "none" / "a", "there is no folder"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=f"path: .*{message}"):
            made().save(path)
    for do in (made().save, PIDResult.load):
        with pytest.raises(TypeError, match="path: found int, expected a path"):
            do(3)
    with pytest.raises(ValueError, match="is no file"):
        PIDResult.load(tmp_path)


def test_a_failed_save_leaves_what_was_there(tmp_path, monkeypatch):
    made().save(tmp_path / "a")
    monkeypatch.setattr(Path, "write_bytes", lambda self, data: (_ for _ in ()).throw(OSError(28, "no space left")))
    with pytest.raises(OSError, match="no space left"):
        made(1).save(tmp_path / "a")
    assert PIDResult.load(tmp_path / "a") == made()
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


WRITER = """
import sys
from pathlib import Path
from dpid.files import atomic_write
data, target, end = Path(sys.argv[1]).read_bytes(), Path(sys.argv[2]), Path(sys.argv[3])
print("ready", flush=True)
while not end.exists():
    with atomic_write(target) as path:
        path.write_bytes(data)
"""


def test_many_writers_of_one_file_each_leave_it_whole(tmp_path):
    """Two threads here and two other processes save results of two sizes; whatever is read is one of them."""
    results, target, end = [made(0, 4), made(1, 32)], tmp_path / "out" / "same", tmp_path / "end"
    target.parent.mkdir()
    sources = [tmp_path / f"{i}" for i in range(2)]
    for result, source in zip(results, sources, strict=True):
        result.save(source)
    others = [
        subprocess.Popen([sys.executable, "-c", WRITER, source, target, end], stdout=subprocess.PIPE, text=True)
        for source in sources
    ]
    failed, done = [], []

    def use(result):
        try:
            for _ in range(20):
                result.save(target)
                done.append(PIDResult.load(target) in results)
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=use, args=(result,)) for result in results]
    try:
        assert [other.stdout.readline() for other in others] == ["ready\n"] * 2
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        end.touch()
    assert [other.wait(timeout=60) for other in others] == [0, 0]
    for other in others:
        other.stdout.close()
    assert not failed
    assert done == [True] * 40
    assert [p.name for p in target.parent.iterdir()] == ["same"]


def test_a_folder_is_probed_by_many_at_once(tmp_path):
    from dpid.files import writable

    failed = []

    def use():
        try:
            for _ in range(50):
                with writable(tmp_path / "a" / "b"):
                    pass
        except BaseException as error:
            failed.append(error)

    threads = [Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
    assert not list((tmp_path / "a" / "b").iterdir())


SAVED = to_bytes(made())


def rebuilt(header):
    """:data:`SAVED` with another header."""
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + SAVED[8 + struct.unpack("<Q", SAVED[:8])[0] :]


def header_of(data):
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


THREE = dict.fromkeys(("", "cow", "pizza", "dog", "cow+pizza", "cow+dog", "pizza+dog", "cow+pizza+dog"), "text")


def edited(**metadata):
    """:data:`SAVED` with other metadata; "left out" leaves one out."""
    header = header_of(SAVED)
    stored = json.loads(header["__metadata__"]["metadata"]) | metadata
    header["__metadata__"]["metadata"] = json.dumps({k: v for k, v in stored.items() if v != "left out"})
    return rebuilt(header)


def of_format(name):
    """:data:`SAVED` as of another format."""
    header = header_of(SAVED)
    header["__metadata__"]["format"] = name
    return rebuilt(header)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "not a safetensors file"),
        (SAVED[:-100], "not a safetensors file"),
        (of_format("2"), "is not a dpid result of format 1"),
        (edited(prompt="left out"), "metadata: 'prompt' is missing"),
        (edited(broken="left out"), "metadata: 'broken' is missing"),
        (edited(unit="left out"), "metadata: unit is neither 'nats' nor"),
        (edited(unit="bits"), "metadata: unit is neither 'nats' nor"),
        (edited(colour="red"), "metadata: 'colour' is not known here"),
        (edited(prompt=3), "metadata: prompt is '3', expected str"),
        (edited(samples=1.5), "metadata: samples is '1.5', expected int"),
        (edited(samples=True), "metadata: samples is 'True', expected int"),
        (edited(seed=-1), "metadata: seed is '-1', expected int"),
        (edited(logsnr_range=[1.0]), r"metadata: logsnr_range is '\[1.0\]', expected"),
        (edited(logsnr_range=[1.0, float("nan")]), "metadata: logsnr_range is 'nan', expected float"),
        (edited(priors={"cow": "x"}), r"metadata: priors\['cow'\] is 'x', expected float"),
        (edited(priors={"dog": 1.0}, measure="ppid"), "metadata: priors name 'dog'"),
        (edited(measure="ppid", priors={"cow": 1.0}), r"priors: \('pizza',\) is missing"),
        (edited(concepts=["cow", "cow"]), "metadata: concepts are"),
        (edited(concepts=["cow"]), "metadata: concepts are"),
        (edited(conditions={"": "", "cow": "cow"}), "metadata: conditions lack 'cow\\+pizza'"),
        (edited(concepts=["cow", "pizza", "dog"], conditions=THREE), r"expected torch.float32 \[4, 7, 4, 4\]"),
        (edited(replicates=8), r"replicates/rao-blackwell: found torch.float32 \[4, 3, 4, 4\]"),
        (edited(estimator="daam"), "metadata: estimator is 'daam', allowed are"),
        (edited(measure="mmi"), "metadata: measure is 'mmi', allowed are"),
        (edited(level="word"), "metadata: level is 'word'"),
        (edited(smooth=2), "metadata: smooth is 2, expected an odd"),
    ],
    ids=lambda value: value if isinstance(value, str) else "file",  # bytes differ from process to process
)
def test_files_that_are_wrong_are_refused_by_name(data, message, tmp_path):
    (tmp_path / "a").write_bytes(data)
    with pytest.raises(ValueError, match=f"path: .*a: .*{message}"):
        PIDResult.load(tmp_path / "a")


def test_tensors_that_do_not_fit_are_refused():
    r = made()
    for change, message in (
        ({"replicates": {"standard": r.replicates["standard"]}}, "lacks the tensor 'replicates/rao-blackwell'"),
        ({"replicates": {**r.replicates, "standard": r.replicates["standard"] * torch.inf}}, "found NaN or infinity"),
        ({"replicates": {**r.replicates, "standard": r.replicates["standard"][..., :3]}}, r"\[4, 3, 4, 3\], expected"),
        ({"profiles": {**r.profiles, "standard": r.profiles["standard"][..., :3]}}, r"profiles/standard: found .*3\]"),
        ({"edges": r.edges.flip(0)}, "edges: found .* expected rising"),
        ({"edges": r.edges.long()}, "edges: found"),
        ({"products": r.products[..., :3].contiguous()}, r"products: found torch.float32 \[4, 2, 3\], expected .* 5\]"),
        ({"products": r.products / 0}, "products: found NaN or infinity"),
        ({"picture": r.picture[..., :2].contiguous()}, "picture: found"),
    ):
        changed = replace(r, **change)
        changed.__dict__.update(estimates=r.estimates, decomposition=r.decomposition)  # only what is stored is wrong
        changed.__dict__["to_dict"] = r.to_dict
        with pytest.raises(ValueError, match=message):
            from_bytes(to_bytes(changed))


@pytest.mark.parametrize("name", ["edges", "products", "profiles/standard"])
def test_a_file_without_one_of_the_tensors_is_refused(name):
    tensors = {k: t for k, t in made().tensors().items() if k != name}
    with pytest.raises(ValueError, match=f"lacks the tensor '{name}'"):
        file_format.from_bytes(file_format.to_bytes(made().metadata, tensors, {}))


def reads(data):
    """``data`` makes a result whose numbers can be computed, or a ``ValueError``."""
    try:
        result = from_bytes(data)
    except ValueError:
        return
    assert repr(result)
    assert result.remarks() is not None


@settings(max_examples=150, deadline=None)
@given(st.lists(st.tuples(st.integers(0, len(SAVED) - 1), st.binary(min_size=1, max_size=6)), max_size=5),
       st.integers(0, len(SAVED)) | st.just(len(SAVED)))  # fmt: skip
def test_damaged_files_are_read_or_refused(edits, length):
    data = bytearray(SAVED)
    for at, new in edits:
        data[at : at + len(new)] = new
    reads(bytes(data[:length]))


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["cow", "standard"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
NAMES = sorted(json.loads(header_of(SAVED)["__metadata__"]["metadata"]))


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(st.sampled_from([*NAMES, "new"]), JSON | st.just("left out"), min_size=1, max_size=3))
def test_edited_metadata_are_read_or_refused(metadata):
    reads(edited(**metadata))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.sampled_from(sorted(header_of(SAVED))), JSON, st.sampled_from(["dtype", "shape", "data_offsets", "all", "none"])
)
def test_edited_headers_are_read_or_refused(tensor, value, part):
    header = header_of(SAVED)
    if part == "none":
        del header[tensor]
    elif part == "all" or part not in header[tensor]:
        header[tensor] = value
    else:
        header[tensor][part] = value
    reads(rebuilt(header))


def written(path):
    """What the header of a file of results tells: its numbers, which no version reads."""
    return json.loads(header_of(path.read_bytes())["__metadata__"]["result"])


def same(estimate, stored):
    value = estimate.value, estimate.stderr, *estimate.interval()
    # float64 sums in whatever order.
    return value == pytest.approx((stored["value"], stored["stderr"], *stored["interval95"]), rel=1e-9)


def test_files_of_the_first_release_load():
    """Version 0.1.0 wrote them, of made-up maps, with the numbers that it found."""
    data = Path(__file__).parents[1] / "data"
    result, numbers = dpid.PIDResult.load(data / "result-1.safetensors"), written(data / "result-1.safetensors")
    assert result.metadata.concepts == ("cow", "pizza")
    assert result.picture.shape == (8, 8, 3)
    assert same(result.redundancy, numbers["redundancy"])
    assert same(result.synergy, numbers["synergy"])
    assert same(result.diagnostics.orthogonality, numbers["diagnostics"]["orthogonality"])
    words, numbers = dpid.WordsResult.load(data / "words-1.safetensors"), written(data / "words-1.safetensors")
    assert words.verdicts == {name: word["verdict"] for name, word in numbers["words"].items()}
    for name, word in words.words.items():
        assert same(word.alone, numbers["words"][name]["alone"])
        assert same(word.given_rest, numbers["words"][name]["given_rest"])
