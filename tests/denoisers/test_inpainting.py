"""Pipelines that start from a picture or inpaint one, against those that start from noise and against themselves."""

import diffusers
import pytest
import torch
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline

# The same float32 operations; in another order where a batch has another shape.
EXACT = 1e-5


SAME = {
    "sd3": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline"),
    "flux": ("FluxImg2ImgPipeline", "FluxInpaintPipeline"),
    "chroma": ("ChromaImg2ImgPipeline",),
    "qwen_image": ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline"),
    "z_image": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline"),
    "kolors": ("KolorsImg2ImgPipeline",),
    "sd1": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline"),
    "xl": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
}


def as_kind(pipe, kind):
    """The parts of ``pipe`` in a pipeline of the class of diffusers that is named ``kind``."""
    made = getattr(diffusers, kind)
    names, optional = made._get_signature_keys(made)
    parts = {**pipe.components, "requires_safety_checker": False}
    return made(**{name: parts[name] for name in {*names, *optional} & set(parts)})


@pytest.mark.parametrize("name", SAME)
def test_pipelines_that_start_from_a_picture(tiny, name, caplog):
    """The network and the texts are those of the pipeline that starts from noise, so that numbers are the same."""
    pipe = tiny(family=name) if name in ("sd1", "xl") else build(name)
    denoiser = from_pipeline(pipe)
    z = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    grid = denoiser.logsnr_grid
    expected = denoiser.eps_hat(z, grid[300:301], denoiser.encode_conditions(["", "cow"]))
    for kind in SAME[name]:
        if not hasattr(diffusers, kind):
            continue
        other = from_pipeline(as_kind(pipe, kind))
        assert torch.equal(other.eps_hat(z, grid[300:301], other.encode_conditions(["", "cow"])), expected)
    assert "not compared" not in caplog.text  # each could be run


def test_inpainting_beside_the_picture_is_refused():
    """Flux.2 klein's is told the whole picture as further tokens, so that texts alone are not what it computes."""
    pipe = build("flux2_klein")
    if not hasattr(diffusers, "Flux2KleinInpaintPipeline"):
        pytest.skip("this version of diffusers has no such pipeline")
    with pytest.raises(ValueError, match="found Flux2KleinInpaintPipeline, which is not supported; its Flux2Transform"):
        from_pipeline(as_kind(pipe, "Flux2KleinInpaintPipeline"))


def test_chroma_inpainting_keeps_half_as_many_tokens(caplog):
    """Its call pads texts to 256 tokens where the other pipelines have 512, and Chroma attends padding."""
    if not hasattr(diffusers, "ChromaInpaintPipeline"):
        pytest.skip("this version of diffusers has no such pipeline")
    pipe, seen = as_kind(build("chroma"), "ChromaInpaintPipeline"), []
    pipe.transformer.register_to_config(guidance_embeds=False)  # as published, which the call of diffusers 0.42 reads
    family = from_pipeline(pipe).family
    assert "not compared" not in caplog.text
    pipe.transformer.register_forward_hook(lambda _m, _a, given, out: seen.append((given, out[0])), with_kwargs=True)
    mask = torch.zeros(1, 1, 64, 96).index_fill(3, torch.arange(48), 1.0)
    pipe(
        "a cow", image=torch.zeros(1, 3, 64, 96), mask_image=mask, strength=1.0, height=64, width=96,
        num_inference_steps=2, guidance_scale=1.0, output_type="latent", generator=torch.Generator().manual_seed(0),
    )  # fmt: skip
    given, out = seen[-1]
    assert given["encoder_hidden_states"].shape[1] == family.limit("tokenizer") == 256
    x, expected = (pipe._unpack_latents(part, 64, 96, pipe.vae_scale_factor) for part in (given["hidden_states"], out))
    found = family.plain(x, given["timestep"], family.encode_texts(["a cow"]), "float32")[0]
    torch.testing.assert_close(found, expected, rtol=EXACT, atol=EXACT)
    family.check_texts(["a" * 254])
    with pytest.raises(ValueError, match=r"^prompt: 257 tokens, but the text encoder takes 256; .* would be cut"):
        family.check_texts(["a" * 255])


@pytest.mark.parametrize("channels", [9, 5])
def test_networks_that_take_a_picture_beside_the_latents(tiny, channels):
    """9 channels of inpainting, 5 of depth."""
    pipe = tiny()
    pipe.unet.register_to_config(in_channels=channels)
    with pytest.raises(ValueError, match=rf"^pipe: the unet of StableDiffusionPipeline takes {channels} channels, its"):
        dpid.Explainer(pipe)
