"""The type that precision="auto" chooses."""

import pytest
import torch

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.estimation.precision import candidates, worth_trying

CONDITIONS = {(): "0", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
SHAPE = (4, 6, 6)
X = torch.ones(SHAPE)


class Rounded(GaussianDenoiser):
    """Adds noise of standard deviation ``step`` to ε̂, another draw for every element, unless in float32."""

    step = 0.0
    generator = None
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
    # As of a large network: small runs try fast types too.
    monkeypatch.setattr("dpid.runner.worth_trying", lambda denoiser, samples: True)
    monkeypatch.setattr(Rounded, "generator", torch.Generator().manual_seed(0))
    means = {"0": 0.0, "a": 0.5, "b": 0.5, "ab": 1.0}
    return Rounded({k: (torch.full(SHAPE, m), torch.ones(SHAPE)) for k, m in means.items()}, (-5.0, 7.0), 300)


@pytest.mark.parametrize("step", [1e-3, 0.5])
def test_auto_takes_the_fastest_type_whatever_it_rounds(model, monkeypatch, step):
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    model.step = step
    explainer = dpid.Explainer(model)
    for turn in range(2):
        result = explainer.explain(latents=X, conditions=CONDITIONS)
        assert result.metadata.precision == "float16"
        assert result.metadata.paired > 0
        assert explainer.learnt.rounds == turn + 1  # a run that was given up has taught nothing
        assert result.metadata.peak_memory > 0


def test_log_densities_do_not_round(model, monkeypatch):
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    model.step = 0.04
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


@pytest.mark.parametrize("last", [1, 200])  # evaluations: in the first round, and after it
def test_an_error_of_the_callers_progress_is_none_of_the_model(model, monkeypatch, last):
    """It ends the run: no finer type is tried, and no result of the rounds before is returned in its place."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    told = []

    def fails(done, planned):
        told.append(done)
        if done >= last:
            raise FloatingPointError("of the caller")

    with pytest.raises(FloatingPointError, match="of the caller"):
        dpid.Explainer(model).explain(latents=X, conditions=CONDITIONS, samples=8, tolerance=1e-6, progress=fails)
    assert [done >= last for done in told] == [False] * (len(told) - 1) + [True]


def test_what_meets_the_tolerance_in_the_finer_type_is_returned(model, monkeypatch):
    """Sooner than the coarser type overflowed: after 16 samples, of which it had told 24."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    monkeypatch.setattr(
        dpid.PIDResult, "relative_error", lambda self: 0.0 if self.metadata.precision == "float32" else 1.0
    )
    asked = {"latents": X, "conditions": CONDITIONS, "samples": 8, "max_samples": 64, "tolerance": 0.1}
    told = []
    explainer = dpid.Explainer(model)
    for r in explainer.stream(**asked):
        told.append((r.metadata.samples, r.metadata.precision))
        explainer.denoiser.step = float("inf") if len(told) == 3 else 0.0
    assert told == [(8, "float16"), (16, "float16"), (24, "float16"), (16, "float32")]
    model.step = float("inf")
    assert dpid.Explainer(model).explain(**asked).metadata.converged


def test_the_most_precise_type_comes_last():
    assert candidates(torch.device("cpu"))[-1] == "float32"


def test_a_torch_that_does_not_say_what_its_cpu_can_computes_in_float32(monkeypatch):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.5 has none
    assert candidates(torch.device("cpu")) == ("float32",)


def test_refusals(model):
    with pytest.raises(ValueError, match="precision: found 'int8', allowed are auto, float32, bfloat16, float16"):
        dpid.Explainer(model, precision="int8")


@pytest.mark.parametrize("gpu", [False, True])
def test_a_small_network_on_small_latents_is_computed_in_float32(model, monkeypatch, gpu):
    """In one call, of which the correction of a fast type would make nine: four pairs are evaluated in both types."""
    monkeypatch.setattr("dpid.runner.worth_trying", worth_trying)
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    monkeypatch.setattr("dpid.estimation.precision.is_gpu", lambda device: gpu)
    monkeypatch.setattr(Rounded, "evaluation_bytes", lambda self, h, w: 1000)
    calls, eps_hat = [], Rounded.eps_hat

    def counted(self, z, logsnr, conditions):
        calls.append(self.precision)
        return eps_hat(self, z, logsnr, conditions)

    monkeypatch.setattr(Rounded, "eps_hat", counted)
    for precision, expected in (("auto", {"float32": 1}), ("float16", {"float32": 4, "float16": 5})):
        calls.clear()
        result = dpid.Explainer(model, precision=precision).explain(latents=X, conditions=CONDITIONS)
        assert {name: calls.count(name) for name in set(calls)} == expected
        assert result.metadata.precision == ("float32" if precision == "auto" else precision)


def test_a_network_of_unknown_size_is_taken_for_large_on_a_gpu(model, monkeypatch):
    assert model.evaluation_bytes(*SHAPE[1:]) == 0
    assert not worth_trying(model, 16)
    monkeypatch.setattr("dpid.estimation.precision.is_gpu", lambda device: True)
    assert worth_trying(model, 16)


def test_a_fast_type_is_tried_where_network_or_latents_are_large(model, monkeypatch):
    for gpu in (False, True):
        monkeypatch.setattr("dpid.estimation.precision.is_gpu", lambda device, gpu=gpu: gpu)
        for shape, activations in (((4, 64, 64), 2**20), ((32, 16, 16), 2**25)):  # the second are about Sana's at 512²
            monkeypatch.setattr(Rounded, "latent_shape", shape)
            monkeypatch.setattr(Rounded, "evaluation_bytes", lambda self, h, w, size=activations: size)
            assert worth_trying(model, 16)
            assert worth_trying(model, 15) == gpu  # of few samples the correction takes too many
