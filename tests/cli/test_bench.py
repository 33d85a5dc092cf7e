"""``dpid bench``: its table and file, comparisons, interrupts, and what it refuses."""

import json
import math
import re

import pytest
import torch

from dpid.bench import Report, Row
from dpid.bench.measure import Effort

EFFORT = Effort(calls=3, seconds=0, compiling=False, sizes=(8,), runs=2, long=16, most=math.inf)


@pytest.fixture
def short(monkeypatch):
    monkeypatch.setattr("dpid.bench.QUICK", EFFORT)


def rows(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    return content["whole"], {row["metric"]: row["value"] for row in content["rows"]}


def test_a_model_is_measured_and_compared(command, short, tmp_path):
    about = {"model": "emoji", "torch": "1.0", "variant": "fp16"}
    Report(about, [Row("loading", 1e-6, "s")], whole=True).write(tmp_path / "bench.json")
    how = "--out", "new/other.json", "--compare", "bench.json", "--no-check"
    code, out, errors = command("bench", "--quick", *how)
    assert (code, errors) == (0, "")
    whole, found = rows(tmp_path / "new/other.json")
    assert whole
    assert all(math.isfinite(value) and value >= 0 for value in found.values())
    assert {"explanation, first", "32 evaluations: error of i", "memory, peak", "plain: evaluations a second",
            "fused: times as fast as plain"} <= set(found)  # fmt: skip
    assert "emoji, float32, 64×64 pixels" in out
    (loading,) = (line.split() for line in out.splitlines() if " loading " in line)
    assert "now / before" in out
    assert loading[-2] == f"{found['loading'] / 1e-6:.2f}"
    assert f"torch: 1.0, now {torch.__version__}" in out
    assert "variant: fp16, now ?" in out
    assert "check: ?, now False" in out  # which makes loading faster


def test_the_file_to_compare_with_is_kept(command, tmp_path):
    """``--out`` is bench.json, too, if left out."""
    Report({"model": "emoji"}, [Row("loading", 1.0, "s")], whole=True).write(tmp_path / "bench.json")
    code, _, errors = command("bench", "--compare", tmp_path / "bench.json")
    assert (code, errors) == (
        2,
        "dpid: out, compare: both are bench.json, which would be replaced; give another --out\n",
    )
    assert rows(tmp_path / "bench.json") == (True, {"loading": 1.0})


def test_an_interrupt_keeps_what_was_measured(command, short, tmp_path, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("dpid.bench.measure.matmul_peak", interrupt)
    code, out, errors = command("bench", "--quick")
    assert (code, errors) == (130, "dpid: interrupted\n")
    assert re.search("┃ +measured ┃", out)  # the heading of the only column of numbers
    assert "not all was measured; written: bench.json" in out
    whole, found = rows(tmp_path / "bench.json")
    assert not whole
    assert list(found)[-1] == "time for an error of i of 5 %"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--model", "none"), "dpid: model: none is not a folder; "),
        (("--out", "."), "dpid: out: . is a folder; name a file, such as bench.json"),
        (("--compare", "none.json"), "dpid: compare: none.json cannot be read (No such file or directory)"),
        (("--device", "cuda:99"), "dpid: device: 'cuda:99' cannot be used"),
        (("--precision", "int3"), "dpid: precision: found 'int3', allowed are "),
        (("--size", "0"), "dpid: size: found 0, "),
    ],
)
def test_refusals(command, tmp_path, arguments, message):
    code, out, errors = command("bench", *arguments)
    assert (code, out) == (2, "")
    assert errors.startswith(message)
    assert errors.count("\n") == 1
    assert list(tmp_path.iterdir()) == []
