"""Bins of log-SNR into which no sample fell are told apart from those in which nothing was found."""

import json

import numpy as np
import torch

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.results.decomposition import Decomposition, Method

SHAPE = (1, 2, 2)
PARTS = {text: (torch.full(SHAPE, mean), torch.ones(SHAPE)) for text, mean in {"": 0.0, "a": 1.0, "b": 0.0}.items()}


def explained(density, conditions):
    explainer = dpid.Explainer(GaussianDenoiser(PARTS, (-6.0, 6.0), 200))
    explainer.density = density
    return explainer.explain(latents=torch.ones(SHAPE), conditions=conditions, samples=64)


def test_bins_without_a_sample_are_not_shown():
    """Of a density of which next to nothing is left above zero."""
    conditions = {(): "", ("a",): "a", ("b",): "b", ("a", "b"): "a"}
    density = torch.where(torch.linspace(-6, 6, 200) < 0, 1.0, 1e-12).double()
    result = explained(density, conditions)
    profile = result.profile
    low = profile.edges[1:] <= 0
    assert low.any()
    assert torch.equal(profile.sampled, low)
    shown = profile.shown(profile.information["a",])
    assert torch.equal(shown.isnan(), ~low)
    told = profile.to_dict("nats")["information"]["a"]
    json.dumps(told, allow_nan=False)
    for panel in result.plot("profile").axes:
        assert all(np.array_equal(np.isnan(line.get_ydata()), ~low.numpy()) for line in panel.lines[:-1])  # but zero
    for name in ("value", "stderr", "interval95"):
        assert [number is None for number in told[name]] == (~low).tolist()


def test_intervals_of_bins_hold_the_truth():
    """Of numbers whose four replicates are normal, ± 1.96 standard errors would hold it in 86 %."""
    bins, truth = 4000, 20.0
    found = truth + torch.randn(4, 3, bins, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    edges, sampled = torch.arange(bins + 1.0), torch.ones(bins, dtype=torch.bool)
    method = Method(("a", "b"), "min", "image", 1, None)
    profile = Decomposition(torch.zeros(8, 3, 1, 1), found, edges, sampled, method, [False] * 3, None).profile
    for told in profile.to_dict("nats")["information"].values():
        held = sum(low <= truth <= high for low, high in told["interval95"]) / bins
        # 4 standard deviations √(.05 · .95 / 4000) = 0.34 % below; the end away from zero is a little farther out.
        assert 0.95 - 0.014 < held < 0.97


def test_bins_in_which_nothing_is_found_are_shown():
    """Texts that all say the same."""
    profile = explained(None, {(): "", ("a",): "b", ("b",): "", ("a", "b"): "b"}).profile
    assert profile.sampled.all()
    assert torch.equal(profile.shown(profile.synergy), torch.zeros_like(profile.synergy))
