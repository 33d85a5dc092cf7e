"""The PID of Gaussian vectors, compared with published numbers, closed forms and an independent solver."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid import gaussian
from dpid.gaussian.interior_point import minimise

CASES = json.loads((Path(__file__).parents[1] / "data" / "gaussian_pid.json").read_text())["cases"]
BY_NAME = {case["name"].split()[0]: case for case in CASES}


def orthogonal(rng, d):
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def rotation(degrees):
    t = np.deg2rad(degrees)
    return np.array([[np.cos(t), -np.sin(t)], [np.sin(t), np.cos(t)]])


def covariance(hx, hy, noise=None, sigma_m=None):
    """Of M, X = hx M + n, Y = hy M + n'."""
    h = np.vstack((hx, hy))
    noise = np.eye(len(h)) if noise is None else noise
    sigma_m = np.eye(h.shape[1]) if sigma_m is None else sigma_m
    return np.block([[sigma_m, sigma_m @ h.T], [h @ sigma_m, h @ sigma_m @ h.T + noise]])


def random_system(rng, largest, rank=None, gain=1.0):
    """Any sizes up to ``largest``, correlated noise and correlated M."""
    dm, dx, dy = rng.integers(1, largest + 1, 3)
    hx, hy = rng.normal(size=(dx, dm)) * gain, rng.normal(size=(dy, dm)) * gain
    if rank:
        hx = hx[:, :rank] @ rng.normal(size=(min(rank, dm), dm))
    if rng.random() < 0.3:
        hy[:, : dm // 2] = 0
    a, b = rng.normal(size=(dx + dy,) * 2) * 0.4, rng.normal(size=(dm, dm)) * 0.5
    return covariance(hx, hy, a @ a.T + 0.3 * np.eye(dx + dy), b @ b.T + 0.5 * np.eye(dm)), (dm, dx, dy)


def atoms(pid):
    return np.array([*pid.unique, pid.redundancy, pid.synergy])


@pytest.mark.parametrize("case", CASES, ids=[c["name"].split()[0] for c in CASES])
@pytest.mark.parametrize(
    ("measure", "column"),
    [("tilde", "tilde"), ("tilde", "sdp"), ("delta-surrogate", "delta_heuristic"), ("mmi", "mmi")],
)
def test_published_numbers(case, measure, column):
    dims = case["dm"], case["dx"], case["dy"]
    pid = gaussian.pid(case["cov"], dims, measure)
    # Six printed digits, and a regularisation of the published code that costs 1e-7 bits a dimension.
    np.testing.assert_allclose(atoms(pid), case[column], rtol=0, atol=1e-6 * max(dims))
    np.testing.assert_allclose(pid.information, case["I"], rtol=0, atol=1e-6 * max(dims))


@pytest.mark.parametrize(
    ("a", "c", "b", "expected"),
    [
        (0.5, 0.5, 0, (0.143841, 0.143841, 0.346574, 0.143841, 0, 0, 0.202733)),
        (0.5, 0.5, 0.25, (0.143841, 0.143841, 0.255413, 0.143841, 0, 0, 0.111572)),
        (0.5, 0.5, 0.9, (0.143841, 0.143841, 0.152691, 0.143841, 0, 0, 0.008850)),
        (0.5, 0, 0.5, (0.143841, 0, 0.202733, 0, 0.143841, 0, 0.058892)),
        (0.7, 0.4, 0.28, (0.336672, 0.087177, 0.383027, 0.087177, 0.249496, 0, 0.046355)),
        (0.6, 0.3, -0.3, (0.223144, 0.047155, 0.474907, 0.047155, 0.175988, 0, 0.251763)),
        (0.2, 0.8, 0.1, (0.020411, 0.510826, 0.531447, 0.020411, 0, 0.490415, 0.020621)),
    ],
)
@pytest.mark.parametrize("measure", list(gaussian.MEASURES))
def test_scalars_have_one_decomposition(measure, a, c, b, expected):
    """Barrett (2015): correlations a = (M, X), c = (M, Y), b = (X, Y); nats."""
    pid = gaussian.pid([[1, a, c], [a, 1, b], [c, b, 1]], (1, 1, 1), measure, unit="nats")
    found = (*pid.information, pid.redundancy, *pid.unique, pid.synergy)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)  # the table has six digits


