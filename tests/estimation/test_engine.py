"""The loop over samples: sums do not depend on the batch size, nor on running out of memory, nor memory on N."""

import pytest
import torch
from peak import Peak

import dpid
from dpid import ops
from dpid.denoisers import GaussianDenoiser
from dpid.estimation.engine import Accumulator, fitting, integrate, profile_edges
from dpid.estimation.grid import shares
from dpid.estimation.sampling import draw
from dpid.ops import reference

K, PAIRS = 3, torch.tensor([[0, 1], [1, 2]])


@pytest.fixture
def problem():
    generator = torch.Generator().manual_seed(0)
    model = GaussianDenoiser(
        {name: (torch.randn(2, 4, 4, generator=generator), torch.rand(2, 4, 4, generator=generator) + 0.5)
         for name in "abc"}, (-5.0, 7.0), 200,
    )  # fmt: skip
    x = torch.randn(2, 2, 4, 4, generator=generator)
    return model, x, model.encode_conditions("abc"), draw("shifted-grid", model.logsnr_grid, 8, 2, generator)


def sums(problem, **options):
    model, x, conditions, samples = problem
    into = Accumulator.empty(x, 2, K, PAIRS)
    integrate(model, x, conditions, samples, into, seed=1, **options)
    return into


def check_equal(one, other):
    # fp32 sums of 16 terms in another order.
    torch.testing.assert_close(one.gaps, other.gaps, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(one.residuals, other.residuals, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [None, 1, 2, 5, 6, 7, 1000])
def test_any_batch_size_gives_the_same_sums(problem, size):
    one = sums(problem, max_batch_size=size)
    check_equal(one, sums(problem, max_batch_size=96))
    assert one.evaluations == 16 * K  # of each of two images


@pytest.mark.parametrize("size", [None, 1, 5, 7])
def test_every_sample_has_its_own_integrands(problem, size):
    """Weighted and added, those of the image at every sample are the sums over pixels and replicates."""
    model, x, conditions, samples = problem
    into = Accumulator.empty(x, 2, K, PAIRS)
    squares = integrate(model, x, conditions, samples, into, seed=1, max_batch_size=size)
    for each, total in zip(squares, (into.gaps, into.residuals), strict=True):
        # fp32 sums of 16 samples and 16 pixels in another order.
        torch.testing.assert_close(
            torch.einsum("n,nkb->kb", samples.weight, each), total.sum((0, -2, -1)), rtol=1e-5, atol=1e-5
        )


def test_memory_does_not_grow_with_the_samples():
    """But for a few numbers of each: its log-SNR, weight and place, and the integrands of the image."""
    x = torch.ones(1, 2, 32, 32)
    model = GaussianDenoiser(dict.fromkeys("abc", (x[0], x[0])), (-5.0, 7.0), 200)
    peaks = []
    for count in (32, 256):
        samples = draw("shifted-grid", model.logsnr_grid, count, 2, torch.Generator().manual_seed(0))
        with Peak() as memory:
            into = Accumulator.empty(x, 2, K, PAIRS)
            integrate(model, x, model.encode_conditions("abc"), samples, into, seed=1, max_batch_size=48)
        peaks.append(memory.peak)
    assert peaks[1] - peaks[0] < 200 * (256 - 32)  # a latent alone has 8192 bytes


class Limited:
    """A denoiser whose memory holds ``limit`` evaluations; remembers the sizes of its calls."""

    def __init__(self, model, limit, error):
        self.model, self.limit, self.error, self.calls = model, limit, error, []
        self.evaluation_bytes = model.evaluation_bytes

    def eps_hat(self, z, logsnr, conditions):
        size = z.shape[0] * len(conditions.names) * z.shape[1]
        self.calls.append(size)
        if size > self.limit:
            raise self.error
        return self.model.eps_hat(z, logsnr, conditions)


CUDA_LIKE = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB")
CPU_LIKE = RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory")


@pytest.mark.parametrize("error", [CUDA_LIKE, CPU_LIKE])
@pytest.mark.parametrize("limit", [50, 7, 5, 2])
def test_out_of_memory_halves_the_batch_and_loses_nothing(problem, limit, error):
    model, *rest = problem
    limited = Limited(model, limit, error)
    got = sums((limited, *rest), max_batch_size=96)
    check_equal(got, sums(problem, max_batch_size=96))
    assert got.evaluations == 16 * K  # of each of two images
    failed = [size for size in limited.calls if size > limit]
    assert failed
    assert limited.calls[: len(failed)] == failed  # it does not try the larger size again


def profiled(problem):
    model, x, conditions, samples = problem
    into = Accumulator.empty(x, 2, K, PAIRS, profile_edges(model.logsnr_grid, 8, 2))
    integrate(model, x, conditions, samples, into, seed=1, max_batch_size=96)
    return into


def test_profile_is_that_of_the_formula(problem):
    model, x, conditions, samples = problem
    got = profiled(problem)
    profiles = got.gap_profile, got.residual_profile, got.product_profile
    gaps, residuals, products = (torch.zeros_like(profile.double()) for profile in profiles)
    spread = shares(samples.logsnr, model.logsnr_grid, got.edges)
    eps = reference.normal(1, samples.sample_id, 32).view(-1, 1, 2, 4, 4)
    z = ops.noisy_channel(x, samples.logsnr, samples.sample_id, 1)
    eps_hat = model.eps_hat(z, samples.logsnr, conditions).double()
    for n, group in enumerate(samples.replicate):  # of two replicates each is a group
        share = spread[n, :, None, None] * samples.weight[n].double() / 2
        first, second = eps_hat[n, PAIRS[:, 0]], eps_hat[n, PAIRS[:, 1]]
        gaps[group] += share * (first - second).square().flatten(2).sum(-1)
        residuals[group] += share * (eps[n] - eps_hat[n]).square().flatten(2).sum(-1)
        products[group] += share * (eps_hat[n] * (eps[n] - eps_hat[n])).flatten(2).sum(-1)
    for profile, exact in zip(profiles, (gaps, residuals, products), strict=True):
        # As check_equal, of order ten; the noise is good to 4 ulp.
        torch.testing.assert_close(profile.double(), exact, rtol=1e-5, atol=1e-5)


def test_out_of_memory_in_accumulate_adds_nothing_twice(problem, monkeypatch):
    whole, refused, empty = profiled(problem), [], torch.empty
    samples = [0]

    def scarce(size, **options):
        if not isinstance(size, int):
            samples.append(size[0])
        elif samples[-1] > 2:  # the scratch memory of accumulate, the last that a batch takes
            refused.append(size)
            raise CPU_LIKE
        return empty(size, **options)

    monkeypatch.setattr("dpid.ops.compiled.torch.empty", scarce)
    got = profiled(problem)
    assert refused
    check_equal(got, whole)
    torch.testing.assert_close(got.gap_profile, whole.gap_profile, rtol=1e-5, atol=1e-5)  # as check_equal
    # What is summed over bins is what is summed over pixels.
    torch.testing.assert_close(got.gap_profile.sum(1), got.gaps.sum((-2, -1)), rtol=1e-5, atol=1e-5)


def test_memory_for_less_than_one_evaluation_is_an_error(problem):
    model, *rest = problem
    with pytest.raises(RuntimeError, match=r"out of memory at one evaluation of 2 image\(s\)"):
        sums((Limited(model, 1, CUDA_LIKE), *rest))


def test_other_errors_pass(problem):
    model, *rest = problem
    with pytest.raises(RuntimeError, match="something else"):
        sums((Limited(model, 1, RuntimeError("something else")), *rest))


def test_batches_fit_the_free_memory(problem, monkeypatch):
    model, x, *_ = problem
    assert fitting(model, x, K) == 16_384 // 16
    model.evaluation_bytes = lambda h, w: h * w * 1000
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 20 * 16_000}))
    assert fitting(model, x, K) == 10  # half of what is free
    monkeypatch.setattr("psutil.virtual_memory", lambda: type("M", (), {"available": 10}))
    assert fitting(model, x, K) == 1


