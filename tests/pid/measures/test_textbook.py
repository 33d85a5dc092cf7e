"""All measures of redundancy, compared with closed forms on textbook distributions of two and three concepts (bits)."""

from math import log2

import pytest

from dpid.pid import discrete

L3 = log2(3)
I_AND = 2 - 0.75 * L3 - 0.5  # I(Y1; X) of AND: H(1/4) - 1/2
I_ERR = 0.75 * L3 - 1  # 1 - H(1/4)
R_AND = I_AND - I_ERR
R_ERR = 0.75 * log2(8 / 5) + 0.25 * log2(8 / 7)  # p(x | y1 ∨ y2) is 4/5 where the words agree, 4/7 where not

AVERAGES = {
    "RDN": (1, 0, 0, 0),
    "UNQ1": (0, 1, 0, 0),
    "COPY2": (1, 0, 0, 1),
    "XOR": (0, 0, 0, 1),
    "AND": (I_AND, 0, 0, 0.5),
    "OR": (I_AND, 0, 0, 0.5),
    "RDNXOR": (1, 0, 0, 1),
    "PWUNQ": (0.5, 0, 0, 0.5),
    "RDNERR": (I_ERR, 1 - I_ERR, 0, 0),
}
COMMON_CHANGE = {
    "RDN": (1, 0, 0, 0),
    "UNQ1": (0, 1, 0, 0),
    "COPY2": (0, 1, 1, 0),
    "XOR": (0, 0, 0, 1),
    "AND": ((2 - L3) / 4, (2 - L3) / 2, (2 - L3) / 2, (L3 - 1) / 2),
    "OR": ((2 - L3) / 4, (2 - L3) / 2, (2 - L3) / 2, (L3 - 1) / 2),
    "RDNXOR": (0, 1, 1, 0),
    "PWUNQ": (0, 0.5, 0.5, 0),
    "RDNERR": (I_ERR + 0.25, 0.75 - I_ERR, -0.25, 0.25),
}
TABLE = {
    "min": AVERAGES | {"AND": (I_AND - 0.25, 0.25, 0.25, 0.25), "OR": (I_AND - 0.25, 0.25, 0.25, 0.25),
                       "PWUNQ": (0, 0.5, 0.5, 0)},
    "mmi": AVERAGES,
    "i_min": AVERAGES,
    "ppid": {
        "RDN": (1, 0, 0, 0),
        "UNQ1": (1, 0, -1, 1),
        "COPY2": (1, 0, 0, 1),
        "XOR": (0, 0, 0, 1),
        "AND": (I_AND + 0.25, -0.25, -0.25, 0.75),
        "OR": (I_AND + 0.25, -0.25, -0.25, 0.75),
        "RDNXOR": (1, 0, 0, 1),
        "PWUNQ": (0, 0.5, 0.5, 0),
        "RDNERR": (1, 0, I_ERR - 1, 1 - I_ERR),
    },
    "i_sx": {
        "RDN": (1, 0, 0, 0),
        "UNQ1": (2 - L3, L3 - 1, L3 - 2, 2 - L3),
        "COPY2": (2 - L3, L3 - 1, L3 - 1, 2 - L3),
        "XOR": (1 - L3, L3 - 1, L3 - 1, 2 - L3),
        "AND": (R_AND, I_AND - R_AND, I_AND - R_AND, 2 - 0.75 * L3 - 2 * I_AND + R_AND),
        "OR": (R_AND, I_AND - R_AND, I_AND - R_AND, 2 - 0.75 * L3 - 2 * I_AND + R_AND),
        "RDNXOR": (2 - L3, L3 - 1, L3 - 1, 2 - L3),
        "PWUNQ": (0, 0.5, 0.5, 0),
        "RDNERR": (R_ERR, 1 - R_ERR, I_ERR - R_ERR, R_ERR - I_ERR),
    },
    "i_ccs_plugin": COMMON_CHANGE,
    # The marginals leave the distribution itself on all but XOR and RDNXOR: there bits are independent given the rest.
    "i_ccs": COMMON_CHANGE | {"SUM": (0, 0.5, 0.5, 0.5), "RDNXOR": (1, 0, 0, 1)},
}  # fmt: skip

CHAIN = {
    "XOR3": {"123": 1},
    "RDN3": {"1|2|3": 1},
    "XORCAT": {"1|2|3": 1, "12|13|23": 1},
    "DBLXOR": {"12|13|23": 1, "123": 1},
}
THREE = {
    "min": {"XOR3": {"123": 1}, "RDN3": {"1|2|3": 1}},
    "mmi": CHAIN,
    "i_min": CHAIN,
    "ppid": CHAIN,
    "i_sx": {"RDN3": {"1|2|3": 1}},
    "i_ccs_plugin": {
        "XOR3": {"123": 1},
        "RDN3": {"1|2|3": 1},
        "XORCAT": {"1|23": 1, "2|13": 1, "3|12": 1, "12|13|23": -1},
        "DBLXOR": {"12": 1, "13": 1, "23": 1, "123": -1},
    },
}


# 1e-6 bits: far above float64 rounding and what maximum entropy is found to, far below any difference between measures.
@pytest.mark.parametrize(("measure", "name"), [(m, name) for m, table in TABLE.items() for name in table])
def test_two_concepts(joints, four, measure, name):
    assert four(discrete(joints[name], measure)) == pytest.approx(TABLE[measure][name], abs=1e-6)


@pytest.mark.parametrize(("measure", "name"), [(m, name) for m, table in THREE.items() for name in table])
def test_three_concepts(joints, written, measure, name):
    assert written(discrete(joints[name], measure)) == pytest.approx(THREE[measure][name], abs=1e-6)
