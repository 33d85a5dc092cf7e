"""``min``, compared with closed forms of distributions (bits) and with quadrature for noisy gates (nats)."""

from math import log, log2

import pytest
import torch

from dpid.pid import decompose, discrete

I_AND = 2 - 0.75 * log2(3) - 0.5  # I(Y1; X) of AND: H(1/4) - 1/2
I_ERR = 0.75 * log2(3) - 1  # 1 - H(1/4)

TABLE = {
    "RDN": (1, 0, 0, 0),
    "UNQ1": (0, 1, 0, 0),
    "COPY2": (1, 0, 0, 1),
    "XOR": (0, 0, 0, 1),
    "AND": (I_AND - 0.25, 0.25, 0.25, 0.25),
    "OR": (I_AND - 0.25, 0.25, 0.25, 0.25),
    "RDNXOR": (1, 0, 0, 1),
    "PWUNQ": (0, 0.5, 0.5, 0),
    "RDNERR": (I_ERR, 1 - I_ERR, 0, 0),
}


@pytest.mark.parametrize("name", TABLE)
def test_textbook_distributions(joints, four, name):
    # 1e-6 bits: far above float64 rounding, far below any difference between measures.
    assert four(discrete(joints[name], "min")) == pytest.approx(TABLE[name], abs=1e-6)


@pytest.mark.parametrize(
    ("name", "i1", "i2", "i12", "r"),
    [
        ("XOR", 0, 0, 0.69315, 0),
        ("AND", 0.21576, 0.21576, 0.56234, 0.04247),
        ("UNQ1", 0.69315, 0, 0.69315, 0),
        ("RDN", 0.69315, 0.69315, 0.69315, 0.69315),
        ("SUM", 0.34657, 0.34657, 1.03972, 0.34657),
    ],
)
def test_averages_of_the_gates(joints, name, i1, i2, i12, r):
    """The averages that an exact denoiser finds on these gates with narrow noise, by quadrature (nats)."""
    atoms = discrete(joints[name], "min", unit="nats")
    got = [float(f) for f in (*atoms.information.values(), atoms.redundancy)]
    assert got == pytest.approx([i1, i2, i12, r], abs=5e-6)  # half a unit of the last digit written


def test_three_concepts(joints, written):
    assert written(discrete(joints["RDN3"], "min")) == pytest.approx({"1|2|3": 1}, abs=1e-6)
    assert written(discrete(joints["XOR3"], "min")) == pytest.approx({"123": 1}, abs=1e-6)


def test_one_pixel_at_a_time_and_below_zero_where_a_word_misleads():
    f = {("a",): torch.tensor([-2.0, 1.0]), ("b",): torch.tensor([3.0, 0.5]), ("a", "b"): torch.tensor([4.0, log(2)])}
    atoms = decompose(f, "min")
    assert atoms.redundancy.tolist() == [-2, 0.5]
    assert atoms.unique["a"].tolist() == [0, 0.5]
    assert atoms.unique["b"].tolist() == [5, 0]
