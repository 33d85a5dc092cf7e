"""What is switched on in a pipeline and its network: caches, adapters, attention backends, device maps."""

import diffusers
import pytest
import torch
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline
from dpid.quiet import quiet


def evaluated(pipe, precision):
    """What the network predicts for noise under two texts."""
    denoiser = from_pipeline(pipe, precision=precision)
    z = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    return denoiser.eps_hat(z, denoiser.logsnr_grid[300:301], denoiser.encode_conditions(["", "a cow"]))


def test_networks_that_cache_are_refused():
    if not hasattr(diffusers, "FirstBlockCacheConfig"):
        pytest.skip("this version of diffusers has no such cache")
    pipe = build("flux")
    explainer = dpid.Explainer(pipe)
    pipe.transformer.enable_cache(diffusers.FirstBlockCacheConfig(threshold=0.1))
    for call in (lambda: from_pipeline(pipe), explainer.denoiser.refresh):
        with pytest.raises(ValueError, match=r"^pipe: its network caches answers .*; call disable_cache\(\) first$"):
            call()
    pipe.transformer.disable_cache()
    from_pipeline(pipe)


@pytest.mark.parametrize("name", ["aura_flow", "pixart_sigma", "ltx"])
def test_a_pipeline_class_that_hands_its_arguments_on(name, checked_again):
    """The sizes by default, and what the check may ask for, are those of the class that it derives from."""
    pipe = build(name)
    kind = type(pipe)
    call = {"__call__": lambda self, *args, **kwargs: kind.__call__(self, *args, **kwargs)}
    pipe.__class__ = type("MyPipeline", (kind,), call)
    shape = from_pipeline(build(name), check=False).latent_shape
    assert from_pipeline(pipe).latent_shape == shape
    assert "agrees with the pipeline" in checked_again.text


@pytest.mark.parametrize("name", ["flux", "kolors", "sd3"])
def test_adapters_of_pictures_are_refused(name):
    pipe = build(name)
    explainer = dpid.Explainer(pipe)
    net = explainer.denoiser.family.net
    if name == "sd3":  # as loading an IP-Adapter does
        net.image_proj = torch.nn.Identity()
    else:
        net.config.encoder_hid_dim_type = "ip_image_proj"
    net.text_encoder_hid_proj = getattr(net, "encoder_hid_proj", None)  # which Kolors has for its texts
    for call in (lambda: from_pipeline(pipe), explainer.denoiser.refresh):
        with pytest.raises(ValueError, match=r"^pipe: the \w+ of \w+ needs a picture .* none after unload_ip_adapter"):
            call()
    pipe.unload_ip_adapter()
    explainer.denoiser.refresh()


@pytest.mark.parametrize("own", [True, False])
def test_attention_that_takes_half_types_alone(own, monkeypatch):
    """In float32 the network attends by torch's own function; the backend may be another network's, which all take."""
    dispatch = pytest.importorskip("diffusers.models.attention_dispatch")
    pipe, plain = (build("flux").to(torch.bfloat16) for _ in range(2))
    expected, seen = evaluated(plain, "float32"), []
    registry = dispatch._AttentionBackendRegistry
    monkeypatch.setattr(registry, "_active_backend", registry._active_backend)  # restored at the end

    def flash(query, key, value, **more):
        seen.append(query.dtype)
        if query.dtype == torch.float32:
            raise RuntimeError("No available kernel")
        return dispatch._native_attention(query, key, value)

    monkeypatch.setitem(registry._backends, dispatch.AttentionBackendName._NATIVE_FLASH, flash)
    with quiet():
        (pipe if own else build("flux")).transformer.set_attention_backend("_native_flash")
    backends = [p._attention_backend for p in pipe.transformer.attn_processors.values()]
    torch.testing.assert_close(evaluated(pipe, "float32"), expected, rtol=0, atol=0)  # the same operations
    assert [p._attention_backend for p in pipe.transformer.attn_processors.values()] == backends
    assert set(seen) == {torch.bfloat16}  # in the check, and in what tells whether the pipeline has changed


@pytest.mark.parametrize("name", ["flux", "kolors"])
def test_a_device_map_that_leaves_weights_where_they_are(name):
    """Hooks bring the inputs to them, as diffusers' device_map="balanced" has it: all types are those without one."""
    accelerate = pytest.importorskip("accelerate")
    pipe, plain = (build(name).to(torch.bfloat16) for _ in range(2))
    for part in (part for part in pipe.components.values() if isinstance(part, torch.nn.Module)):
        accelerate.dispatch_model(part, {"": "cpu"}, force_hooks=True)
    net = from_pipeline(pipe).family.net
    before = [(id(p), p.data_ptr(), p.dtype) for p in net.parameters()]
    assert hasattr(net, "_hf_hook")
    assert from_pipeline(pipe).precisions == ("float32", "bfloat16")
    for precision in ("float32", "bfloat16"):
        assert torch.equal(evaluated(pipe, precision), evaluated(plain, precision))
    assert [(id(p), p.data_ptr(), p.dtype) for p in net.parameters()] == before
