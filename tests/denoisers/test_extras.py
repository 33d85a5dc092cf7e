"""What people add to pipelines (adapters, words, VAEs, schedules), against the pipeline itself."""

import copy

import diffusers
import pytest
import torch
from own_calls import differs
from tiny_pipelines import build, drawn

import dpid
from dpid.denoisers import from_pipeline
from dpid.quiet import quiet

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


@pytest.mark.parametrize("name", ["sd1", "sd3"])
def test_adapters_from_a_file(tiny, name, tmp_path):
    peft = pytest.importorskip("peft")
    made, pipe = (tiny() if name == "sd1" else build(name) for _ in range(2))
    part, text = ("unet", "cow giraffe") if name == "sd1" else ("transformer", "a cow")
    net = getattr(made, part)
    net.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_v"], init_lora_weights=False), "any")
    layers = peft.get_peft_model_state_dict(net, adapter_name="any")
    made.save_lora_weights(tmp_path, **{f"{part}_lora_layers": layers})
    denoiser = from_pipeline(pipe)
    z = torch.randn(1, 1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    before, after = [], []
    for found in (before, after):
        found.append(denoiser.eps_hat(z, denoiser.logsnr_grid[300:301], denoiser.encode_conditions([text])))
        if found is before:
            pipe.load_lora_weights(tmp_path, adapter_name="turbo")
    assert not torch.allclose(before[0], after[0], rtol=1e-3)
    assert differs(pipe, text) < EXACT
    assert denoiser.distilled.startswith("'turbo' in the adapter 'turbo': ")


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


@pytest.mark.parametrize("part", ["transformer", "vae", "text_encoder_2"])
def test_parts_without_weights(part):
    pipe = build("sd3")
    getattr(pipe, part).to("meta")
    with pytest.raises(ValueError, match=f"^pipe: its {part} is on the meta device, without weights"):
        dpid.Explainer(pipe)


def test_a_tiny_autoencoder_of_a_flow():
    pipe = build("sd3")
    pipe.vae = drawn(
        diffusers.AutoencoderTiny(
            encoder_block_out_channels=(8,) * 4, decoder_block_out_channels=(8,) * 4, num_encoder_blocks=(1,) * 4,
            num_decoder_blocks=(1,) * 4, latent_channels=16, scaling_factor=1.5, shift_factor=0.1,
        ),
        7,
    )  # fmt: skip
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    found = from_pipeline(pipe).encode_image(image)
    seen = []
    pipe.vae.decode = lambda z, **_: seen.append(z) or (torch.zeros(1, 3, 64, 64),)
    pipe(
        prompt="a cow", num_inference_steps=1, output_type="pt", height=64, width=64,
        callback_on_step_end=lambda *_: {"latents": found}, callback_on_step_end_tensor_inputs=["latents"],
    )  # fmt: skip
    with torch.no_grad():
        theirs = pipe.vae.encode(image).latents
    torch.testing.assert_close(seen[0], theirs, rtol=1e-5, atol=1e-5)  # float32, scaled and back


@pytest.mark.parametrize("prediction", ["v_prediction", "epsilon"])
def test_schedules_that_end_in_noise_alone(tiny, prediction):
    """Rescaled to no signal at the last timestep, which has no finite log-SNR; the others are the pipeline's."""
    schedule = diffusers.DDIMScheduler(
        beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False, steps_offset=1,
        rescale_betas_zero_snr=True, timestep_spacing="trailing", prediction_type=prediction,
    )  # fmt: skip
    pipe = tiny(scheduler=schedule)
    denoiser = from_pipeline(pipe)
    assert len(denoiser.logsnr_grid) == 999
    z, t = torch.randn(1, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), 500
    logsnr = torch.logit(schedule.alphas_cumprod[[t]].double())
    found = denoiser.eps_hat(z, logsnr, denoiser.encode_conditions(["cow"]))[0, 0]
    schedule.set_timesteps(1000)
    with torch.no_grad():
        hidden = pipe.encode_prompt(["cow"], "cpu", 1, False)[0]
        out = pipe.unet(z[0], t, hidden).sample
    clean = schedule.step(out, t, z[0]).pred_original_sample
    alpha = schedule.alphas_cumprod[t]
    torch.testing.assert_close(found, (z[0] - alpha.sqrt() * clean) / (1 - alpha).sqrt(), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("sequential", [True, False])
def test_offloaded_transformers(sequential, monkeypatch):
    """With the CPU as the executing device; texts are encoded, and the weights are away again afterwards."""
    accelerate = pytest.importorskip("accelerate")
    offload = accelerate.cpu_offload  # which fails for a CPU with a number, as diffusers names it
    monkeypatch.setattr(accelerate, "cpu_offload", lambda part, device, **how: offload(part, device.type, **how))
    pipe, plain = build("sd3"), build("sd3")
    names = ("transformer", "vae", "text_encoder", "text_encoder_2", "text_encoder_3")
    (pipe.enable_sequential_cpu_offload if sequential else pipe.enable_model_cpu_offload)(device="cpu")
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    found, expected = (
        dpid.Explainer(p).explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8) for p in (pipe, plain)
    )
    assert all(torch.equal(f, expected.replicates[name]) for name, f in found.replicates.items())
    assert all(hasattr(getattr(pipe, name), "_hf_hook") for name in names)
    assert (pipe.transformer.pos_embed.proj.weight.device.type == "meta") == sequential
    assert from_pipeline(pipe).precisions == ("float32",)


@pytest.mark.parametrize("kind", ["cpu_offload", "cpu_offload_with_hook"])
def test_an_offloaded_vae_that_overflows_in_half_precision(kind):
    accelerate = pytest.importorskip("accelerate")
    pipe = build("sd3")
    with quiet():
        pipe.vae.half()
    assert pipe.vae.config.force_upcast
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1)) * 2 - 1
    vae = copy.deepcopy(pipe.vae).float()
    with torch.no_grad():
        mode = vae.encode(image).latent_dist.mode()
    getattr(accelerate, kind)(pipe.vae, execution_device=torch.device("cpu"))
    before = [(name, p, p.dtype, p.device) for name, p in pipe.vae.named_parameters()]
    found = from_pipeline(pipe, check=False).encode_image(image)
    expected = (mode - vae.config.shift_factor) * vae.config.scaling_factor
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)  # the same float32 operations
    after = [(name, p, p.dtype, p.device) for name, p in pipe.vae.named_parameters()]
    assert all(b[1] is a[1] and b[2:] == a[2:] for b, a in zip(before, after, strict=True))


