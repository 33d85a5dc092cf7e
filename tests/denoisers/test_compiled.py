"""The fused network compiled by torch: one graph, the same numbers, and what is said where it cannot be compiled."""

import pytest
import torch
from torch._dynamo.testing import CompileCounter

from dpid.denoisers import from_pipeline


@pytest.fixture
def compiler(monkeypatch):
    """Counts the graphs, and runs them as they are: the compiler of C++ takes minutes."""
    counter, compile_ = CompileCounter(), torch.compile

    def counted(function, **options):
        return compile_(function, backend=counter, **options)

    monkeypatch.setattr(torch, "compile", counted)
    yield counter
    torch._dynamo.reset()


def predicted(denoiser, samples=2):
    z = torch.randn(samples, 1, 4, 8, 8, generator=torch.Generator().manual_seed(samples))
    levels = denoiser.logsnr_grid[:: 900 // samples][:samples]
    return denoiser.eps_hat(z, levels, denoiser.encode_conditions(["", "a cow", "a cat"]))


def test_the_same_numbers_from_one_graph(tiny, compiler):
    pipe = tiny(family="xl")
    plain, compiled = from_pipeline(pipe), from_pipeline(pipe, compile=True)
    assert compiled.fused
    for _ in range(2):
        # float32 in another order, at most
        torch.testing.assert_close(predicted(compiled), predicted(plain), rtol=1e-4, atol=1e-5)
    assert compiler.frame_count == 1


def test_batches_that_are_worth_it_are_compiled(tiny, monkeypatch):
    def counted(function, **_):
        return lambda x, keys_values: calls.append(x[0].shape[0]) or function(x, keys_values)

    calls = []
    monkeypatch.setattr(torch, "compile", counted)
    pipe = tiny()
    plain, compiled = from_pipeline(pipe), from_pipeline(pipe, compile=True)
    for samples in (4, 4, 1, 2, 6, 4, 1):
        torch.testing.assert_close(predicted(compiled, samples), predicted(plain, samples), rtol=1e-4, atol=1e-5)
    assert calls == [4, 4, 2, 6, 4]  # one is less than half of four


def test_every_network_is_compiled_for_itself(tiny, compiler):
    denoiser = from_pipeline(tiny(), compile=True)
    with torch._dynamo.config.patch(recompile_limit=1):
        exact, rounded = predicted(denoiser.at("float32")), predicted(denoiser.at("bfloat16"))
    assert compiler.frame_count == 2
    # roundings of 2⁻⁸
    assert 0 < float((exact - rounded).norm() / exact.norm()) < 0.03


def test_what_is_compiled_wrongly_is_refused(tiny, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda function, **_: lambda *args: function(*args) * 1.001)
    with pytest.raises(ValueError, match=r"^compile: what was compiled differs by 1\.0e-03"):
        predicted(from_pipeline(tiny(), compile=True))


def test_what_cannot_be_compiled(tiny, monkeypatch):
    def broken(*_):
        raise torch._dynamo.exc.TorchDynamoException("\nno C++ compiler here\n  in line 3")

    monkeypatch.setattr(torch, "compile", lambda *_, **__: broken)
    with pytest.raises(
        RuntimeError, match=r"^compile: torch\.compile failed, go on without it: no C\+\+ compiler here$"
    ):
        predicted(from_pipeline(tiny(), compile=True))
