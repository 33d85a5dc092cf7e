"""The benchmark of many pictures: what it measures first, and that a batch is compared with a loop in float32."""

from types import SimpleNamespace

import bench_batch
import pytest
import torch


class Precise:
    """Stands for an explainer."""

    denoiser = SimpleNamespace(device=torch.device("cpu"))

    def __init__(self, precision):
        self.precision = precision

    def at(self, precision):
        return Precise(precision)


def way(value):
    """A way to explain one picture, to which float32 alone gives ``value``."""
    return lambda by: [
        SimpleNamespace(replicates={"standard": torch.tensor([value if by.precision == "float32" else 2.0])})
    ]


def test_a_batch_is_compared_with_a_loop_in_float32():
    rows = bench_batch.paired("16 pictures", Precise("float16"), way(1.0), way(1.0005), 2)
    assert [row["n"] for row in rows] == [2, 2, 2]
    for wrong in (1.01, float("nan"), float("inf")):
        with pytest.raises(SystemExit, match=r"^standard: a picture of a batch has other numbers than alone$"):
            bench_batch.paired("16 pictures", Precise("float16"), way(1.0), way(wrong), 2)


def test_no_two_pictures_of_a_batch_are_the_same():
    assert len({picture.tobytes() for picture in bench_batch.pictures()}) == bench_batch.COUNT


def test_latencies_are_kept_before_anything_else_is_measured(monkeypatch):
    monkeypatch.setattr(bench_batch.dpid.Explainer, "from_pretrained", lambda *_, **__: None)
    monkeypatch.setattr(bench_batch, "latencies", lambda *_, warm: [warm])
    kept = []

    def record(benchmark, rows, model):
        kept.extend(rows)
        if len(kept) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(bench_batch.ledger, "record", record)
    with pytest.raises(KeyboardInterrupt):
        bench_batch.main(runs=1)
    assert kept == [False, True]
