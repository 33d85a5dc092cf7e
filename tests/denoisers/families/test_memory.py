"""The memory of an evaluation against the bytes that are alive at once, at true width, in fake tensors."""

import inspect
from dataclasses import replace

import ledger
import pytest
import torch
from bench_models import activations_of, family_at_true_size, without_values
from measurements import finder
from peak import Peak
from true_sizes import MODELS

pytestmark = pytest.mark.filterwarnings("default")  # what diffusers deprecates

BY_NAME = {model.name: model for model in MODELS}
NAMES = (
    "Stable Diffusion 2.1", "Stable Diffusion XL", "Stable Diffusion 3.5 large", "Flux.1 dev", "Flux.2 klein 9B",
    "Chroma", "PixArt-Σ", "Sana 1.6B", "AuraFlow", "Lumina-Image 2.0", "Z-Image", "HunyuanDiT 1.2", "Qwen-Image",
    "HiDream-I1", "CogView4", "Wan 2.1 1.3B, 81 frames", "LTX-Video 2B, 161 frames",
)  # fmt: skip


def activations(name, side):
    """What is measured and estimated of a model, of few blocks where the others leave nothing behind."""
    diffusers = pytest.importorskip("diffusers")
    pytest.importorskip("diffusers.models.transformers.transformer_hidream_image")  # which is made to read no values
    model = BY_NAME[name]
    takes = inspect.signature(getattr(diffusers, model.network)).parameters
    few = () if name in ("HunyuanDiT 1.2", "HiDream-I1") else ("num_layers", "num_single_layers", "n_layers")
    config = model.config | {key: 2 for key in few if key in takes}
    with without_values():
        return activations_of(model, family_at_true_size(replace(model, config=config)), side)


@pytest.mark.parametrize("name", NAMES)
def test_an_evaluation_takes_what_is_listed_and_less_than_is_estimated(name):
    side = BY_NAME[name].side
    measured, estimate = activations(name, side)
    assert 0.4 * estimate < measured < estimate  # of use as a limit, too: not ten times as much
    metric, listed = f"activations, {side}x{side}", finder(ledger.read())
    # The ledger has five digits; blocks that are left out here may leave a few numbers.
    assert measured / 1e9 == pytest.approx(float(listed("models", name, metric)["value"]), rel=0.01)
    assert estimate / 1e9 == pytest.approx(float(listed("models", name, f"{metric}, estimated")["value"]), rel=1e-4)


@pytest.mark.parametrize(("name", "side"), [("Flux.2 klein 9B", 256), ("Lumina-Image 2.0", 512), ("Flux.1 dev", 256)])
def test_a_small_picture_takes_less_than_is_estimated(name, side):
    """Where most tokens are the text's."""
    measured, estimate = activations(name, side)
    assert measured < 0.99 * estimate


def test_views_of_what_there_was_take_no_memory():
    weights = torch.zeros(100)
    with Peak() as measured:
        weights[:50].add_(1)
        kept = weights + 1  # 400 bytes, and its view none
        half = kept[:50]
        del kept
        other = half + 1  # 200 more, beside all of what the view is of
    assert (measured.peak, len(other)) == (600, 50)
