"""Noise levels of networks, compared with closed forms: the network's time, its scaled input, ε̂ from its output."""

import pytest
import torch

from dpid.denoisers import GaussianDenoiser
from dpid.denoisers.levels import Discrete, Flow, Preconditioned


def test_timesteps_without_noise_or_without_picture_are_left_out():
    levels = Discrete(torch.tensor([1.0, 0.9, 0.5, 0.1, 0.0]), "epsilon")
    assert torch.equal(levels.time(levels.grid), torch.tensor([3, 2, 1]))  # of the noisiest first
    torch.testing.assert_close(levels.grid.sigmoid(), torch.tensor([0.1, 0.5, 0.9]).double(), rtol=1e-7, atol=0)
    with pytest.raises(ValueError, match="no timestep between noise and picture"):
        Discrete(torch.tensor([1.0, 0.0]), "epsilon")


def test_v_and_epsilon_are_one_prediction():
    """v = √σ(λ) ε - √σ(-λ) x at z = √σ(λ) x + √σ(-λ) ε gives ε back, in float64 but for the float32 of the formula."""
    generator = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, 5, 4, 3, 3, generator=generator)
    levels = Discrete(torch.linspace(0.99, 0.01, 50), "v_prediction")
    logsnr = levels.grid[::10]
    a, b = (t.sqrt().float().view(-1, 1, 1, 1) for t in (logsnr.sigmoid(), (-logsnr).sigmoid()))
    z, v = a * x + b * eps, a * eps - b * x
    torch.testing.assert_close(levels.eps(v, z, logsnr), eps, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("kind", ["flow", "discrete"])
def test_another_prediction_of_a_gaussian_is_its_noise(kind):
    """The exact velocity (or ε) of a Gaussian at the network's own input is the ε̂ of its closed form in the channel."""
    mean, variance = torch.full((4, 3, 3), 0.7), torch.linspace(0.1, 3, 36).view(4, 3, 3)
    exact = GaussianDenoiser({"a": (mean, variance)})
    levels = Flow(-9.0, 9.0) if kind == "flow" else Discrete(torch.linspace(0.99, 0.01, 50), "epsilon")
    logsnr = levels.grid[:: len(levels.grid) // 7]
    z = torch.randn(len(logsnr), 4, 3, 3, generator=torch.Generator().manual_seed(1))
    want = exact.eps_hat(z[:, None], logsnr, exact.encode_conditions(["a"]))[:, 0, 0]
    x = levels.enter(z, logsnr)
    if kind == "discrete":
        assert x is z
        assert torch.equal(levels.eps(want, x, logsnr), want)
        return
    sigma = levels.time(logsnr).double().view(-1, 1, 1, 1)
    # E[ε - x | x_σ] of x ~ N(m, s²): linear regression of ε - x on x_σ = (1-σ) x + σ ε.
    spread = (1 - sigma) ** 2 * variance + sigma**2
    v = -mean + (sigma - (1 - sigma) * variance) / spread * (x.double() - (1 - sigma) * mean)
    # float32 rounding of z, of x_σ and of v, of which x_σ + (1-σ) v is a sum.
    torch.testing.assert_close(levels.eps(v.float(), x, logsnr), want, rtol=1e-5, atol=2e-6)


@pytest.mark.parametrize("sign", ["epsilon", "v_prediction"])
def test_a_preconditioned_network_of_a_gaussian_predicts_its_noise(sign):
    """Of latents with d = 1/2: D = E[x | x + s ε] of a Gaussian, from which F and so ε̂ follow."""
    mean, variance, d = torch.full((4, 3, 3), 0.2), torch.linspace(0.05, 0.8, 36).view(4, 3, 3), 0.5
    exact, levels = GaussianDenoiser({"a": (mean, variance)}), Preconditioned(0.002, 80.0, d, sign)
    logsnr = levels.grid[::111]
    noise = (4 * levels.time(logsnr).double()).exp().view(-1, 1, 1, 1)
    assert float(noise.max()) == pytest.approx(80, rel=1e-6)  # float32 of a logarithm
    assert float(noise[-1]) < 0.01
    z = torch.randn(len(logsnr), 4, 3, 3, generator=torch.Generator().manual_seed(1))
    noisy = (1 + noise**2).sqrt() * z.double()  # x + s ε
    x = levels.enter(z, logsnr)
    torch.testing.assert_close(x.double(), noisy / (noise**2 + d**2).sqrt(), rtol=1e-6, atol=0)  # float32
    clean = mean + variance / (variance + noise**2) * (noisy - mean)
    c = noise * d / (noise**2 + d**2).sqrt() * (1 if sign == "epsilon" else -1)
    out = (clean - d**2 / (noise**2 + d**2) * noisy) / c
    want = exact.eps_hat(z[:, None], logsnr, exact.encode_conditions(["a"]))[:, 0, 0]
    # float32 rounding of z, of the input and of the output.
    torch.testing.assert_close(levels.eps(out.float(), x, logsnr), want, rtol=1e-5, atol=2e-6)


def test_a_flow_has_only_levels_that_its_network_can_be_told():
    def told(sigma):
        return sigma.bfloat16().float()

    coarse = Flow(-9.0, 9.0, told)
    assert len(coarse.grid) < 1001  # 8 bits tell fewer than were asked for
    sigma = coarse.time(coarse.grid)
    torch.testing.assert_close(sigma, told(sigma), rtol=1e-6, atol=0)  # float32 of a logarithm and back
    assert (coarse.grid.diff() > 0).all()


def test_the_range_of_a_logit_normal_training():
    """logit σ ~ N(0, 1) shifted by c is λ ~ N(-2 log c, 2²): 3.5 deviations hold all but 5e-4 of samples."""
    sigma = torch.randn(200_000, generator=torch.Generator().manual_seed(0)).double().sigmoid()
    shifted = 3 * sigma / (1 + 2 * sigma)
    logsnr = 2 * ((1 - shifted).log() - shifted.log())
    levels = Flow.trained(3.0, lambda s: s)
    outside = ((logsnr < levels.low) | (logsnr > levels.high)).double().mean()
    assert float(outside) == pytest.approx(4.65e-4, abs=2e-4)  # 200 000 samples: one error is 5e-5


def test_refusals():
    with pytest.raises(ValueError, match="prediction_type 'sample' is not supported"):
        Discrete(torch.tensor([0.5]), "sample")
    with pytest.raises(ValueError, match="low, high: found 3"):
        Flow(3.0, -3.0)
    with pytest.raises(ValueError, match="pipe: its scheduler has sigma_min 0"):
        Preconditioned(0.0, 80.0, 0.5, "epsilon")
    with pytest.raises(ValueError, match="prediction_type 'sample' is not supported"):
        Preconditioned(0.002, 80.0, 0.5, "sample")
