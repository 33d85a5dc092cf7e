"""The fused UNet of every family, compared with diffusers' UNet prompt by prompt; which computations it shares."""

import gc
import weakref
import zlib
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from dpid.denoisers import from_pipeline
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.fused.unet import FusedUNet, unsupported
from dpid.device import exact_float32

K = 4
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FULL = {  # configurations of the released models
    "SD 1.5": {"attention_head_dim": 8, "cross_attention_dim": 768},
    "SD 2.1": {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True},
}


@pytest.fixture(params=["sd1", "sd2", "xl"])
def unet(tiny, request):
    # Weights that require gradients are computed with by the reference alone, which has any.
    unet = tiny(family=request.param).unet.eval().requires_grad_(False)
    for name, weight in unet.named_parameters():
        if name.endswith("bias"):  # they are small, and one that is forgotten must be seen
            weight.normal_(generator=torch.Generator().manual_seed(zlib.crc32(name.encode())))
    return unet


def inputs(unet, m, size, conditions=K):
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(m, 4, *size, generator=generator)
    t = torch.randint(0, 1000, (m,), generator=generator)
    hidden = torch.randn(conditions, 7, unet.config.cross_attention_dim, generator=generator)
    pooled = torch.randn(conditions, 16, generator=generator)
    sizes = torch.tensor([[16.0, 20.0, 0.0, 0.0, 16.0, 20.0]]).expand(conditions, -1)
    return z, t, hidden, pooled, sizes


def one_by_one(unet, z, t, hidden, pooled, sizes):
    """The user's way: one call a sample and condition."""
    out = torch.empty(len(hidden), *z.shape)
    for k in range(len(hidden)):
        for m in range(len(z)):
            extra = {"text_embeds": pooled[k : k + 1], "time_ids": sizes[k : k + 1]}
            out[k, m] = unet(z[m : m + 1], t[m], hidden[k : k + 1], added_cond_kwargs=extra).sample[0]
    return out


def fused(unet, *arguments):
    return called(FusedUNet(unet.config, dict(unet.named_parameters())), *arguments)


def called(ours, z, t, hidden, pooled, sizes):
    added = ours.embed_added(pooled, sizes) if ours.config.addition_embed_type else None
    return ours(z, t, ours.encode(hidden), added)


# 10×6 does not halve evenly: the way up has to meet the sizes of the way down.
@pytest.mark.parametrize("size", [(8, 8), (16, 8), (10, 6)])
@pytest.mark.parametrize("m", [1, 3])
@torch.no_grad()
def test_equals_the_users_unet_prompt_by_prompt(unet, size, m):
    arguments = inputs(unet, m, size)
    ours, theirs = fused(unet, *arguments), one_by_one(unet, *arguments)
    assert ours.shape == (K, m, 4, *size)
    # Rounding of fp32: only the order of additions differs.
    assert float((ours - theirs).norm() / theirs.norm()) < 1e-5
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def test_one_condition_and_many_agree(unet):
    z, t, hidden, pooled, sizes = inputs(unet, 2, (8, 8), 9)
    many = fused(unet, z, t, hidden, pooled, sizes)
    for k in range(9):
        one = fused(unet, z, t, hidden[k : k + 1], pooled[k : k + 1], sizes[k : k + 1])
        torch.testing.assert_close(one[0], many[k], rtol=1e-4, atol=1e-5)  # rounding in another batch shape


@torch.no_grad()
def test_images_attend_to_their_own_conditions(unet):
    """Three images of two samples each, under four conditions of their own, as each with its conditions alone."""
    z, t, hidden, pooled, sizes = inputs(unet, 6, (8, 8), 12)
    ours = FusedUNet(unet.config, dict(unet.named_parameters()))
    added = ours.embed_added(pooled, sizes) if unet.config.addition_embed_type else None
    many = ours(z, t, ours.encode(hidden), added, images=3).unflatten(1, (3, 2))
    for b in range(3):
        rows, own = slice(2 * b, 2 * b + 2), slice(b, None, 3)
        alone = fused(unet, z[rows], t[rows], hidden[own], pooled[own], sizes[own])
        torch.testing.assert_close(many[:, b], alone, rtol=1e-4, atol=1e-5)  # rounding in another batch shape


