"""The Triton kernels of the UNet, compared with torch in float64, and the errors of their wrappers."""

import pytest
import torch

from dpid import ops

# fp32 sums of up to a few thousand terms; fp16 rounds inputs' products once at the end (2^-11).
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(got, exact, dtype):
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    [((1, 4, 1, 1), 2), ((2, 12, 5, 7), 4), ((1, 64, 16, 16), 32), ((2, 6, 64, 96), 1), ((2, 320, 9, 9), 32)],
)
@pytest.mark.parametrize("silu", [True, False])
def test_group_norm_silu(shape, groups, silu, dtype):
    # A large mean: the variance must not cancel.
    x, weight, bias = (
        randn(*shape, dtype=dtype) + 3,
        randn(shape[1], seed=1, dtype=dtype),
        randn(shape[1], seed=2, dtype=dtype),
    )
    exact = ops.group_norm_silu(x.double(), groups, weight.double(), bias.double(), silu=silu)
    for memory in (x, x.mT.contiguous().mT, x.contiguous(memory_format=torch.channels_last)):
        close(ops.group_norm_silu(memory, groups, weight, bias, silu=silu, backend="triton"), exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2,), (3, 10), (2, 3, 1030)])
def test_geglu(shape, dtype):
    x = 3 * randn(*shape, dtype=dtype)
    close(ops.geglu(x, backend="triton"), ops.geglu(x.double()), dtype)


def test_opcheck():
    x, weight, bias = randn(2, 12, 5, 7), randn(12, seed=1), randn(12, seed=2)
    for memory in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.dpid.group_norm_silu, (memory, 4, weight, bias, 1e-5, True))
    torch.library.opcheck(torch.ops.dpid.geglu, (randn(3, 10),))


def test_compile_whole():
    x, weight, bias = randn(2, 12, 5, 7), randn(12, seed=1), randn(12, seed=2)

    def layer(x):
        return ops.geglu(ops.group_norm_silu(x, 4, weight, bias).flatten(1))

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x), layer(x), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.group_norm_silu(randn(1, 5, 2, 2), 2, randn(5), randn(5)), ValueError, "groups dividing C"),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(5), randn(4)), ValueError, "weight, bias: found"),
        (lambda: ops.geglu(randn(2, 3)), ValueError, "even last dimension"),
        (lambda: ops.geglu(randn(2, 4), backend="cuda"), ValueError, "backend: found 'cuda'"),
        (lambda: ops.geglu(randn(2, 4).requires_grad_(), backend="triton"), ValueError, "x: requires_grad"),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(4).half(), randn(4)), TypeError, "weight: found"),
        (lambda: ops.geglu(randn(2, 4).double(), backend="triton"), TypeError, "x: found torch.float64"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
