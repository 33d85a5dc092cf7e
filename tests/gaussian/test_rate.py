"""The PIRD of VAR processes, compared with published systems, closed forms and innovation covariances."""

import re
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid import gaussian
from dpid.gaussian import rate


def letter1(d):
    k13, k12 = 0.5 * (1 - d), 0.25 * (1 - d)
    return [[[0.2 * d, 0.1 * d, 0], [0.1 * d, 0.2 * d, 0], [0.6 * d, 0.6 * d, 0]]], [
        [1, k12, k13],
        [k12, 1, k12],
        [k13, k12, 1],
    ]


def letter2(d):
    a = 0.8 * (1 - d)
    return [[[a, 0.1, 0], [0.1, a, 0], [d, d, 0]]], np.eye(3)


TWO_BAND = [[[0.8, 0, 0], [0, -0.8, 0], [1, 1, 0]]], np.eye(3)
FLAT = [[[0, 0, 0], [0, 0, 0], [1, 1, 0]]], np.eye(3)

# Target X3: I, I1, I2 | R, U1, U2, S of the rates | I, R, U1, U2, S of the same time. The two simulated systems of the
# PIRD toolbox and two of ours, integrated on 4096 intervals; I, I1, I2 agreed with innovation covariances to 1e-12.
ROWS = [
    (*letter1(0), (.155077, .143841, .032269), (.032269, .111572, 0, .011236), (.155077, .032269, .111572, 0, .011236)),
    (*letter1(.25), (.106766, .087620, .031414), (.031414, .056206, 0, .019146),
     (.086305, .019463, .057504, 0, .009338)),
    (*letter1(.5), (.124059, .078002, .055900), (.053043, .024959, .002857, .043201),
     (.047049, .012932, .025726, 0, .008391)),
    (*letter1(1), (.282324, .126086, .126086), (.126086, 0, 0, .156238), (.020283, .010466, 0, 0, .009817)),
    (*letter2(.25), (.095336, .052006, .052006), (.052006, 0, 0, .043330), (.050716, .029564, 0, 0, .021151)),
    (*letter2(.5), (.232832, .108863, .108863), (.108863, 0, 0, .123969), (.052680, .028190, 0, 0, .024491)),
    (*letter2(1), (.550417, .206325, .206325), (.206325, 0, 0, .344092), (.003356, .001675, 0, 0, .001681)),
    (*FLAT, (np.log(3) / 2, np.log(1.5) / 2, np.log(1.5) / 2), (np.log(1.5) / 2, 0, 0, np.log(2) / 2), (0, 0, 0, 0, 0)),
    (*TWO_BAND, (.763090, .331655, .331655), (.064495, .267160, .267160, .164275),
     (.390850, .158169, 0, 0, .232682)),
]  # fmt: skip


@pytest.mark.parametrize(("a", "noise", "information", "atoms", "static"), ROWS)
def test_two_sources(a, noise, information, atoms, static):
    pird = rate.pird(a, noise, target=2, sources=(0, 1))
    found = [pird.information[s] for s in ((1, 2), (1,), (2,))]
    np.testing.assert_allclose(found, information, rtol=0, atol=1e-6)  # six digits
    found = [pird.redundancy, *pird.unique, pird.synergy]
    np.testing.assert_allclose(found, atoms, rtol=0, atol=1e-6)
    # Of the same time: the stationary covariance, target first.
    cov = rate.stationary_covariance(a, noise)[np.ix_([2, 0, 1], [2, 0, 1])]
    pid = gaussian.pid(cov, (1, 1, 1), "mmi", unit="nats")
    found = [pid.information[2], pid.redundancy, *pid.unique, pid.synergy]
    np.testing.assert_allclose(found, static, rtol=0, atol=1e-6)


def test_redundancy_is_taken_at_every_frequency():
    """Two sources in two bands: the integrals tie, so a redundancy of integrals would leave nothing unique."""
    pird = rate.pird(*TWO_BAND, target=2, sources=(0, 1))
    least = np.minimum(pird.spectral_information[1,], pird.spectral_information[2,])
    np.testing.assert_array_equal(pird.spectral[(1,), (2,)], least)
    assert pird.redundancy < 0.2 * min(pird.information[1,], pird.information[2,])


