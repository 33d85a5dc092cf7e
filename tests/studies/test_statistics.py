"""AUC, IoU, redundancy shares and intervals, compared with closed forms and other libraries."""

import numpy as np
import pytest
import torch
from made_up import metadata
from scipy import stats
from sklearn.metrics import jaccard_score, roc_auc_score

from dpid.results.intervals import Estimate
from dpid.results.result import PIDResult
from dpid.studies import complex_prompts, study
from dpid.studies.bias import _as_the_world, _cells, _finding
from dpid.studies.features import inside
from dpid.studies.masks import THRESHOLDS, auc, cover, overlaps
from dpid.studies.pairs import redundancy_share
from dpid.studies.study import (
    bootstrap,
    by_picture,
    estimate,
    grouped,
    mean,
    median,
    pearson,
    proportion,
    spearman,
    told,
)


def test_auc_is_that_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    values = torch.randint(0, 9, (16, 16), generator=generator).float()  # with ties
    labels = torch.rand(16, 16, generator=generator) > 0.7
    expected = roc_auc_score(labels.flatten(), values.flatten())
    assert auc(values, labels) == pytest.approx(expected, abs=1e-12)
    assert auc(values, torch.ones(16, 16, dtype=torch.bool)) is None


def test_overlaps_are_those_of_scikit_learn():
    generator = torch.Generator().manual_seed(0)
    values, labels = torch.randn(8, 8, generator=generator), torch.rand(8, 8, generator=generator) > 0.5
    scaled = (values - values.min()) / (values.max() - values.min())
    for threshold, found in zip(THRESHOLDS, overlaps(values, labels), strict=True):
        # Rounding could move a value across a threshold only by 1e-7; none is that near with this seed.
        expected = jaccard_score(labels.flatten(), scaled.flatten() > threshold)
        assert found == pytest.approx(expected, abs=1e-12)
    assert overlaps(torch.zeros(8, 8), labels) == [0.0] * len(THRESHOLDS)
    assert overlaps(values, torch.zeros(8, 8, dtype=torch.bool)) is None


def test_cover_takes_pixels_that_are_covered_by_more_than_half():
    mask = torch.zeros(8, 8, dtype=torch.bool)
    mask[:4, :4] = True  # all of the first latent pixel
    mask[:2, 4:] = True  # half of the second
    assert cover(mask, (2, 2)).tolist() == [[True, False], [False, False]]


def share(*maps):
    """The redundancy share of maps that are the same in all of four replicates."""
    return redundancy_share(torch.stack(maps).expand(4, -1, -1, -1))


def test_redundancy_share():
    f1 = torch.tensor([[2.0, 1.0]])
    assert share(f1, f1, f1) == Estimate(1, 0, 3)  # the same map
    apart = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 2.0]])
    assert share(*apart, f1) == Estimate(0, 0, 3)  # each about its own place
    misleading = torch.tensor([[3.0, -1.0]]), torch.tensor([[-2.0, 3.0]])
    assert share(*misleading, f1) == Estimate(-3, 0, 3)  # -3 over min(2, 1)
    assert share(f1, -f1, f1) is None


