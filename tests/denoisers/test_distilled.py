"""Distilled networks are told by configuration and names; a guidance of those distilled at it is undone."""

from types import SimpleNamespace

import diffusers
import pytest
import torch
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline
from dpid.denoisers.distilled import distilled

TEXTS = ["", "a cow", "a cow and a giraffe"]

# Names on the hub, and what they are.
FEW_STEPS = [
    "stabilityai/sdxl-turbo", "stabilityai/sd-turbo", "stabilityai/stable-diffusion-3.5-large-turbo",
    "ByteDance/SDXL-Lightning", "ByteDance/Hyper-SD", "SimianLuo/LCM_Dreamshaper_v7", "h1t/TCD-SDXL-LoRA",
    "black-forest-labs/FLUX.1-schnell", "alimama-creative/FLUX.1-Turbo-Alpha", "Tongyi-MAI/Z-Image-Turbo",
    "Lykon/dreamshaper-xl-v2-turbo", "tianweiy/DMD2", "jasperai/flash-sd", "wangfuyun/PCM_Weights",
    "sdxl_lightning_4step_lora", "Hyper-SDXL-8steps-lora", "Hyper-SD15-lora", "Hyper-FLUX.1-dev-lora", "hyper", "tcd",
    "jasperai/flash-sdxl", "sd-community/sdxl-flash-mini", "lodestones/Chroma1-Flash", "chroma-flash-heun_r256",
    "lightx2v/Qwen-Image-Lightning", "SG161222/RealVisXL_V4.0_Lightning", "RealVisXL_V5.0_Lightning_fp16",
    "realisticVisionV60B1_v51HyperVAE", "dreamshaperXL_lightningDPMSDE", "juggernautXL_juggXILightningByRD",
    "latent-consistency/lcm-lora-sdv1-5", "dmd2", "/models/sdxl_lightning_4step_unet",
    "C:\\models\\DreamShaperXL_Turbo", "~/my-model-8-steps/",
    "/home/me/.cache/huggingface/hub/models--stabilityai--sdxl-turbo/snapshots/f4b0486b498f84668e828044de1d0c8ba486e05b",
]  # fmt: skip
MEANS = [
    "stable-diffusion-v1-5/stable-diffusion-v1-5", "stabilityai/stable-diffusion-xl-base-1.0", "Kwai-Kolors/Kolors",
    "black-forest-labs/FLUX.1-dev", "Tongyi-MAI/Z-Image", "black-forest-labs/FLUX.2-klein-base-4B",
    "SG161222/hyperrealism-v3", "someone/HyperRealism", "someone/Hyper-Realistic", "flux-hyper-realism", "hyper_detail",
    "flash_photography", "sdxl-flash-photography", "lightning-storm", "Lightning_Bolts_XL", "/home/turbo/models/sd15",
    "/data/lightning_logs/run", "my-model-100000-steps", "",
]  # fmt: skip


def named(name, kind="StableDiffusionPipeline"):
    made = type(kind, (), {})()
    made.name_or_path, made.config = name, {}
    made.scheduler = SimpleNamespace()
    net = torch.nn.Linear(1, 1)
    net.config = diffusers.configuration_utils.FrozenDict()
    return made, net


@pytest.mark.parametrize("name", FEW_STEPS)
def test_names_of_models_distilled_to_few_steps(name):
    assert distilled(*named(name))


@pytest.mark.parametrize("name", MEANS)
def test_names_of_other_models(name):
    assert distilled(*named(name)) == ""


def test_words_that_mean_it_in_one_family_alone():
    assert "'Fast'" in distilled(*named("HiDream-ai/HiDream-I1-Fast", "HiDreamImagePipeline"))
    assert distilled(*named("HiDream-ai/HiDream-I1-Dev", "HiDreamImagePipeline"))
    assert distilled(*named("HiDream-ai/HiDream-I1-Full", "HiDreamImagePipeline")) == ""
    assert distilled(*named("Lightricks/LTX-Video-0.9.7-distilled", "LTXPipeline"))
    assert distilled(*named("Lightricks/LTX-Video-0.9.7-dev", "LTXPipeline")) == ""
    assert distilled(*named("Tencent-Hunyuan/HunyuanDiT-v1.2-Diffusers-Distilled", "HunyuanDiTPipeline"))
    assert distilled(*named("someone/distilled-sd-small")) == ""  # to fewer weights


def test_the_sentence_says_what_was_found_where():
    found = distilled(*named("ByteDance/SDXL-Lightning"))
    assert found.startswith("'Lightning' in the name 'SDXL-Lightning': distillation trained it to jump")


