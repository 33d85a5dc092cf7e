"""What people add to pipelines (adapters, words, ControlNets, VAEs, schedules), against the pipeline itself."""

import diffusers
import pytest
import torch
from PIL import Image
from tiny_pipelines import build, drawn

import dpid
from dpid.denoisers import from_pipeline

TEXT = "cow giraffe"


def first_call(pipe, text, guidance=2.0, **call):
    """(x [1,C,h,w], time [1], output [2,C,h,w] for no text and ``text``) of the network in the pipeline's own run."""
    net, seen = getattr(pipe, "unet", None) or pipe.transformer, []

    def record(module, args, kwargs, out):
        x, t = args[:2] if args else (kwargs["hidden_states"], kwargs["timestep"])
        seen.append((x[:1].clone(), t.reshape(-1)[:1].clone(), out[0].clone()))

    hook = net.register_forward_hook(record, with_kwargs=True)
    generator = torch.Generator().manual_seed(0)
    pipe(prompt=text, num_inference_steps=2, guidance_scale=guidance, output_type="latent", generator=generator, **call)
    hook.remove()
    return seen[0]


def differs(pipe, text=TEXT, call=None, **options):
    """The relative difference of the denoiser's network output from that of :func:`first_call`."""
    x, t, expected = first_call(pipe, text, **(call or {}))
    family = from_pipeline(pipe, **options).family
    t = t / 1000 if hasattr(pipe, "transformer") else t
    found = family.plain(x, t, family.encode_texts(["", text]), family.precision)[:, 0]
    return float((found - expected).norm() / expected.norm())


# The same float32 operations; in another order where a batch has another shape.
EXACT = 1e-5


@pytest.mark.parametrize("name", ["sd3", "flux", "sana"])
def test_adapters_of_transformers(name):
    peft = pytest.importorskip("peft")
    pipe = build(name)
    denoiser = from_pipeline(pipe)
    z = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))

    def eps_hat():
        return denoiser.eps_hat(z, denoiser.logsnr_grid[300:301], denoiser.encode_conditions(["", "a cow"]))

    before = eps_hat()
    config = peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False)
    pipe.transformer.add_adapter(config, "style")
    adapted = eps_hat()
    assert not torch.allclose(adapted, before, rtol=1e-3)
    assert denoiser.precisions == ("float32", "bfloat16", "float16")
    if name == "sd3":
        assert differs(pipe, "a cow") < EXACT
    merged = from_pipeline(pipe)
    pipe.transformer.fuse_lora()
    torch.testing.assert_close(
        merged.eps_hat(z, denoiser.logsnr_grid[300:301], merged.encode_conditions(["", "a cow"])), adapted,
        rtol=1e-4, atol=1e-4,
    )  # fmt: skip # float32: the adapter is added to the weights instead of the outputs
    pipe.transformer.unfuse_lora()
    pipe.transformer.disable_adapters()
    torch.testing.assert_close(eps_hat(), before, rtol=1e-4, atol=1e-4)  # as above, added and subtracted


def test_an_adapter_upcast_block_by_block():
    peft = pytest.importorskip("peft")
    pipe = build("sd3")
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"], init_lora_weights=False), "style")
    pipe.transformer.to(torch.bfloat16)
    denoiser = from_pipeline(pipe, precision="float32")
    z, grid = torch.ones(1, 1, 16, 8, 8), denoiser.logsnr_grid
    conditions = denoiser.encode_conditions(["a cow"])
    found = denoiser.eps_hat(z, grid[300:301], conditions)
    pipe.transformer.float()
    denoiser = from_pipeline(pipe, precision="float32")
    expected = denoiser.eps_hat(z, grid[300:301], denoiser.encode_conditions(["a cow"]))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)