@torch.no_grad()
def test_weights_are_shared_and_inputs_left_alone(unet):
    arguments = inputs(unet, 2, (8, 8))
    before = [a.clone() for a in arguments]
    ours = FusedUNet(unet.config, dict(unet.named_parameters()))
    first = fused(unet, *arguments)
    assert all(torch.equal(a, b) for a, b in zip(arguments, before, strict=True))
    unet.conv_out.weight.mul_(2)
    unet.conv_out.bias.mul_(2)
    torch.testing.assert_close(called(ours, *arguments), 2 * first, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("size", [(8, 8), (7, 9), (3, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.no_grad()
def test_packed_weights_compute_the_same(unet, dtype, size, monkeypatch):
    """Also of maps that cannot be halved, whose way up is not twice as large."""
    monkeypatch.setattr("dpid.denoisers.fused.layers._LARGE", 0)  # also small convolutions
    z, t, hidden, pooled, sizes = (a.to(dtype) if a.is_floating_point() else a for a in inputs(unet, 2, size))
    ours = FusedUNet(unet.config, {name: w.to(dtype) for name, w in unet.named_parameters()})
    added = ours.embed_added(pooled, sizes.float()) if unet.config.addition_embed_type else None
    expected = ours(z, t, ours.encode(hidden), added)
    ours.pack()
    if not ours.packed:
        pytest.skip(f"oneDNN packs no {dtype} here")
    assert {"up_blocks.0.upsamplers.0.conv.doubled", "conv_in"} <= set(ours.packed)
    packed = ours(z, t, ours.encode(hidden), added)
    # Rounding, of sums of products in another order.
    assert float((packed - expected).norm() / expected.norm()) < (1e-5 if dtype == torch.float32 else 0.03)


@pytest.mark.parametrize(("k", "share"), [(4, 0.903), (8, 0.895)])
@pytest.mark.parametrize("name", FULL)
@torch.no_grad()
def test_operations_at_true_size(name, k, share):
    """What is not computed twice, counted on meta tensors: 5 % of a call, and 6 % where maps are enlarged."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **FULL[name]).eval()
        ours = FusedUNet(unet.config, dict(unet.named_parameters()))
        z, t = torch.empty(1, 4, 64, 64), torch.empty(1)
        hidden = torch.empty(k, 77, unet.config.cross_attention_dim)
        with FlopCounterMode(display=False) as plain:
            unet(z, t, hidden[:1])
        keys_values = ours.encode(hidden)
        with FlopCounterMode(display=False) as counted:
            out = ours(z, t, keys_values)
    assert out.shape == (k, 1, 4, 64, 64)
    assert plain.get_total_flops() == pytest.approx(0.804e12, rel=2e-3)  # of the released models
    assert counted.get_total_flops() <= share * k * plain.get_total_flops()


def test_configurations_it_does_not_know_are_named(tiny):
    config = dict(tiny().unet.config)
    assert unsupported(config) is None
    assert unsupported(config | {"time_cond_proj_dim": 256}) == "time_cond_proj_dim = 256"
    assert unsupported(config | {"up_block_types": ("AttnUpBlock2D",)}) == "up_block_types has AttnUpBlock2D"
    assert unsupported(config | {"addition_embed_type": "image"}) == "addition_embed_type = 'image'"
    with pytest.raises(ValueError, match=r"unet: class_embed_type = 'timestep' is not supported"):
        FusedUNet(config | {"class_embed_type": "timestep"}, {})


@pytest.mark.skipif(not torch.cuda.is_available(), reason="CUDA graphs need a GPU")
@torch.inference_mode()
def test_graphs_replay_what_the_unet_computes(unet):
    from dpid.denoisers.fused.graphs import Graphed

    unet = unet.cuda()
    ours = FusedUNet(unet.config, dict(unet.named_parameters()))
    ours.pack()
    graphed = Graphed(lambda changing, keys_values: ours(*changing[:2], keys_values, changing[2]))
    for m in (2, 2, 3, 4, 5, 2):  # a second call replays, others capture another shape; three are kept
        z, t, hidden, pooled, sizes = (a.cuda() for a in inputs(unet, m, (8, 8)))
        added = ours.embed_added(pooled, sizes) if unet.config.addition_embed_type else None
        keys_values = ours.encode(hidden + m)
        torch.testing.assert_close(
            graphed((z, t + m, added), keys_values), ours(z, t + m, keys_values, added), rtol=1e-4, atol=1e-5
        )  # fmt: skip  # fp32; algorithms may differ inside a capture
        assert len(graphed._captured) <= 3


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@torch.inference_mode()
def test_predictions_of_a_graph_are_summed_up_as_they_are(tiny, monkeypatch, prediction):
    """They are copied out of its memory in the order of ``accumulate``, which needs no copy of its own."""
    pipe = tiny(prediction=prediction)
    plain, graphed = (from_pipeline(pipe, precision="float32", check=False) for _ in range(2))
    for name, stand_in in (("is_gpu", lambda device: True), ("current", nullcontext), ("side_stream", nullcontext)):
        monkeypatch.setattr(f"dpid.denoisers.fused.graphs.{name}", stand_in)
    graph = SimpleNamespace(replay=lambda: None)  # what was captured keeps the answer to its first input
    monkeypatch.setattr("dpid.denoisers.fused.graphs.recording", lambda device: nullcontext(graph))
    z = torch.randn(3, 1, *plain.latent_shape, generator=torch.Generator().manual_seed(0))
    asked = z, plain.logsnr_grid[[100, 400, 700]]
    found = graphed.eps_hat(*asked, graphed.encode_conditions(["", "a", "cow"]))
    assert found.is_contiguous()
    found.zero_()  # is a copy
    found = graphed.eps_hat(*asked, graphed.encode_conditions(["", "a", "cow"]))
    monkeypatch.setattr("dpid.denoisers.fused.graphs.is_gpu", lambda device: False)
    assert torch.equal(found, plain.eps_hat(*asked, plain.encode_conditions(["", "a", "cow"])))


def test_a_network_that_is_no_longer_used_is_gone_at_once(tiny):
    """On a GPU what replaces it would find no memory until Python looks for circles."""
    unet = tiny(family="sd1").unet.eval().requires_grad_(False)
    network = FusedNetwork(unet.config, dict(unet.named_parameters()), "float32", 8)
    gone = weakref.ref(network.unet)
    gc.collect()
    gc.disable()
    try:
        del network
        assert gone() is None
    finally:
        gc.enable()


@pytest.fixture
def as_a_gpu(monkeypatch):
    """A function after whose call the fused UNet computes as on a GPU, with the ops of a backend."""

    def switch(kernels):
        for module in ("layers", "unet"):
            monkeypatch.setattr(f"dpid.denoisers.fused.{module}.is_gpu", lambda device: True)
        monkeypatch.setattr("dpid.denoisers.fused.layers.free_memory", lambda device: 2**40)
        monkeypatch.setattr("dpid.ops._table.ENVIRONMENT", kernels)

    return switch


@pytest.mark.parametrize("kernels", ["reference", "triton"])
@torch.no_grad()
def test_as_a_gpu_computes_it(unet, kernels, as_a_gpu, monkeypatch):
    """Sums and biases that a GPU adds together, or with the norm after them."""
    arguments = inputs(unet, 2, (8, 8))
    expected, encode = one_by_one(unet, *arguments), FusedUNet.encode
    as_a_gpu(kernels)
    monkeypatch.setattr(FusedUNet, "encode", lambda self, hidden: (self.pack(), encode(self, hidden))[1])
    with exact_float32():
        found = fused(unet.to(DEVICE), *(a.to(DEVICE) for a in arguments)).cpu()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32 in another order


@pytest.mark.parametrize("kernels", ["reference", "triton"])
@pytest.mark.parametrize("unet", ["xl"], indirect=True)
@torch.no_grad()
def test_in_float16_as_a_gpu_computes_it(unet, kernels, as_a_gpu):
    """The network that explanations call, its last layers in float32."""
    z, t, hidden, pooled, _ = inputs(unet, 1, (4, 4), 2)
    sizes = torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]).expand(2, -1)  # of 4×4 latent pixels of 8×8
    expected = one_by_one(unet, z, t, hidden, pooled, sizes)
    as_a_gpu(kernels)
    z, t, hidden, pooled = (a.to(DEVICE) for a in (z, t, hidden, pooled))
    network = FusedNetwork(unet.config, dict(unet.to(DEVICE).named_parameters()), "float16", 8)
    with exact_float32():
        found = network(z, t, network.encode({"encoder_hidden_states": hidden, "text_embeds": pooled})).cpu()
    assert found.dtype == torch.float32  # of the last layers
    # About a hundred roundings of 2⁻¹¹ one after the other, of either sign: √100 of them.
    assert float((found - expected).norm() / expected.norm()) < 5e-3


@pytest.mark.parametrize("unet", ["sd1"], indirect=True)
@torch.no_grad()
def test_as_a_compiler_sees_it_on_a_gpu(unet, as_a_gpu):
    """One graph, with the same numbers where nothing is written in place."""
    arguments = inputs(unet, 1, (4, 4), 2)
    expected = one_by_one(unet, *arguments)
    as_a_gpu(None)
    ours = FusedUNet(unet.config, dict(unet.named_parameters()))
    compiled = torch.compile(ours, fullgraph=True, dynamic=False, backend="aot_eager")
    found = compiled(*arguments[:2], ours.encode(arguments[2]))
    torch._dynamo.reset()
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)  # float32 in another order


class Sums(TorchDispatchMode):
    """Collects all convolutions that are given a bias, all sums that have one as a term, and those in place."""

    def __init__(self):
        super().__init__()
        self.found = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        aten = torch.ops.aten
        biased = function is aten.convolution.default and args[2] is not None
        biased |= function is aten.add.Tensor and any(term.ndim == 1 for term in args)
        if biased or function is aten.add_.Tensor:
            self.found.append((function, args[0].shape, args[1].shape))
        return function(*args, **(kwargs or {}))


@torch.no_grad()
def test_sums_take_no_pass_of_torch_on_a_gpu(unet, as_a_gpu):
    """It would add biases without vector loads, one after the other; a residual is added as a product is written."""
    as_a_gpu("reference")
    ours = FusedUNet(unet.config, dict(unet.named_parameters()))
    with Sums() as sums:
        called(ours, *inputs(unet, 1, (10, 6)))  # a size that has every kind of enlarging
    assert not sums.found
