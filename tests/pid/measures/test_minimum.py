"""``min``, compared with quadrature for noisy gates (nats); maps."""

from math import log

import pytest
import torch

from dpid.pid import decompose, discrete


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


def test_one_pixel_at_a_time_and_below_zero_where_a_word_misleads():
    f = {("a",): torch.tensor([-2.0, 1.0]), ("b",): torch.tensor([3.0, 0.5]), ("a", "b"): torch.tensor([4.0, log(2)])}
    atoms = decompose(f, "min")
    assert atoms.redundancy.tolist() == [-2, 0.5]
    assert atoms.unique["a"].tolist() == [0, 0.5]
    assert atoms.unique["b"].tolist() == [5, 0]
