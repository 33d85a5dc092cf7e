"""What is switched on in a pipeline and its network: caches, adapters, attention backends, device maps."""

import logging

import diffusers
import pytest
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline
from dpid.denoisers.checks import pipeline


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
def test_a_pipeline_class_that_hands_its_arguments_on(name, monkeypatch, caplog):
    """The sizes by default, and what the check may ask for, are those of the class that it derives from."""
    monkeypatch.setattr(pipeline, "_passed", set())
    caplog.set_level(logging.INFO, "dpid")
    pipe = build(name)
    kind = type(pipe)
    call = {"__call__": lambda self, *args, **kwargs: kind.__call__(self, *args, **kwargs)}
    pipe.__class__ = type("MyPipeline", (kind,), call)
    shape = from_pipeline(build(name), check=False).latent_shape
    assert from_pipeline(pipe).latent_shape == shape
    assert "agrees with the pipeline" in caplog.text


@pytest.mark.parametrize("name", ["flux", "kolors"])
def test_adapters_of_pictures_are_refused(name):
    pipe = build(name)
    explainer = dpid.Explainer(pipe)
    net = explainer.denoiser.family.net
    net.config.encoder_hid_dim_type = "ip_image_proj"  # as loading an IP-Adapter does
    net.text_encoder_hid_proj = getattr(net, "encoder_hid_proj", None)  # which Kolors has for its texts
    for call in (lambda: from_pipeline(pipe), explainer.denoiser.refresh):
        with pytest.raises(ValueError, match=r"^pipe: the \w+ of \w+ needs a picture .* none after unload_ip_adapter"):
            call()
    pipe.unload_ip_adapter()
    explainer.denoiser.refresh()
