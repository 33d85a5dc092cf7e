"""Mixture denoisers, compared with sums over all components, and estimates on them with quadrature, in nats."""

from itertools import product
from math import log, pi

import numpy as np
import pytest
import torch

from dpid.denoisers import MixtureDenoiser

SHAPE, D, M, SCALE = (1, 2, 3), 6, 7, 0.4


@pytest.fixture
def model():
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(M, *SHAPE, generator=generator, dtype=torch.float64)
    some = torch.tensor([0.0, 0.1, 0.0, 0.0, 0.6, 0.3, 0.0])
    return MixtureDenoiser(means, SCALE, {"all": torch.full((M,), 1 / M), "some": some})


def log_density(model, name, flat, a=1.0, v=SCALE**2):
    """log Σ_m w_m N(z; a mean_m, v I) of z [B,D], component by component, nothing multiplied out."""
    weights = model.conditions[name]
    squares = torch.stack([(flat - a * mean).square().sum(1) for mean in model._means[weights > 0]], 1)
    return (weights[weights > 0].log() - squares / (2 * v)).logsumexp(1) - flat.shape[1] / 2 * log(2 * pi * v)


@pytest.mark.parametrize("level", [-12.0, -2.0, 1.5, 18.0])
def test_eps_hat_is_minus_b_times_the_score(model, level):
    z = 2 * torch.randn(1, 4, *SHAPE, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    got = model.eps_hat(z, torch.tensor([level]), model.encode_conditions(("all", "some")))
    assert got.shape == (1, 2, 4, *SHAPE)
    a2, b2 = (torch.tensor(s * level, dtype=torch.float64).sigmoid() for s in (1, -1))
    for k, name in enumerate(("all", "some")):
        flat = z[0].flatten(1).requires_grad_()
        density = log_density(model, name, flat, a2.sqrt(), float(a2 * SCALE**2 + b2))
        (score,) = torch.autograd.grad(density.sum(), flat)
        # Float64; exponents below 1e3 lose three of sixteen digits.
        torch.testing.assert_close(got[0, k].flatten(1), -b2.sqrt() * score, rtol=1e-10, atol=1e-11)


def test_no_component_near_is_no_underflow(model):
    """Responsibilities and densities where every exponential is zero in float64."""
    z = torch.full((1, 1, *SHAPE), 80.0, dtype=torch.float64)
    assert model.eps_hat(z, torch.tensor([22.0]), model.encode_conditions(("some",))).isfinite().all()
    density = model.log_density(z[0], "some")
    assert float(density) < -1e5
    exact = log_density(model, "some", z[0].flatten(1))
    torch.testing.assert_close(density, exact, rtol=1e-10, atol=0)  # float64, two terms of 1e5 cancel


@pytest.mark.parametrize("name", ["all", "some"])
def test_log_density(model, name):
    x = torch.randn(5, *SHAPE, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    torch.testing.assert_close(
        model.log_density(x, name), log_density(model, name, x.flatten(1)), rtol=1e-11, atol=1e-10
    )


def test_samples_have_the_moments(model):
    n = 20_000
    x = model.sample("some", n, torch.Generator().manual_seed(3)).double().flatten(1)
    weights, means = model.conditions["some"], model._means
    mean = weights @ means
    variance = weights @ means.square() - mean.square() + SCALE**2
    assert ((x.mean(0) - mean).abs() < 5 * (variance / n).sqrt()).all()  # 5 standard errors
    deviation = (x - mean).square()
    assert ((deviation.mean(0) - variance).abs() < 5 * deviation.std(0) / n**0.5).all()


def integrals(model, x, names, noise, probability):
    """½∫E[(ε-ε̂_k)²], and for every pair ½∫E[(ε̂_i-ε̂_j)²] dλ, [K,B] and [K,K,B]; noise [Q,B,D], its weights [Q]."""
    conditions, grid = model.encode_conditions(names), model.logsnr_grid
    a, b = (s.sqrt().view(-1, 1, 1, 1, 1) for s in (grid.sigmoid(), (-grid).sigmoid()))
    residuals = torch.zeros(len(grid), len(names), len(x), dtype=torch.float64)
    gaps = residuals.new_zeros(len(grid), len(names), len(names), len(x))
    for eps, weight in zip(noise.unflatten(-1, model.shape), probability, strict=True):
        got = model.eps_hat(a * x + b * eps, grid, conditions).flatten(3)
        residuals += weight * (eps.flatten(1) - got).square().sum(-1)
        gaps += weight * (got[:, :, None] - got[:, None]).square().sum(-1)
    return tuple(torch.trapezoid(g, grid, dim=0) / 2 for g in (residuals, gaps))


def normal(nodes, weights):
    """Quadrature over a standard normal from one over the line."""
    weights = weights * (-nodes.square() / 2).exp()
    return nodes, weights / weights.sum()


# μ(y1, y2) and, over p(x, y): E i1, E i2, E i12, E min(iˢ), E min(i°). All but the last column are entropies of the
# gate (ln 2 and its like); E min(i°) by nested quadrature in another program, the same to six digits on a finer grid.
GATES = {
    "XOR": (lambda p, q: 2 * (p ^ q) - 1, 0, 0, 0.69315, 0, 0),
    "AND": (lambda p, q: 2 * (p & q) - 1, 0.21576, 0.21576, 0.56234, 0.04247, 0.17329),
    "UNQ1": (lambda p, q: 2 * p - 1, 0.69315, 0, 0.69315, 0, 0),
    "RDN": (lambda p, q: 2 * p - 1, 0.69315, 0.69315, 0.69315, 0.69315, 0.69315),
    "SUM": (lambda p, q: 2 * (p + q - 1), 0.34657, 0.34657, 1.03972, 0.34657, 0.31147),
}


@pytest.mark.parametrize("gate", GATES)
def test_gates(gate):
    """x = μ(y1, y2) + 0.1 n, y uniform bits, or one bit twice; standard and orthogonal estimates and their minima."""
    mean, *expected = GATES[gate]
    bits = [(0, 0), (1, 1)] if gate == "RDN" else list(product((0, 1), repeat=2))
    means = torch.tensor([float(mean(*y)) for y in bits], dtype=torch.float64).view(-1, 1, 1, 1)
    conditions = {"": torch.full((len(bits),), 1 / len(bits))}
    for position, value in product((0, 1), repeat=2):
        conditions[f"y{position + 1}={value}"] = torch.tensor([2 / len(bits) * (y[position] == value) for y in bits])
    for i, y in enumerate(bits):
        conditions[f"{y}"] = torch.eye(len(bits))[i]
    model = MixtureDenoiser(means, 0.1, conditions, (-14.0, 16.0), 301)
    names = tuple(conditions)
    # Trapezoid in ε; Gauss-Legendre in n, either side of zero, where the minimum of i° has a kink.
    line = torch.linspace(-6.75, 6.75, 55, dtype=torch.float64)
    eps, probability = normal(line, torch.ones_like(line))
    half, weights = (torch.from_numpy(v) for v in np.polynomial.legendre.leggauss(5))
    n, density = normal(torch.cat((2 * half - 2, 2 * half + 2)), weights.repeat(2))
    x = (means + 0.1 * n).view(-1, 1, 1, 1)
    residuals, gaps = integrals(model, x, names, eps.view(-1, 1, 1), probability)
    index = torch.tensor([[names.index(c) for c in (f"y1={p}", f"y2={q}", f"{(p, q)}")] for p, q in bits])
    index = index.repeat_interleave(len(n), 0).mT  # [3,B]
    standard = residuals[0] - residuals.gather(0, index)
    orthogonal = gaps[0].gather(0, index)
    ratios = torch.stack([model.log_ratio(x, name, "") for name in names])
    # The identity holds at every x. Tails of λ and steps of the quadratures: below 1e-4, against finer ones.
    torch.testing.assert_close(standard, ratios.gather(0, index), rtol=0, atol=1e-4)
    rows = torch.stack((*standard, standard[:2].amin(0), orthogonal[:2].amin(0)))
    weight = density.repeat(len(bits)) / len(bits)
    torch.testing.assert_close(rows @ weight, torch.tensor(expected, dtype=torch.float64), rtol=0, atol=1e-4)
    torch.testing.assert_close(orthogonal @ weight, standard @ weight, rtol=0, atol=1e-4)  # equal on average


def test_rao_blackwell_has_the_mean_of_the_exact_log_ratio():
    """E over x ~ p(x | F) of iʳ(S) = E log p(x | y_S) / p(x), a wrong word too, where i° is wrong."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, 2, 2, 2, generator=generator, dtype=torch.float64)
    conditions = {"": torch.full((8,), 1 / 8)}
    for name, members in {"y1": [0, 1, 2, 3], "y2": [2, 3, 4, 5], "F": [2, 3], "wrong": [6, 7]}.items():
        conditions[name] = torch.zeros(8).index_fill(0, torch.tensor(members), 1 / len(members))
    model = MixtureDenoiser(means, 0.5, conditions, (-10.0, 12.0), 89)
    names, count = tuple(conditions), 400
    x = model.sample("F", count, generator).double()
    noise = torch.randn(4, count, 8, generator=generator, dtype=torch.float64)
    _, gaps = integrals(model, x, names, torch.cat((noise, -noise)), torch.full((8,), 1 / 8))
    full = names.index("F")
    for k, name in enumerate(names[1:], 1):
        exact = model.log_ratio(x, name, "")
        difference = gaps[full, 0] - gaps[full, k] - exact
        error = float(difference.std()) / count**0.5
        # 4 standard errors over independent pictures; 1e-3 for the tails of λ (½ e⁻¹⁰ |Δ mean|²).
        assert abs(float(difference.mean())) < 4 * error + 1e-3, name
        assert error < 0.1 + 0.02 * abs(float(exact.mean()))
    assert float(exact.mean()) < -10  # the wrong word
    assert float(gaps[0, names.index("wrong")].mean()) > 10  # i° takes it for information


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (torch.tensor([0.5, 0.6]), "'bad' sum to 1.1"),
        (torch.tensor([1.5, -0.5]), "'bad' has a negative weight"),
        (torch.tensor([float("nan"), 1.0]), "'bad' has a negative weight or NaN"),
        (torch.ones(3) / 3, "'bad' has shape"),
    ],
)
def test_bad_weights(weights, message):
    with pytest.raises(ValueError, match=message):
        MixtureDenoiser(torch.zeros(2, 1, 1, 1), 1.0, {"bad": weights})


def test_bad_input(model):
    one = {"one": torch.ones(1)}
    for means in (torch.zeros(1, 2), torch.full((1, 1, 1, 1), float("inf"))):
        with pytest.raises(ValueError, match="means: found shape"):
            MixtureDenoiser(means, 1.0, one)
    for means, weights, name in (([[[[0.0]]]], torch.ones(1), "means"), (torch.zeros(1, 1, 1, 1), [1.0], "conditions")):
        with pytest.raises(TypeError, match=f"^{name}: found list, expected a torch.Tensor"):
            MixtureDenoiser(means, 1.0, {"one": weights})
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="scale: found"):
            MixtureDenoiser(torch.zeros(1, 1, 1, 1), scale, one)
    with pytest.raises(ValueError, match="'c' is unknown"):
        model.encode_conditions(("all", "c"))
    with pytest.raises(ValueError, match="x: found shape"):
        model.log_density(torch.zeros(1, D), "all")


def test_impossible_under_one_condition_costs_what_the_density_says(model):
    """A component that a condition excludes: the log ratio is that of the nearest one left, not minus infinity."""
    x = model._means[:1].view(1, *SHAPE)
    left = [m for m, w in enumerate(model.conditions["some"]) if w > 0]
    squares = (model._means[left] - model._means[0]).square().sum(1)
    terms = [
        log(float(model.conditions["some"][m])) - float(s) / (2 * SCALE**2) for m, s in zip(left, squares, strict=True)
    ]
    everything = torch.tensor(
        [log(1 / M) - float(s) / (2 * SCALE**2) for s in (model._means - model._means[0]).square().sum(1)]
    )
    exact = float(torch.tensor(terms, dtype=torch.float64).logsumexp(0) - everything.double().logsumexp(0))
    assert float(model.log_ratio(x, "some", "all")) == pytest.approx(exact, abs=1e-5)  # `everything` is float32