@pytest.mark.parametrize(
    ("degrees", "exact", "bound"), [(0, 0.639326, 0.668081), (-30, 0.527886, 0.570972), (-60, 0.229665, 0.290566)]
)
def test_exact_deficiency(degrees, exact, bound):
    """G10, G11, G12: diag(3, 1) rotated, against diag(1, 3); by direct minimisation over the channel elsewhere."""
    cov = covariance(np.diag([3, 1]) @ rotation(degrees), np.diag([1, 3]))
    pid = gaussian.pid(cov, (2, 2, 2), "delta")
    np.testing.assert_allclose(pid.unique, [exact, exact], rtol=0, atol=1e-6)  # six digits
    np.testing.assert_allclose(gaussian.pid(cov, (2, 2, 2), "delta-surrogate").unique, [bound] * 2, rtol=0, atol=2e-6)


def test_exact_deficiency_of_one_gain_in_closed_form():
    """Two scalar channels X = 3 M + n, Y = M + n: the channel t = 2 without noise, δ = ½(2 ln 2 + (1 + 1)/4 - 1)."""
    delta = 0.5 * (2 * np.log(2) + 0.5 - 1)
    cov = covariance(np.diag([3, 1]), np.diag([1, 3]))
    assert gaussian.pid(cov, (2, 2, 2), "delta", "nats").unique[0] == pytest.approx(delta, abs=1e-8)  # the duality gap


@pytest.mark.parametrize("seed", range(20))
def test_deficiency_of_few_strong_directions(seed):
    """X of rank two against strong Y of many: E has eigenvalues that vanish. R is at least that of either bound."""
    rng = np.random.default_rng(seed)
    dm, dx, dy = rng.integers(3, 9, 3)
    gain = 10 ** rng.uniform(0, 1.5)
    cov = covariance(gain * rng.normal(size=(dx, 2)) @ rng.normal(size=(2, dm)), 2 * gain * rng.normal(size=(dy, dm)))
    r = {measure: gaussian.pid(cov, (dm, dx, dy), measure).redundancy for measure in gaussian.MEASURES}
    assert max(r["tilde"], r["delta-surrogate"]) <= r["delta"] + 1e-7 * dm  # the largest duality gap that is accepted
    if seed < 4:  # Clarabel fails at some of the others
        exact = gaussian.pid(cov, (dm, dx, dy), "delta", solver="sdp").redundancy
        assert r["delta"] == pytest.approx(exact, abs=1e-6 * max(dm, dx, dy))  # its own gap, as below


def scalar_deficiency(x, y):
    """δ (nats) of gains x > y: X' = t Y, where t² + x y t = 1 + x² makes the derivative of the KL zero."""
    if x <= y:
        return 0.0
    t = (-x * y + np.sqrt((x * y) ** 2 + 4 * (1 + x * x))) / 2
    return 0.5 * (2 * np.log(t) + (1 + (x - t * y) ** 2) / t**2 - 1)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 12))
