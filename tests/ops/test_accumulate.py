"""The op accumulate of every backend, compared with the float64 reference, and its errors."""

from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch._dynamo.testing import CompileCounter

from dpid import _C, ops
from dpid.ops import compiled, reference

SEED = 9


def problem(n, k, b, c, h, w, dtype=torch.float32, replicates=2):
    """Random arguments of accumulate with all pairs; eps_hat scaled so that every sum stays of order 1…100."""
    generator = torch.Generator().manual_seed(n + 10 * k + 100 * b)
    pairs = torch.tensor(list(combinations(range(k), 2)) or [(0, 0)])
    return {
        "gaps": torch.zeros(replicates, len(pairs), b, h, w),
        "residuals": torch.zeros(replicates, k, b, h, w),
        "eps_hat": torch.randn(n, k, b, c, h, w, generator=generator).to(dtype),
        "weight": torch.rand(n, generator=generator) + 0.5,
        "replicate": torch.arange(n) % replicates,
        "pairs": pairs,
        "sample_id": torch.tensor([~(i - 1) if i % 3 == 1 else i for i in range(n)], dtype=torch.int64),
        "seed": SEED,
    }


def check(backend, args):
    exact = {k: v.double() if k in ("gaps", "residuals") else v for k, v in args.items()}
    squares = reference.accumulate(**exact)
    gap_squares, residual_squares, products = ops.accumulate(**args, backend=backend)
    k = residual_squares.shape[1]
    # Half of the terms, N·C of them a pixel, but over all pixels: of positive terms, added in short sums of fp32.
    torch.testing.assert_close(residual_squares.double(), squares[:, :k], rtol=2e-6, atol=0)
    torch.testing.assert_close(gap_squares.double(), squares[:, k:-k], rtol=2e-6, atol=0)
    # As many terms, but of both signs: the same part of the sum of their sizes.
    e = args["eps_hat"].double().flatten(3)
    eps = reference.normal(SEED, args["sample_id"], e.shape[-1])[:, None, None]
    error, size = (products - squares[:, -k:]).abs(), (e.abs() * (e.abs() + eps.abs())).sum(-1) / 2
    assert (error <= 2e-6 * size).all()
    for name in ("gaps", "residuals"):
        # Sums of at most a few dozen squares in fp32 (inputs are widened exactly): N·C·2^-24 relative.
        torch.testing.assert_close(args[name].double(), exact[name], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("k", "b", "h", "w"), [(1, 1, 1, 1), (4, 2, 5, 7), (4, 1, 9, 31)])  # three tiles of pixels
def test_matches_float64(backend, put, dtype, k, b, h, w):
    if backend == "triton" and dtype == torch.bfloat16 and not torch.cuda.is_available():
        pytest.skip("Triton's CPU interpreter gives NaN for bf16; this runs on a GPU")
    check(backend, put(problem(3, k, b, 4, h, w, dtype)))


def test_reference_squares_are_those_of_the_formula():
    args = {name: v.double() if name in ("gaps", "residuals") else v for name, v in problem(3, 3, 2, 4, 5, 7).items()}
    squares = reference.accumulate(**args)
    eps = reference.normal(SEED, args["sample_id"], 4 * 5 * 7)
    e = args["eps_hat"].double().flatten(3)  # [N,K,B,CHW]
    for n in range(3):
        for b in range(2):
            rows = [eps[n] - e[n, k, b] for k in range(3)] + [
                e[n, i, b] - e[n, j, b] for i, j in args["pairs"].tolist()
            ]
            sums = [r @ r / 2 for r in rows] + [e[n, k, b] @ (eps[n] - e[n, k, b]) / 2 for k in range(3)]
            # float64 sums of 140 terms of order one in another order.
            torch.testing.assert_close(squares[n, :, b], torch.stack(sums), rtol=1e-13, atol=1e-13)


def test_squares_times_weights_are_the_sums():
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in problem(6, 4, 2, 5, 17, 31).items()}
    for name, squares in zip(("gaps", "residuals"), ops.accumulate(**args)[:2], strict=True):
        total = torch.zeros_like(args[name][..., 0, 0]).index_add_(
            0, args["replicate"], args["weight"][:, None, None] * squares
        )
        # fp32 sums over N·C of each of the 527 pixels, as above.
        torch.testing.assert_close(args[name].double().sum((-2, -1)).float(), total, rtol=1e-5, atol=0)


def test_no_samples_change_nothing(backend, put):
    args = put(problem(0, 3, 2, 4, 5, 7))
    squares = ops.accumulate(**args, backend=backend)
    assert args["gaps"].abs().max() == 0
    assert [s.shape for s in squares] == [(0, 3, 2), (0, 3, 2), (0, 3, 2)]


@pytest.mark.parametrize("k", [4, 17])
def test_large_images_and_many_conditions(k):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    args = problem(2, k, 1, 4, 64, 96)
    check(device, {name: v.to(device) if isinstance(v, torch.Tensor) else v for name, v in args.items()})


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 4), st.integers(1, 5), st.integers(1, 3), st.integers(1, 5), st.integers(1, 9), st.integers(1, 9))
def test_any_shape(n, k, b, c, h, w):
    check("cpu", problem(n, k, b, c, h, w))


def test_noise_is_that_of_the_channel():
    """A denoiser that returns the very noise leaves no residual: the two ops regenerate the same ε."""
    ids = torch.tensor([4, ~4, 9])
    args = problem(3, 2, 2, 4, 5, 7) | {"sample_id": ids}
    args["eps_hat"] = ops.normal(SEED, ids, (2, 4, 5, 7))[:, None].expand(-1, 2, -1, -1, -1, -1)
    products = ops.accumulate(**args, backend="cpu")[2]
    assert args["residuals"].abs().max() == 0
    assert args["gaps"].abs().max() == 0
    assert products.abs().max() == 0


