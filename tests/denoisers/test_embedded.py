"""The embedded model read without diffusers, compared with the same files as a diffusers pipeline."""

import subprocess
import sys

import pytest
import torch

import dpid
from dpid.denoisers import from_pipeline
from dpid.denoisers.embedded import EmbeddedDenoiser
from dpid.denoisers.loading import embedded_path, load_pipeline

PROMPTS = ("", "cow", "a giraffe and a sofa", "An elephant")


@pytest.fixture(scope="module")
def pair():
    return EmbeddedDenoiser(embedded_path("emoji"), "cpu"), from_pipeline(load_pipeline("emoji", "cpu"), fused=False)


def test_texts_pictures_and_predictions_are_the_pipelines(pair):
    ours, theirs = pair
    a, b = ours.encode_conditions(PROMPTS), theirs.encode_conditions(PROMPTS)
    # fp32 operations in another order, two layers deep.
    torch.testing.assert_close(
        a.encoded["encoder_hidden_states"], b.encoded["encoder_hidden_states"], rtol=1e-4, atol=1e-5
    )
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    torch.testing.assert_close(ours.encode_image(image), theirs.encode_image(image), rtol=1e-4, atol=1e-5)
    assert torch.equal(ours.logsnr_grid, theirs.logsnr_grid)
    z, logsnr = (
        torch.randn(3, 1, 4, 16, 16, generator=torch.Generator().manual_seed(1)),
        ours.logsnr_grid[[3, 500, 990]],
    )
    mine, reference = ours.eps_hat(z, logsnr, a), theirs.eps_hat(z, logsnr, b)
    assert float((mine - reference).norm() / reference.norm()) < 1e-5  # rounding of fp32
    for size in ((64, 64), (100, 30), (517, 803)):
        assert ours.size_for(*size) == theirs.size_for(*size)


@pytest.mark.parametrize("text", ["a unicorn and a cow", "cow " * 16])
def test_refuses_what_the_pipeline_refuses_in_the_same_words(pair, text):
    messages = []
    for denoiser in pair:
        with pytest.raises(ValueError, match="prompt: ") as caught:
            denoiser.encode_conditions([text])
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
    with pytest.raises(TypeError, match="expected texts"):
        pair[0].encode_conditions([3])


def test_the_last_texts_are_encoded_once(pair):
    ours, _ = pair
    first = ours.encode_conditions(["", "cow"])
    assert ours.encode_conditions(("", "cow")) is first
    assert ours.at("bfloat16").encode_conditions(["", "cow"]) is ours.at("bfloat16").encode_conditions(["", "cow"])
    assert ours.encode_conditions(["", "cow"]) is first  # and those of another type beside it
    other = ours.encode_conditions(["cow", ""])
    assert other.names == ("cow", "")
    texts = [c.encoded["encoder_hidden_states"] for c in (first, other)]
    # Rounding of another batch.
    torch.testing.assert_close(texts[1], texts[0].flip(0), rtol=1e-5, atol=1e-6)


def test_nothing_is_imported_that_takes_seconds():
    """Pipelines' libraries, and torch's compiler."""
    code = (
        "import dpid, sys; dpid.Explainer.from_pretrained('emoji', device='cpu'); "
        "print([m for m in sys.modules if m in ('diffusers', 'transformers', 'torch._dynamo')])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.strip() == "[]"


def test_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="device: 'cuda:99' cannot be used"):
        EmbeddedDenoiser(embedded_path("emoji"), "cuda:99")


def test_a_name_of_no_device_is_told_which_there_are():
    with pytest.raises(ValueError, match=r"^device: found 'gpu', allowed are cpu, cuda, cuda:1, …$"):
        EmbeddedDenoiser(embedded_path("emoji"), "gpu")


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99", "xpu", "mps:7", "", "cpu cuda", 3.5, "privateuseone"])
@pytest.mark.parametrize("dtype", [None, torch.float32])  # the embedded model's own loading, and the pipeline's
def test_a_device_that_cannot_be_used(device, dtype):
    with pytest.raises(ValueError, match=r"^device: (.* cannot be used: .|found .*, allowed are cpu, cuda)") as caught:
        dpid.Explainer.from_pretrained("emoji", device=device, dtype=dtype)
    assert len(str(caught.value)) < 250
