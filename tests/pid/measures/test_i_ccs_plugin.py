"""``i_ccs_plugin``, compared with closed forms (bits)."""

from math import log2

import pytest
import torch

from dpid.pid import decompose, discrete

I_ERR = 0.75 * log2(3) - 1

TABLE = {
    "RDN": (1, 0, 0, 0),
    "UNQ1": (0, 1, 0, 0),
    "COPY2": (0, 1, 1, 0),
    "XOR": (0, 0, 0, 1),
    "AND": ((2 - log2(3)) / 4, (2 - log2(3)) / 2, (2 - log2(3)) / 2, (log2(3) - 1) / 2),
    "OR": ((2 - log2(3)) / 4, (2 - log2(3)) / 2, (2 - log2(3)) / 2, (log2(3) - 1) / 2),
    "RDNXOR": (0, 1, 1, 0),
    "PWUNQ": (0, 0.5, 0.5, 0),
    "RDNERR": (I_ERR + 0.25, 0.75 - I_ERR, -0.25, 0.25),
}


@pytest.mark.parametrize("name", TABLE)
def test_textbook_distributions(joints, four, name):
    # 1e-6 bits: far above float64 rounding, far below any difference between measures.
    assert four(discrete(joints[name], "i_ccs_plugin")) == pytest.approx(TABLE[name], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "atoms"),
    [
        ("XOR3", {"123": 1}),
        ("RDN3", {"1|2|3": 1}),
        ("XORCAT", {"1|23": 1, "2|13": 1, "3|12": 1, "12|13|23": -1}),
        ("DBLXOR", {"12": 1, "13": 1, "23": 1, "123": -1}),
    ],
)
def test_three_concepts(joints, written, name, atoms):
    assert written(discrete(joints[name], "i_ccs_plugin")) == pytest.approx(atoms, abs=1e-6)


@pytest.mark.parametrize(
    ("f1", "f2", "f12", "r"),
    [
        (2.0, 3.0, 4.0, 1.0),  # all signs positive: the co-information
        (-2.0, -3.0, -4.0, -1.0),  # all negative: shared misinformation
        (2.0, -3.0, 4.0, 0.0),  # the words disagree
        (2.0, 3.0, 6.0, 0.0),  # the co-information is negative, the words are not
        (2.0, 3.0, -1.0, 0.0),  # the union disagrees
        # A sum that is zero but for rounding has no sign, though its co-information, 0.25, has.
        (0.1 + 0.2 - 0.3, 1.0, 0.75, 0.0),
    ],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_signs(f1, f2, f12, r, dtype):
    f = {("a",): f1, ("b",): f2, ("a", "b"): f12}
    atoms = decompose({s: torch.tensor(v, dtype=dtype) for s, v in f.items()}, "i_ccs_plugin")
    assert float(atoms.redundancy) == r
