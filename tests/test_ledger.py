"""The ledger of benchmarks: a run replaces the rows that it measured before, and no others."""

import csv

import ledger
import pytest

ROW = {
    "benchmark": "ops", "case": "N=8", "metric": "ours", "value": "1", "machine": "Some CPU, 2 threads",
    "command": "python benchmarks/bench_ops.py",
}  # fmt: skip


def test_a_run_replaces_the_rows_of_its_keys_alone(tmp_path):
    path = tmp_path / "results.csv"
    others = [ROW | {"case": "N=1"}, ROW | {"machine": "NVIDIA H200"}, ROW | {"command": ROW["command"] + " --quick"}]
    ledger.replace([ROW, *others], path)
    ledger.replace([ROW | {"value": "2", "machine": "Another CPU, 1 threads"}], path)
    found = ledger.read(path)
    assert [row["value"] for row in found] == ["2", "1", "1", "1"]
    assert found[0]["machine"] == "Another CPU, 1 threads"


def test_rows_without_the_newer_columns_are_read(tmp_path):
    path = tmp_path / "results.csv"
    with path.open("w", newline="") as f:
        writer = csv.DictWriter(f, list(ROW))
        writer.writeheader()
        writer.writerow(ROW)
    assert ledger.read(path)[0]["commit"] == ""
    ledger.replace([ROW | {"case": "N=1", "commit": "abc"}], path)
    assert [row["commit"] for row in ledger.read(path)] == ["", "abc"]


def test_every_row_of_the_ledger_has_a_key_of_its_own():
    rows = ledger.read()
    assert len(rows) == len({ledger.key(row) for row in rows})
    for row in rows:
        float(row["value"])


def test_record_says_what_was_measured_with_which_weights(tmp_path, monkeypatch):
    monkeypatch.setattr(ledger, "PATH", tmp_path / "results.csv")
    ledger.record("model", [{"case": "c", "metric": "m", "value": 0.123456, "low": 0.1, "high": 0.2, "n": 3}], "emoji")
    (row,) = ledger.read()
    assert (row["value"], row["low"], row["n"], row["unit"]) == ("0.12346", "0.1", "3", "")
    assert len(row["weights"]) == 8
    assert row["date"]
    assert row["machine"]


@pytest.mark.parametrize("part", ["unet/model.safetensors", "density.safetensors", ""])
def test_the_fingerprint_differs_where_a_model_was_trained_again(tmp_path, part):
    """Of a folder, or of a single file."""
    path, marks = tmp_path / (part or "model.safetensors"), []
    path.parent.mkdir(exist_ok=True)
    for change in (0, 1, 0):
        path.write_bytes(bytes(1 << 10) + bytes([change]))
        marks.append(ledger.fingerprint(tmp_path if part else path))
    assert "" != marks[0] == marks[2] != marks[1]


def test_a_hub_id_has_no_fingerprint():
    assert ledger.fingerprint("someone/a-model") == ""


def test_a_share_has_its_binomial_error():
    assert ledger.share("c", "m", 0.2, 25)["stderr"] == pytest.approx(0.08)  # √(0.2 · 0.8 / 25)