@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda c: c[:2], "2 names"), (lambda c: None, "NoneType"), (lambda c: c.encoded[0], "Tensor")],
)
@pytest.mark.parametrize("rule", ["shifted-grid", "learning"])
def test_other_conditions_than_were_asked_for_are_named(problem, change, found, rule):
    model, x, *_ = problem
    encode = model.encode_conditions
    model.encode_conditions = lambda texts: change(encode(texts))
    asked = {"latents": x[0], "conditions": {(): "a", ("y",): "b", ("z",): "c", ("y", "z"): "a"}, "rule": rule}
    with pytest.raises(ValueError, match=f"^encode_conditions: found {found}, expected Conditions of 3 names"):
        dpid.Explainer(model).explain(**asked)


@pytest.mark.parametrize("size", [1, 96])
@pytest.mark.parametrize(
    ("change", "found"),
    [(lambda e: e[:, 0], r"\[\d+, 2, 2, 4, 4\]"), (lambda e: e[..., :3], r"\[\d+, [13], 2, 2, 4, 3\]"),
     (lambda e: e.mean(3, keepdim=True), r"\[\d+, [13], 2, 1, 4, 4\]"),
     (lambda e: e[:1, :, :1], r"\[1, [13], 1, 2, 4, 4\]"), (lambda e: None, "NoneType"), (lambda e: (e,), "tuple")],
)  # fmt: skip
def test_predictions_of_another_shape_are_named(problem, monkeypatch, size, change, found):
    model = problem[0]
    right = model.eps_hat
    monkeypatch.setattr(model, "eps_hat", lambda *arguments: change(right(*arguments)))
    expected = r"expected \[N,K,B,C,H,W\] = \[\d+, [13], 2, 2, 4, 4\]"
    with pytest.raises(ValueError, match=f"^eps_hat: found {found}, {expected}$"):
        sums(problem, max_batch_size=size)
