"""The benchmark of the UNet: what is measured beside the compiler, and what a run that ends early keeps."""

import bench_unet
import pytest

from dpid.denoisers.network import NetworkDenoiser


@pytest.fixture
def rows(emoji, monkeypatch):
    """Metrics that are recorded; the embedded model in float32 stands for all ways to call its UNet."""
    kept = []
    monkeypatch.setattr(bench_unet, "denoisers", lambda *_: [emoji.denoiser.at("float32")] * 3)
    monkeypatch.setattr(
        bench_unet.ledger, "record", lambda _, found, model: kept.extend(row["metric"] for row in found)
    )
    return kept


def interrupt(*_):
    raise KeyboardInterrupt


def test_what_is_compiled_is_measured_alone(rows, monkeypatch):
    for name in ("itd", "rounding", "matmul_peak"):
        monkeypatch.setattr(bench_unet, name, interrupt)
    monkeypatch.setattr(bench_unet, "compiled", lambda batched, ours, mode: {f"batched, {mode}": lambda: batched})
    bench_unet.main(rounds=1, samples=2, compile="default")
    assert "batched, default / ours" in rows
    assert all(metric.startswith("batched, default") for metric in rows)


def test_times_are_kept_before_what_comes_after_them(rows, monkeypatch):
    monkeypatch.setattr(bench_unet, "matmul_peak", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench_unet.main(rounds=1, samples=2)
    assert {"ours: first explanation", "batched / ours", "ITD / ours"} <= set(rows)


def test_nothing_is_evaluated_before_the_first_explanation(rows, monkeypatch):
    def refuse(*_):
        raise AssertionError("the network is called")

    monkeypatch.setattr(NetworkDenoiser, "predict", refuse)
    monkeypatch.setattr(bench_unet, "first_explanation", interrupt)
    with pytest.raises(KeyboardInterrupt):
        bench_unet.main(rounds=1, samples=2)
