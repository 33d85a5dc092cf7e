"""The estimator "shrinkage" against closed forms: its weight, what agrees, and what its intervals contain."""

import math
from dataclasses import replace

import pytest
import torch

from dpid.denoisers import GaussianDenoiser
from dpid.explainer import Explainer
from dpid.pid import mean_stderr
from dpid.results.shrinkage import shrinkage_weight, shrunk_layout, shrunk_profile, shrunk_sums

SHAPE = (4, 8, 8)
CONDITIONS = {(): "", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}


@pytest.fixture
def world():
    """x = a + b + rest, of variances .2, .2 and .6 everywhere: log p(x | y_S) / p(x) has a closed form."""
    a, b, rest = torch.randn(3, *SHAPE, generator=torch.Generator().manual_seed(0))
    a, b, x = 0.2**0.5 * a, 0.2**0.5 * b, 0.2**0.5 * (a + b) + 0.6**0.5 * rest
    known = {"": (0 * a, 1.0), "a": (a, 0.8), "b": (b, 0.8), "ab": (a + b, 0.6)}
    known = {name: (mean, torch.full(SHAPE, variance)) for name, (mean, variance) in known.items()}
    logs = {
        name: float(torch.distributions.Normal(mean, variance.sqrt()).log_prob(x).double().sum())
        for name, (mean, variance) in known.items()
    }  # fmt: skip
    truth = {subset: logs[text] - logs[""] for subset, text in CONDITIONS.items() if subset}
    return Explainer(GaussianDenoiser(known, (-9.0, 11.0), 1001)), x, truth


def test_weight_of_known_numbers():
    # Means 3 and 0 with variances of the mean 1 and 1: 1 - (1 + 1) / (9 + 0).
    spread = torch.tensor([math.sqrt(1.5), -math.sqrt(1.5), 0.0], dtype=torch.float64) * math.sqrt(2)
    difference = torch.stack((3 + spread, spread), 1)
    assert shrinkage_weight(difference) == pytest.approx(1 - 2 / 9, abs=1e-12)
    assert shrinkage_weight(difference - torch.tensor([3.0, 0.0])) == 0  # nothing but noise
    assert shrinkage_weight(torch.full((4, 2), 5.0)) == 1  # no noise at all


def test_sums_are_shrunk_and_keep_the_spread_of_the_noisy():
    generator = torch.Generator().manual_seed(1)
    quiet, noisy, gaps = torch.randn(3, 8, 3, 4, 5, generator=generator, dtype=torch.float64)
    mixed = shrunk_sums(quiet, noisy, gaps.square(), 0.3)
    sums = [f.sum((-2, -1)) for f in (quiet, noisy, mixed)]
    (q, _), (n, error), (m, spread) = map(mean_stderr, sums)
    torch.testing.assert_close(m, q + 0.3 * (n - q))
    torch.testing.assert_close(spread, error)
    bins = shrunk_profile(quiet[..., 0], noisy[..., 0], 0.3)
    torch.testing.assert_close(bins.mean(0), (0.7 * quiet + 0.3 * noisy)[..., 0].mean(0))


def test_what_sums_are_moved_by_lies_where_the_word_changes_something():
    quiet, noisy = torch.zeros(2, 8, 1, 2, 2, dtype=torch.float64)
    noisy = noisy + 1.5  # 6 nats of the image
    gaps = torch.tensor([[1.0, 4.0], [9.0, 0.0]]).expand(8, 1, 2, 2)  # roots 1, 2, 3 and 0
    torch.testing.assert_close(
        shrunk_sums(quiet, noisy, gaps, 0.5)[0, 0], torch.tensor([[0.5, 1.0], [1.5, 0.0]]).double()
    )
    even = shrunk_sums(quiet, noisy, torch.zeros(8, 1, 2, 2), 0.5)  # by rounding alone, of a word that changes nothing
    torch.testing.assert_close(even, torch.full_like(even, 0.75))


def test_a_pixel_that_no_word_changes_has_no_information():
    """Two words that change the mean of the left half of the picture; all maps of the right half are zero."""
    left = torch.zeros(1, 4, 4)
    left[..., :2] = 1
    known = {
        "": (0 * left, 1 + left),
        "a": (left, 1 + 0 * left),
        "b": (-left, 1 + 0 * left),
        "ab": (left / 2, 1 + 0 * left),
    }
    result = Explainer(GaussianDenoiser(known)).explain(latents=2 * left, conditions=CONDITIONS, samples=16, smooth=1)
    assert result.shrinkage > 0.1  # something was spread
    for f in result.maps.information.values():
        assert torch.equal(f[:, 2:], torch.zeros(4, 2))
        assert (f[:, :2].abs() > 1e-3).all()