def test_new_words_of_stable_diffusion_3():
    """A textual inversion of three vectors, in the first encoder."""
    pipe = build("sd3")
    pipe.load_textual_inversion = diffusers.loaders.TextualInversionLoaderMixin.load_textual_inversion.__get__(pipe)
    for i, token in enumerate(("<style>", "<style>_1", "<style>_2")):
        pipe.tokenizer.add_tokens([token])
        pipe.text_encoder.get_input_embeddings().weight.data[len(pipe.tokenizer) - 1] = 3.0 + i
    assert differs(pipe, "a <style> cow") < EXACT
    family = from_pipeline(pipe).family
    named, plain = (family.encode_texts([text])["pooled_projections"] for text in ("a <style> cow", "a cow"))
    assert not torch.allclose(named, plain, rtol=1e-2)


PICTURE = Image.effect_noise((40, 24), 90).convert("RGB")


def controlled(tiny, family, **call):
    made = tiny(family=family)
    kind = diffusers.StableDiffusionXLControlNetPipeline if family == "xl" else None
    kind = kind or diffusers.StableDiffusionControlNetPipeline
    net = diffusers.ControlNetModel.from_unet(made.unet, conditioning_embedding_out_channels=(8, 8))
    parts = {name: part for name, part in made.components.items() if name not in ("safety_checker", "image_encoder")}
    pipe = kind(**parts, controlnet=drawn(net, 5), **({} if family == "xl" else {"safety_checker": None}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_control_nets(tiny, family):
    pipe = controlled(tiny, family)
    call = {"image": PICTURE, "height": 16, "width": 16, "controlnet_conditioning_scale": 0.7}
    options = {"control": PICTURE, "control_scale": 0.7}
    assert differs(pipe, call=call, **options) < EXACT
    assert differs(pipe, call=call, control=PICTURE, control_scale=0.1) > 1e-3
    assert differs(pipe, call=call, control=Image.new("RGB", (16, 16)), control_scale=0.7) > 1e-4
    explainer = dpid.Explainer(pipe, **options)
    assert not explainer.denoiser.fused
    image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))  # another size than above
    result = explainer.explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert result.information[("cow",)].value != 0


@pytest.mark.parametrize("config", [{}, {"force_zeros_for_pooled_projection": False}, {"joint_attention_dim": None}])
def test_control_nets_of_stable_diffusion_3(config, monkeypatch):
    made = build("sd3")
    settings = {**made.transformer.config, "num_layers": 2, **config}
    net = diffusers.SD3ControlNetModel.from_config(settings)
    parts = {name: part for name, part in made.components.items() if name not in ("image_encoder", "feature_extractor")}
    pipe = diffusers.StableDiffusion3ControlNetPipeline(**parts, controlnet=drawn(net, 5))
    pipe.set_progress_bar_config(disable=True)
    # The pipeline draws from the VAE's posterior, here its mode is taken.
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())
    call = {"control_image": PICTURE, "height": 64, "width": 64, "controlnet_conditioning_scale": 0.7}
    assert differs(pipe, "a cow", call=call, control=PICTURE, control_scale=0.7) < EXACT
    assert differs(pipe, "a cow", call=call, control=PICTURE, control_scale=0.1) > 1e-3


def test_refusals_of_control(tiny):
    pipe = controlled(tiny, "sd1")
    with pytest.raises(ValueError, match=r"^control: StableDiffusionControlNetPipeline has a ControlNet; give the pic"):
        dpid.Explainer(pipe)
    with pytest.raises(ValueError, match=r"^control: found a picture, but StableDiffusionPipeline has no ControlNet"):
        dpid.Explainer(tiny(), control=PICTURE)
    with pytest.raises(ValueError, match=r"^control: nowhere\.png does not exist"):
        dpid.Explainer(pipe, control="nowhere.png")
    with pytest.raises(TypeError, match=r"^control: found int, expected a path"):
        dpid.Explainer(pipe, control=3)
    pipe.controlnet = diffusers.models.controlnets.MultiControlNetModel([pipe.controlnet])
    with pytest.raises(ValueError, match=r"^pipe: its controlnet is a MultiControlNetModel, supported is one Control"):
        dpid.Explainer(pipe, control=PICTURE)
