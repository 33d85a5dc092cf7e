"""Atoms from replicates: their standard errors, their bias and their sum."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import t as student

from dpid.pid import decompose, decompose_replicates, mean_stderr, perturbed, stderr
from dpid.prompts.plan import subsets_of


def named(f):
    """Rows 1 … 2^n - 1 of ``f`` [G, 2^n - 1, *] as {subset: [G, *]}."""
    subsets = subsets_of("abcdefgh"[: (f.shape[1]).bit_length()])[1:]
    return {s: f[:, i] for i, s in enumerate(subsets)}


def noisy(g, rows, *shape, seed=0, dtype=torch.float64):
    return torch.randn(g, rows, *shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@pytest.mark.parametrize(
    ("f", "r", "u1", "u2", "s"),
    [
        # single realisations of RDN, UNQ1, COPY2, XOR in bits
        ((1, 1, 1), 1, 0, 0, 0),
        ((1, 0, 1), 0, 1, 0, 0),
        ((1, 1, 2), 1, 0, 0, 1),
        ((0, 0, 1), 0, 0, 0, 1),
        # a misleading word: redundancy below zero
        ((-2, 3, 4), -2, 0, 5, 1),
    ],
)
def test_known_answers_without_noise(four, f, r, u1, u2, s):
    atoms, errors = decompose_replicates(named(torch.tensor(f, dtype=torch.float64).expand(4, 3)))
    assert four(atoms) == [r, u1, u2, s]
    assert four(errors) == [0, 0, 0, 0]


@pytest.mark.parametrize("n", [2, 5])
def test_the_total_of_numbers_is_themselves(n):
    f = named(noisy(4, 2**n - 1))
    for summed, alone in zip(decompose_replicates(f, total=True), decompose_replicates(f), strict=True):
        torch.testing.assert_close(summed.coarse, alone.coarse)
        torch.testing.assert_close(summed.flat, alone.flat)


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 10**6), st.integers(2, 9), st.floats(1e-3, 1e3), st.integers(2, 3), st.booleans())
def test_atoms_sum_to_the_whole(seed, g, scale, n, corrected):
    f = scale * noisy(g, 2**n - 1, 4, 5, seed=seed)
    a, _ = decompose_replicates(named(f), corrected=corrected)
    # A handful of float64 additions of numbers up to g times larger than the mean.
    tolerance = {"rtol": 1e-12, "atol": 1e-12 * scale}
    torch.testing.assert_close(sum(a.values()), f[:, -1].mean(0), **tolerance)
    torch.testing.assert_close(a.redundancy + sum(a.unique.values()) + a.synergy, f[:, -1].mean(0), **tolerance)
    for i, concept in enumerate(a.concepts):
        below = sum(v for antichain, v in a.items() if (concept,) in antichain)
        torch.testing.assert_close(below, f[:, i].mean(0), **tolerance)


@pytest.mark.parametrize("g", [2, 3, 4, 7, 8])
def test_error_of_a_mean_is_the_textbook_one(g):
    x = noisy(g, 3)
    points, mean = perturbed(x)
    torch.testing.assert_close(mean, x.mean(0))
    torch.testing.assert_close(stderr(points, mean), x.std(0) / g**0.5)
    torch.testing.assert_close(mean_stderr(x), (x.mean(0), x.std(0) / g**0.5))
    # All of the covariance, so that every linear statistic has its error.
    off = points - mean
    torch.testing.assert_close(off.mT @ off / len(off), torch.cov(x.mT) / g)


def test_errors_are_those_of_perturbed_means_written_out():
    """Three concepts, every atom and the sums, two replicates: either of them might have been the mean."""
    f = named(noisy(2, 7, 2))
    atoms, errors = decompose_replicates(f, corrected=False)
    either = [decompose({s: v[g] for s, v in f.items()}) for g in range(2)]
    for read in (lambda a: a.redundancy, lambda a: a.synergy, lambda a: a.unique["b"], *(
        lambda a, key=key: a[key] for key in atoms
    )):  # fmt: skip
        squares = [(read(a) - read(atoms)).square() for a in either]
        expected = (sum(squares) / 2).sqrt()
        torch.testing.assert_close(read(errors), expected, rtol=1e-9, atol=1e-12)  # float64, another order of sums


def test_correction_removes_bias_of_the_minimum_as_theory_says():
    """f1 = f2 = 1 with noise of sd σ: E min of two means of G is 1 - b with b = σ / √(πG) (normal order statistics).
    Perturbed means have twice the variance, a bias of √2 b: the correction leaves (2 - √2) b, 59 % at an exact tie."""
    g, sigma = 4, 1.0
    f = noisy(g, 3, 40000) * sigma + 1
    b = sigma / (torch.pi * g) ** 0.5
    # 4 standard errors of the mean over 40000 draws, each of sd below 1.
    assert abs(f.mean(0)[:2].amin(0).mean() - (1 - b)) < 0.02
    atoms, _ = decompose_replicates(named(f))
    assert abs(atoms.redundancy.mean() - (1 - (2 - 2**0.5) * b)) < 0.02


@pytest.mark.parametrize("g", [4, 8])
@pytest.mark.parametrize("gap", [0.0, 0.5, 1.0, 2.0])
def test_intervals_hold_the_truth_where_two_words_tell_about_the_same(g, gap):
    """``gap``: by which two independent words differ, in standard errors of that difference. A leave-one-out jackknife
    holds a small unique part in 67…82 % at 0.5 and 1: where the smaller word seems the larger, its error is zero."""
    f = noisy(g, 3, 20000)
    truth = torch.tensor([0.0, gap * (2 / g) ** 0.5, 7.0], dtype=torch.float64)
    atoms, errors = decompose_replicates(named(f + truth[:, None]))
    half = float(student.ppf(0.975, g - 1))
    exact = {"redundancy": 0.0, "synergy": 7 - float(truth[1]), "a": 0.0, "b": float(truth[1])}
    parts = {"redundancy": (atoms.redundancy, errors.redundancy), "synergy": (atoms.synergy, errors.synergy)}
    parts |= {c: (atoms.unique[c], errors.unique[c]) for c in "ab"}
    held = {k: float(((v - exact[k]).abs() <= half * e).double().mean()) for k, (v, e) in parts.items()}
    # Three of them are within 93…97 % or held more often, since a unique part is never below zero. The part that is
    # almost nothing is held least; 0.85 is what a simulation of normal replicates gave, less four of its errors.
    assert min(held["redundancy"], held["synergy"], held["a"]) > 0.93
    assert held["b"] > 0.85


@pytest.mark.parametrize("count", [2, 4])
@pytest.mark.parametrize("gap", [0.5, 2.0])
def test_intervals_of_a_number_hold_what_only_one_word_tells(gap, count):
    """``gap`` as above, to each of the other words. By perturbed means alone 68…92 % do."""
    g, draws = 8, 200
    f = noisy(draws, g, 2**count - 1)
    names, truth = "abcd"[:count], gap * (2 / g) ** 0.5
    f[..., count - 1] += truth
    half, held = float(student.ppf(0.975, g - 1)), 0
    for one in f:
        atoms, errors = decompose_replicates(dict(zip(subsets_of(names)[1:], one.T, strict=True)), coarse=True)
        held += bool(abs(atoms.unique[names[-1]] - truth) <= half * errors.unique[names[-1]])
    assert held / draws > 0.95 - 4 * (0.95 * 0.05 / draws) ** 0.5


def test_a_lead_that_is_certain_keeps_the_error_of_perturbed_means():
    f = noisy(8, 3)
    f[:, 0] += 50.0
    _, errors = decompose_replicates(named(f), corrected=False)
    _, expected = mean_stderr(f[:, 0] - f[:, 1])
    torch.testing.assert_close(errors.unique["a"], expected)
    torch.testing.assert_close(errors[("a",),], expected)
    assert errors.unique["b"] == 0


@pytest.mark.parametrize(
    ("measure", "options"), [("i_ccs_plugin", {}), ("ppid", {"priors": {("a",): 5.5, ("b",): 9.0}})]
)
def test_measures_whose_uniqueness_is_no_lead_have_no_error_of_one(measure, options):
    """Without noise every number of theirs is certain."""
    f = {("a",): torch.full((8,), 5.0), ("b",): torch.full((8,), 1.0), ("a", "b"): torch.full((8,), 4.0)}
    atoms, errors = decompose_replicates(f, measure, **options)
    assert atoms.unique["a"] != 4
    assert all(errors.unique[c] < 1e-6 for c in "ab")  # rounding of float32


def test_images_and_candidates_keep_their_axis():
    """The replicate axis goes first, then that of the measure."""
    f = noisy(4, 3, 6, 2)
    atoms, errors = decompose_replicates(named(f), "mmi", corrected=False)
    expected = decompose({s: v.mean((0, 1)) for s, v in named(f).items()}, "min")
    torch.testing.assert_close(atoms.redundancy, expected.redundancy)
    assert errors.redundancy.shape == (2,)


def test_five_concepts():
    """The union of the atoms of all perturbed means; sums and errors as for few concepts."""
    f = noisy(4, 31)
    atoms, errors = decompose_replicates(named(f))
    torch.testing.assert_close(sum(atoms.values()), f[:, -1].mean(0))
    coarse, coarse_errors = decompose_replicates(named(f), coarse=True)
    assert list(errors) == list(atoms)
    assert not list(coarse)
    torch.testing.assert_close(coarse.redundancy, atoms.redundancy)
    torch.testing.assert_close(coarse_errors.synergy, errors.synergy)


@pytest.mark.parametrize("corrected", [False, True])
def test_errors_of_five_concepts_are_those_of_perturbed_means_written_out(corrected):
    """Of maps, whose atoms are sparse: every pixel and every perturbed mean has others; where it has none, zero."""
    f = named(noisy(2, 31, 2, 3))
    atoms, errors = decompose_replicates(f, corrected=corrected)
    mean, *either = (decompose({s: v.mean(0) if g is None else v[g] for s, v in f.items()}) for g in (None, 0, 1))
    assert set(atoms) == set(errors) == {key for a in (mean, *either) for key in a}
    for key in atoms:
        value, *points = (a[key] if key in a else torch.zeros(2, 3, dtype=torch.float64) for a in (mean, *either))
        expected = 2 * value - (points[0] + points[1]) / 2 if corrected else value
        error = ((points[0] - value).square() / 2 + (points[1] - value).square() / 2).sqrt()
        # float64, another order of sums
        torch.testing.assert_close(atoms[key], expected, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(errors[key], error, rtol=1e-9, atol=1e-12)
    assert atoms == decompose_replicates(f, corrected=corrected)[0]
    assert atoms != errors


def test_refusals():
    f = named(torch.ones(4, 3))
    with pytest.raises(ValueError, match="measure: found 'max'"):
        decompose_replicates(f, "max")
    with pytest.raises(ValueError, match="at least 2"):
        decompose_replicates(named(torch.ones(1, 3)))
    with pytest.raises(ValueError, match="replicates: found 3, 4 of them"):
        decompose_replicates({**f, ("a",): torch.ones(3)})
    with pytest.raises(ValueError, match="replicates: found 0"):
        decompose_replicates(dict.fromkeys(f, 1.0))


@pytest.mark.parametrize("behind", [1.5, 2.0])
def test_a_concept_that_is_behind_by_little_has_an_error(behind):
    """Not below the deviation of max(0, d) for d ~ N(-behind, 1), though it is zero at every perturbed mean; and its
    interval reaches as far as that of d."""
    d = torch.distributions.Normal(-behind, 1.0)
    grid = torch.linspace(0, 8, 8001, dtype=torch.float64)
    density = d.log_prob(grid).exp() * (grid[1] - grid[0])
    truth = ((density * grid**2).sum() - (density * grid).sum() ** 2).sqrt()
    spread = torch.linspace(-1, 1, 8, dtype=torch.float64)
    first = spread / spread.std() * 8**0.5 - behind  # a mean of -behind, and an error of 1
    f = torch.stack((first, torch.zeros(8, dtype=torch.float64), first.clamp(min=0) + 3), 1)
    atoms, errors = decompose_replicates(named(f), corrected=False)
    assert atoms.unique["a"] == 0
    assert truth <= errors.unique["a"] <= 0.5
    half = float(student.ppf(0.975, 7))
    assert half * errors.unique["a"] >= half - behind - 1e-9
    _, errors = decompose_replicates(named(f - torch.tensor([10.0, 0, 0])), corrected=False)
    assert errors.unique["a"] == 0  # eleven errors behind
