"""The op noisy_channel of every backend, compared with the float64 reference, and its errors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from dpid import ops
from dpid.ops import reference

# z = a x + b ε with |ε| good to 4 ulp: for |z| of order 1…8 an absolute error of 8 ulp at 4, 4e-6, in fp32.
# fp16 and bf16 round the result once: half a step of 2^-10 and 2^-7 relative.
TOLERANCE = {torch.float32: (1e-6, 4e-6), torch.float16: (1e-3, 1e-3), torch.bfloat16: (8e-3, 8e-3)}


def check(backend, x, logsnr, ids, seed):
    z = ops.noisy_channel(x, logsnr, ids, seed, backend=backend)
    exact = reference.noisy_channel(x.double(), logsnr, ids, seed)
    rtol, atol = TOLERANCE[x.dtype]
    assert z.dtype == x.dtype
    torch.testing.assert_close(z.double(), exact, rtol=rtol, atol=atol)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize("shape", [(1, 4, 1, 1), (2, 4, 5, 7), (3, 4, 24, 32)])  # three blocks of an image
def test_matches_float64(backend, put, dtype, shape):
    if backend == "triton" and dtype == torch.bfloat16 and not torch.cuda.is_available():
        pytest.skip("Triton's CPU interpreter gives NaN for bf16; this runs on a GPU")
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    check(backend, put(x), put(torch.tensor([-5.3, 0.0, 7.0])), put(torch.tensor([3, ~3, 2**33])), 11)


def test_no_samples_give_an_empty_answer(backend, put):
    empty = put(torch.empty(0))
    z = ops.noisy_channel(put(torch.zeros(2, 4, 5, 7)), empty, empty.long(), 0, backend=backend)
    assert z.shape == (0, 2, 4, 5, 7)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 3),
    st.integers(1, 3),
    st.integers(1, 5),
    st.integers(1, 9),
    st.integers(1, 9),
    st.integers(0, 2**64 - 1),
)
def test_any_shape(n, b, c, h, w, seed):
    x = torch.randn(b, c, h, w, generator=torch.Generator().manual_seed(n))
    check("cpu", x, torch.linspace(-4, 4, n), torch.arange(n), seed)


def test_layout_and_batch_split_do_not_matter(backend, put):
    x = put(torch.randn(2, 4, 6, 10, generator=torch.Generator().manual_seed(1)))
    logsnr, ids = put(torch.linspace(-3, 3, 5)), put(torch.arange(5))
    whole = ops.noisy_channel(x, logsnr, ids, 5, backend=backend)
    strided = ops.noisy_channel(x.mT.contiguous().mT, logsnr, ids, 5, backend=backend)
    split = torch.cat([ops.noisy_channel(x, logsnr[i : i + 2], ids[i : i + 2], 5, backend=backend) for i in (0, 2, 4)])
    assert torch.equal(whole, strided)
    assert torch.equal(whole, split)


def test_threads_do_not_matter():
    x = torch.randn(3, 4, 33, 35, generator=torch.Generator().manual_seed(1))
    before, results = torch.get_num_threads(), []
    for threads in (1, 2, 7):
        torch.set_num_threads(threads)
        results.append(ops.noisy_channel(x, torch.linspace(-3, 3, 5), torch.arange(5), 5, backend="cpu"))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_opcheck():
    x, logsnr, ids = torch.randn(2, 4, 5, 6), torch.linspace(-3, 3, 4), torch.arange(4)
    torch.library.opcheck(torch.ops.dpid.noisy_channel, (x, logsnr, ids, 5))
    torch.library.opcheck(torch.ops.dpid.noisy_channel, (x.mT, logsnr, ids, 5))


def test_compiles_whole_and_once_for_every_n():
    counter = CompileCounter()
    compiled = torch.compile(lambda *a: ops.noisy_channel(*a) * 2, fullgraph=True, dynamic=True, backend=counter)
    x = torch.randn(2, 4, 5, 6)
    for n in (8, 9, 13, 7):  # unlike every other size: equal sizes are taken for one symbol
        logsnr, ids = torch.linspace(-3, 3, n), torch.arange(n)
        assert torch.equal(compiled(x, logsnr, ids, 5), ops.noisy_channel(x, logsnr, ids, 5) * 2)
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"x": torch.zeros(4, 5, 6)}, ValueError, "x: found 3 dimensions"),
        ({"x": torch.zeros(2, 4, 5, 6, dtype=torch.int32)}, TypeError, "x: found dtype torch.int32"),
        ({"x": torch.zeros(2, 4, 5, 6, requires_grad=True)}, ValueError, "x: requires_grad"),
        ({"x": "cow"}, TypeError, "x: found str"),
        ({"sample_id": torch.arange(3)}, ValueError, "sample_id: found length 3, expected N = 4"),
        ({"sample_id": torch.arange(4, device="meta")}, ValueError, "sample_id: found device meta"),
        ({"seed": -1}, ValueError, "seed: found -1"),
        ({"seed": 1.5}, TypeError, "seed: found 1.5, expected a whole number"),
        ({"backend": "opencl"}, ValueError, "backend: found 'opencl'"),
        ({"backend": "cuda"}, RuntimeError, "backend: 'cuda'"),
    ],
)
def test_refusals(change, error, named):
    good = {"x": torch.zeros(2, 4, 5, 6), "logsnr": torch.zeros(4), "sample_id": torch.arange(4), "seed": 0}
    with pytest.raises(error, match=named):
        ops.noisy_channel(**{**good, **change})


@pytest.mark.parametrize("seed", [3, 2**63 + 1])
def test_a_seed_may_be_a_whole_number_of_numpy(seed):
    x, logsnr, ids = torch.zeros(1, 2, 3, 4), torch.zeros(4), torch.arange(4)
    assert torch.equal(ops.noisy_channel(x, logsnr, ids, np.uint64(seed)), ops.noisy_channel(x, logsnr, ids, seed))


@pytest.mark.parametrize(("ids", "found"), [([1, 2], "list"), (torch.zeros(2), "dtype torch.float32")])
def test_noise_of_what_are_no_numbers_of_samples(ids, found):
    with pytest.raises(TypeError, match=f"^sample_id: found {found}, expected"):
        ops.normal(0, ids, (1, 2, 3, 4))
