"""``i_ccs_plugin``: its signs."""

import pytest
import torch

from dpid.pid import decompose


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
