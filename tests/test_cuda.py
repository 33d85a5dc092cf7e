"""On a GPU: the same numbers as on a CPU, the user's settings unchanged, no memory leak."""

import pytest
import torch

import dpid
from dpid.device import exact_float32, repeatable
from dpid.ops import _table

gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")


@pytest.fixture(scope="module")
def on_gpu():
    """In a fast type, corrected, which "auto" does not take for so small a network."""
    return dpid.Explainer.from_pretrained("emoji", device="cuda", precision="float16")


@pytest.fixture(scope="module")
def exact():
    """By device, in float32."""
    return {d: dpid.Explainer.from_pretrained("emoji", device=d, precision="float32") for d in ("cuda", "cpu")}


@pytest.mark.skipif(not hasattr(torch.backends.cuda.matmul, "fp32_precision"), reason="torch below 2.9 has one switch")
@pytest.mark.parametrize("allowed", [True, False])
def test_tf32_is_off_inside_and_as_it_was_afterwards(allowed):
    backends = torch.backends
    before = backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32
    try:
        backends.cudnn.allow_tf32 = backends.cuda.matmul.allow_tf32 = allowed
        with exact_float32():
            assert backends.cudnn.conv.fp32_precision == backends.cuda.matmul.fp32_precision == "ieee"
        assert (backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32) == (allowed, allowed)
    finally:
        backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32 = before


def test_float32_is_no_bfloat16_on_a_cpu_either(emoji, two_things):
    """Where a process lets torch round the inputs of matrix products, float32 stays what it says."""
    matmul = getattr(torch.backends.mkldnn, "matmul", None)
    expected = emoji.at("float32").explain(*two_things, samples=8)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        chosen = matmul and matmul.fp32_precision
        with exact_float32():
            assert matmul is None or matmul.fp32_precision == "ieee"
        assert (matmul and matmul.fp32_precision) == chosen
        found = emoji.at("float32").explain(*two_things, samples=8, seed=0)
    finally:
        torch.set_float32_matmul_precision(before)
    assert found.to_dict()["estimators"] == expected.to_dict()["estimators"]


@pytest.mark.parametrize("chosen", [True, False])
def test_convolutions_are_repeatable_inside_and_as_they_were_afterwards(emoji, monkeypatch, chosen):
    network = emoji.denoiser.at("float32").network
    seen = []

    def look(*_):
        seen.append(torch.backends.cudnn.deterministic)
        return torch.zeros(1, 1)

    monkeypatch.setattr(network, "graphed", look)
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", chosen)
    network(torch.zeros(1, 4, 16, 16), torch.zeros(1), {"keys_values": {}})
    assert (seen, torch.backends.cudnn.deterministic) == ([True], chosen)


@gpu
@pytest.mark.parametrize(
    "options", [{}, {"tolerance": 0.2, "max_samples": 256, "estimator": "rao-blackwell"}, {"estimator": "standard"}]
)
def test_a_gpu_and_a_cpu_explain_alike(exact, two_things, options):
    there, here = (exact[d].explain(*two_things, samples=32, **options) for d in ("cuda", "cpu"))
    assert there.metadata.unet_evaluations == here.metadata.unet_evaluations
    for name, d in here.estimates.items():
        for subset, i in d.information.items():
            # The noise agrees to 4 ulp and eps_hat to 1e-5 of itself; squares of small differences to 100 times that.
            assert there.estimates[name].information[subset].value == pytest.approx(i.value, rel=1e-3, abs=1e-2)
    for a, b in zip(there.maps.unique.values(), here.maps.unique.values(), strict=True):
        assert float((a - b).norm() / b.norm()) < 1e-2  # fp32 rounding of pixels whose parts cancel


@gpu
def test_triton_serves_where_nothing_is_compiled(exact, two_things, monkeypatch):
    rows = {op: {b: f for b, f in row.items() if b != "cuda"} for op, row in _table.TABLE.items()}
    there = exact["cuda"].explain(*two_things, samples=32)
    monkeypatch.setattr(_table, "TABLE", rows)
    again = exact["cuda"].explain(*two_things, samples=32)
    # As above: the noise agrees to 4 ulp.
    assert again.synergy.value == pytest.approx(there.synergy.value, rel=1e-3, abs=1e-2)


@gpu
def test_a_fast_type_stays_within_its_error(on_gpu, exact, two_things):
    there, here = on_gpu.explain(*two_things), exact["cpu"].explain(*two_things)
    # The correction adds a third of the error or less; samples and noise are the same.
    assert abs(there.redundancy.value - here.redundancy.value) < here.redundancy.stderr


@gpu
def test_two_calls_give_the_same_bits(on_gpu, two_things):
    one, two = (on_gpu.explain(*two_things, samples=32) for _ in range(2))
    assert one == two  # metadata, and all bits of every tensor


@gpu
def test_memory_does_not_grow_with_samples(on_gpu, two_things):
    peaks = []
    for samples in (512, 512, 4096):  # batches of full size: a GPU takes 1024 evaluations at once
        torch.cuda.reset_peak_memory_stats()
        on_gpu.explain(*two_things, samples=samples)
        peaks.append(torch.cuda.max_memory_allocated())
    # Weights, profile and levels of a longer run are some kilobytes.
    assert peaks[2] <= peaks[1] * 1.05


@gpu
def test_no_tensor_of_the_user_moves_and_no_random_number_is_used(tiny, two_things):
    pipe = tiny().to("cuda")
    gpu_state, cpu_state = torch.cuda.get_rng_state(), torch.get_rng_state()
    explainer = dpid.Explainer(pipe)
    explainer.explain(two_things[0], "a cow", conditions={(): "", ("cow",): "cow", ("a",): "a", ("cow", "a"): "a cow"})
    assert all(p.device.type == "cuda" and p.dtype == torch.float32 for p in pipe.unet.parameters())
    assert torch.equal(torch.cuda.get_rng_state(), gpu_state)
    assert torch.equal(torch.get_rng_state(), cpu_state)


def test_settings_stay_until_the_last_thread_has_left(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    first, second = repeatable(), repeatable()
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert torch.backends.cudnn.deterministic
    second.__exit__(None, None, None)
    assert not torch.backends.cudnn.deterministic
