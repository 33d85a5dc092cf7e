"""``mmi``, compared with closed forms of Gaussians as in Barrett (2015)."""

from itertools import combinations
from math import log, log2

import pytest
import torch

from dpid.pid import decompose


@pytest.mark.parametrize(
    ("gains", "atoms"),
    [
        ((1, 1, 1), {"1|2|3": log2(4 / 3), "12|13|23": log2(3 / 2), "123": 1}),
        (
            (1, 2, 3),
            # The chain of f(1) < f(2) < f(12) < f(3) < f(13) < f(23) < f(123).
            {
                "1|2|3": log2(15 / 14), "2|3": log2(14 / 11), "3|12": log2(11 / 10), "3": log2(10 / 6),
                "13|23": log2(6 / 5), "23": log2(5 / 2), "123": 1,
            },
        ),
    ],
)  # fmt: skip
def test_gaussian_channel_of_three(written, gains, atoms):
    """x = Σ g_k y_k + n, all of variance 1: I_S = ½ log2 (total / (total - Σ_{k ∈ S} g_k²)) bits."""
    total = sum(g * g for g in gains) + 1
    names = ("y1", "y2", "y3")
    f = {
        tuple(names[k] for k in s): 0.5 * log2(total / (total - sum(gains[k] ** 2 for k in s)))
        for size in (1, 2, 3)
        for s in combinations(range(3), size)
    }
    expected = {antichain: 0.5 * value for antichain, value in atoms.items()}
    assert written(decompose(f, "mmi")) == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize(
    ("a", "c", "b", "r", "u1", "u2", "s"),
    [
        (0.5, 0.5, 0, 0.143841, 0, 0, 0.202733),
        (0.5, 0.5, 0.9, 0.143841, 0, 0, 0.008850),
        (0.5, 0, 0.5, 0, 0.143841, 0, 0.058892),
        (0.7, 0.4, 0.28, 0.087177, 0.249496, 0, 0.046355),
        (0.6, 0.3, -0.3, 0.047155, 0.175988, 0, 0.251763),
        (0.2, 0.8, 0.1, 0.020411, 0, 0.490415, 0.020621),
    ],
)
def test_gaussian_pair(four, a, c, b, r, u1, u2, s):
    """Barrett's closed form in nats: a, c the correlations of x with y1, y2, and b that of y1 with y2."""
    determinant = 1 - a * a - b * b - c * c + 2 * a * b * c
    f = {
        ("y1",): -0.5 * log(1 - a * a),
        ("y2",): -0.5 * log(1 - c * c),
        ("y1", "y2"): 0.5 * log((1 - b * b) / determinant),
    }
    assert four(decompose(f, "mmi")) == pytest.approx([r, u1, u2, s], abs=1e-6)  # six decimals


def test_the_average_comes_first():
    """Two images, one for each word: each pointwise minimum is 0, that of the averages 1."""
    f = {("a",): torch.tensor([2.0, 0.0]), ("b",): torch.tensor([0.0, 2.0]), ("a", "b"): torch.tensor([2.0, 2.0])}
    assert decompose(f, "min").redundancy.tolist() == [0, 0]
    assert decompose(f, "mmi").redundancy.tolist() == 1
    maps = {s: v[:, None, None].expand(2, 4, 5) for s, v in f.items()}
    assert decompose(maps, "mmi").redundancy.tolist() == torch.ones(4, 5).tolist()
