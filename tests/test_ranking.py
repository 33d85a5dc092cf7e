"""Ranks of pictures, compared with exact log-densities, and how often equal ones are told apart."""

import json
from itertools import product

import known
import pytest
import torch

import dpid
from dpid.denoisers import GaussianDenoiser

SHAPE = (1, 4, 4)


@pytest.fixture(scope="module")
def explainer():
    """p(x) = N(0, 1), p(x | "bright") = N(1, 1/4): of x with independent coordinates that are all alike."""
    ones = torch.ones(SHAPE)
    return dpid.Explainer(GaussianDenoiser({"": (0 * ones, ones), "bright": (ones, ones / 4)}, (-12.0, 14.0), 600))


def test_the_order_and_the_numbers_are_those_of_the_densities(explainer):
    latents = [torch.full(SHAPE, value) for value in (-1.0, 1.0, 0.2, 0.9)]
    exact = explainer.denoiser.log_ratio(torch.stack(latents), "bright", "")
    found = explainer.rank(latents=latents, prompt="bright", samples=256)
    assert found.order == (1, 3, 2, 0)
    for i, estimate in zip(found.order, found.information, strict=True):
        # Student's t with 7 degrees of freedom: one of four beyond 4.8 errors once in 100 times; 0.01 for the ends.
        assert abs(estimate.value - float(exact[i])) < 4.8 * estimate.stderr + 0.01
    assert abs(found.lead.value - float(exact[1] - exact[3])) < 4.8 * found.lead.stderr + 0.01
    # The noise is the same: the difference is less noisy than of independent estimates.
    assert found.lead.stderr < (found.information[0].stderr ** 2 + found.information[1].stderr ** 2) ** 0.5


def test_a_clear_lead_is_told_from_none(explainer):
    same = torch.full(SHAPE, 0.5)
    apart = explainer.rank(latents=[-same, same], prompt="bright", samples=512)
    assert apart.order[0] == 1
    assert apart.p_value < 0.01
    assert apart.remark().startswith("picture 1 is above picture 0")
    equal = explainer.rank(latents=[same, same], prompt="bright")
    assert (equal.order, equal.p_value, equal.lead.value) == ((0, 1), 1.0, 0.0)
    assert "may not be above" in equal.remark()
    alone = explainer.rank(latents=[same], prompt="bright")
    assert (alone.lead, alone.p_value, alone.remark()) == (None, None, "")


def test_equal_pictures_are_seldom_told_apart(explainer):
    """A picture and one with the same values elsewhere are equally likely: p < 5 % in 5 % of all seeds."""
    values = torch.randn(16, generator=torch.Generator().manual_seed(0))
    latents = [values.view(SHAPE), values.flip(0).view(SHAPE)]
    found = [explainer.rank(latents=latents, prompt="bright", rule="uniform", seed=i).p_value for i in range(200)]
    # 10 of 200 expected, with a standard deviation of 3.1; four of them, since replicates are not quite normal.
    assert sum(p < 0.05 for p in found) <= 10 + 4 * 3.1
    assert sum(p < 0.5 for p in found) == pytest.approx(100, abs=4 * 7.1)  # likewise


def test_equal_pictures_are_seldom_said_to_be_apart_where_rare_noise_decides():
    """Pictures of the mixture, of which both words are true, have ln 9 each: p < 5 % far more often than it should."""
    case = known.mixture((-9.0, 7.0))
    latents = case.denoiser.sample("both", 20, torch.Generator().manual_seed(11))
    explainer, p_values, above = dpid.Explainer(case.denoiser), [], []
    for pair, seed in product(latents.split(2), range(20)):
        found = explainer.rank(latents=pair.unbind(), prompt="both", samples=32, rule="shifted-grid", seed=seed)
        p_values.append(found.p_value)
        above.append("is above" in found.remark())
    # 1.0 and 17.7 % of 6000 by benchmarks/bench_ranks.py, of pairs from 3 to 29 %.
    assert sum(above) <= 0.05 * len(above)
    assert sum(p < 0.05 for p in p_values) > 0.1 * len(p_values)


def test_broken_pictures_are_named_and_all_is_json(explainer):
    latents = [torch.full(SHAPE, torch.nan), torch.ones(SHAPE)]
    found = explainer.rank(latents=latents, prompt="bright")
    assert found.order == (1,)
    assert found.errors == {0: "latents: found NaN or infinity"}
    written = json.loads(json.dumps(found.to_dict()))
    assert written["ranked"][0]["picture"] == 1
    assert written["errors"] == {"0": "latents: found NaN or infinity"}
    assert written["lead"] is None


def test_progress_is_that_of_all_pictures(explainer):
    """Evaluations of two texts by a ranking, and of one by likelihoods: of three pictures; the second fails."""
    latents = [torch.ones(SHAPE), torch.full(SHAPE, torch.nan), -torch.ones(SHAPE)]
    told = {2: [], 1: []}
    how = {"latents": latents, "samples": 64, "max_batch_size": 16}
    explainer.rank(prompt="bright", progress=lambda *numbers: told[2].append(numbers), **how)
    with pytest.raises(dpid.PicturesError, match="1 of 3 failed"):
        list(explainer.log_likelihoods(progress=lambda *numbers: told[1].append(numbers), **how))
    for texts, numbers in told.items():
        done = [now for now, _ in numbers]
        assert done == sorted(set(done))
        assert len(done) == 2 * 64 * texts // 16
        half = len(done) // 2
        assert [planned for _, planned in numbers] == [3 * 64 * texts] * half + [2 * 64 * texts] * half
        assert done[-1] == 2 * 64 * texts


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"latents": [torch.full(SHAPE, torch.nan)] * 2}, ValueError, "2 of 2 failed; number 0, 1: latents: found NaN"),
        ({"prompt": " "}, ValueError, "prompt: found an empty text"),
        ({"prompt": ["bright"]}, TypeError, "prompt: found list"),
        ({"prompt": "dark"}, ValueError, "'dark' is unknown"),
        ({"latents": []}, ValueError, "images: found none, expected at least one"),
        ({"progress": True}, TypeError, "progress: found bool, expected a function"),
        ({"tolerance": 0.1}, TypeError, "tolerance: is not taken where pictures are ranked; allowed are samples, repl"),
        ({"measure": "ppid"}, TypeError, "measure: is not taken where pictures are ranked"),
        ({"latents": torch.ones(SHAPE)}, TypeError, "latents: found Tensor, expected a list"),
    ],
)
def test_refusals(explainer, change, error, message):
    with pytest.raises(error, match=message):
        explainer.rank(**{"latents": [torch.ones(SHAPE)], "prompt": "bright"} | change)


def test_a_prompt_that_the_model_does_not_know_is_named_as_that(explainer):
    with pytest.raises(ValueError, match=r"^prompt: 'dark' is unknown"):
        explainer.rank(latents=[torch.zeros(SHAPE)] * 2, prompt="dark")