@pytest.mark.parametrize("kind", ["leaf_level", "block_level"])
def test_groups_of_layers_that_diffusers_offloads(kind, checked_again):
    """With the CPU as both devices: the network computes in its own type alone, and its weights stay what they are."""
    if not hasattr(diffusers.ModelMixin, "enable_group_offload"):
        pytest.skip("this version of diffusers has no group offloading")
    pipe, plain = build("sd3").to(torch.bfloat16), build("sd3").to(torch.bfloat16)
    pipe.transformer.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=kind,
        **({"num_blocks_per_group": 1} if kind == "block_level" else {}),
    )  # fmt: skip
    before = [(name, id(p), p.dtype) for name, p in pipe.transformer.named_parameters()]
    found, expected = from_pipeline(pipe), from_pipeline(plain, precision="bfloat16")
    assert found.precisions == ("bfloat16",)
    with pytest.raises(ValueError, match="computes in bfloat16 alone, since it is offloaded"):
        found.at("float32")
    z = torch.randn(1, 1, *found.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (d.eps_hat(z, d.logsnr_grid[300:301], d.encode_conditions(["", "cow"])) for d in (found, expected))
    assert torch.equal(ours, theirs)
    assert [(name, id(p), p.dtype) for name, p in pipe.transformer.named_parameters()] == before


def test_a_transformer_with_blocks_on_a_disk(tmp_path):
    accelerate = pytest.importorskip("accelerate")
    pipe, plain = build("sd3"), build("sd3")
    accelerate.disk_offload(pipe.transformer.transformer_blocks, tmp_path, torch.device("cpu"))
    found, expected = from_pipeline(pipe), from_pipeline(plain, precision="float32")
    z = torch.randn(1, 1, *found.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, theirs = (d.eps_hat(z, d.logsnr_grid[300:301], d.encode_conditions(["", "cow"])) for d in (found, expected))
    assert torch.equal(ours, theirs)
    assert found.precisions == ("float32",)
    assert all(p.is_meta for p in pipe.transformer.transformer_blocks.parameters())
