"""Files of results: saved by several processes at once, and loaded, also those that were edited or damaged."""

import json
import struct
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from threading import Thread

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_up import from_bytes, made, to_bytes

import dpid
from dpid.results import file_format
from dpid.results.result import PIDResult


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


def test_the_maps_of_a_file_are_those_of_its_replicates():
    """Whatever was done to those that a caller was given."""
    result = made()
    result.maps.redundancy.zero_()
    result.maps.unique["cow"].numpy()[:] -= 1
    result.profile.information[("cow",)].zero_()
    assert result.to_dict() == made().to_dict()
    saved, expected = result.tensors(), made().tensors()
    assert all(torch.equal(saved[name], tensor) for name, tensor in expected.items())


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