def test_independent_systems_add(seed, d):
    """Scalar channels side by side, then M, X and Y each turned: every atom of ~ and every δ is a sum."""
    rng = np.random.default_rng(seed)
    x, y = np.exp(rng.normal(size=(2, d)))
    y[rng.random(d) < 0.3] = 0
    x[rng.random(d) < 0.3] *= 0
    qm, qx, qy = (orthogonal(rng, d) for _ in range(3))
    cov = covariance(qx @ np.diag(x) @ qm, qy @ np.diag(y) @ qm)
    i_x, i_y = 0.5 * np.log1p(x**2), 0.5 * np.log1p(y**2)
    pid = gaussian.pid(cov, (d, d, d), "tilde", "nats")
    unique = [np.maximum(i_x - i_y, 0).sum(), np.maximum(i_y - i_x, 0).sum()]
    whole = 0.5 * np.log1p(x**2 + y**2).sum()
    # Rounding: d terms of 1e-15 times the conditioning of the noise, at most 1e3 at these gains.
    np.testing.assert_allclose(pid.unique, unique, rtol=0, atol=1e-11 * d)
    np.testing.assert_allclose(pid.information, [i_x.sum(), i_y.sum(), whole], rtol=0, atol=1e-11 * d)
    delta = [sum(map(scalar_deficiency, a, b)) for a, b in ((x, y), (y, x))]
    redundancy = min(i_x.sum() - delta[0], i_y.sum() - delta[1])
    found = gaussian.pid(cov, (d, d, d), "delta", "nats").redundancy
    assert found == pytest.approx(redundancy, abs=1e-7 * d)  # the largest duality gap that is accepted


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(list(gaussian.MEASURES)))
def test_coordinates_do_not_matter(seed, measure):
    """Invertible maps of M, of X and of Y, and the exchange of X and Y."""
    rng = np.random.default_rng(seed)
    cov, dims = random_system(rng, 4)
    pid = gaussian.pid(cov, dims, measure)
    maps = np.zeros_like(cov)
    at = 0
    for d in dims:
        maps[at : at + d, at : at + d] = orthogonal(rng, d) @ np.diag(np.exp(rng.normal(size=d))) @ orthogonal(rng, d)
        at += d
    mapped = gaussian.pid(maps @ cov @ maps.T, dims, measure)
    # Twice the accuracy of δ, 1e-8 bits; the surrogate's KL amplifies its own by the condition number.
    np.testing.assert_allclose(atoms(mapped), atoms(pid), rtol=0, atol=1e-6 if measure == "delta-surrogate" else 1e-8)
    m, x, y = np.split(np.arange(len(cov)), np.cumsum(dims)[:2])
    order = np.concatenate((m, y, x))
    swapped = gaussian.pid(cov[np.ix_(order, order)], (dims[0], dims[2], dims[1]), measure)
    assert swapped.redundancy == pytest.approx(pid.redundancy, abs=1e-8)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10**6))
def test_no_coupling_is_below_the_union(seed):
    """I_q(M; X, Y) of random noise couplings Σ, ‖Σ‖₂ < 1, from its determinant, is at least I_∪ = R + U_X + U_Y."""
    rng = np.random.default_rng(seed)
    dm, dx, dy = rng.integers(1, 6, 3)
    hx, hy = rng.normal(size=(dx, dm)), rng.normal(size=(dy, dm))
    pid = gaussian.pid(covariance(hx, hy), (dm, dx, dy), unit="nats")
    h = np.vstack((hx, hy))
    for start in (rng.normal(size=(dx, dy)), hx @ np.linalg.pinv(hy), np.linalg.pinv(hx).T @ hy.T):
        sigma = start / max(1.0, np.linalg.norm(start, 2) / 0.999)
        noise = np.block([[np.eye(dx), sigma], [sigma.T, np.eye(dy)]])
        coupled = 0.5 * np.linalg.slogdet(np.eye(dm) + h.T @ np.linalg.solve(noise, h))[1]
        assert coupled >= pid.redundancy + sum(pid.unique) - 1e-9  # rounding at a condition number of 1e3


@pytest.mark.parametrize("measure", ["tilde", "delta"])
@pytest.mark.parametrize("rank", [None, 1, 2])
def test_against_semidefinite_programmes(measure, rank):
    """Twelve random systems of any sizes up to 8 each, correlated noise, full and deficient rank."""
    rng = np.random.default_rng(rank or 0)
    for _ in range(12):
        cov, dims = random_system(rng, 8, rank, gain=0.5)
        own, sdp = (gaussian.pid(cov, dims, measure, solver=solver) for solver in ("own", "sdp"))
        # Clarabel stops at a relative gap of 1e-8, which its scaling brings to 1e-6 a dimension at these gains.
        np.testing.assert_allclose(atoms(own), atoms(sdp), rtol=0, atol=1e-6 * max(dims))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_the_measures(seed):
    """R of ~ ≤ R of δ ≤ R of mmi and R of the surrogate ≤ R of δ, by definition; atoms are not negative."""
    cov, dims = random_system(np.random.default_rng(seed), 5)
    r = {measure: gaussian.pid(cov, dims, measure).redundancy for measure in gaussian.MEASURES}
    slack = 1e-8  # the accuracy of δ, in bits
    assert r["tilde"] <= r["delta"] + slack
    assert r["delta-surrogate"] <= r["delta"] + slack
    assert r["delta"] <= r["mmi"] + slack
    assert atoms(gaussian.pid(cov, dims)).min() >= -1e-12  # rounding


