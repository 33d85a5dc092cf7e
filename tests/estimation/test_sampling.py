"""Sampling rules are unbiased for the sum over the trained levels; antithetic pairs; interleaved replicates."""

from itertools import islice, repeat

import pytest
import torch

from dpid.estimation.density import learn_density
from dpid.estimation.grid import cells
from dpid.estimation.sampling import RULES, draw, shifts

ALPHAS = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64).square()).cumprod(0)
GRID = (ALPHAS.log() - (-ALPHAS).log1p()).flip(0)


def test_range_is_that_of_stable_diffusion():
    # Of Stable Diffusion's schedule: log-SNRs from 7.0694 at t = 0 to -5.3640 at t = 999
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


def integral(samples, g, replicates):
    """Σ w g(λ) of every replicate."""
    each = torch.zeros(replicates, dtype=torch.float64)
    return each.index_add_(0, samples.replicate, samples.weight * g(samples.logsnr))


def peaked(x):
    """With a kink and a peak."""
    return (x - 2).abs() + 5 * (-((x + 2) ** 2) * 4).exp()


@pytest.mark.parametrize("antithetic", [True, False])
@pytest.mark.parametrize("rule", RULES)
def test_every_replicate_is_unbiased(rule, antithetic):
    """The mean over many draws of Σ w g(λ) is Σ Δ_t g(λ_t), in the first replicate as in the last."""
    exact = (cells(GRID) * peaked(GRID)).sum()
    generator = torch.Generator().manual_seed(1)
    each = torch.stack([
        integral(draw(rule, GRID, 4, 3, generator, antithetic=antithetic, density=DENSITY), peaked, 3)
        for _ in range(2000)
    ])  # fmt: skip
    # 4.5 standard errors of the mean of 2000 independent draws: one run in 4900 fails in any of these 30 numbers.
    assert ((each.mean(0) - exact).abs() < 4.5 * each.std(0) / 2000**0.5).all()


@pytest.mark.parametrize("rule", ["shifted-grid", "adaptive"])
def test_interleaved_replicates_make_one_finer_grid(rule):
    samples = draw(rule, GRID, 4, 4, torch.Generator().manual_seed(1), antithetic=False, density=DENSITY)
    assert torch.isin(samples.logsnr, GRID).all()
    q = DENSITY * cells(GRID) if rule == "adaptive" else cells(GRID)
    u = (q.cumsum(0) / q.sum())[torch.searchsorted(GRID, samples.logsnr.sort().values)]
    # 16 equal steps; a level holds up to 2 % of the density at the coarse end of the grid.
    torch.testing.assert_close(u.diff(), torch.full((15,), 1 / 16, dtype=torch.float64), atol=0.02, rtol=0)
    turns = samples.replicate[samples.logsnr.argsort()]
    assert torch.equal((turns[1:] - turns[:-1]) % 4, torch.ones(15, dtype=torch.int64))


def test_interleaved_replicates_are_more_exact_than_their_spread():
    """A smooth function by four grids of two points: the spread is that of two points, the mean that of eight."""
    g = lambda x: (-((x - 1) ** 2) / 8).exp()  # noqa: E731
    exact = (cells(GRID) * g(GRID)).sum()
    each = integral(draw("shifted-grid", GRID, 2, 4, torch.Generator().manual_seed(1), antithetic=False), g, 4)
    # Steps of 1.55 under a width of 2: the trapezoid rule is exact to exp(-2π² 2²/1.55²), and to 0.01 where the
    # Gaussian is cut off at the ends and levels are snapped; steps of 6.2 are off by a fifth.
    assert (each.mean() - exact).abs() < 0.02 < 0.2 < each.std()


def test_shifts_of_rounds_are_uniform_and_fill_the_step():
    first = torch.tensor([list(islice(shifts(torch.Generator().manual_seed(i)), 3)) for i in range(2000)])
    # Uniform in every round: the largest deviation of 2000 from the diagonal is over 0.043 once in 1000 (Kolmogorov).
    assert ((first.sort(0).values - torch.linspace(0, 1, 2000)[:, None]).abs().amax(0) < 0.043).all()
    # Of n multiples of the golden ratio no two neighbours are farther apart than φ² / n (three distances; Sós, 1958).
    for n in (2, 8, 21, 100):
        u = torch.tensor(sorted(islice(shifts(torch.Generator().manual_seed(0)), n)), dtype=torch.float64)
        gaps = torch.cat((u.diff(), u[:1] + 1 - u[-1:]))
        assert float(gaps.max()) < 2.619 / n


def test_rounds_refine_every_replicate():
    """Sixteen rounds of two levels a replicate: each replicate then knows a smooth integral as a grid of 32 would."""
    g = lambda x: (-((x - 1) ** 2) / 8).exp()  # noqa: E731
    exact, generator = (cells(GRID) * g(GRID)).sum(), torch.Generator().manual_seed(1)
    each = {}
    for name, all_shifts in (("golden", shifts(generator)), ("random", repeat(None))):
        rounds = [
            integral(draw("shifted-grid", GRID, 2, 4, generator, antithetic=False, shift=shift), g, 4)
            for shift in islice(all_shifts, 16)
        ]
        each[name] = torch.stack(rounds).mean(0) - exact
    # Two levels are off by a fifth (the test before): a sixteenth of that, and a few times that for the sequence, of
    # sixteen independent shifts a quarter of it.
    assert each["golden"].abs().max() < 0.05 < each["random"].abs().max()


def test_density_is_where_the_noise_was():
    """Two pictures, both of whose words live in the third of four bins."""
    f = torch.zeros(4, 3, 4)
    f[:, :, 2] = torch.tensor([1.0, -1.0, 3.0, 1.0])[:, None] * torch.tensor([1.0, 2.0, -5.0])
    f[:, :, 0] = 7.0  # the same in all replicates: a grid sees to it
    edges = torch.linspace(float(GRID[0]), float(GRID[-1]), 5, dtype=torch.float64)
    q = learn_density([f, 10 * f], edges, GRID, 0.5) * cells(GRID)
    share = torch.zeros(4, dtype=torch.float64).index_add_(0, torch.bucketize(GRID, edges[1:-1]), q) / q.sum()
    # Half is even, 1/8 a bin; the other is smoothed with weights ¼ ½ ¼. A level is up to 3e-3 of a bin.
    torch.testing.assert_close(share, torch.tensor([1, 2, 3, 2], dtype=torch.float64) / 8, atol=5e-3, rtol=0)


def test_density_is_the_best_for_all_pictures_together():
    """Of four pictures three are decided in bin 2, one in bin 6: ∫ s²/q, the mean over them, is least for √3 to 1."""
    profile = torch.tensor([1.0, -1.0, 3.0, 1.0])[:, None] * torch.tensor([1.0, 2.0])
    pictures = [torch.zeros(4, 2, 8).index_add_(2, torch.tensor([i]), profile[..., None]) for i in (2, 2, 2, 6)]
    edges = torch.linspace(float(GRID[0]), float(GRID[-1]), 9, dtype=torch.float64)
    q = learn_density(pictures, edges, GRID, 0.0) * cells(GRID)
    share = torch.zeros(8, dtype=torch.float64).index_add_(0, torch.bucketize(GRID, edges[1:-1]), q) / q.sum()
    # With the neighbours that smoothing moves a quarter to. A level is up to 6e-3 of a bin, and each bin has two ends.
    ratio = float(share[1:4].sum() / share[5:8].sum())
    assert ratio == pytest.approx(3**0.5, rel=0.024)


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
