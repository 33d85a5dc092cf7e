"""The bias by rounding, compared with a closed form, and the type that precision="auto" chooses."""

import pytest
import torch

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.estimation.precision import PILOT, candidates, rounding_bias, worth_trying
from dpid.prompts.plan import from_mapping

CONDITIONS = {(): "0", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
SHAPE = (4, 6, 6)
X = torch.ones(SHAPE)


class Rounded(GaussianDenoiser):
    """Adds noise of standard deviation ``step`` to ε̂, another draw for every element, unless in float32."""

    step = 0.0
    generator = torch.Generator().manual_seed(0)
    precision = "float16"
    precisions = ("float32", "bfloat16", "float16")

    def at(self, precision):
        other = Rounded(self.conditions, (-5.0, 7.0), 300)
        other.precision, other.step = precision, self.step
        return other

    def eps_hat(self, z, logsnr, conditions):
        out = super().eps_hat(z, logsnr, conditions)
        if self.precision == "float32":
            return out
        return out + self.step * torch.randn(out.shape, generator=self.generator)


@pytest.fixture
def model(monkeypatch):
    # As on a GPU: small runs try fast types too.
    monkeypatch.setattr("dpid.explainer.worth_trying", lambda device, samples: True)
    means = {"0": 0.0, "a": 0.5, "b": 0.5, "ab": 1.0}
    return Rounded({k: (torch.full(SHAPE, m), torch.ones(SHAPE)) for k, m in means.items()}, (-5.0, 7.0), 300)


def test_bias_of_independent_rounding(model):
    """½∫Σ_C E[(d + δ - δ')² - d²] dλ = 12 · 4 · s² a pixel for i°; it cancels in iˢ, and in iʳ but for F."""
    model.step = 0.1
    (bias,) = rounding_bias(model, X[None], (from_mapping(CONDITIONS),), samples=256)
    each = 12 * 4 * 0.1**2
    # The cross term ½ · 12 · 4 · 2 (ε - ε̂) δ of a sample and channel has a standard deviation of at most about 7;
    # its mean over 36 pixels, 256 samples, 4 channels 0.035. Four of those.
    for s in range(3):
        assert float(bias["orthogonal"][s].mean()) == pytest.approx(each, abs=0.14)
        assert float(bias["standard"][s].mean()) == pytest.approx(0, abs=0.14)
    assert float(bias["rao-blackwell"][0].mean()) == pytest.approx(0, abs=0.14)
    assert float(bias["rao-blackwell"][2].mean()) == pytest.approx(each, abs=0.14)


@pytest.mark.parametrize(("step", "settled"), [(1e-3, "float16"), (0.5, "float32")])
def test_auto_takes_the_fastest_type_that_is_precise_enough(model, monkeypatch, step, settled):
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    model.step = step
    explainer = dpid.Explainer(model)
    for turn in range(2):
        result = explainer.explain(latents=X, conditions=CONDITIONS)
        assert explainer.learnt.rounds == turn + 1  # a run that was given up has taught nothing
        assert result.metadata.precision == settled
        assert not result.rounding_matters()
        assert result.metadata.peak_memory > 0
    bias = result.metadata.rounding_bias
    assert (bias is None) == (settled == "float32")
    if bias:
        assert abs(bias["rao-blackwell"]["a+b"]) < result.information[("a", "b")].stderr / 2
    assert result.metadata.unet_evaluations == 32 * 4


def test_streams_and_log_densities_do_not_round_either(model, monkeypatch):
    """A stream begins again where its errors have fallen below twice the rounding, and tells no round twice."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    model.step = 0.04  # fine enough for the error of 8 samples, not for that of 256
    told = [
        (r.metadata.samples, r.metadata.precision)
        for r in dpid.Explainer(model).stream(latents=X, conditions=CONDITIONS, samples=8, max_samples=256)
    ]
    assert [samples for samples, _ in told] == list(range(8, 257, 8))
    assert {told[0][1], told[-1][1]} == {"float16", "float32"}
    found = dpid.Explainer(model).log_likelihood(latents=X, condition="a", samples=64)
    exact = dpid.Explainer(model, precision="float32").log_likelihood(latents=X, condition="a", samples=64)
    assert found == exact


def test_what_overflows_goes_on_in_a_finer_type(model, monkeypatch):
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "bfloat16", "float32"))
    model.step = float("inf")
    explainer = dpid.Explainer(model)
    assert explainer.explain(latents=X, conditions=CONDITIONS).metadata.precision == "float32"
    with pytest.raises(FloatingPointError, match="returned NaN or infinity"):
        dpid.Explainer(model, precision="float16").explain(latents=X, conditions=CONDITIONS)


def test_an_open_stream_stays_in_its_type(model, monkeypatch):
    """Another call that goes on in a finer one changes nothing of it."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    model.step = 0.04  # fine enough for the error of 24 samples, not for that of 256
    explainer = dpid.Explainer(model)
    stream = explainer.stream(latents=X, conditions=CONDITIONS, samples=8, max_samples=24)
    assert next(stream).metadata.precision == "float16"
    assert explainer.explain(latents=X, conditions=CONDITIONS, samples=256).metadata.precision == "float32"
    assert [r.metadata.precision for r in stream] == ["float16"] * 2


def test_what_meets_the_tolerance_in_the_finer_type_is_returned(model, monkeypatch):
    """Sooner than the coarser type was found out: after 8 samples, of which it had told 24."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))

    def fine(result):
        return result.metadata.precision == "float32"

    monkeypatch.setattr(dpid.PIDResult, "rounding_matters", lambda self: not fine(self) and self.metadata.samples == 32)
    monkeypatch.setattr(dpid.PIDResult, "relative_error", lambda self: 0.0 if fine(self) else 1.0)
    asked = {"latents": X, "conditions": CONDITIONS, "samples": 8, "max_samples": 64, "tolerance": 0.1}
    told = [(r.metadata.samples, r.metadata.precision) for r in dpid.Explainer(model).stream(**asked)]
    assert told == [(8, "float16"), (16, "float16"), (24, "float16"), (8, "float32")]
    assert dpid.Explainer(model).explain(**asked).metadata.converged


def test_an_explicit_type_is_kept_and_its_bias_said(model):
    model.step = 0.5
    result = dpid.Explainer(model, precision="float16").explain(latents=X, conditions=CONDITIONS)
    assert result.metadata.precision == "float16"
    assert any("rounding in float16" in line for line in result.remarks())
    assert result.to_dict()["rounding_bias"]["orthogonal"]["a+b"] > 0


def test_the_most_precise_type_comes_last():
    assert candidates(torch.device("cpu"))[-1] == "float32"


def test_a_torch_that_does_not_say_what_its_cpu_can_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.5 has none
    assert candidates(torch.device("cpu")) == ("float32",)


def test_refusals(model):
    with pytest.raises(ValueError, match="precision: found 'int8', allowed are auto, float32, bfloat16, float16"):
        dpid.Explainer(model, precision="int8")


def test_one_small_picture_on_a_cpu_needs_no_pilot(model, monkeypatch):
    monkeypatch.setattr("dpid.explainer.worth_trying", worth_trying)
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    assert not worth_trying(torch.device("cpu"), 4 * PILOT)
    assert worth_trying(torch.device("cpu"), 4 * PILOT + 1)
    assert worth_trying(torch.device("cuda:0"), 8)
    model.step = 1e-3
    for precision, samples, taken in (("auto", 32, "float32"), ("auto", 64, "float16"), ("float16", 8, "float16")):
        explainer = dpid.Explainer(model, precision=precision)
        result = explainer.explain(latents=X, conditions=CONDITIONS, samples=samples)
        assert result.metadata.precision == taken
