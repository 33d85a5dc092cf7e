"""The lattice, compared with published sizes and rows, and its inversion with the definition."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dpid.pid import lattice


def dense(n):
    matrix = torch.zeros(len(lattice.antichains(n)), len(lattice.antichains(n)), dtype=torch.int64)
    for i, row in enumerate(lattice.mobius(n)):
        for j, sign in row:
            matrix[i, j] += sign
    return matrix


def zeta(n):
    nodes = lattice.antichains(n)
    return torch.tensor([[lattice.precedes(b, a) for b in nodes] for a in nodes]).long()


def masks(text):
    """ "1|23" → the antichain {1}{23}."""
    return lattice.ordered(sum(1 << (int(c) - 1) for c in word) for word in text.split("|"))


@pytest.mark.parametrize(("n", "size", "row_sum"), [(1, 1, 1), (2, 4, 4), (3, 18, 8), (4, 166, 64)])
def test_sizes_and_row_sums(n, size, row_sum):
    """Dedekind numbers less 2; Σ |row| is how much the inversion can amplify noise."""
    assert len(lattice.antichains(n)) == size
    assert int(dense(n).abs().sum(1).max()) == row_sum
    assert set(dense(n).unique().tolist()) <= {-1, 0, 1}
    assert torch.equal(zeta(n) @ dense(n), torch.eye(size).long())


def test_down_sets_of_three():
    sizes = zeta(3).sum(1).tolist()
    assert sizes == [1, 2, 2, 2, 4, 4, 4, 5, 5, 5, 8, 10, 10, 10, 13, 13, 13, 18]
    assert torch.equal(zeta(3), zeta(3).tril())  # so the order is one in which the matrix is unitriangular


@pytest.mark.parametrize(
    ("atom", "row"),
    [
        ("1|2|3", {"1|2|3": 1}),
        ("1|2", {"1|2": 1, "1|2|3": -1}),
        ("1|23", {"1|23": 1, "1|2": -1, "1|3": -1, "1|2|3": 1}),
        ("1", {"1": 1, "1|23": -1}),
        (
            "12|13|23",
            {
                "12|13|23": 1, "1|23": -1, "2|13": -1, "3|12": -1, "1|2": 1, "1|3": 1, "2|3": 1, "1|2|3": -1,
            },
        ),
        ("12|13", {"12|13": 1, "1": -1, "12|13|23": -1, "1|23": 1}),
        ("12", {"12": 1, "12|13": -1, "12|23": -1, "12|13|23": 1}),
        (
            "123",
            {"123": 1, "12": -1, "13": -1, "23": -1, "12|13": 1, "12|23": 1, "13|23": 1, "12|13|23": -1},
        ),
    ],
)  # fmt: skip
def test_rows_of_three(atom, row):
    nodes = lattice.antichains(3)
    terms = {nodes[j]: sign for j, sign in lattice.mobius(3)[nodes.index(masks(atom))]}
    assert terms == {masks(text): sign for text, sign in row.items()}


@given(st.integers(2, 4), st.data())
def test_order_is_reflexive_antisymmetric_transitive(n, data):
    node = st.sampled_from(lattice.antichains(n))
    a, b, c = data.draw(node), data.draw(node), data.draw(node)
    assert lattice.precedes(a, a)
    assert a == b or not (lattice.precedes(a, b) and lattice.precedes(b, a))
    assert lattice.precedes(a, c) or not (lattice.precedes(a, b) and lattice.precedes(b, c))


@pytest.mark.parametrize("n", [1, 2, 3, 4])
def test_coarse_graining_is_the_sum_of_atoms_by_their_single_concepts(n):
    """R: atoms with two or more single concepts; U_k: with k alone; S: with none; counted on random atoms."""
    nodes = lattice.antichains(n)
    atoms = torch.randn(len(nodes), dtype=torch.float64, generator=torch.Generator().manual_seed(n))
    r = zeta(n).double() @ atoms
    sets, signs = lattice.singles(n)
    *unique, union = lattice.combine(signs, [r[nodes.index(a)] for a in sets])
    alone = [[s.bit_length() - 1 for s in node if s.bit_count() == 1] for node in nodes]
    for k in range(n):
        expected = sum((atoms[i] for i, singles in enumerate(alone) if singles == [k]), torch.zeros(()).double())
        torch.testing.assert_close(unique[k], expected)
    torch.testing.assert_close(union, sum(atoms[i] for i, singles in enumerate(alone) if singles))
