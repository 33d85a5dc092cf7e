"""Atoms by antichain, and how they are printed."""

import pytest
import torch

from dpid.pid import decompose
from dpid.prompts.plan import subsets_of


def test_a_mapping_of_antichains():
    atoms = decompose({("cow",): 1.0, ("giraffe",): 2.0, ("cow", "giraffe"): 4.0})
    assert {a: float(v) for a, v in atoms.items()} == {
        (("cow",), ("giraffe",)): 1,
        (("cow",),): 0,
        (("giraffe",),): 1,
        (("cow", "giraffe"),): 2,
    }
    assert float(atoms[("giraffe",), ("cow",)]) == 1  # in any order
    assert float(atoms[("giraffe", "cow"),]) == 2
    assert (("cow",), ("cow", "giraffe")) not in atoms  # no antichain
    for unknown in ("cow", (), (("dog",),), None):
        with pytest.raises(KeyError):
            atoms[unknown]
    assert {s: float(v) for s, v in atoms.information.items()} == {("cow",): 1, ("giraffe",): 2, ("cow", "giraffe"): 4}


def test_table_of_two():
    assert repr(decompose({("cow",): 1.0, ("giraffe",): 2.0, ("cow", "giraffe"): 4.0})) == (
        "i(x; cow, giraffe) = 4.0000 nats\n"
        "  redundancy         1.0000\n"
        "  unique cow         0.0000\n"
        "  unique giraffe     1.0000\n"
        "  synergy            2.0000"
    )


@pytest.mark.parametrize("n", [3, 5])
def test_table_of_more(n):
    """R, U, S, then the largest atoms; maps by their sums."""
    f = {s: torch.full((4, 5), float(len(s))) for s in subsets_of("abcde"[:n])[1:]}
    lines = str(decompose(f)).splitlines()
    assert lines[0] == f"i(x; {', '.join('abcde'[:n])}) = {20 * n:.4f} nats, sums over 4×5 values"
    assert [float(line.split()[-1]) for line in lines[1 : n + 3]] == [20, *[0] * n, 20 * (n - 1)]
    shown = {line.split()[0]: float(line.split()[-1]) for line in lines[n + 3 :] if "{a}{b}{c}" in line}
    assert shown == {"".join(f"{{{c}}}" for c in "abcde"[:n]): 20}
    assert len(str(decompose(f, coarse=True)).splitlines()) == n + 3


def test_only_the_largest_atoms_of_many_are_printed():
    f = {s: torch.tensor(float(sum(map(ord, s)) % 7)) for s in subsets_of("abcd")[1:]}
    assert str(decompose(f)).splitlines()[-1] == "  and 146 smaller atoms"