def test_what_is_taken_out_of_a_layout_has_its_error_at_every_pixel():
    """A pixel that no word changes has minus the mean of what the sums still differ by, with the error of that mean."""
    generator = torch.Generator().manual_seed(2)
    quiet, noisy = torch.zeros(2, 8, 1, 2, 2, dtype=torch.float64)
    quiet[:, 0, 0], noisy[:, 0, 0] = torch.randn(2, 8, 2, generator=generator, dtype=torch.float64)
    noisy[:, 0, 0] += 3
    w, moved = 0.4, shrunk_sums(quiet, noisy, quiet.square(), 0.4)
    shown = shrunk_layout(moved, noisy, 0.7, (1 - w) * (noisy - quiet).sum((-2, -1)))
    mean, error = mean_stderr((1 - w) * (noisy - quiet).sum((-2, -1))[:, 0])
    value, stderr = mean_stderr(shown[:, 0, 1, 1])
    assert float(value) == pytest.approx(-0.7 * float(mean) / 4, rel=1e-12)
    assert float(stderr) == pytest.approx(0.7 * float(error) / 4, rel=1e-12)
    torch.testing.assert_close(shown.mean(0).sum(), moved.mean(0).sum())


def test_sums_by_pixel_have_the_errors_of_the_image(world):
    """What every pixel has of the error of one mean is in maps alone: sums of pixels vary as the image's numbers do."""
    explainer, x, _ = world
    result = explainer.explain(latents=x, conditions=CONDITIONS, samples=32, level="pixel")
    numbers, maps = result.decomposition, replace(result.decomposition, rest=None)
    torch.testing.assert_close(
        maps.displayed().sum((-2, -1)), numbers.replicates.double().sum((-2, -1)), rtol=1e-9, atol=1e-9
    )
    assert numbers.redundancy == maps.redundancy
    assert numbers.synergy == maps.synergy
    assert not torch.equal(numbers.maps.stderr.redundancy, maps.maps.stderr.redundancy)


def test_image_maps_and_profile_agree(world):
    explainer, x, _ = world
    for smooth in (1, 3):
        result = explainer.explain(latents=x, conditions=CONDITIONS, samples=32, smooth=smooth, estimator="shrinkage")
        assert result.metadata.estimator == "shrinkage"
        width = (result.edges[1:] - result.edges[:-1]).float()
        for subset, estimate in result.information.items():
            # float32 sums of 64 pixels, and of the profile's bins, of numbers of order ten
            assert float(result.maps.information[subset].sum()) == pytest.approx(estimate.value, rel=1e-4, abs=1e-3)
            profile = float((result.profile.information[subset] * width).sum())
            assert profile == pytest.approx(estimate.value, rel=1e-4, abs=1e-3)
            parts = [result.estimates[name].information[subset].value for name in ("rao-blackwell", "standard")]
            mixed = parts[0] + result.shrinkage * (parts[1] - parts[0])
            assert estimate.value == pytest.approx(mixed, rel=1e-5, abs=1e-4)  # replicates are stored in float32
            assert estimate.stderr == pytest.approx(result.estimates["standard"].information[subset].stderr, rel=1e-3)


def test_holds_the_log_density_ratio_where_rao_blackwell_does_not(world):
    """Of one picture iʳ is not log p(x | y) / p(x), however many samples; the shrunk one is."""
    explainer, x, truth = world
    results = [explainer.explain(latents=x, conditions=CONDITIONS, samples=64, seed=i) for i in range(60)]
    held = {name: [] for name in ("shrinkage", "rao-blackwell")}
    for result in results:
        for name, found in held.items():
            for subset, estimate in result.estimates[name].information.items():
                low, high = estimate.interval()
                found.append(low <= truth[subset] <= high)
    share = {name: sum(found) / len(found) for name, found in held.items()}
    # 95 %, less three standard errors of sixty runs whose three numbers err together: 3 √(.05 · .95 / 60) = 8.4 %.
    assert share["shrinkage"] >= 0.95 - 0.084
    assert share["rao-blackwell"] < 0.75
    long = explainer.explain(latents=x, conditions=CONDITIONS, samples=1024)
    assert long.shrinkage > 0.9
    assert any("more samples will not tell which" in line for line in long.remarks())