def test_three_sources_in_closed_form():
    """y = x1 + 2 x2 + 3 x3 + n one step later, all white: the atoms of minimum redundancy of three Gaussian sources."""
    a = np.zeros((1, 4, 4))
    a[0, 0, 1:] = 1, 2, 3
    pird = rate.pird(a, np.eye(4), target=0, sources=(1, 2, 3), unit="bits")
    # f(S) = ½ log2 15 / (1 + Σ_{k∉S} k²), sorted; each rise belongs to the antichain of the least sets that reach it.
    rise = np.diff([0, *(0.5 * np.log2(15 / left) for left in (14, 11, 10, 6, 5, 2, 1))])
    chain = [((1,), (2,), (3,)), ((2,), (3,)), ((3,), (1, 2)), ((3,),), ((1, 3), (2, 3)), ((2, 3),), ((1, 2, 3),)]
    expected = dict(zip(chain, rise, strict=True))
    assert len(pird.atoms) == 18
    for alpha, value in pird.atoms.items():
        assert value == pytest.approx(expected.get(alpha, 0), abs=1e-12)  # rounding
    assert pird.redundancy == pytest.approx(rise[:2].sum(), abs=1e-12)
    assert pird.unique == pytest.approx((0, 0, rise[2:4].sum()), abs=1e-12)
    assert pird.synergy == pytest.approx(rise[4:].sum(), abs=1e-12)


def random_process(seed, d=5, p=2):
    rng = np.random.default_rng(seed)
    a, root = rng.normal(size=(p, d, d)), rng.normal(size=(d, d))
    companion = np.vstack((np.concatenate(a, axis=1), np.eye((p - 1) * d, p * d)))
    radius = np.abs(np.linalg.eigvals(companion)).max()
    shrink = 0.8 / radius  # A_k shrink^k has the radius 0.8
    return a * shrink ** np.arange(1, p + 1)[:, None, None], root @ root.T + 0.5 * np.eye(d)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6))
def test_lattice_of_three_sources(seed):
    """f(S) is the sum of the atoms with an element within S at every frequency; no atom is negative; atoms add up."""
    a, noise = random_process(seed)
    pird = rate.pird(a, noise, target=4, sources=(0, (1, 2), 3), n_freq=33)
    for s, information in pird.spectral_information.items():
        below = [v for alpha, v in pird.spectral.items() if any(set(element) <= set(s) for element in alpha)]
        np.testing.assert_allclose(np.sum(below, axis=0), information, rtol=0, atol=1e-11)  # rounding of the logarithms
    assert min(v.min() for v in pird.spectral.values()) >= -1e-11
    whole = pird.redundancy + sum(pird.unique) + pird.synergy
    assert whole == pytest.approx(pird.information[1, 2, 3], abs=1e-11)


def innovation_covariance(a, noise, observed):
    """One-step prediction error of the observed variables from their own past: the Riccati recursion, run to rest."""
    p, d = a.shape[:2]
    f = np.vstack((np.concatenate(a, axis=1), np.eye((p - 1) * d, p * d)))
    q, c = np.zeros((p * d, p * d)), np.eye(p * d)[list(observed)]
    q[:d, :d] = noise
    state = np.eye(p * d)
    for _ in range(1000):
        gain = np.linalg.solve(c @ state @ c.T, c @ state).T
        rest = np.eye(p * d) - gain @ c
        state = f @ rest @ state @ rest.T @ f.T + q  # Joseph's form: stays positive
    return c @ state @ c.T


@pytest.mark.parametrize("seed", range(4))
def test_rates_are_those_of_the_innovations(seed):
    """I = ½ log |V_Y| |V_X| / |V_YX|, the definition in the time domain; blocks of processes, one unobserved."""
    a, noise = random_process(seed, d=6)
    groups = [(0, 1), (2,), (4,)]
    pird = rate.pird(a, noise, target=(5,), sources=groups)

    def log_det(indices):
        return np.linalg.slogdet(innovation_covariance(a, noise, indices))[1]

    for size in (1, 2, 3):
        for s in combinations((1, 2, 3), size):
            x = tuple(i for k in s for i in groups[k - 1])
            exact = 0.5 * (log_det((5,)) + log_det(x) - log_det((5, *x)))
            # The recursion stops within 1e-12 at these radii; the trapezoid rule is exact to 0.8^8000.
            assert pird.information[s] == pytest.approx(exact, abs=1e-9)


def test_units_ends_and_printing():
    pird = rate.pird(*FLAT, target=2, sources=(0, 1), unit="bits", n_freq=5)
    np.testing.assert_array_equal(pird.frequency, [0, 0.125, 0.25, 0.375, 0.5])
    assert pird.synergy == pytest.approx(0.5, abs=1e-12)
    assert str(pird).startswith("rates (bits per sample): redundancy 0.292481, unique 1 0.000000")


