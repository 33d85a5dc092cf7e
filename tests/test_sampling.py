"""The shifted grid: unbiased for the sum over trained levels, antithetic, independent between replicates."""

import torch

from dpid.sampling import cells, shifted_grid

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
GRID = (ALPHAS.log() - (-ALPHAS).log1p()).flip(0)


def test_range_is_that_of_stable_diffusion():
    # theory: log-SNR of t = 0…999 runs from 7.0694 to -5.3640
    torch.testing.assert_close(GRID[[0, -1]], torch.tensor([-5.3640, 7.0694], dtype=torch.float64), atol=5e-4, rtol=0)


def test_cells_sum_to_the_range():
    torch.testing.assert_close(cells(GRID).sum(), GRID[-1] - GRID[0])


def test_every_sample_is_a_trained_level_with_the_same_weight():
    samples = shifted_grid(GRID, 8, 4, torch.Generator().manual_seed(0))
    assert torch.isin(samples.logsnr, GRID).all()
    assert samples.replicate.tolist() == [g for g in range(4) for _ in range(8)]
    torch.testing.assert_close(samples.weight[:8].sum().double(), GRID[-1] - GRID[0], rtol=1e-6, atol=0)


def test_pairs_are_antithetic_and_noise_is_never_used_twice():
    samples = shifted_grid(GRID, 8, 4, torch.Generator().manual_seed(0), first_id=100)
    assert torch.equal(samples.sample_id[1::2], ~samples.sample_id[::2])
    assert torch.equal(samples.logsnr[1::2], samples.logsnr[::2])
    assert sorted(samples.sample_id[::2].tolist()) == list(range(100, 116))


def test_unbiased():
    """The mean over many shifts of Σ w g(λ) is Σ Δ_t g(λ_t), for a g with a kink and a peak."""
    g = lambda x: (x - 2).abs() + 5 * (-((x + 2) ** 2) * 4).exp()  # noqa: E731
    exact = (cells(GRID) * g(GRID)).sum()
    samples = shifted_grid(GRID, 4, 20000, torch.Generator().manual_seed(1))
    each = torch.zeros(20000, dtype=torch.float64).index_add_(0, samples.replicate, samples.weight * g(samples.logsnr))
    # 4 standard errors of the mean of 20000 independent replicates.
    assert (each.mean() - exact).abs() < 4 * each.std() / 20000**0.5
