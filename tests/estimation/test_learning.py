"""Rule "learning": what it learns, that it is unbiased, and how its numbers are had again."""

import pickle
from itertools import pairwise

import bench_learning
import calibrate
import known
import pytest
import torch

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.estimation.grid import cells
from dpid.estimation.learning import Learnt
from dpid.estimation.sampling import draw

GRID = torch.linspace(-6, 7, 1001, dtype=torch.float64)
SHAPE = (1, 2, 3)
ASKED = {"conditions": {(): "", ("a",): "1", ("b",): "2", ("a", "b"): "2"}}
FIRST, SECOND = ({"latents": torch.full(SHAPE, x)} | ASKED for x in (1.0, 2.0))


def gaussian(ends=(-16.0, 18.0)):
    """x | y ~ N(y, 1), y ~ N(0, 1), at y = 0, 1, 2."""
    cases = {"": (0.0, 2.0), "1": (1.0, 1.0), "2": (2.0, 1.0)}
    return GaussianDenoiser({k: tuple(torch.full(SHAPE, v) for v in two) for k, two in cases.items()}, ends)


def equal(first, second):
    return all(torch.equal(f, second.replicates[name]) for name, f in first.replicates.items())


def test_samples_fall_where_the_integrand_is():
    """One of two subsets has all of its integrand near 3, ten thousand times the other's, which is even."""
    learnt = Learnt().of(GRID, None)
    for seed in range(20):
        samples = draw("adaptive", GRID, 4, 8, torch.Generator().manual_seed(seed), density=learnt.density(GRID))
        sign = (samples.sample_id < 0) * 2.0 - 1  # what both signs of a noise cancel does not count
        f = torch.stack([1e4 * ((samples.logsnr - 3).abs() < 1), torch.ones(32) + 100 * sign], 1)
        learnt = learnt.after(samples, f, antithetic=True)
    density = learnt.density(GRID)
    assert float(density @ cells(GRID)) == pytest.approx(1)
    # ν is even, 1/13, plus a half-width-1 box of 1/2: eq. (17b) with κ = .1. The kernel's width of 0.5 blurs the
    # box's ends alone, by less than 1 % at 3 and at -2; twenty grids of 16 know its weight to 5 %.
    inside, outside = (0.9 * r / (2 * (1 / 13 + 0.5) ** 0.5 + 11 * (1 / 13) ** 0.5) + 0.1 / 13
                       for r in ((1 / 13 + 0.5) ** 0.5, (1 / 13) ** 0.5))  # fmt: skip
    assert float(density[(GRID - 3).abs().argmin()]) == pytest.approx(inside, rel=0.1)
    assert float(density[(GRID + 2).abs().argmin()]) == pytest.approx(outside, rel=0.1)


def test_the_start_counts_less_and_less():
    learnt, start = Learnt().of(GRID, None), torch.rand(1001, generator=torch.Generator().manual_seed(0)).double() + 0.1
    assert torch.equal(learnt.density(GRID, start), start)
    shares = []
    for _ in range(12):
        samples = draw("shifted-grid", GRID, 4, 8, torch.Generator().manual_seed(0))
        learnt = learnt.after(samples, torch.ones(32, 1), antithetic=True)
        gap = learnt.density(GRID, start) - learnt.density(GRID)
        shares.append(float((gap[0] - gap[1]) / ((start[0] - start[1]) / (start @ cells(GRID)))))
    # 32 / (32 + 32 k) after k rounds of 32, never less than a tenth.
    assert shares == pytest.approx([max(0.1, 1 / (1 + k)) for k in range(1, 13)])


@pytest.mark.parametrize("name", ["gaussian", "mixture"])
def test_a_fourth_picture_in_four_rounds_is_unbiased(name):
    """The short form of ``benchmarks/bench_learning.py``, which repeats it 500 times on four models."""
    # Nine numbers, all of one picture: the largest is beyond 4 in fewer than one run of 1000.
    assert float(bench_learning.largest_bias(name, 60).max()) < 4


