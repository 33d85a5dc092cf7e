"""What is switched on in a pipeline and its network: caches, adapters, attention backends, device maps."""

import diffusers
import pytest
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline


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
