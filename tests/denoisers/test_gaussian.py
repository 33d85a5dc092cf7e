"""Gaussian denoisers: densities compared with torch's, conditional means with quotients of densities, known values."""

from math import log

import pytest
import torch
from torch.distributions import MultivariateNormal

from dpid.denoisers import GaussianDenoiser

SHAPE, D = (2, 2, 1), 4
TOY = torch.tensor([[2.0, 1.0], [1.0, 1.0]])  # y ~ N(0,1), x | y ~ N(y,1)


def covariance(size, seed=0):
    root = torch.randn(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return root @ root.mT / size + 0.1 * torch.eye(size, dtype=torch.float64)


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(1)
    means = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
    variance = torch.rand(SHAPE, generator=generator, dtype=torch.float64) + 0.5
    return GaussianDenoiser({"independent": (means[0], variance), "full": (means[1], covariance(D))})


def distribution(model, name):
    mean, spread = model.conditions[name]
    spread = torch.diag(spread.flatten()) if spread.ndim == 3 else spread
    return mean.flatten(), spread


@pytest.mark.parametrize("names", [("independent",), ("full",), ("independent", "full")])
def test_eps_hat_is_minus_b_times_the_score(model, names):
    """ε̂ = -√σ(-λ) ∇ log N(z; a m, a² Σ + b² I), by torch's density and automatic differentiation."""
    logsnr = torch.tensor([-9.0, 0.3, 12.0])
    z = torch.randn(3, 2, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    got = model.eps_hat(z, logsnr, model.encode_conditions(names))
    assert got.shape == (3, len(names), 2, *SHAPE)
    for n, level in enumerate(logsnr.double()):
        a2, b2 = level.sigmoid(), (-level).sigmoid()
        for k, name in enumerate(names):
            mean, spread = distribution(model, name)
            noisy = MultivariateNormal(a2.sqrt() * mean, a2 * spread + b2 * torch.eye(D, dtype=torch.float64))
            flat = z[n].flatten(1).requires_grad_()
            (score,) = torch.autograd.grad(noisy.log_prob(flat).sum(), flat)
            # Float64, condition numbers below 1e2.
            torch.testing.assert_close(got[n, k].flatten(1), -b2.sqrt() * score, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["independent", "full"])
def test_log_density(model, name):
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    exact = MultivariateNormal(*distribution(model, name)).log_prob(x.flatten(1))
    torch.testing.assert_close(model.log_density(x, name), exact, rtol=1e-12, atol=1e-10)  # float64


@pytest.mark.parametrize("name", ["independent", "full"])
def test_samples_have_the_mean_and_the_covariance(model, name):
    n = 40_000
    x = model.sample(name, n, torch.Generator().manual_seed(4))
    assert x.dtype == torch.float32
    assert x.shape == (n, *SHAPE)
    mean, spread = distribution(model, name)
    flat = x.double().flatten(1)
    variance = spread.diagonal()
    # 5 standard errors: √(Σ_ii / n), and √((Σ_ii Σ_jj + Σ_ij²) / n) for a covariance.
    assert ((flat.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()
    error = ((variance[:, None] * variance + spread.square()) / n).sqrt()
    assert ((flat.mT.cov() - spread).abs() < 5 * error).all()


def test_joint_conditions_are_ratios_of_joint_densities():
    """log p(x | y_S) = log p(x, y_S) - log p(y_S), a scalar and a vector source, every subset."""
    joint = covariance(D + 3)
    observed = {"y1": 0.7, "y2": torch.tensor([-0.4, 1.1])}
    model = GaussianDenoiser.joint(joint, SHAPE, observed)
    assert list(model.conditions) == ["", "y1", "y2", "y1+y2"]
    x = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    values = torch.tensor([0.7, -0.4, 1.1], dtype=torch.float64)
    for name, columns in {"": [], "y1": [0], "y2": [1, 2], "y1+y2": [0, 1, 2]}.items():
        at = [D + i for i in columns]
        y = values[columns]

        def density(v, index):
            centre = torch.zeros(len(index), dtype=torch.float64)
            return MultivariateNormal(centre, joint[index][:, index]).log_prob(v)

        exact = density(torch.cat((x.flatten(1), y.expand(3, -1)), 1), [*range(D), *at])
        exact = exact - (density(y, at) if at else 0)
        # Float64; observed values pass through float32 above only where they are given as such (1e-7).
        torch.testing.assert_close(model.log_density(x, name), exact, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize(
    ("y", "x", "ratio"), [(1, 1, 0.596574), (1, -2, -3.153426), (0, 3, -1.903426), (2, 2, 1.346574)]
)
def test_toy(y, x, ratio):
    model = GaussianDenoiser.joint(TOY, (1, 1, 1), {"y": y})
    got = model.log_ratio(torch.full((1, 1, 1, 1), float(x)), "y", "")
    assert float(got) == pytest.approx(ratio, abs=5e-7)  # six decimals of the table
    assert float(got) == pytest.approx(log(2) / 2 - (x - y) ** 2 / 2 + x**2 / 4, abs=1e-12)


def test_standard_estimate_integrates_to_the_log_ratio():
    """½∫E[(ε-ε̂_∅)² - (ε-ε̂_S)²] dλ = log p(x|y_S)/p(x), pointwise: E over ε in closed form for a Gaussian."""
    joint = covariance(D + 2, seed=6)
    model = GaussianDenoiser.joint(joint, SHAPE, {"y1": 0.5, "y2": -1.0}, levels=801)
    x = torch.randn(2, *SHAPE, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
    names = ("", "y1", "y1+y2")
    conditions, grid = model.encode_conditions(names), model.logsnr_grid
    a, b = (s.sqrt().view(-1, 1, 1, 1, 1) for s in (grid.sigmoid(), (-grid).sigmoid()))
    # ε̂ is affine in ε, so that ε - ε̂ = r + R ε and E‖ε - ε̂‖² = ‖r‖² + ‖R‖²: columns of R by unit vectors.
    unit = torch.eye(D, dtype=torch.float64).view(D, 1, *SHAPE)
    still = -model.eps_hat((a * x).expand(-1, -1, *SHAPE), grid, conditions)
    squares = still.square().flatten(3).sum(-1)  # [N,K,B]
    for column in unit:
        moved = column - model.eps_hat(a * x + b * column, grid, conditions) - still
        squares = squares + moved.square().flatten(3).sum(-1)
    integral = torch.trapezoid(squares, grid, dim=0) / 2
    for k, name in enumerate(names[1:], 1):
        # Trapezoid at steps of 0.05 in λ, analytic integrand: what is left are the tails, e⁻¹⁶ times a few.
        torch.testing.assert_close(integral[0] - integral[k], model.log_ratio(x, name, ""), rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("conditions", "message"),
    [
        ({}, "found none"),
        ({"a": (torch.zeros(2, 2), torch.ones(2, 2))}, "'a' has shapes"),
        ({"a": (torch.zeros(SHAPE), torch.ones(3, 3))}, "'a' has shapes"),
        ({"a": (torch.zeros(SHAPE), torch.ones(SHAPE)), "b": (torch.zeros(1, 1, 1), torch.ones(1, 1, 1))}, "'b' has"),
        ({"a": (torch.zeros(SHAPE), torch.zeros(SHAPE))}, "conditions: the spread of 'a' must be positive"),
        ({"a": (torch.full(SHAPE, float("nan")), torch.ones(SHAPE))}, "'a' has NaN"),
        ({"a": (torch.zeros(SHAPE), torch.ones(D, D))}, "'a' must be positive definite"),
        ({"a": (torch.zeros(SHAPE), torch.eye(D) + torch.ones(D, D).triu(1))}, "'a' must be finite and symmetric"),
    ],
)
def test_bad_conditions(conditions, message):
    with pytest.raises(ValueError, match=message):
        GaussianDenoiser(conditions)


def test_bad_input(model):
    with pytest.raises(ValueError, match="covariance: found shape"):
        GaussianDenoiser.joint(TOY, (1, 1, 1), {"y1": 0.0, "y2": 0.0})
    for covariance, what in ((torch.ones(2, 2), "positive definite"), (torch.eye(2) / 0, "finite and symmetric")):
        with pytest.raises(ValueError, match=f"^covariance: it must be {what}"):
            GaussianDenoiser.joint(covariance, (1, 1, 1), {"y": 0.0})
    with pytest.raises(TypeError, match=r"^covariance: found list, expected a torch\.Tensor"):
        GaussianDenoiser.joint([[1.0, 0.0], [0.0, 1.0]], (1, 1, 1), {"y": 0.0})
    for pair in (([[[0.0]]], torch.ones(1, 1, 1)), (torch.zeros(1, 1, 1), [[[1.0]]])):
        with pytest.raises(TypeError, match=r"^conditions: found list, expected a torch\.Tensor"):
            GaussianDenoiser({"a": pair})
    for bad in (model.encode_conditions, lambda name: model.sample(name[0], 1, torch.Generator())):
        with pytest.raises(ValueError, match="'c' is unknown"):
            bad(("c",))
    joint = GaussianDenoiser.joint(TOY, (1, 1, 1), {"y": 0.0})
    with pytest.raises(ValueError, match=r"'c' is unknown; this model has '', 'y'$"):  # '': of no source
        joint.encode_conditions(("c",))
    with pytest.raises(ValueError, match="x: found shape"):
        model.log_density(torch.zeros(D), "full")
    with pytest.raises(ValueError, match="x: found NaN"):
        model.log_density(torch.full((1, *SHAPE), float("nan")), "full")
    with pytest.raises(ValueError, match="logsnr_range"):
        GaussianDenoiser({"a": (torch.zeros(SHAPE), torch.ones(SHAPE))}, (2.0, 1.0))
    with pytest.raises(ValueError, match="latents="):
        model.encode_image(torch.zeros(1, 3, 8, 8))
