"""The Triton kernels of the UNet, compared with torch in float64, and the errors of their wrappers."""

import pytest
import torch

from dpid import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# fp32 sums of up to a few thousand terms; fp16 rounds inputs' products once at the end (2^-11), bf16 with 3 bits less.
TOLERANCE = {torch.float32: 2e-5, torch.float16: 2e-3}
if DEVICE == "cuda":
    TOLERANCE[torch.bfloat16] = 1.6e-2
DTYPES = list(TOLERANCE)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def close(got, exact, dtype):
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), exact, rtol=TOLERANCE[dtype], atol=TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "groups"),
    # The last but one has 18 blocks of pixels, whose 18 · 64 means of one group are read in two turns; a group of the
    # last lies in two tiles of 64 channels.
    [((1, 4, 1, 1), 2), ((2, 12, 5, 7), 4), ((1, 64, 16, 16), 32), ((1, 64, 33, 33), 1), ((2, 80, 9, 9), 8)],
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
@pytest.mark.parametrize("shape", [(2,), (3, 10), (2, 9, 1030)])  # rows and columns that do not fill a tile
def test_geglu(shape, dtype):
    x = 3 * randn(*shape, dtype=dtype)
    close(ops.geglu(x, backend="triton"), ops.geglu(x.double()), dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("images", "embeddings"), [(2, 6), (3, 1)])
def test_group_norm_silu_of_a_sum(images, embeddings, dtype):
    x, added = randn(images, 12, 5, 7, dtype=dtype) + 3, randn(embeddings, 12, seed=3, dtype=dtype)
    weight, bias = randn(12, seed=1, dtype=dtype), randn(12, seed=2, dtype=dtype)
    # Image and embedding i of M are those of i + M, i + 2 M, …
    whole = torch.stack(
        [x[i % images] + added[i % embeddings].double()[:, None, None] for i in range(max(images, embeddings))]
    )
    exact = ops.group_norm_silu(whole, 4, weight.double(), bias.double())
    for memory in (x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        close(ops.group_norm_silu(memory, 4, weight, bias, added=added, backend="triton"), exact, dtype)
    precise = (t.double() for t in (x, weight, bias, added))
    x, weight, bias, added = precise
    torch.testing.assert_close(ops.group_norm_silu(x, 4, weight, bias, added=added), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
def test_group_norm_silu_in_float32_of_a_map_with_less(dtype):
    x, weight, bias = randn(2, 12, 5, 7, dtype=dtype) + 3, randn(12, seed=1), randn(12, seed=2)
    exact = ops.group_norm_silu(x.double(), 4, weight.double(), bias.double())
    for memory in (x, x.contiguous(memory_format=torch.channels_last)):
        for backend in ("reference", "triton"):
            close(ops.group_norm_silu(memory, 4, weight, bias, backend=backend), exact, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("own", "rest", "groups"), [(4, 8, 3), (64, 128, 32), (70, 50, 8)])  # the last in one tile
def test_group_norm_silu_of_two_maps(own, rest, groups, dtype):
    x, skip = randn(2, own, 5, 7, dtype=dtype) + 3, randn(2, rest, 5, 7, seed=3, dtype=dtype)
    weight, bias = randn(own + rest, seed=1, dtype=dtype), randn(own + rest, seed=2, dtype=dtype)
    exact = ops.group_norm_silu(torch.cat((x, skip), 1).double(), groups, weight.double(), bias.double())
    for memory in (x, x.contiguous(memory_format=torch.channels_last)):
        close(ops.group_norm_silu(memory, groups, weight, bias, skip=skip, backend="triton"), exact, dtype)
    precise = (t.double() for t in (x, weight, bias, skip))
    x, weight, bias, skip = precise
    torch.testing.assert_close(ops.group_norm_silu(x, groups, weight, bias, skip=skip), exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("rows", "others", "size"), [(1, 1, (1, 1)), (6, 2, (3, 10)), (2, 2, (5, 40)), (4, 1, (2, 1280))]
)
def test_add_layer_norm(rows, others, size, dtype):
    # A large mean: the variance must not cancel.
    x, y = randn(rows, *size, dtype=dtype) + 3, randn(others, *size, seed=3, dtype=dtype)
    weight, bias = randn(size[-1], seed=1, dtype=dtype), randn(size[-1], seed=2, dtype=dtype)
    total = torch.stack([x[i].double() + y[i % others] for i in range(rows)])
    centred = total - total.mean(-1, keepdim=True)
    normed = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
    for memory in (x, x.mT.contiguous().mT):
        for got, exact in zip(
            ops.add_layer_norm(memory, y, weight, bias, backend="triton"), (total, normed), strict=True
        ):
            close(got, exact, dtype)
    precise = ops.add_layer_norm(x.double(), y.double(), weight.double(), bias.double())
    torch.testing.assert_close(precise, (total, normed), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1,), (3, 10), (2, 5, 320), (9, 1280)])