def test_every_redundancy_share_has_the_error_of_a_ratio():
    """At two pixels the first word tells 99 and 0.1, the second c = 0.3 ± size and 0.9: (c + 0.1) / (c + 0.9)."""
    noise = torch.randn(8, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
    for size in (0.01, 0.1, 2.0):  # of the last a mean that is one error off has c + 0.9 < 0
        f = torch.tensor([[[99, 0.1]], [[0.3, 0.9]], [[99, 1]]], dtype=torch.float64).repeat(8, 1, 1, 1)
        f[:, 1, 0, 0] += size * (noise - noise.mean()) / noise.std()
        found = redundancy_share(f)
        # The derivative of the ratio by c is (0.9 - 0.1) / 1.2². Both exact but for rounding of float64.
        assert (found.value, found.dof) == (pytest.approx(1 / 3, rel=1e-9), 7)
        assert found.stderr == pytest.approx(0.8 / 1.44 * size / 8**0.5, rel=1e-9)


def test_inside():
    unique, mask = torch.tensor([[3.0, -5.0], [1.0, 0.0]]), torch.tensor([[True, True], [False, False]])
    assert inside(unique, mask) == 0.75
    assert inside(-unique.abs(), mask) is None
    assert inside(unique, torch.zeros_like(mask)) is None


def test_estimate_of_a_linear_statistic_has_the_error_of_the_mean():
    f = torch.randn(6, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    facts = metadata(("a", "b"), estimator="standard", smooth=1, replicates=6)
    result = PIDResult(facts, {"standard": f}, {"standard": f.sum(-1)}, torch.arange(5.0), torch.zeros(6, 2, 4))
    found = estimate(result, "standard", lambda f: (f[0] + f[1] - f[2]).sum())
    totals = (f[:, 0] + f[:, 1] - f[:, 2]).double().sum((-2, -1))
    # Rounding of float32 sums of 48 numbers of order one.
    assert found.value == pytest.approx(float(totals.mean()), abs=1e-5)
    assert found.stderr == pytest.approx(float(totals.std() / 6**0.5), abs=1e-5)


def test_proportion_is_clopper_pearson():
    row = proportion([True] * 9 + [False], "≥ 0.9")
    assert row["value"] == 0.9
    # The closed form: quantiles of beta distributions (Clopper & Pearson, 1934).
    expected = (stats.beta.ppf(0.025, 9, 2), stats.beta.ppf(0.975, 10, 1))
    assert row["interval"] == pytest.approx(expected, abs=1e-9)
    assert row["asked"] == "≥ 0.9"
    assert proportion([])["value"] is None


def test_bootstrap_interval_is_that_of_theory():
    values = np.random.default_rng(0).normal(3, 2, 400)
    row = bootstrap(mean, values.tolist())
    error = values.std(ddof=1) / 20
    # A standard error from 2000 resamples is itself uncertain by 1/sqrt(4000) = 1.6 %; 5 deviations, and the
    # bootstrap's own factor sqrt(399/400).
    assert row["stderr"] == pytest.approx(error, rel=0.08)
    assert row["interval"] == pytest.approx([row["value"] - 1.96 * error, row["value"] + 1.96 * error], abs=0.2 * error)
    assert bootstrap(median, [1.0])["value"] == 1
    assert bootstrap(median, [1.0])["interval"] is None
    assert bootstrap(pearson, [1.0, 1.0, 1.0], [1.0, 2.0, 3.0])["value"] is None


@pytest.mark.parametrize("n", [5, 8])
def test_intervals_of_few_units_hold_the_truth(n, monkeypatch):
    """Of means and of medians of normal numbers; plain percentiles hold that of five in 84 %."""
    monkeypatch.setattr(study, "_RESAMPLES", 600)
    rng = np.random.default_rng(0)
    for statistic in (mean, median):
        rows = [bootstrap(statistic, rng.normal(size=n)) for _ in range(100)]
        held = sum(row["interval"][0] <= 0 <= row["interval"][1] for row in rows)
        assert held >= 95 - 4.4  # less two standard deviations of 2.2 in a hundred runs


def test_few_units_have_no_interval():
    few, enough = (bootstrap(mean, [float(i) for i in range(n)]) for n in (4, 5))
    assert (few["value"], few["stderr"], few["interval"], few["n"]) == (1.5, None, None, 4)
    assert enough["interval"] is not None
    assert bootstrap(pearson, [1.0, 2.0], [2.0, 1.0])["value"] == pytest.approx(-1)
    assert bootstrap(mean, [])["value"] is None


def test_what_is_resampled_is_pictures():
    """Ten pairs of a picture are one unit, and rank alike within pictures though the pictures differ."""
    rows = [
        {"picture": p, "estimator": "shrinkage", "kind": kind, "value": None, "inside": 0.5, "unique": 1.0 * p,
         "redundancy": 100.0 * p + (i if kind == "PID" else -i), "synergy": 1.0 * i}
        for p in range(6) for kind in ("PID", "CPID") for i in range(10)
    ]  # fmt: skip
    assert by_picture(rows, "unique") == [0, 1, 2, 3, 4, 5]
    assert by_picture(rows, "value") == []
    summary = complex_prompts._summary(rows)
    assert {entry["n"] for entry in summary.values()} == {6}
    assert summary["Spearman, redundancy of PID and of CPID, shrinkage"]["value"] == pytest.approx(-1)
    assert summary["Spearman, synergy of PID and of CPID, shrinkage"]["value"] == pytest.approx(1)


def test_correlations_are_those_of_scipy():
    rng = np.random.default_rng(0)
    a, b = rng.integers(0, 9, (2, 30)).astype(float)
    assert pearson(a, b) == pytest.approx(stats.pearsonr(a, b).statistic, abs=1e-12)
    assert spearman(a, b) == pytest.approx(stats.spearmanr(a, b).statistic, abs=1e-12)


def test_an_entry_is_told_with_its_interval():
    entry = {"value": 0.925, "stderr": 0.01, "interval": [0.861, 0.951], "n": 60, "asked": None}
    assert told(entry, ".3f") == "0.925 [0.861, 0.951]"
    assert told(entry, ".0%") == "92 % [86 %, 95 %]"
    assert told(entry | {"interval": None}, ".1f") == "0.9"
    assert told(entry | {"value": None}) == "not known"


@pytest.mark.parametrize(
    ("interval", "text"),
    [((0.6, 0.9), "as the world does"), ((0.1, 0.9), "somewhat as the world does"),
     (None, "in a way that so few cannot judge"), ((-0.2, 0.3), "not as the world does"),
     ((-0.8, -0.1), "against the world")],
)  # fmt: skip
def test_a_rank_correlation_in_words(interval, text):
    assert _as_the_world({"interval": interval}) == text


@pytest.mark.parametrize(("values", "reach"), [((0.0, 1.0, 2.0, 5.0), 3.182), ((0.0, 1.0), 12.706), ((1.0,), None)])
def test_cells_of_few_pictures_have_intervals_by_students_t(values, reach):
    common = {"estimator": "", "logsnr_to": 0, "occupation": "o", "attribute": "a", "log_ratio_true": None,
              "redundancy_normalised": 0.0, "co_information_stderr": 0.3}  # fmt: skip
    (cell,) = _cells([common | {"co_information": value} for value in values])
    if reach is None:
        assert (cell["low"], cell["high"], cell["co_information_stderr"]) == (None, None, 0.3)
    else:  # quantiles of Student's t by three decimals, as tables have them
        ends = [cell["co_information"] + sign * reach * cell["co_information_stderr"] for sign in (-1, 1)]
        assert [cell["low"], cell["high"]] == pytest.approx(ends, rel=1e-3)


def test_the_finding_of_bias_compares_with_the_papers_number():
    def entry(value, *ends):
        return {"value": value, "stderr": 0.1, "interval": ends, "n": 60, "asked": None}

    of = "and log P(a|o)/P(a)"
    summary = {
        f"Spearman, co-information {of}, shrinkage, log-SNR to -1.0": entry(0.92, 0.86, 0.95),
        f"Spearman, redundancy {of}, orthogonal, log-SNR to 7.07": entry(-0.09, -0.35, 0.18),
    }
    found = _finding(summary, 7.069)
    assert "as the world does, with a rank correlation of 0.92 [0.86, 0.95]" in found
    assert "DiffusionPID ranks them not as the world does: -0.09 [-0.35, 0.18]" in found
    unknown = {"co-information in nats, mean, shrinkage, log-SNR to 7.07": entry(0.5, 0.4, 0.6)}
    assert "0.50 [0.40, 0.60] nats" in _finding(unknown, 7.069)


def test_grouped_keeps_the_order():
    rows = [{"a": 2, "b": 0}, {"a": 1, "b": 1}, {"a": 2, "b": 2}]
    assert grouped(rows, "a") == {(2,): [rows[0], rows[2]], (1,): [rows[1]]}
