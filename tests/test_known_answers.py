"""Explanations by a model with known information: y ~ N(0,1), x | y ~ N(y,1), so x ~ N(0,2). In nats."""

import pytest
import torch
from answers import TOY

import dpid
from dpid.denoisers import GaussianDenoiser


def gaussian(mean, variance, shape=(1, 1, 1)):
    return torch.full(shape, float(mean)), torch.full(shape, float(variance))


def explain(x, y1, y2, f_mean, f_variance, **options):
    denoiser = GaussianDenoiser(
        {"null": gaussian(0, 2), "one": gaussian(y1, 1), "two": gaussian(y2, 1), "both": gaussian(f_mean, f_variance)}
    )
    return dpid.Explainer(denoiser).explain(
        latents=torch.full((1, 1, 1), float(x)),
        conditions={(): "null", ("y1",): "one", ("y2",): "two", ("y1", "y2"): "both"},
        **options,
    )


def log_density(x, mean, variance):
    return -0.5 * (x - mean) ** 2 / variance - 0.5 * torch.log(torch.tensor(variance)).item()


@pytest.mark.parametrize(("y", "x", "standard", "orthogonal"), TOY)
def test_toy_table(y, x, standard, orthogonal):
    result = explain(x, y, 0.5, 0.4, 0.5, samples=16384, replicates=16, max_batch_size=8192)
    for name, expected in (("standard", standard), ("orthogonal", orthogonal)):
        got = result.estimates[name].information[("y1",)]
        # 3 standard errors, with 16 replicates; 1e-4 for the grid of 4001 levels and fp32 sums, measured against
        # a grid of 16001.
        assert abs(got.value - expected) < 3 * got.stderr + 1e-4, name
        assert got.stderr < 0.02


def test_rao_blackwell_has_the_mean_of_the_exact_log_ratio():
    """E over x ~ p(x | F) of iʳ(S) = E log p(x | y_S) / p(x), for right and wrong words (docs/theory.md, eq. (10))."""
    generator = torch.Generator().manual_seed(0)
    f_mean, f_variance, n = 0.8, 0.6, 4096
    x = f_mean + f_variance**0.5 * torch.randn(1, 64, 64, generator=generator)
    shape = tuple(x.shape)
    denoiser = GaussianDenoiser(
        {
            "null": gaussian(0, 2, shape), "one": gaussian(1, 1, shape), "wrong": gaussian(-1, 1, shape),
            "both": gaussian(f_mean, f_variance, shape),
        }
    )  # fmt: skip
    conditions = {(): "null", ("y1",): "one", ("y2",): "wrong", ("y1", "y2"): "both"}
    result = dpid.Explainer(denoiser).explain(latents=x, conditions=conditions, samples=512, replicates=8)
    for subset, (mean, variance) in {
        ("y1",): (1, 1), ("y2",): (-1, 1), ("y1", "y2"): (f_mean, f_variance),
    }.items():  # fmt: skip
        exact = 0.0
        for sign, m, v in ((1, mean, variance), (-1, 0, 2)):  # E (x-m)² = f_variance + (f_mean - m)²
            exact += sign * (
                -0.5 * (f_variance + (f_mean - m) ** 2) / v - 0.5 * torch.log(torch.tensor(float(v))).item()
            )
        per_pixel = result.estimates["rao-blackwell"].maps.information[subset]
        # 4 standard errors: the spread of 4096 independent pixels, and the error of the grid, which they share.
        error = (per_pixel.var() / n + (result.information[subset].stderr / n) ** 2) ** 0.5
        assert abs(per_pixel.mean() - exact) < 4 * error, subset
        assert error < 0.05


def test_standard_obeys_the_exact_log_ratio_at_every_pixel():
    x = torch.linspace(-2, 3, 6).view(1, 2, 3)
    shape = tuple(x.shape)
    denoiser = GaussianDenoiser(
        {
            "null": gaussian(0, 2, shape),
            "one": gaussian(1, 1, shape),
            "two": gaussian(0, 1, shape),
            "both": gaussian(2, 1, shape),
        }
    )
    conditions = {(): "null", ("y1",): "one", ("y2",): "two", ("y1", "y2"): "both"}
    result = dpid.Explainer(denoiser).explain(
        latents=x, conditions=conditions, samples=16384, replicates=16, max_batch_size=8192, smooth=1
    )
    maps = result.estimates["standard"].maps
    for subset, mean in ((("y1",), 1.0), (("y2",), 0.0), (("y1", "y2"), 2.0)):
        exact = torch.tensor([log_density(v, mean, 1.0) - log_density(v, 0.0, 2.0) for v in x.flatten().tolist()])
        error = (maps.information[subset].flatten() - exact).abs()
        # 18 comparisons at 4 standard errors with 15 degrees of freedom: one false alarm in 50 seeds; seed fixed.
        assert (error < 4 * maps.stderr.information[subset].flatten() + 1e-3).all()


def test_coverage_of_the_intervals():
    """95 % intervals of f(S) hold the truth in 95 % of 400 runs, to 3 binomial standard deviations (3.3 %)."""
    denoiser = GaussianDenoiser(
        {
            name: gaussian(mean, variance, (1, 4, 4))
            for name, mean, variance in (("null", 0, 2), ("one", 1, 1), ("two", 0, 1), ("both", 2, 1))
        },
        logsnr_range=(-8, 10),  # what is left out changes the answer by less than 1e-3
    )  # fmt: skip
    explainer = dpid.Explainer(denoiser)
    conditions = {(): "null", ("y1",): "one", ("y2",): "two", ("y1", "y2"): "both"}
    x = torch.linspace(-1, 2, 16).view(1, 4, 4)
    exact = sum(log_density(v, 1.0, 1.0) - log_density(v, 0.0, 2.0) for v in x.flatten().tolist())
    hits = 0
    for seed in range(400):
        result = explainer.explain(
            latents=x, conditions=conditions, samples=64, replicates=8, seed=seed, max_batch_size=999,
            estimator="standard",
        )  # fmt: skip
        low, high = result.information[("y1",)].interval()
        hits += low <= exact <= high
    assert 0.917 <= hits / 400 <= 0.983
