"""Sampling rules: unbiased for the sum over trained levels, antithetic, independent between replicates."""

import pytest
import torch

from dpid.sampling import RULES, cells, draw

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
GRID = (ALPHAS.log() - (-ALPHAS).log1p()).flip(0)


def test_range_is_that_of_stable_diffusion():
    # theory: log-SNR of t = 0…999 runs from 7.0694 to -5.3640
    torch.testing.assert_close(GRID[[0, -1]], torch.tensor([-5.3640, 7.0694], dtype=torch.float64), atol=5e-4, rtol=0)


def test_cells_sum_to_the_range():
    torch.testing.assert_close(cells(GRID).sum(), GRID[-1] - GRID[0])


def test_every_sample_is_a_trained_level_with_the_same_weight():
    samples = draw("shifted-grid", GRID, 8, 4, torch.Generator().manual_seed(0))
    assert torch.isin(samples.logsnr, GRID).all()
    assert samples.replicate.tolist() == [g for g in range(4) for _ in range(8)]
    torch.testing.assert_close(samples.weight[:8].sum().double(), GRID[-1] - GRID[0], rtol=1e-6, atol=0)


def test_pairs_are_antithetic_and_noise_is_never_used_twice():
    samples = draw("shifted-grid", GRID, 8, 4, torch.Generator().manual_seed(0), first_id=100)
    assert torch.equal(samples.sample_id[1::2], ~samples.sample_id[::2])
    assert torch.equal(samples.logsnr[1::2], samples.logsnr[::2])
    assert sorted(samples.sample_id[::2].tolist()) == list(range(100, 116))


DENSITY = (-((GRID - 1) ** 2) / 8).exp() + 0.1


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_unbiased(rule, antithetic):
    """The mean over many replicates of Σ w g(λ) is Σ Δ_t g(λ_t), for a g with a kink and a peak."""
    g = lambda x: (x - 2).abs() + 5 * (-((x + 2) ** 2) * 4).exp()  # noqa: E731
    exact = (cells(GRID) * g(GRID)).sum()
    samples = draw(rule, GRID, 4, 20000, torch.Generator().manual_seed(1), antithetic=antithetic, density=DENSITY)
    each = torch.zeros(20000, dtype=torch.float64).index_add_(0, samples.replicate, samples.weight * g(samples.logsnr))
    # 4 standard errors of the mean of 20000 independent replicates.
    assert (each.mean() - exact).abs() < 4 * each.std() / 20000**0.5
    assert torch.isin(samples.logsnr, GRID).all()


def test_logistic_is_itds():
    """Quantiles of the drawn log-SNRs are those of ITD's logistic density, truncated to the grid."""
    samples = draw("logistic", GRID, 1, 40000, torch.Generator().manual_seed(0), antithetic=False)
    u = ((torch.stack((GRID[0], samples.logsnr.median(), GRID[-1])) - 1) / 2).sigmoid()
    # The median's place between the ends is uniform's: 1/2, with a standard error of 0.5 / 200.
    assert float((u[1] - u[0]) / (u[2] - u[0])) == pytest.approx(0.5, abs=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("random", GRID, 4, 2), "rule: found 'random'"),
        (("uniform", GRID, 3, 2), "per_replicate: found 3"),
        (("adaptive", GRID, 4, 2), "density: found None"),
    ],
)
def test_bad_input(arguments, message):
    with pytest.raises(ValueError, match=message):
        draw(*arguments, torch.Generator())
