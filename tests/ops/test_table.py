"""Which backend computes an op: the named one, the default one, and the error where none can."""

import pytest
import torch

from dpid import ops
from dpid.ops import _table, compiled, reference

CPU, GPU = torch.device("cpu"), torch.device("cuda")
ALL, SLOW, UNET = _table.TABLE, ("noisy_channel", "accumulate"), ("group_norm_silu", "add_layer_norm", "geglu")


@pytest.fixture
def without_cuda(monkeypatch):
    """A build without the CUDA kernels."""
    monkeypatch.setattr(
        _table, "TABLE", {op: {b: f for b, f in row.items() if b != "cuda"} for op, row in _table.TABLE.items()}
    )


def triton(monkeypatch, works):
    monkeypatch.setattr(_table, "triton_works", lambda device: works)


def test_every_op_has_a_reference_and_a_triton_kernel():
    assert all({"reference", "triton"} <= set(row) <= set(ops.BACKENDS) for row in ALL.values())
    assert all(hasattr(torch.ops.dpid, op) for op in ALL)


def test_a_cpu_takes_the_compiled_kernel_else_the_reference(monkeypatch):
    triton(monkeypatch, True)
    assert _table.automatic("noisy_channel", CPU) is compiled.noisy_channel
    assert _table.automatic("accumulate", CPU) is compiled.accumulate
    assert all(_table.automatic(op, CPU) is getattr(reference, op) for op in UNET)


def test_a_gpu_takes_the_compiled_kernel_first(monkeypatch):
    triton(monkeypatch, True)
    monkeypatch.setitem(ALL["accumulate"], "cuda", compiled.accumulate)
    monkeypatch.setattr(_table, "compiled_works", lambda device: True)
    assert _table.automatic("accumulate", GPU) is compiled.accumulate


def test_a_gpu_that_the_compiled_kernels_do_not_run_on_takes_triton(monkeypatch, caplog):
    """As one that is older than all they are compiled for: the first launch says so."""
    triton(monkeypatch, True)
    monkeypatch.setitem(ALL["accumulate"], "cuda", compiled.accumulate)

    def launched(*_):
        raise RuntimeError("CUDA: no kernel image is available for execution on the device")

    monkeypatch.setattr(compiled, "noisy_channel", launched)
    monkeypatch.setattr(torch, "ones", lambda *size, device: torch.zeros(size))
    monkeypatch.setattr(torch, "zeros", lambda size, dtype=None, device=None: torch.empty(size, dtype=dtype))
    _table.compiled_works.cache_clear()
    assert _table.automatic("accumulate", GPU) is ALL["accumulate"]["triton"]
    _table.compiled_works.cache_clear()
    assert caplog.messages == [
        "without the compiled kernels: CUDA: no kernel image is available for execution on the device"
    ]


def test_on_a_gpu_triton_serves_what_is_not_compiled(monkeypatch, without_cuda):
    triton(monkeypatch, True)
    for op in ALL:
        assert _table.automatic(op, GPU) is ALL[op]["triton"]


def test_no_gpu_gets_a_float64_reference_unasked(monkeypatch, without_cuda):
    triton(monkeypatch, False)
    for op in SLOW:
        with pytest.raises(RuntimeError, match=f"{op}: no kernel for cuda: install triton .*DPID_CUDA=ON"):
            _table.automatic(op, GPU)
        assert _table.function(op, "reference", GPU) is getattr(reference, op)
    assert all(_table.automatic(op, GPU) is getattr(reference, op) for op in UNET)  # torch's own kernels


def test_the_environment_chooses_for_the_ops_that_have_its_backend(monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    for name in ("reference", "cpu", "triton"):
        monkeypatch.setattr(_table, "ENVIRONMENT", name)
        assert _table.function("accumulate", None, CPU) is ALL["accumulate"][name]
        assert _table.function("accumulate", "cpu", CPU) is compiled.accumulate  # what a call names comes first
    assert _table.function("geglu", None, CPU) is ALL["geglu"]["triton"]
    monkeypatch.setattr(_table, "ENVIRONMENT", "cpu")
    assert _table.function("geglu", None, CPU) is reference.geglu
    monkeypatch.setattr(_table, "ENVIRONMENT", "opencl")
    with pytest.raises(ValueError, match="backend: found 'opencl'"):
        _table.function("accumulate", None, CPU)


def test_a_named_backend_that_cannot_compute_raises(without_cuda):
    with pytest.raises(RuntimeError, match="'cuda' is not in this build"):
        _table.function("accumulate", "cuda", GPU)
    with pytest.raises(RuntimeError, match="'cpu' needs tensors on cpu, found cuda"):
        _table.function("accumulate", "cpu", GPU)
    with pytest.raises(ValueError, match="'cpu', allowed for geglu are triton, reference"):
        _table.function("geglu", "cpu", CPU)


@pytest.mark.parametrize("interpreted", [None, "0"])
def test_triton_computes_on_a_gpu_or_is_interpreted(monkeypatch, interpreted):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    if interpreted:
        monkeypatch.setenv("TRITON_INTERPRET", interpreted)
    with pytest.raises(RuntimeError, match=r"^backend: 'triton' needs tensors on a GPU, found cpu$"):
        ops.geglu(torch.ones(2), backend="triton")
    assert _table.function("geglu", "triton", GPU) is ALL["geglu"]["triton"]
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _table.function("geglu", "triton", CPU) is ALL["geglu"]["triton"]


def test_triton_that_does_not_work_is_not_taken(monkeypatch, caplog):
    def broken():
        raise RuntimeError("no compiler was found\nat line 3")

    monkeypatch.setattr(_table, "load_triton", broken)
    with caplog.at_level("INFO", "dpid"):
        assert not _table.triton_works.__wrapped__(CPU)
    assert caplog.messages == ["without Triton's kernels: no compiler was found"]