def test_a_later_picture_profits():
    """Of a mixture, whose integrand is narrow: over 60 repeats the fifth picture has half the variance at most."""
    cases = [known.mixture(calibrate.MIXTURE, seed=s) for s in (1, 2, 3, 4, 0)]
    even, learnt = (bench_learning.last_pictures(some, 60).var(0).mean() for some in (cases[-1:], cases))
    # It has a fifth. F(59, 59) is beyond 2 in 0.4 % of runs; nine numbers go together.
    assert learnt < even / 2


def test_the_first_picture_has_the_even_grid_and_equal_calls_in_order_equal_numbers():
    explainer, again = dpid.Explainer(gaussian()), dpid.Explainer(gaussian())
    first, second = explainer.explain(**FIRST), explainer.explain(**SECOND)
    even = dpid.Explainer(gaussian()).explain(**FIRST, rule="shifted-grid")
    assert equal(first, even)
    assert (first.metadata.rule, first.metadata.density, even.metadata.density) == ("learning", "", "")
    assert equal(again.explain(**FIRST), first)
    before = again.learnt
    assert equal(again.explain(**SECOND), second)
    assert not equal(again.explain(**SECOND), second)
    again.learnt = before
    assert again.explain(**SECOND).metadata == second.metadata
    assert len(second.metadata.density) == 8
    assert not equal(second, dpid.Explainer(gaussian()).explain(**SECOND))


def test_what_was_learnt_can_be_fixed():
    explainer = dpid.Explainer(gaussian())
    with pytest.raises(ValueError, match="results: expected some, since nothing was learnt"):
        explainer.learn()
    explainer.explain(**FIRST)
    learnt = explainer.learnt
    explainer.learn()
    results = [explainer.explain(**SECOND) for _ in range(2)]
    assert results[0] == results[1]
    assert results[0].metadata.rule == "adaptive"
    assert explainer.learnt is learnt
    # A rule that is named learns nothing.
    explainer.explain(**SECOND, rule="stratified")
    assert explainer.learnt is learnt


def test_no_noise_and_no_shift_is_drawn_twice(monkeypatch):
    """Calls with one seed: what a density was learnt from must not be drawn by it, or the estimate would be biased."""
    drawn = []

    def recorded(*arguments, **named):
        drawn.append((draw(*arguments, **named), named["shift"]))
        return drawn[-1][0]

    monkeypatch.setattr("dpid.run.draw", recorded)
    explainer = dpid.Explainer(gaussian())
    explainer.explain(**FIRST)
    list(explainer.stream(**SECOND, max_samples=96))
    explainer.explain(**FIRST)
    ids = torch.cat([samples.sample_id for samples, _ in drawn])
    assert len(ids.unique()) == len(ids) == 5 * 32
    positions = sorted(shift for _, shift in drawn)
    golden = (5**0.5 - 1) / 2
    steps = [abs((b - a - golden) % 1) for (_, a), (_, b) in pairwise(drawn)]
    assert len(set(positions)) == 5
    assert min(min(s, 1 - s) for s in steps) > 1e-6  # nor do they follow from each other, as those of other rules


def test_another_grid_starts_anew_and_copies_go_on():
    explainer = dpid.Explainer(gaussian())
    explainer.explain(**FIRST)
    copy = pickle.loads(pickle.dumps(explainer))
    assert equal(copy.explain(**SECOND), explainer.explain(**SECOND))
    explainer.denoiser = gaussian((-6.0, 7.0))
    assert equal(explainer.explain(**FIRST), dpid.Explainer(gaussian((-6.0, 7.0))).explain(**FIRST))


def test_a_copy_of_a_pipeline_goes_on_too(tiny):
    explainer = dpid.Explainer(tiny(), precision="float32")
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    ask = {"prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe"), "samples": 8}
    explainer.explain(image, **ask)
    copy = pickle.loads(pickle.dumps(explainer))
    second = explainer.explain(image, **ask)
    assert second.metadata.density
    assert equal(copy.explain(image, **ask), second)


def test_the_embedded_model_keeps_its_density(emoji, two_things):
    path, prompt, concepts = two_things
    first, second = (emoji.explain(path, prompt, concepts, samples=8) for _ in range(2))
    assert first.metadata.rule == "adaptive"
    assert equal(first, second)
    assert not emoji.learnt.rounds