def test_layer_norm(shape, dtype):
    # A large mean: the variance must not cancel.
    x, weight, bias = randn(*shape, dtype=dtype) + 3, randn(shape[-1], seed=1, dtype=dtype), randn(shape[-1], seed=2)
    bias = bias.to(dtype)
    centred = x.double() - x.double().mean(-1, keepdim=True)
    exact = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight.double() + bias.double()
    close(ops.layer_norm(x, weight, bias, backend="triton"), exact, dtype)
    precise = ops.layer_norm(x.double(), weight.double(), bias.double())
    torch.testing.assert_close(precise, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(
    ("rows", "others", "size"), [(1, 1, (1, 1, 1)), (6, 2, (80, 5, 7)), (1, 3, (4, 9, 9)), (2, 2, (65, 8, 9))]
)
def test_add_maps(rows, others, size, biased, dtype):
    x, y = randn(rows, *size, dtype=dtype), randn(others, *size, seed=3, dtype=dtype)
    bias = randn(size[0], seed=1, dtype=dtype) if biased else None
    # Map i of M is that of i + M, i + 2 M, …
    exact = torch.stack([x[i % rows].double() + y[i % others] for i in range(max(rows, others))])
    exact = exact if bias is None else exact + bias.double()[:, None, None]
    for memory in (x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        close(ops.add_maps(memory, y, bias, backend="triton"), exact, dtype)
    precise = ops.add_maps(x.double(), y.double(), None if bias is None else bias.double())
    torch.testing.assert_close(precise, exact, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(1, 1, 1, 1), (2, 65, 8, 9)])
def test_add_maps_of_a_bias_alone(shape, dtype):
    x, bias = randn(*shape, dtype=dtype), randn(shape[1], seed=1, dtype=dtype)
    exact = x.double() + bias.double()[:, None, None]
    for memory in (x, x.contiguous(memory_format=torch.channels_last), x.mT.contiguous().mT):
        close(ops.add_maps(memory, bias=bias, backend="triton"), exact, dtype)
    torch.testing.assert_close(ops.add_maps(x.double(), bias=bias.double()), exact, rtol=1e-12, atol=1e-12)


def test_opcheck():
    x, weight, bias = randn(2, 12, 5, 7), randn(12, seed=1), randn(12, seed=2)
    for memory in (x, x.contiguous(memory_format=torch.channels_last)):
        torch.library.opcheck(torch.ops.dpid.group_norm_silu, (memory, 4, weight, bias, 1e-5, True))
    torch.library.opcheck(torch.ops.dpid.group_norm_silu, (x, 4, weight, bias, 1e-5, True, randn(4, 12)))
    torch.library.opcheck(torch.ops.dpid.group_norm_silu, (x.half(), 4, weight, bias, 1e-5, True))
    tokens = randn(4, 3, 12)
    torch.library.opcheck(torch.ops.dpid.add_maps, (x, x[:1].clone(), weight))
    torch.library.opcheck(torch.ops.dpid.add_maps, (x, None, weight))
    torch.library.opcheck(torch.ops.dpid.layer_norm, (tokens, weight, bias, 1e-5))
    torch.library.opcheck(torch.ops.dpid.add_layer_norm, (tokens, tokens[:2].clone(), weight, bias, 1e-5))
    torch.library.opcheck(torch.ops.dpid.geglu, (randn(3, 10),))


def test_compile_whole():
    x, weight, bias = randn(2, 12, 5, 7), randn(12, seed=1), randn(12, seed=2)

    def layer(x, backend=None):
        normed = ops.group_norm_silu(x, 4, weight, bias, backend=backend)
        return ops.geglu(normed.flatten(1), backend=backend)

    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    # Compiled, the ops are torch's own, which a compiler fuses with what is around them.
    torch.testing.assert_close(compiled(x), layer(x, "reference"), rtol=0, atol=0)


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: ops.group_norm_silu(randn(1, 5, 2, 2), 2, randn(5), randn(5)), ValueError, "groups dividing C"),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(5), randn(4)), ValueError, "weight, bias: found"),
        (
            lambda: ops.group_norm_silu(randn(2, 4, 2, 2), 2, randn(4), randn(4), added=randn(3, 4)),
            ValueError,
            "x, added: found .* where one of B and B' divides the other",
        ),
        (lambda: ops.add_layer_norm(randn(2, 3, 4), randn(4, 3, 4), randn(4), randn(4)), ValueError, "x, y: found"),
        (lambda: ops.add_layer_norm(randn(2, 3, 4), randn(2, 3, 4), randn(3), randn(4)), ValueError, "weight, bias"),
        (
            lambda: ops.group_norm_silu(randn(2, 4, 2, 2), 2, randn(8), randn(8), skip=randn(2, 4, 2, 3)),
            ValueError,
            "skip: found",
        ),
        (lambda: ops.add_maps(randn(2, 3, 4, 4), randn(3, 3, 4, 4)), ValueError, "x, y: found .* divides the other"),
        (lambda: ops.add_maps(randn(2, 3, 4, 4), randn(2, 3, 4, 4), randn(4)), ValueError, "bias: found"),
        (lambda: ops.layer_norm(randn(2, 3), randn(2), randn(3)), ValueError, "x, weight, bias: found"),
        (lambda: ops.geglu(randn(2, 3)), ValueError, "even last dimension"),
        (lambda: ops.geglu(randn(2, 4), backend="cuda"), ValueError, "backend: found 'cuda'"),
        (lambda: ops.geglu(randn(2, 4).requires_grad_(), backend="triton"), ValueError, "x: requires_grad"),
        (
            lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(4).half(), randn(4).half()),
            TypeError,
            "weight: found torch.float16 on .*, expected torch.float32 on",
        ),
        (
            lambda: ops.group_norm_silu(randn(1, 4, 2, 2).half(), 2, randn(4).double(), randn(4).double()),
            TypeError,
            "weight: found torch.float64 on .*, expected torch.float16 or torch.float32 on",
        ),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(4), randn(4).half()), TypeError, "bias: found"),
        (lambda: ops.geglu(randn(2, 4).double(), backend="triton"), TypeError, "x: found torch.float64"),
        (
            lambda: ops.geglu(torch.arange(4, device=DEVICE)),
            TypeError,
            "x: found dtype torch.int64, expected one of torch.float64, torch.float32, torch.float16, torch.bfloat16",
        ),
        (lambda: ops.geglu(randn(4).cpu().numpy()), TypeError, "x: found ndarray, expected a torch.Tensor"),
        (lambda: ops.geglu([1.0, 2.0]), TypeError, "x: found list, expected"),
        (lambda: ops.layer_norm(randn(2, 3), None, randn(3)), TypeError, "weight: found NoneType"),
        (lambda: ops.add_maps(randn(3, 4, 4), bias=randn(4)), ValueError, r"x: found \(3, 4, 4\)"),
        (lambda: ops.add_maps(randn(2, 3, 4, 4)), ValueError, "and 0 more, expected .* and y or a bias"),
        (lambda: ops.add_maps(randn(2, 3, 4, 4), 1.0), TypeError, "y: found float"),
        (lambda: ops.add_layer_norm(randn(2, 3, 4), randn(2, 3, 4), randn(4), 0), TypeError, "bias: found int"),
        (lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(4), randn(4), added=[1]), TypeError, "added: found"),
        (
            lambda: ops.group_norm_silu(randn(1, 4, 2, 2), 2, randn(4), randn(4), skip=randn(4)),
            ValueError,
            r"skip: found \(4,\)",
        ),
    ],
)  # fmt: skip
def test_refusals(call, error, message):
    with pytest.raises(error, match=message):
        call()
