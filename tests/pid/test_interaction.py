"""Co-information and gradient of the O-information, compared with closed forms."""

import pytest
import torch

from dpid.pid import co_information, decompose, discrete, o_information_gradient


@pytest.mark.parametrize(
    ("name", "co", "gradient"),
    [
        # bits; RDN3: each of the seven subsets tells 1, so 3 - 3 + 1 and -2 + 3. XOR3: only all three tell, 1.
        ("RDN", 1, 1), ("XOR", -1, -1), ("COPY2", 0, 0), ("RDN3", 1, 1), ("XOR3", 1, -2),
    ],
)  # fmt: skip
def test_textbook_distributions(joints, name, co, gradient):
    information = discrete(joints[name]).information
    assert float(co_information(information)) == pytest.approx(co, abs=1e-12)  # float64 rounding
    assert float(o_information_gradient(information)) == pytest.approx(gradient, abs=1e-12)


def test_for_two_it_is_redundancy_less_synergy_whatever_the_measure():
    f = {("a",): torch.rand(3, 4), ("b",): torch.rand(3, 4), ("a", "b"): torch.rand(3, 4)}
    for measure in ("min", "i_ccs_plugin"):
        atoms = decompose(f, measure)
        torch.testing.assert_close(co_information(f), atoms.redundancy - atoms.synergy)
    torch.testing.assert_close(o_information_gradient(f), co_information(f))
    assert float(o_information_gradient({("a",): 2.0})) == 0


def test_refusals():
    with pytest.raises(ValueError, match=r"information: \('a', 'b'\) is missing"):
        co_information({("a",): 1.0, ("b",): 1.0})
