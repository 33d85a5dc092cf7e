"""Errors by the number of evaluations, compared with a model whose truth is known, and the price of five per cent."""

import pytest
import torch

import dpid
from dpid.bench.accuracy import Point, errors, explained, price
from dpid.denoisers import GaussianDenoiser


def points(error):
    """Lengths whose error is ``error``/√N, and which take 0.1 s and 0.01 s a sample."""
    return [Point(n, 4 * n, 0.1 + 0.01 * n, error / n**0.5, 0.0, 8) for n in (64, 8, 16, 32)]


@pytest.mark.parametrize(
    ("error", "samples", "note"), [(0.3, 36, ""), (0.8, 256, "extrapolated"), (0.1, 4, "extrapolated")]
)
def test_the_price_of_five_per_cent(error, samples, note):
    # c/√N = 0.05 at N = (20 c)²
    assert price(points(error)) == (pytest.approx(samples), pytest.approx(0.1 + 0.01 * samples), note)


def test_an_error_below_that_of_the_long_explanation_is_reached():
    found = [Point(8, 32, 0.2, 0.2, 0.0, 8), Point(16, 64, 0.4, 0.0, 0.0, 8)]
    assert price(found) == (pytest.approx(16), pytest.approx(0.4), "")


def test_errors_are_those_from_the_known_truth():
    one = torch.ones(1, 3, 3)
    denoiser = GaussianDenoiser({"": (0 * one, 2 * one), "a": (one, one), "b": (one, one), "both": (one, one)})
    x = -one
    question = {
        "latents": x, "conditions": {(): "", ("a",): "a", ("b",): "b", ("a", "b"): "both"}, "estimator": "standard",
        "rule": "uniform", "smooth": 1,
    }  # fmt: skip
    explainer = dpid.Explainer(denoiser)
    exact = float(denoiser.log_density(x[None], "both") - denoiser.log_density(x[None], ""))
    (point,), own = errors(explainer, [16], 12, 4096, lambda _: None, **question)
    runs = [explained(explainer, 16, seed, **question)[0].information["a", "b"].value for seed in range(1, 13)]
    expected = (sum((value - exact) ** 2 for value in runs) / len(runs)) ** 0.5 / abs(exact)
    assert (point.samples, point.evaluations, point.runs) == (16, 64, 12)
    # The mean of the runs and the long explanation are off by about as much as the latter's own error, here 3 of them.
    assert point.image == pytest.approx(expected, abs=3 * own)
    assert own < expected / 5
