"""Networks that are converted block by block: the numbers of converted weights, and everything as it was."""

import copy

import pytest
import torch
from tiny_pipelines import TINY, build

from dpid.denoisers import from_pipeline
from dpid.denoisers.blocks import blocks_of, in_float32


def evaluated(pipe, precision, **options):
    denoiser = from_pipeline(pipe, precision=precision, **options)
    x = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    return denoiser.eps_hat(x, denoiser.logsnr_grid[400:401], denoiser.encode_conditions(["", "a cow"]))


def state(net):
    """Everything that a conversion could leave behind: the tensors themselves, their bits and types, hooks."""
    tensors = {**dict(net.named_parameters()), **dict(net.named_buffers())}
    held = {name: (id(t), t.data_ptr(), t.dtype, t._version) for name, t in tensors.items()}
    hooks = [(len(m._forward_pre_hooks), len(m._forward_hooks), m._compiled_call_impl) for m in net.modules()]
    return held, hooks


@pytest.mark.parametrize("name", TINY)
def test_half_as_many_bits_are_upcast_exactly(name):
    """In float32, a network of bfloat16 weights computes what one with the same weights in float32 computes."""
    pipe = build(name)
    family = from_pipeline(pipe).family
    net = family.net.to(torch.bfloat16)
    before = state(net)
    twin = copy.deepcopy(net).float()
    x = torch.randn(1, *family.latent_shape, generator=torch.Generator().manual_seed(0))
    t = family.levels().time(family.levels().grid[[100]])
    encoded = family.encode_texts(["", "a cow"])
    found, own = (family.plain(x, t, encoded, precision) for precision in ("float32", "bfloat16"))
    assert state(net) == before
    setattr(pipe, family.network, twin)
    expected = family.plain(x, t, encoded, "float32")
    torch.testing.assert_close(found, expected, rtol=0, atol=0)  # the same operations on the same numbers
    assert not torch.equal(own, expected)


def test_one_block_at_a_time():
    net = build("sd3").transformer.to(torch.bfloat16)
    seen = []

    def look(block, *_):
        seen.append([next(b.parameters()).dtype == torch.float32 for b in blocks_of(net)])

    with in_float32(net):
        hooks = [block.norm1.register_forward_hook(look) for block in blocks_of(net)]
        assert net.proj_out.weight.dtype == torch.float32
        net(
            torch.zeros(1, 16, 8, 8), encoder_hidden_states=torch.zeros(1, 3, 80),
            pooled_projections=torch.zeros(1, 64), timestep=torch.tensor([5.0]),
        )  # fmt: skip
    for hook in hooks:
        hook.remove()
    assert seen == [[i == j for j in range(3)] for i in range(3)]


@pytest.mark.parametrize("mixed", [False, True])
def test_blocks_within_what_peft_has_put_around_them(mixed):
    """By ``get_peft_model``, where ``add_adapter`` puts the same adapter into the network itself."""
    peft = pytest.importorskip("peft")
    pipe, plain = build("sd3").to(torch.bfloat16), build("sd3").to(torch.bfloat16)
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    torch.manual_seed(0)
    plain.transformer.add_adapter(config)
    torch.manual_seed(0)
    net = pipe.transformer
    pipe.transformer = peft.get_peft_model(net, config, mixed=mixed, autocast_adapter_dtype=False)
    assert blocks_of(from_pipeline(pipe).family.net) == list(net.transformer_blocks)
    assert torch.equal(evaluated(pipe, "float32"), evaluated(plain, "float32"))
    assert from_pipeline(pipe, compile=True)


def test_as_it_was_after_an_error():
    pipe = build("sd3")
    net = pipe.transformer.to(torch.bfloat16)

    def fail(*_):
        raise RuntimeError(f"in {net.transformer_blocks[1].ff.net[2].weight.dtype}")

    family = from_pipeline(pipe).family
    x, encoded = torch.zeros(1, *family.latent_shape), family.encode_texts(["a cow"])
    hook = net.transformer_blocks[1].ff.register_forward_hook(fail)
    before = state(net)
    with pytest.raises(RuntimeError, match=r"in torch\.float32"):
        family.plain(x, torch.tensor([0.5]), encoded, "float32")
    assert state(net) == before
    hook.remove()


@pytest.fixture
def eager(monkeypatch):
    """What was compiled; without the compiler of C++, which takes minutes: what is traced is the same."""
    made, compile_ = [], torch.compile

    def compile_eagerly(call):
        made.append(call.__self__)
        return compile_(call, backend="eager")

    monkeypatch.setattr(torch, "compile", compile_eagerly)
    yield made
    torch._dynamo.reset()


def test_compiled_blocks_compute_the_same(eager):
    pipe = build("sd3")
    net = pipe.transformer
    expected, before = evaluated(pipe, "float32"), state(net)
    denoiser = from_pipeline(pipe, precision="float32", compile=True)
    x = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    conditions, calls = denoiser.encode_conditions(["", "a cow"]), []
    hook = net.register_forward_hook(lambda *_: calls.append([b._compiled_call_impl is None for b in blocks_of(net)]))
    for _ in range(2):
        found = denoiser.eps_hat(x, denoiser.logsnr_grid[400:401], conditions)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)  # float32 in another order, at most
    hook.remove()
    assert calls == [[False] * 3] * 2
    assert eager == blocks_of(net)  # once
    assert state(net) == before


def test_the_comparison_in_float32_is_not_compiled(eager):
    pipe = build("sd3")
    pipe.transformer.to(torch.bfloat16)
    before = state(pipe.transformer)
    expected = evaluated(pipe, "float32")
    assert torch.equal(evaluated(pipe, "float32", compile=True), expected)
    assert state(pipe.transformer) == before


def test_what_cannot_be_compiled(tiny, monkeypatch):
    assert from_pipeline(tiny(), compile=True, fused=False)
    monkeypatch.setattr("dpid.denoisers.network.blocks_of", lambda _: [])
    with pytest.raises(ValueError, match=r"^compile: found True, but the network of .* has no blocks"):
        from_pipeline(tiny(), compile=True, fused=False)
