"""Fixtures: textbook distributions p(y1, …, yn, x) by name."""

from itertools import product

import numpy as np
import pytest


def _even(outcomes):
    """The joint of equally likely outcomes (y1, …, yn, x); what a parity or a copy tells, x, is numbered."""
    shape = [max(column) + 1 for column in zip(*outcomes, strict=True)]
    joint = np.zeros(shape)
    for outcome in outcomes:
        joint[outcome] += 1 / len(outcomes)
    return joint


def _gate(n, x):
    return _even([(*y, x(*y)) for y in product((0, 1), repeat=n)])


@pytest.fixture(scope="session")
def joints():
    digits = {
        "RDN": "000 111",
        "RDNXOR": "000 011 101 110 222 233 323 332",
        "PWUNQ": "011 101 022 202",
        "RDN3": "0000 1111",
        # Three eighths each for 000 and 111, one for 010 and 101.
        "RDNERR": "000 000 000 111 111 111 010 101",
    }
    named = {name: _even([tuple(map(int, word)) for word in words.split()]) for name, words in digits.items()}
    return named | {
        "UNQ1": _gate(2, lambda a, b: a),
        "COPY2": _gate(2, lambda a, b: 2 * a + b),
        "XOR": _gate(2, lambda a, b: a ^ b),
        "AND": _gate(2, lambda a, b: a & b),
        "OR": _gate(2, lambda a, b: a | b),
        "SUM": _gate(2, lambda a, b: a + b),
        "XOR3": _gate(3, lambda a, b, c: a ^ b ^ c),
        "XORCAT": _even([(a, b, a ^ b, 2 * a + b) for a, b in product((0, 1), repeat=2)]),
        "DBLXOR": _gate(3, lambda a, b, c: 2 * (a ^ b) + (b ^ c)),
    }


@pytest.fixture
def four():
    """R, U1, U2, S of two concepts."""
    return lambda atoms: [float(t) for t in (atoms.redundancy, *atoms.unique.values(), atoms.synergy)]


@pytest.fixture
def written():
    """The atoms that are not zero, written {"1|23": value}; 1e-9 is far above float64 rounding."""

    def write(atoms):
        def label(antichain):
            return "|".join("".join(name.lstrip("y") for name in subset) for subset in antichain)

        return {label(a): float(v) for a, v in atoms.items() if abs(float(v)) > 1e-9}

    return write
