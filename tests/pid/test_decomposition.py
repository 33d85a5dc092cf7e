"""Properties of every measure, atoms compared with the definition of the lattice, and errors."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid.pid import MEASURES, Minima, decompose, discrete, lattice, picture_measures, register
from dpid.prompts.plan import subsets_of

KNOWN = sorted(MEASURES)
NOT_NEGATIVE = ("i_min", "mmi")  # all atoms, on any distribution (Williams & Beer, 2010)


def joint_of(seed, n, most=3):
    """A random p(y1, …, yn, x), some outcomes impossible."""
    rng = np.random.default_rng(seed)
    shape = rng.integers(2, most + 1, n + 1)
    p = rng.dirichlet(np.full(int(np.prod(shape)), 0.5)).reshape(shape)
    p[rng.random(shape) < 0.2] = 0
    p.flat[0] += 1e-3
    return p / p.sum()


def random_f(n, *shape, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    return {s: torch.randn(shape, generator=generator, dtype=dtype) for s in subsets_of("abcdefghi"[:n])[1:]}


def masks(atoms, antichain):
    return tuple(sum(1 << atoms.concepts.index(c) for c in subset) for subset in antichain)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KNOWN), st.integers(1, 3), st.integers(0, 10**6))
def test_atoms_add_up_to_the_information_of_every_subset(measure, n, seed):
    """Self-redundancy and consistency: f(S) = Σ of the atoms below {S}, the mutual information by its own formula."""
    joint = joint_of(seed, n)
    atoms = discrete(joint, measure)
    p_x = joint.sum(tuple(range(n)))
    for subset, f in atoms.information.items():
        axes = [atoms.concepts.index(c) for c in subset]
        table = joint.sum(tuple(k for k in range(n) if k not in axes)).reshape(-1, joint.shape[-1])
        ratio = table / (table.sum(1, keepdims=True) * p_x + (table == 0))
        mutual = float((table * np.log2(ratio + (table == 0))).sum())
        below = sum(float(v) for a, v in atoms.items() if lattice.precedes(masks(atoms, a), masks(atoms, (subset,))))
        # float64: sums of up to 18 atoms, each a mean over up to 81 outcomes.
        assert below == pytest.approx(float(f), abs=1e-12)
        assert below == pytest.approx(mutual, abs=1e-12)


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([m for m in picture_measures() if MEASURES[m].priors is None]),
    st.integers(1, 4),
    st.integers(0, 10**6),
    st.floats(1e-3, 1e3),
)
def test_consistency_at_every_pixel_whatever_f(measure, n, seed, scale):
    f = {s: scale * v for s, v in random_f(n, 2, 3, seed=seed).items()}
    atoms = decompose(f, measure)
    whole = f[atoms.concepts]
    # float64 rounding of 166 atoms, each a sum of up to 64 terms.
    torch.testing.assert_close(sum(atoms.values()), whole, rtol=0, atol=1e-12 * scale)
    torch.testing.assert_close(
        atoms.redundancy + sum(atoms.unique.values()) + atoms.synergy, whole, rtol=0, atol=1e-12 * scale
    )


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(KNOWN), st.permutations(range(3)), st.integers(0, 10**6))
def test_no_concept_is_special(measure, order, seed):
    joint = joint_of(seed, 3)
    atoms = discrete(joint, measure, concepts=tuple("abc"))
    moved = discrete(joint.transpose([*order, 3]), measure, concepts=["abc"[k] for k in order])
    assert set(map(frozenset, atoms)) == {frozenset(tuple(sorted(s)) for s in a) for a in moved}
    # Rounding; the distribution of greatest entropy, which i_ccs needs, is found to 1e-10.
    tolerance = 1e-9 if measure == "i_ccs" else 1e-12
    for antichain, value in atoms.items():
        assert float(moved[antichain]) == pytest.approx(float(value), abs=tolerance)


@settings(max_examples=25, deadline=None)
@given(st.sampled_from(NOT_NEGATIVE), st.integers(2, 3), st.integers(0, 10**6))
def test_no_atom_of_a_distribution_is_negative(measure, n, seed):
    assert all(float(v) > -1e-12 for v in discrete(joint_of(seed, n), measure).values())


@settings(max_examples=25, deadline=None)
@given(st.integers(2, 4), st.integers(0, 10**6))
def test_the_minimum_of_more_sets_is_no_larger(n, seed):
    """r(α) = Σ of the atoms below α is min over α, also where f is not monotone: the definition, for all nodes."""
    f = random_f(n, 5, seed=seed)
    atoms = decompose(f, "min")
    at = {sum(1 << atoms.concepts.index(c) for c in s): v for s, v in f.items()}
    for node in lattice.antichains(n):
        below = atoms.flat[[i for i, a in enumerate(atoms.nodes) if lattice.precedes(a, node)]].sum(0)
        torch.testing.assert_close(below, torch.stack([at[s] for s in node]).amin(0), rtol=0, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_order_of_the_measures(seed):
    """E min ≤ i_min ≤ min E: each average moves inside the concave minimum."""
    joint = joint_of(seed, 2)
    pointwise, specific, averaged = (float(discrete(joint, m).redundancy) for m in ("min", "i_min", "mmi"))
    assert pointwise <= specific + 1e-12
    assert specific <= averaged + 1e-12


REFERENCE = json.loads((Path(__file__).parents[1] / "data" / "pid_reference.json").read_text())["distributions"]


@pytest.mark.parametrize("measure", ["i_ccs", "i_ccs_plugin", "i_min", "i_sx", "mmi", "ppid"])
@pytest.mark.parametrize("case", REFERENCE, ids=["two", "three"])
def test_against_an_independent_implementation(case, measure, written):
    """Every atom of distributions without symmetries, from the package dit; the file says how."""
    atoms = discrete(np.array(case["joint"]) / np.sum(case["joint"]), measure)
    # 1e-9: the reference is written with ten decimals.
    assert written(atoms) == pytest.approx(case["atoms"][measure], abs=1e-9)


def test_numbers_become_float64_and_maps_keep_their_type():
    assert decompose({("a",): 1, ("b",): 2.5, ("b", "a"): np.float32(3)}).redundancy.dtype == torch.float64
    assert decompose(random_f(3, 4, 5, dtype=torch.float32)).synergy.dtype == torch.float32
    assert decompose(random_f(1, 4))["a",].shape == (4,)  # one concept is all unique


NUMBERS = {("a",): 1.0, ("b",): 2.0, ("a", "b"): 3.0}


@pytest.fixture
def registered():
    """Forgets the measures that a test registers."""
    before = dict(MEASURES)
    yield
    MEASURES.clear()
    MEASURES.update(before)


def test_a_measure_is_one_function(registered):
    for _ in range(2):  # as a notebook does whose cell runs again

        @register("highest")
        def highest(given):
            return lambda sets: torch.stack([given.f[s] for s in sets]).amax(0)

    assert float(decompose(NUMBERS, "highest").redundancy) == 2
    assert "highest" in picture_measures()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"name": "min"}, ValueError, "name: found 'min', which is a measure of dpid; choose another"),
        ({"name": None}, TypeError, "name: found None, expected a text"),
        ({"priors": "foo"}, ValueError, "priors: found 'foo', allowed are subsets, joint, candidates"),
        ({"axis": "image"}, ValueError, "axis: found 'image', allowed are images, candidates, distribution"),
    ],
)
def test_refusals_of_a_measure(registered, arguments, error, message):
    with pytest.raises(error, match=message):
        register(**{"name": "own"} | arguments)(lambda given: lambda sets: given.f[sets[0]] * 0 + 7)
    assert float(decompose(NUMBERS, "min").redundancy) == 1
    assert "own" not in MEASURES


@pytest.mark.parametrize(
    ("rule", "message"),
    [
        (lambda given: given.f, r"^measure: .* gave \{.*, expected a function of an antichain"),
        (lambda given: lambda sets: 1.0, r"^measure: r of .* gave 1\.0, expected a tensor"),
        (lambda given: lambda sets: given.f[1] if sets == (1,) else 2.0, r"^measure: r of .* gave 2\.0, expected a te"),
    ],
)
def test_what_a_rule_returns_is_named(registered, rule, message):
    register("own")(rule)
    with pytest.raises(TypeError, match=message):
        decompose(NUMBERS, "own")


def test_minima_are_signed_sums():
    g = {1: torch.tensor(1.0), 2: torch.tensor(3.0)}
    assert float(Minima(((2, g), (-1, g)))((1, 2))) == 1


def test_maps_of_four_broadcast_priors_and_shapes():
    """Priors may differ from image to image: [B,1,1] against maps [B,h,w]."""
    f = {s: v.abs() / 100 for s, v in random_f(2, 3, 4, 5).items()}
    h = torch.tensor([5.0, 7.0, 9.0], dtype=torch.float64)[:, None, None]
    atoms = decompose(f, "ppid", {("a",): h, ("b",): h + 1})
    alone = decompose({s: v[1] for s, v in f.items()}, "ppid", {("a",): 7.0, ("b",): 8.0})
    torch.testing.assert_close(atoms.redundancy[1], alone.redundancy)


@pytest.mark.parametrize(
    ("change", "options", "error", "message"),
    [
        ({}, {"measure": "max"}, ValueError, "found 'max', allowed are i_ccs, i_ccs_plugin, i_min, i_sx"),
        ({}, {"measure": "i_ccs"}, ValueError, "measure: 'i_ccs' needs a distribution, dpid.pid.discrete"),
        ({("a",): torch.ones(3)}, {}, ValueError, r"information: found torch.float32 \(3,\) on cpu, torch.float32"),
        ({("a",): torch.ones(2, dtype=torch.float64)}, {}, ValueError, "all subsets need one shape, dtype and device"),
        ({("a",): torch.tensor([1, 2])}, {}, TypeError, "information: found dtype torch.int64"),
        ({("a",): torch.tensor([1.0, torch.nan])}, {}, ValueError, "information: found NaN or infinity"),
        ({("a", "c"): torch.ones(2)}, {}, ValueError, r"information: found the key \('a', 'c'\)"),
        ({(): torch.ones(2)}, {}, ValueError, r"information: found the key \(\)"),
        ({"ab": torch.ones(2)}, {}, ValueError, "information: found the key 'ab'"),
        ({("b", "a"): torch.ones(2)}, {}, ValueError, "information: found 4 entries for 3 subsets"),
        ({}, {"measure": "ppid"}, ValueError, r"priors: found None, expected \{subset: h\(y_S\) in nats\}"),
        ({}, {"measure": "ppid", "priors": "uniform", "pixels": 0}, ValueError, "pixels: found 0"),
        ({}, {"measure": "ppid", "priors": "uniform", "pixels": 1.5}, ValueError, "pixels: found 1.5, expected a"),
        ({}, {"measure": "ppid", "priors": "uniform", "pixels": float("nan")}, ValueError, "pixels: found nan"),
        ({}, {"measure": []}, TypeError, r"measure: found \[\], expected a text"),
    ],
)  # fmt: skip
def test_refusals(change, options, error, message):
    f = {("a",): torch.ones(2), ("b",): torch.ones(2), ("a", "b"): torch.ones(2)} | change
    with pytest.raises(error, match=message):
        decompose(f, **options)


def test_refusals_of_the_concepts():
    with pytest.raises(ValueError, match="concepts: found 9, allowed are 1…8"):
        decompose(random_f(9))
    with pytest.raises(ValueError, match=r"information: \('a', 'b'\) is missing; all 3 subsets are needed"):
        decompose({("a",): 1.0, ("b",): 1.0})
    with pytest.raises(ValueError, match="information: no single concept is named"):
        decompose({})
    with pytest.raises(TypeError, match="information: found list"):
        decompose([1.0, 2.0])
    with pytest.raises(ValueError, match="concepts: found 5; this measure has all atoms of up to 4"):
        decompose(random_f(5), "i_ccs_plugin")
