"""The correction of a fast type to float32: without bias, with honest errors, and from few pairs."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.estimation import correction
from dpid.estimation.correction import Correction, _systematic
from dpid.estimation.estimators import MEASURED

CONDITIONS = {(): "0", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
SHAPE = (4, 6, 6)
X = torch.ones(SHAPE)
REPEATS = 300


class Coarse(GaussianDenoiser):
    """Rounds ε̂ to multiples of ``step``, unless in float32."""

    step = 0.3
    precision = "bfloat16"
    precisions = ("float32", "bfloat16")
    spare = True  # whether the memory holds float32

    def at(self, precision):
        other = Coarse(self.conditions, (-5.0, 7.0), 300)
        other.precision, other.step, other.spare = precision, self.step, self.spare
        return other

    def eps_hat(self, z, logsnr, conditions):
        out = super().eps_hat(z, logsnr, conditions)
        if self.precision == "float32":
            if not self.spare:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return out
        return (out / self.step).round() * self.step


@pytest.fixture
def model():
    means = {"0": 0.0, "a": 0.5, "b": 0.5, "ab": 1.0}
    return Coarse({k: (torch.full(SHAPE, m), torch.ones(SHAPE)) for k, m in means.items()}, (-5.0, 7.0), 300)


def sums(result):
    """f(S) of the image by all estimators, [G,3,S]."""
    return torch.stack([result.replicates[name].double().sum((-2, -1)) for name in MEASURED], 1)


def test_no_bias_is_left_and_the_error_is_right(model):
    fast, exact = dpid.Explainer(model, precision="bfloat16"), dpid.Explainer(model, precision="float32")
    # Independent log-SNRs: interleaved grids are more exact than the spread of replicates says, in any type.
    asked = {"latents": X, "conditions": CONDITIONS, "rule": "uniform"}
    found, bias, errors, truth = [], [], [], []
    for seed in range(REPEATS):
        result = fast.explain(**asked, seed=seed)
        f = sums(result)
        found.append(f.mean(0))
        errors.append(f.var(0) / len(f))
        bias.append(torch.tensor([[nats for nats, _ in result.metadata.correction[n].values()] for n in MEASURED]))
        truth.append(sums(exact.explain(**asked, seed=seed)).mean(0))
    found, bias, truth = (torch.stack(t) for t in (found, bias, truth))

    def in_errors(difference):
        return difference.mean(0) / (difference.std(0) / REPEATS**0.5)

    # Nine means of 300, all within 3.5 standard errors, which chance misses once in 200 times.
    assert (in_errors(found - truth).abs() < 3.5).all()
    # Without the correction i° would be 12 · 4 · 36 · step² / 12 = 13 nats too large, far beyond that.
    assert (in_errors(bias)[2] < -10).all()
    # The variance of 300 numbers is known to 8 %, the mean of 300 variances of 8 replicates to 3 %; three of those.
    ratio = found.var(0) / torch.stack(errors).mean(0)
    assert (ratio < 1.3).all()
    # i° is mostly correction here, by pairs that are spread more evenly than the spread of replicates knows.
    assert (ratio[:2] > 0.75).all()


def test_maps_and_profile_have_the_sums_of_the_image(model):
    result = dpid.Explainer(model, precision="bfloat16").explain(latents=X, conditions=CONDITIONS, estimator="standard")
    for name, f in result.replicates.items():
        profile = result.profiles[name].double()
        # Sums in float32 of numbers of about ten.
        torch.testing.assert_close(profile.sum(-1).mean(0), f.double().sum((-2, -1)).mean(0), atol=1e-3, rtol=1e-4)
    for subset, number in result.information.items():
        assert float(result.maps.information[subset].sum()) == pytest.approx(number.value, abs=1e-3)


def test_all_pairs_are_float32(model, monkeypatch):
    monkeypatch.setattr("dpid.estimation.correction._FIRST", 1.0)
    asked = {"latents": X, "conditions": CONDITIONS}
    result = dpid.Explainer(model, precision="bfloat16").explain(**asked)
    exact = dpid.Explainer(model, precision="float32").explain(**asked)
    assert result.metadata.precision == "bfloat16"
    assert result.metadata.paired == 32
    for name, f in result.replicates.items():
        # float32 sums of squares of order ten that were added and subtracted again, of 144 numbers.
        torch.testing.assert_close(f, exact.replicates[name], atol=1e-3, rtol=1e-4)


def test_fine_types_need_few_pairs_and_streams_fewer_and_fewer(model):
    model.step = 1e-3
    results = list(
        dpid.Explainer(model, precision="bfloat16").stream(latents=X, conditions=CONDITIONS, max_samples=512)
    )
    paired = [r.metadata.paired for r in results]
    assert paired[0] == 4  # an eighth of 32
    assert 4 + 2 <= paired[-1] <= 4 + 30  # one of 32 a round in the mean, two at most
    assert results[-1].metadata.unet_evaluations == (512 + 2 * paired[-1]) * 4
    # Rounding to thousandths cannot move a number by as much as a hundredth of its error.
    assert all(abs(nats) < 0.1 for nats, _ in results[-1].metadata.correction["standard"].values())


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors one by one, for each of which the host waits for a GPU."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


def test_as_many_numbers_are_read_for_two_estimators_as_for_one(model, monkeypatch):
    """And f(S) of a round is computed twice, of the sums and of the noise that the correction adds to them."""
    reads, asked = Reads(), []
    add, set_function = Correction.add, correction.set_function

    def counted(self, samples, sums, on_batch=None):
        with reads:
            add(self, samples, sums, on_batch)

    monkeypatch.setattr(Correction, "add", counted)
    model.step = 1e-3  # so fine that no more pairs are asked for
    monkeypatch.setattr(correction, "set_function", lambda *of: asked.append(1) or set_function(*of))
    explainer, found = dpid.Explainer(model, precision="bfloat16"), []
    for estimator in ("standard", "shrinkage"):  # of which the errors of one and of two decide
        reads.count = 0
        asked.clear()
        explainer.explain(latents=X, conditions=CONDITIONS, estimator=estimator)
        found.append((reads.count, len(asked)))
    assert found[0] == found[1]
    assert found[0][1] == 3  # once more for what was added


def test_without_memory_for_float32_the_fast_type_is_left_as_it_is(model, caplog):
    asked = {"latents": X, "conditions": CONDITIONS}
    model.spare = False
    result = dpid.Explainer(model, precision="bfloat16").explain(**asked)
    assert result.metadata.correction == {}
    assert result.metadata.paired == 0
    assert any("bfloat16 alone" in line for line in result.remarks())
    assert "no memory" in caplog.text


def test_what_was_corrected_is_said_and_kept(model, tmp_path):
    result = dpid.Explainer(model, precision="bfloat16").explain(latents=X, conditions=CONDITIONS)
    nats, error = result.metadata.correction["orthogonal"]["a+b"]
    assert nats < 0 < error
    result.save(tmp_path / "r.safetensors")
    again = dpid.PIDResult.load(tmp_path / "r.safetensors")
    assert again == result
    by_squares = dpid.Explainer(model, precision="bfloat16").explain(
        latents=X, conditions=CONDITIONS, estimator="orthogonal"
    )
    assert any(line.startswith("corrected for rounding in bfloat16") for line in by_squares.remarks())


def test_every_sample_is_chosen_as_often_as_its_probability_says():
    probability = torch.tensor([0.1, 0.7, 1.0, 0.25, 0.95, 0.5], dtype=torch.float64)
    logsnr = torch.tensor([2.0, -1.0, 0.0, 0.0, 5.0, -3.0])
    shifts = (torch.arange(1000) + 0.5) / 1000
    counts = sum(_systematic(probability, logsnr, float(shift)).double() for shift in shifts) / 1000
    # A grid of a thousand shifts: each end of an interval of shifts is known to a thousandth.
    torch.testing.assert_close(counts, torch.where(probability < 1, probability, 0.0), atol=2e-3, rtol=0)