@pytest.mark.parametrize("kind", ["LCMScheduler", "TCDScheduler", "FlowMatchLCMScheduler"])
def test_schedulers_of_consistency_models(kind):
    pipe, net = named("")
    pipe.scheduler = type(kind, (), {})()
    assert distilled(pipe, net).startswith(f"the scheduler is a {kind}: consistency distillation")


def test_a_pipeline_that_says_so():
    pipe = build("flux2_klein")
    assert from_pipeline(pipe).distilled == ""
    pipe.register_to_config(is_distilled=True)
    assert from_pipeline(pipe).distilled.startswith("the pipeline's configuration says is_distilled: it was trained")


@pytest.mark.filterwarnings("ignore:Already found a `peft_config`")
def test_adapters_count_while_they_are_active():
    peft = pytest.importorskip("peft")
    pipe = build("sd3")
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), adapter_name="style")
    explainer = dpid.Explainer(pipe)
    assert explainer.denoiser.distilled == ""
    pipe.transformer.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q"]), adapter_name="lcm_lora")
    assert explainer.denoiser.distilled.startswith("'lcm' in the adapter 'lcm_lora': consistency")
    with pytest.raises(ValueError, match=r"tolerance: found 0.1, but there are no nats .* 'lcm_lora'"):
        explainer.explain(latents=torch.zeros(16, 8, 8), prompt=TEXTS[2], concepts=("cow", "giraffe"), tolerance=0.1)
    with pytest.raises(ValueError, match=r"^model: has no log-density, whose noise predictions .* 'lcm_lora'"):
        explainer.log_likelihood(latents=torch.zeros(16, 8, 8), condition=TEXTS[1])
    with pytest.raises(ValueError, match=r"^model: has no log-density, whose noise predictions .* 'lcm_lora'"):
        explainer.log_likelihoods(latents=[torch.zeros(16, 8, 8)], conditions=TEXTS[1])
    pipe.transformer.set_adapter("style")
    assert explainer.denoiser.distilled == ""
    pipe.transformer.set_adapter("lcm_lora")
    pipe.transformer.disable_adapters()
    assert explainer.denoiser.distilled == ""


def test_distilled_models_run():
    pipe = build("flux", guidance=False)
    pipe.register_to_config(_name_or_path="black-forest-labs/FLUX.1-schnell")
    result = dpid.Explainer(pipe).explain(
        latents=torch.zeros(16, 4, 4), prompt=TEXTS[2], concepts=("cow", "giraffe"), samples=8
    )
    assert result.metadata.unit == "arbitrary units of steering"
    assert "'schnell' in the name 'FLUX.1-schnell'" in result.remarks()[0]


def test_networks_that_predict_no_noise_are_refused():
    pipe = build("sana")
    pipe.scheduler = diffusers.SCMScheduler()
    with pytest.raises(ValueError, match="pipe: the network of SanaPipeline is made for an SCMScheduler"):
        from_pipeline(pipe)
    pipe = build("sana")
    pipe.transformer.register_to_config(guidance_embeds=True)
    with pytest.raises(ValueError, match="pipe: the network of SanaPipeline is that of Sana Sprint"):
        from_pipeline(pipe)
    pipe = build("sd3")
    pipe.transformer.register_to_config(use_meanflow=True)
    with pytest.raises(ValueError, match=r"predicts the mean velocity between two times \(mean flow\), from which"):
        from_pipeline(pipe)
    pipe = build("sd3")
    pipe.transformer.forward = lambda hidden_states, timestep, timestep_r: None
    with pytest.raises(ValueError, match="mean velocity"):
        from_pipeline(pipe)


@pytest.mark.parametrize("name", ["flux", "flux2"])
def test_guidance_is_undone(name):
    pipe = build(name)
    one = from_pipeline(pipe)
    logsnr = one.logsnr_grid[[300, 700]]
    z = torch.randn(2, 1, 16, 4, 4, generator=torch.Generator().manual_seed(0))
    guided = from_pipeline(pipe, guidance=3.5)
    guided_too = guided.encode_conditions(TEXTS)
    found = guided.eps_hat(z, logsnr, guided_too)
    raw = guided._eps_hat(z, logsnr, guided_too)
    assert (raw - one.eps_hat(z, logsnr, one.encode_conditions(TEXTS))).abs().max() > 1e-4  # the network is told 3.5
    expected = raw[:, :1] + (raw - raw[:, :1]) / 3.5
    # Rounding of float32, of numbers of size one.
    torch.testing.assert_close(found, expected, rtol=0, atol=2e-6)
    # The null condition need not be among those that are asked for; batches of other sizes round otherwise.
    alone = guided.eps_hat(z, logsnr, guided.encode_conditions(TEXTS[1:]))
    torch.testing.assert_close(alone, found[:, 1:], rtol=0, atol=1e-5)