@pytest.mark.parametrize("measure", list(gaussian.MEASURES))
@pytest.mark.parametrize("d", [1, 4, 32])
def test_equal_channels_are_redundant(measure, d):
    """Gain one in both: where first-order solvers of Σ crawl towards an orthogonal matrix."""
    rng = np.random.default_rng(d)
    qm, qx, qy = (orthogonal(rng, d) for _ in range(3))
    pid = gaussian.pid(covariance(qx @ qm, qy @ qm), (d, d, d), measure)
    np.testing.assert_allclose(atoms(pid), [0, 0, d / 2, d * np.log2(1.5) / 2], rtol=0, atol=1e-9 * d)  # δ's accuracy


@pytest.mark.parametrize("measure", list(gaussian.MEASURES))
def test_harmless_singular_covariances(measure):
    """Repeated, combined and constant variables of M, X and Y change nothing; nor does Y that holds X itself."""
    cov = np.array(BY_NAME["G12"]["cov"])
    expected = atoms(gaussian.pid(cov, (2, 2, 2), measure))
    part = np.vstack((np.eye(2), [[1, -2]], [[0, 0]]))
    repeat = np.zeros((12, 6))
    for i in range(3):
        repeat[4 * i : 4 * i + 4, 2 * i : 2 * i + 2] = part
    found = gaussian.pid(repeat @ cov @ repeat.T, (4, 4, 4), measure)
    np.testing.assert_allclose(atoms(found), expected, rtol=0, atol=2e-8)  # twice the accuracy of δ
    copy = np.eye(6)[[0, 1, 2, 3, 2, 3]]
    found = gaussian.pid(copy @ cov @ copy.T, (2, 2, 2), measure)
    np.testing.assert_allclose(atoms(found), [0, 0, found.information[0], 0], rtol=0, atol=1e-8)
    blind = gaussian.pid(covariance(np.zeros((2, 2)), np.diag([1, 2])), (2, 2, 2), measure)
    np.testing.assert_allclose(atoms(blind), [0, blind.information[1], 0, 0], rtol=0, atol=1e-12)


def test_nearly_singular():
    """Noise of variance 1e-9: I = ½ log2(1 + 1e9), which float64 holds to 1e-16 / 1e-9."""
    pid = gaussian.pid([[1, 1, 1], [1, 1 + 1e-9, 1], [1, 1, 2]], (1, 1, 1))
    assert pid.information[0] == pytest.approx(0.5 * np.log2(1 + 1e9), abs=1e-6)
    assert pid.redundancy == pytest.approx(0.5, abs=1e-12)


def test_units_and_printing():
    cov = BY_NAME["G10"]["cov"]
    bits, nats = (gaussian.pid(cov, (2, 2, 2), unit=unit) for unit in ("bits", "nats"))
    np.testing.assert_allclose(atoms(nats), atoms(bits) * np.log(2), rtol=1e-14)
    assert "tilde (bits): redundancy 1.000000, unique X 1.160964" in str(bits)
    assert bits.redundancy + sum(bits.unique) + bits.synergy == pytest.approx(bits.information[2], abs=1e-14)


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("cov", "dims", "options", "message"),
    [
        (EYE, (1, 1), {}, "dims: found (1, 1), expected three whole numbers"),
        (EYE, (0, 2, 1), {}, "dims: found (0, 2, 1)"),
        (EYE, (1, 1.0, 1), {}, "dims: found (1, 1.0, 1)"),
        (EYE, (1, 1, 2), {}, "cov: found shape (3, 3), expected (4, 4)"),
        (np.ones(3), (1, 1, 1), {}, "cov: found shape (3,)"),
        ("text", (1, 1, 1), {}, "cov: found str, expected real numbers"),
        (EYE * 1j, (1, 1, 1), {}, "cov: found ndarray, expected real numbers"),
        (EYE * np.nan, (1, 1, 1), {}, "cov: found 9 NaN or infinite entries"),
        (EYE + np.triu(np.ones((3, 3)), 1) / 10, (1, 1, 1), {}, "cov: not symmetric"),
        (-EYE, (1, 1, 1), {}, "cov: not positive semi-definite, found the variance -1"),
        (
            [[1, 0.9, 0.9], [0.9, 1, 0], [0.9, 0, 1]],
            (1, 1, 1),
            {},
            "cov: not positive semi-definite, smallest eigenvalue",
        ),
        (
            EYE,
            (1, 1, 1),
            {"measure": "broja"},
            "measure: found 'broja', allowed are tilde, delta, delta-surrogate, mmi",
        ),
        (EYE, (1, 1, 1), {"unit": "bans"}, "unit: found 'bans', allowed are nats, bits"),
        (EYE, (1, 1, 1), {"solver": "scs"}, "solver: found 'scs', tilde allows own, sdp"),
        (EYE, (1, 1, 1), {"measure": "mmi", "solver": "sdp"}, "solver: found 'sdp', mmi allows own"),
        ([[1, 1, 0], [1, 1, 0], [0, 0, 1]], (1, 1, 1), {}, "I(M; X) is infinite"),
        ([[1, 0, 1], [0, 1, 0], [1, 0, 1]], (1, 1, 1), {}, "Σ_Y|M is singular"),
        ([[1, 1, 1], [1, 2, 0], [1, 0, 2]], (1, 1, 1), {}, "I(M; XY) is infinite"),  # noises that cancel in X + Y
    ],
)
def test_bad_input(cov, dims, options, message):
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        gaussian.pid(cov, dims, **options)
    assert "\n" not in str(error.value)