def test_spectrum_integrates_to_the_covariance():
    a, noise = random_process(3, d=3)
    f = np.arange(2048) / 2048  # the full circle: the mean is the integral, exact to 0.8^2048
    mean = rate.spectrum(a, noise, f).mean(0)
    np.testing.assert_allclose(mean, rate.stationary_covariance(a, noise), rtol=1e-9, atol=1e-9)


def test_fit_recovers_a_process():
    a, noise = (np.array(x, dtype=float) for x in letter1(1))
    rng = np.random.default_rng(0)
    n, series = 20_000, np.zeros((20_000, 3))
    for t, u in enumerate(rng.multivariate_normal(np.zeros(3), noise, n - 1), 1):
        series[t] = a[0] @ series[t - 1] + u
    coefficients, covariance = rate.fit_var(series + 5, 1)
    # Five standard errors, 1/√n for a coefficient of a process of about unit variance and √2/√n for a variance.
    np.testing.assert_allclose(coefficients, a, rtol=0, atol=5 / np.sqrt(n))
    np.testing.assert_allclose(covariance, noise, rtol=0, atol=5 * np.sqrt(2 / n))


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"coefficients": [EYE * 1.5]}, "coefficients: unstable, the companion matrix has spectral radius 1.5"),
        ({"coefficients": [EYE]}, "spectral radius 1, expected < 1"),
        ({"coefficients": EYE}, "coefficients: found shape (3, 3), expected [p, d, d]"),
        ({"coefficients": [EYE * np.nan]}, "coefficients: found 9 NaN or infinite entries"),
        ({"coefficients": "text"}, "coefficients: found str, expected real numbers of shape [p, d, d]"),
        ({"coefficients": [EYE * (0.1 + 0.3j)]}, "coefficients: found list, expected real numbers of shape [p, d, d]"),
        ({"noise_cov": EYE * 1j}, "noise_cov: found ndarray, expected real numbers of shape [d, d]"),
        ({"noise_cov": np.eye(2)}, "noise_cov: found shape (2, 2), expected (3, 3)"),
        ({"noise_cov": EYE + np.triu(EYE[::-1])}, "noise_cov: not symmetric"),
        ({"noise_cov": np.ones((3, 3))}, "noise_cov: not positive definite, smallest eigenvalue"),
        ({"target": 3}, "target: found 3, the process has indices 0 to 2"),
        ({"target": "a"}, "target: found 'a', expected an index or a tuple of indices"),
        ({"target": ()}, "target: found ()"),
        ({"sources": (0,)}, "sources: found (0,), expected two or three"),
        ({"sources": 1}, "sources: found 1, expected two or three"),
        ({"sources": iter((0, 1))}, "sources: found <tuple_iterator object"),
        ({"sources": (0, (1, 2))}, "expected every index once"),
        ({"sources": (0, 0)}, "expected every index once"),
        ({"sources": (0, -1)}, "sources: found -1"),
        ({"unit": "bans"}, "unit: found 'bans', allowed are nats, bits"),
        ({"n_freq": 1}, "n_freq: found 1, expected a whole number from 2 to 2⁶³ - 1"),
    ],
)
def test_bad_input(change, message):
    arguments = {"coefficients": [EYE * 0.1], "noise_cov": EYE, "target": 2, "sources": (0, 1)} | change
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        rate.pird(**arguments)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("data", "order", "message"),
    [
        (np.zeros(9), 1, "data: found shape (9,), expected [n, d]"),
        ([["a"]], 1, "data: found list, expected real numbers of shape [n, d]"),
        (np.ones((9, 2)) * 1j, 1, "data: found ndarray, expected real numbers"),
        (np.full((9, 2), np.nan), 1, "data: found 18 NaN or infinite entries"),
        (np.zeros((9, 2)), 0, "order: found 0, expected a whole number from 1 to 2⁶³ - 1"),
        (np.zeros((9, 2)), 2.0, "order: found 2.0"),
        (np.zeros((8, 2)), 2, "data: found 8 samples, order 2 of 2 variables needs at least 9"),
    ],
)
def test_bad_data(data, order, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rate.fit_var(data, order)


@pytest.mark.parametrize(
    ("frequency", "message"),
    [
        (0.1, "frequency: found shape (), expected [F]"),
        ([np.nan, 0.1], "frequency: found 1 NaN or infinite entries"),
        ([0.1j], "frequency: found list, expected real numbers of shape [F]"),
    ],
)
def test_bad_frequencies(frequency, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        rate.spectrum([EYE * 0.1], EYE, frequency)