def takes_guidance(unet):
    """A copy of ``unet`` that takes guidance as an input, as those of consistency models."""
    config = {name: value for name, value in unet.config.items() if name != "_use_default_values"}
    other = type(unet).from_config({**config, "time_cond_proj_dim": 16})
    other.load_state_dict(unet.state_dict(), strict=False)
    return other.eval()


@pytest.mark.parametrize("kind", ["LatentConsistencyModelPipeline", "LatentConsistencyModelImg2ImgPipeline"])
def test_pipelines_of_consistency_models(tiny, kind, checked_again):
    parts = tiny(family="sd1").components
    parts |= {"unet": takes_guidance(parts["unet"]), "scheduler": diffusers.LCMScheduler()}
    pipe = getattr(diffusers, kind)(**parts, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    assert from_pipeline(pipe).distilled
    assert "agrees with the pipeline: " in checked_again.text


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_consistency_models_are_told_their_guidance_as_by_the_pipeline(tiny, family):
    pipe = tiny(family=family)
    pipe.unet = unet = takes_guidance(pipe.unet)
    pipe.set_progress_bar_config(disable=True)
    told = []
    hook = unet.register_forward_pre_hook(
        lambda net, args, given: told.append(given["timestep_cond"]), with_kwargs=True
    )
    pipe("a cow", num_inference_steps=1, guidance_scale=7.5, output_type="latent")
    z, ours = torch.zeros(1, 1, 4, 8, 8), []
    for guidance in (7.5, 1.0):
        denoiser = from_pipeline(pipe, guidance=guidance)
        denoiser._eps_hat(z, denoiser.logsnr_grid[[500]], denoiser.encode_conditions(["a cow"]))
        ours.append(told[-1])
    hook.remove()
    assert torch.equal(told[0][:1], ours[0])
    assert torch.equal(ours[1], torch.tensor([[0.0] * 8 + [1.0] * 8]))  # sines and cosines of 0, the w of guidance 1
    assert denoiser.distilled.startswith("the network takes its guidance as an input (time_cond_proj_dim): consistency")
    assert denoiser.caveat == ""  # there are no nats to speak of
    assert "that of 7.5 is undone" in from_pipeline(pipe, guidance=7.5).caveat  # the maps depend on it all the same


def test_what_a_network_distilled_at_guidance_is_said_to_be_good_for():
    pipe = build("flux")
    asked = {"latents": torch.zeros(16, 4, 4), "prompt": TEXTS[2], "concepts": ("cow", "giraffe"), "samples": 8}
    result = dpid.Explainer(pipe).explain(**asked)
    assert result.metadata.unit == "nats"
    assert result.metadata.distilled == ""
    assert result.remarks()[0].startswith("the network was distilled at guidance, and is asked for none (1): nats")
    guided = from_pipeline(pipe, guidance=2.0, precision="float32")
    result = dpid.Explainer(guided).explain(**asked)
    said = f"on this picture they bend by {guided._bend:.1%} of the way from 1"
    assert said in result.metadata.caveat
    assert result.remarks()[0] == result.metadata.caveat
    assert guided._bend > 0.001  # random weights are not linear in anything


@pytest.mark.parametrize(
    ("name", "shape", "told"),
    [
        # Chroma's noise is not independent of the picture, as docs/theory.md takes it to be.
        ("chroma", (16, 4, 4), "optimal transport"),
        ("pixart_sigma", (4, 8, 8), "PixArt was trained with no text as long as the caption"),
        ("sana", (4, 4, 4), "Sana was trained with no text as long as the caption"),
    ],
)
def test_how_the_training_of_a_family_limits_its_nats(name, shape, told):
    result = dpid.Explainer(build(name)).explain(
        latents=torch.zeros(shape), prompt=TEXTS[2], concepts=("cow", "giraffe"), samples=4
    )
    assert result.metadata.unit == "nats"
    assert told in result.remarks()[0]


def test_guidance_that_cannot_be():
    pipe = build("flux", guidance=False)
    with pytest.raises(ValueError, match=r"guidance: found 3.5, but the network of FluxPipeline does not take it"):
        dpid.Explainer(pipe, guidance=3.5)
    for value in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match=f"guidance: found {value}, expected a positive number"):
            dpid.Explainer(pipe, guidance=value)
    with pytest.raises(ValueError, match=r"guidance: found 2.0, but the network of emoji does not take it"):
        dpid.Explainer.from_pretrained("emoji", guidance=2.0)
    with pytest.raises(ValueError, match="guidance: is for pipelines, and the model is a denoiser already"):
        dpid.Explainer(from_pipeline(pipe), guidance=1.0)