def test_fit_recovers_a_covariance():
    rng = np.random.default_rng(0)
    cov, dims = random_system(rng, 3)
    samples = rng.multivariate_normal(np.ones(len(cov)), cov, 200_000)
    fitted = gaussian.fit(samples, dims)
    np.testing.assert_allclose(fitted, np.cov(samples.T), rtol=1e-10, atol=1e-12)  # rounding
    variances = np.diag(cov)
    assert (np.abs(fitted - cov) < 5 * np.sqrt((np.outer(variances, variances) + cov**2) / len(samples))).all()


def test_bias_of_the_informations():
    """Mean over 4000 sample covariances of 12 samples against the exact bias; four standard errors."""
    rng = np.random.default_rng(1)
    cov, dims = covariance(np.array([[1.0, 0.5]]), np.array([[0.3, 1.0]])), (2, 1, 1)
    exact = np.array(gaussian.pid(cov, dims).information)
    draws = rng.multivariate_normal(np.zeros(4), cov, (4000, 12))
    found = np.array([gaussian.pid(gaussian.fit(x, dims), dims, "mmi").information for x in draws])
    error = found.mean(0) - exact - gaussian.information_bias(12, dims)
    assert (np.abs(error) < 4 * found.std(0) / np.sqrt(4000)).all()


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        (np.zeros((3, 3)), "samples: found 3, 3 variables need at least 4"),
        (np.zeros((9, 4)), "samples: found 4 columns, expected 3"),
        (np.zeros(9), "samples: found shape (9,), expected (n, 3)"),
        (np.full((9, 3), np.inf), "samples: found 27 NaN or infinite entries"),
    ],
)
def test_bad_samples(samples, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gaussian.fit(samples, (1, 1, 1))


def test_bias_needs_samples_and_a_unit():
    with pytest.raises(ValueError, match="n: found 3, 3 variables need at least 4"):
        gaussian.information_bias(3, (1, 1, 1))
    for n in ("5", 5.5, None):
        with pytest.raises(ValueError, match=f"^n: found {n!r}, expected a whole number"):
            gaussian.information_bias(n, (1, 1, 1))
    with pytest.raises(ValueError, match="unit: found 'bans'"):
        gaussian.information_bias(9, (1, 1, 1), "bans")


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10**6))
def test_interior_point_in_one_dimension(seed):
    """tr(E g) + h(b² E) over E in [0, 1] on a fine grid, h by its definition min_z z² - 2 z ω - 2 log z on another."""
    rng = np.random.default_rng(seed)
    g, b = np.exp(rng.normal(size=2))
    e = np.linspace(0, 1, 2001) ** 2
    omega = b * np.sqrt(e)[:, None]
    z = (omega + 1) * np.exp(np.linspace(-0.25, 0.05, 2401))  # has the root of the slope, 2 z - 2 ω - 2 / z, of any ω
    h = (z**2 - 2 * z * omega - 2 * np.log(z)).min(1)
    # Half a step squared, times half the second derivative: steps of 1/2000 in √E, where that is at most a few hundred,
    # and of 1/8000 in log z, where it is at most 2 (b + 1) (b + 2), 4e4 for the largest b of a million.
    assert minimise(np.array([g]), np.array([[b]]), 1e-9) == pytest.approx((e * g + h).min(), abs=3e-4)