def test_layout_threads_and_repeats_do_not_matter():
    args = problem(4, 4, 3, 4, 33, 35)
    before, results = torch.get_num_threads(), []
    for threads, eps_hat in ((1, args["eps_hat"]), (2, args["eps_hat"].mT.contiguous().mT), (7, args["eps_hat"])):
        torch.set_num_threads(threads)
        fresh = args | {"gaps": args["gaps"].clone(), "residuals": args["residuals"].clone(), "eps_hat": eps_hat}
        squares = ops.accumulate(**fresh, backend="cpu")
        results.append(torch.cat([t.flatten() for t in (fresh["gaps"], fresh["residuals"], *squares)]))
    torch.set_num_threads(before)
    assert torch.equal(results[0], results[1])
    assert torch.equal(results[0], results[2])


def test_opcheck():
    args = problem(3, 3, 2, 4, 5, 6)
    torch.library.opcheck(torch.ops.dpid.accumulate, tuple(args.values()))
    torch.library.opcheck(
        torch.ops.dpid.accumulate, tuple((args | {"eps_hat": args["eps_hat"].mT.contiguous().mT}).values())
    )


def test_compiles_whole_and_once_for_every_n():
    counter = CompileCounter()

    def step(gaps, residuals, eps_hat, weight, replicate, pairs, sample_id):
        squares = ops.accumulate(gaps, residuals, eps_hat, weight, replicate, pairs, sample_id, SEED)
        return gaps.sum() + residuals.sum(), *squares

    compiled = torch.compile(step, fullgraph=True, dynamic=True, backend=counter)
    for n in (8, 9, 13, 7):  # unlike every other size: equal sizes are taken for one symbol
        args, plain = problem(n, 3, 2, 4, 5, 6), problem(n, 3, 2, 4, 5, 6)
        args.pop("seed")
        total, *squares = compiled(**args)
        expected = ops.accumulate(**plain)
        assert torch.equal(args["gaps"], plain["gaps"])
        assert all(torch.equal(a, b) for a, b in zip(squares, expected, strict=True))
        assert total == plain["gaps"].sum() + plain["residuals"].sum()
    assert counter.frame_count == 1


@pytest.mark.parametrize(
    ("change", "error", "named"),
    [
        ({"gaps": torch.zeros(2, 5, 2, 5, 6)}, ValueError, "gaps: found"),
        ({"residuals": torch.zeros(2, 3, 2, 5, 6, dtype=torch.float64)}, TypeError, "residuals: found dtype"),
        ({"residuals": torch.zeros(1, 3, 2, 5, 6)}, ValueError, "residuals: found"),
        ({"pairs": torch.tensor([[0, 1], [0, 2], [1, 3]])}, ValueError, "pairs: found values 0…3, allowed are 0…2"),
        ({"replicate": torch.tensor([0, 1, 2])}, ValueError, "replicate: found values 0…2, allowed are 0…1"),
        ({"weight": torch.ones(2)}, ValueError, "weight: found length 2, expected N = 3"),
        ({"eps_hat": torch.zeros(3, 3, 2, 4, 5, 6, requires_grad=True)}, ValueError, "eps_hat: requires_grad"),
    ],
)
@pytest.mark.parametrize("by", ["cpu", "reference"])
def test_refusals_write_nothing(change, error, named, by):
    args = problem(3, 3, 2, 4, 5, 6) | change
    with pytest.raises(error, match=named):
        ops.accumulate(**args, backend=by)
    assert args["gaps"].abs().max() == 0
    assert args["residuals"].abs().max() == 0


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("gaps", "residuals"),
        ("squares", "scratch"),
        ("weight", "replicate"),
        ("pairs", "sample_id"),
        ("eps_hat", "gaps"),
    ],
)
def test_swapped_tensors_are_noticed_by_the_extension(one, other):
    args = problem(3, 4, 2, 4, 5, 6)
    seed, memory = args.pop("seed"), torch.zeros(3, 14, 2)
    views = {name: compiled._view(t) for name, t in (args | {"squares": memory, "scratch": memory.flatten()}).items()}
    _C.accumulate(**views, seed=seed, threads=1, stream=0)
    views[one], views[other] = views[other], views[one]
    before = {name: t.clone() for name, t in args.items()}
    with pytest.raises(ValueError, match=r": found .*, expected |expected float32"):
        _C.accumulate(**views, seed=seed, threads=1, stream=0)
    assert all(torch.equal(args[name], t) for name, t in before.items())


def test_the_extension_takes_names_and_whole_views():
    args = problem(3, 3, 2, 4, 5, 6)
    with pytest.raises(TypeError):
        _C.accumulate_scratch(compiled._view(args["eps_hat"]), compiled._view(args["pairs"]), 1)
    for broken in ((1, 0), (1, 9, (3, 3)), ("x", 0, (3, 3)), (1, 0, ("x",)), (1, 0, (1,) * 7), (1, 0, None), 5):
        with pytest.raises(TypeError):
            _C.accumulate_scratch(eps_hat=broken, pairs=compiled._view(args["pairs"]), threads=1)


def test_the_extension_without_cuda_refuses_it():
    if _C.has_cuda:
        pytest.skip("a build with CUDA")
    args = problem(3, 3, 2, 4, 5, 6)
    with pytest.raises(RuntimeError, match="CUDA: not in this build"):
        _C.accumulate_scratch(eps_hat=compiled._view(args["eps_hat"]), pairs=compiled._view(args["pairs"]), threads=-1)
