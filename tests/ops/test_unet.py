"""The Triton kernels of the UNet against float64 torch, and the checks of their wrappers."""

import pytest
import torch

from dpid import ops

# fp32 sums of up to a few thousand terms; fp16 rounds inputs' products once at the end (2^-11).
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3}
DTYPES = list(TOLERANCE)


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


Q = randn(1, 2, 1, 4)


def close(got, exact, dtype):
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"), [((1, 4, 1, 1), 2), ((2, 12, 5, 7), 4), ((1, 64, 16, 16), 32), ((2, 6, 64, 96), 1)]
)
def test_group_norm_silu(shape, groups, dtype):
    # A large mean: the variance must not cancel.
    x, weight, bias = (
        randn(*shape, dtype=dtype) + 3,
        randn(shape[1], seed=1, dtype=dtype),
        randn(shape[1], seed=2, dtype=dtype),
    )
    exact = ops.group_norm_silu(x.double(), groups, weight.double(), bias.double())
    close(ops.group_norm_silu(x, groups, weight, bias, backend="triton"), exact, dtype)
    close(ops.group_norm_silu(x.mT.contiguous().mT, groups, weight, bias, backend="triton"), exact, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(2,), (3, 10), (2, 3, 1030)])
def test_geglu(shape, dtype):
    x = 3 * randn(*shape, dtype=dtype)
    close(ops.geglu(x, backend="triton"), ops.geglu(x.double()), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("k", "m", "length", "heads", "d"), [(1, 1, 1, 1, 4), (4, 70, 77, 2, 40), (3, 130, 16, 3, 64)])
def test_condition_attention(k, m, length, heads, d, dtype):
    q, key, v = (randn(k, n, heads, d, seed=s, dtype=dtype) for s, n in enumerate((m, length, length)))
    exact = ops.condition_attention(q.double(), key.double(), v.double())
    # An independent form of the reference: softmax written out.
    scores = torch.einsum("kmhd,klhd->khml", q.double(), key.double()) / d**0.5
    torch.testing.assert_close(exact, torch.einsum("khml,klhd->kmhd", scores.softmax(-1), v.double()))
    close(ops.condition_attention(q, key, v, backend="triton"), exact, dtype)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.group_norm_silu(randn(1, 5, 2, 2), 2, randn(5), randn(5)), ValueError, "groups dividing C"),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(5), randn(4)), ValueError, "weight, bias: found"),
        (lambda: ops.geglu(randn(2, 3)), ValueError, "even last dimension"),
        (lambda: ops.geglu(randn(2, 4), backend="cuda"), ValueError, "backend: found 'cuda'"),
        (lambda: ops.geglu(randn(2, 4).requires_grad_(), backend="triton"), ValueError, "x: requires_grad"),
        (lambda: ops.condition_attention(Q, randn(1, 2, 2, 4), randn(1, 2, 2, 4)), ValueError, "q, k, v: found"),
        (lambda: ops.condition_attention(Q, Q.half(), Q), TypeError, "k: found"),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
