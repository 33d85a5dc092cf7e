"""Philox, compared with published values (Random123, kat_vectors); the normals, with float64 and the distribution."""

import pytest
import torch
from scipy import stats

from dpid import ops
from dpid.ops import reference

FFFF = 0xFFFFFFFF
KNOWN = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((FFFF,) * 4, (FFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_published_known_answers(counter, key, expected):
    compiled = ops.philox4x32(
        torch.tensor([counter], dtype=torch.int64).to(torch.uint32),
        torch.tensor([key], dtype=torch.int64).to(torch.uint32),
    )
    assert tuple(compiled[0].to(torch.int64).tolist()) == expected
    assert tuple(reference.philox4x32(torch.tensor(counter), torch.tensor(key)).tolist()) == expected


@pytest.mark.parametrize("seed", [0, 2**63 + 12345])
@pytest.mark.parametrize("shape", [(1, 4, 16, 16), (3, 1, 5, 7), (2, 1, 1, 1)])
def test_normals_match_float64_to_4_ulp(backend, put, seed, shape):
    ids = put(torch.tensor([0, 7, ~7, 2**40 + 3]))
    exact = reference.normal(seed, ids, shape[1] * shape[2] * shape[3]).view(4, 1, *shape[1:]).expand(4, *shape)
    eps = ops.normal(seed, ids, shape, backend=backend).double()
    # ulp of fp32 at each value: spacing 2^-23 relative to the power of two below it.
    ulp = torch.exp2(torch.floor(torch.log2(exact.abs())) - 23)
    assert ((eps - exact).abs() / ulp).max() <= 4


def test_every_image_has_the_noise_that_it_has_alone(backend, put):
    """Of a batch of three that of the first; else a picture's numbers would depend on what is explained beside it."""
    ids = put(torch.tensor([0, ~0, 7, 2**40 + 3]))
    eps = ops.normal(5, ids, (3, 4, 5, 7), backend=backend)
    alone = ops.normal(5, ids, (1, 4, 5, 7), backend=backend)
    assert torch.equal(eps, alone.expand_as(eps))


def test_antithetic_partner_turns_the_sign():
    ids = torch.tensor([0, 5, 2**50])
    torch.testing.assert_close(ops.normal(3, ~ids, (2, 3, 4, 5)), -ops.normal(3, ids, (2, 3, 4, 5)), rtol=0, atol=0)


def test_normals_are_standard_normal_and_independent():
    eps = ops.normal(1, torch.arange(256), (1, 4, 16, 16))[:, 0]
    # Kolmogorov–Smirnov on 2^18 values: p below 1e-4 happens once in ten thousand seeds, and the seed is fixed.
    assert stats.kstest(eps.flatten().numpy(), "norm").pvalue > 1e-4
    for other in (eps.roll(1, 0), eps.roll(1, 1), eps.roll(1, 3)):
        # Correlation of m independent pairs has standard deviation m^-1/2 = 0.002; five of them.
        assert abs(torch.corrcoef(torch.stack((eps.flatten(), other.flatten())))[0, 1]) < 0.01
