"""Pipelines with parts replaced, adapted, offloaded or quantised, compared with the pipeline itself."""

import copy
import warnings

import pytest
import torch

import dpid
from dpid.denoisers import from_pipeline

CONCEPTS = ("cow", "giraffe")
PROMPT = "a cow and a giraffe"
IMAGE = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))


def ask(explainer, **options):
    # A rule by which equal calls draw equal samples.
    return explainer.explain(IMAGE, PROMPT, CONCEPTS, **{"samples": 8, "rule": "shifted-grid", **options})


def equal(first, second):
    return all(torch.equal(f, second.replicates[name]) for name, f in first.replicates.items())


def other(tiny, part, seed=9, **changes):
    """Another part of the kind that ``tiny`` makes."""
    made = tiny(**changes)
    torch.manual_seed(seed)
    for p in getattr(made, part).parameters():
        torch.nn.init.normal_(p, std=0.1)
    return getattr(made, part)


REPLACED = {
    "unet": lambda pipe, tiny: setattr(pipe, "unet", other(tiny, "unet")),
    "unet of another size": lambda pipe, tiny: setattr(pipe, "unet", wide(tiny)),
    "vae": lambda pipe, tiny: setattr(pipe, "vae", other(tiny, "vae")),
    "text_encoder": lambda pipe, tiny: setattr(pipe, "text_encoder", other(tiny, "text_encoder")),
    "scheduler": lambda pipe, tiny: setattr(pipe, "scheduler", tiny("v_prediction").scheduler),
    "a view of a weight": lambda pipe, tiny: pipe.unet.conv_in.weight.data.view(-1)[3:].mul_(2),
    "state dict": lambda pipe, tiny: pipe.unet.load_state_dict(other(tiny, "unet").state_dict()),
    "a number in the middle": lambda pipe, tiny: pipe.unet.mid_block.resnets[0].conv2.weight.data[3, 2].fill_(1.0),
    "an attribute": lambda pipe, tiny: setattr(pipe.unet.mid_block.resnets[0], "output_scale_factor", 2.0),
    "padding": lambda pipe, tiny: setattr(pipe.unet.conv_in, "padding_mode", "circular"),
    "a class's method": lambda pipe, tiny: None,
}  # fmt: skip


def wide(tiny):
    unet = other(tiny, "unet", family="sd2")
    unet.register_to_config(sample_size=(8, 16))
    return unet


@pytest.mark.parametrize("change", REPLACED)
@pytest.mark.parametrize("precision", ["float32", "auto"])
def test_what_changes_later_is_what_is_used(tiny, change, precision, monkeypatch):
    """An explainer made before the change gives bit for bit what one made after it gives."""
    pipe = tiny()
    explainer = dpid.Explainer(pipe, precision=precision)
    before = ask(explainer)
    if change == "a class's method":  # as libraries that merge tokens or swap attention patch diffusers
        kind = type(pipe.unet.mid_block.resnets[0])
        forward = kind.forward
        monkeypatch.setattr(kind, "forward", lambda self, *args, **named: 1.5 * forward(self, *args, **named))
    REPLACED[change](pipe, tiny)
    after = ask(explainer)
    assert not equal(before, after)
    assert equal(after, ask(dpid.Explainer(pipe, precision=precision)))


def test_what_was_learnt_of_other_weights_is_forgotten(tiny):
    pipe = tiny()
    explainer = dpid.Explainer(pipe, precision="float32")
    first, second = (ask(explainer, rule="learning") for _ in range(2))
    assert not equal(first, second)
    assert explainer.learnt.rounds == 2
    with torch.no_grad():
        pipe.unet.conv_out.weight.add_(0.1)
    again = ask(explainer, rule="learning")
    assert explainer.learnt.rounds == 1
    assert equal(again, ask(dpid.Explainer(pipe, precision="float32"), rule="learning"))


def test_a_change_back_is_seen_too(tiny):
    pipe = tiny()
    explainer = dpid.Explainer(pipe, precision="float32")
    before = ask(explainer)
    weights = copy.deepcopy(pipe.unet.state_dict())
    with torch.no_grad():
        pipe.unet.conv_out.weight.add_(0.1)
    assert not equal(before, ask(explainer))
    pipe.unet.load_state_dict(weights)
    assert equal(before, ask(explainer))
    hook = pipe.unet.register_forward_hook(lambda m, i, out: out)
    ask(explainer)
    assert not explainer.denoiser.fused
    hook.remove()
    assert equal(before, ask(explainer))
    assert explainer.denoiser.fused


@pytest.mark.parametrize("fused", [True, False])
def test_a_change_in_the_middle_of_a_stream_is_refused(tiny, fused):
    pipe = tiny()
    stream = dpid.Explainer(pipe, fused=fused, precision="float32").stream(
        IMAGE, PROMPT, CONCEPTS, samples=8, max_samples=64
    )  # fmt: skip
    next(stream)
    next(stream)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(3)
    with pytest.raises(RuntimeError, match="pipe: was changed while it was being explained"):
        next(stream)


def test_a_change_between_two_rounds_of_words_is_refused(tiny):
    """Of a prompt of whose words nothing is settled after one round: the network is made of random weights."""
    pipe = tiny()
    explainer = dpid.Explainer(pipe, precision="float32")
    stream = explainer.stream_words(IMAGE, PROMPT, CONCEPTS, samples=64, margin=1e-6)
    assert not next(stream).settled
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(3)
    with pytest.raises(RuntimeError, match="model: was changed meanwhile; start again"):
        next(stream)
    assert next(explainer.stream_words(IMAGE, PROMPT, CONCEPTS, samples=64, margin=1e-6))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"bogus": 1}, "bogus: is no option; allowed are check, compile, control,"),
        ({"samples": 8}, "samples: is not taken where an explainer is made; allowed are check, compile,"),
        ({"device": "cpu"}, "device: is that of the model, chosen in dpid.Explainer.from_pretrained"),
        ({"check": "no"}, "check: found 'no', expected True or False"),
        ({"fused": 3}, "fused: found 3, expected True or False"),
        ({"compile": "x"}, "compile: found 'x', expected True or False"),
    ],
)
def test_options_that_are_none_are_named(tiny, options, message):
    with pytest.raises(TypeError, match=f"^{message}"):
        dpid.Explainer(tiny(), **options)


def test_pictures_under_different_models_are_not_compared(tiny):
    """What was given before stays, and a call after it is one of the changed model alone."""
    pipe, factors = tiny(), []
    explainer, asked = dpid.Explainer(pipe, precision="float32"), {"images": [IMAGE, IMAGE], "samples": 8}

    def changing(done, planned):
        """After the first picture."""
        if factors and done * 2 == planned:
            with torch.no_grad():
                pipe.unet.conv_out.weight.mul_(factors.pop())

    for results in (
        explainer.explain_many(prompts=PROMPT, concepts=CONCEPTS, progress=changing, **asked),
        explainer.log_likelihoods(conditions="cow", progress=changing, **asked),
    ):
        factors.append(3.0)
        assert next(results)[0] == 0
        with pytest.raises(RuntimeError, match="model: was changed meanwhile; start again"):
            next(results)
    factors.append(3.0)
    with pytest.raises(RuntimeError, match="model: was changed"):
        explainer.rank(prompt="cow", progress=changing, **asked)
    assert explainer.rank(prompt="cow", progress=changing, **asked).p_value == 1


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_pipelines_own_network_is_run_once_before_every_round(tiny, monkeypatch, precision):
    """On one small input, also where a fast type is corrected, whose conditions are encoded in float32 too."""
    explainer = dpid.Explainer(tiny(), precision=precision)
    family, runs = explainer.denoiser.family, []
    plain = family.plain
    monkeypatch.setattr(family, "plain", lambda *inputs: runs.append(1) or plain(*inputs))
    result = ask(explainer, samples=32)
    assert explainer.denoiser.fused
    assert (result.metadata.paired > 0) == (precision == "bfloat16")
    assert len(runs) == 1
    for count, _ in enumerate(explainer.stream(IMAGE, PROMPT, CONCEPTS, samples=8, max_samples=24), 2):
        assert len(runs) == count


def test_conditions_of_another_state_are_refused(tiny):
    pipe = tiny()
    denoiser = from_pipeline(pipe)
    old = denoiser.encode_conditions(["cow"])
    pipe.unet = other(tiny, "unet")
    denoiser.encode_conditions(["cow"])
    with pytest.raises(RuntimeError, match="was changed"):
        denoiser.eps_hat(torch.zeros(1, 1, 4, 8, 8), denoiser.logsnr_grid[:1], old)


def test_a_result_does_not_depend_on_the_questions_before_it(tiny, monkeypatch):
    """Though the one in between needs more samples in float32."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("bfloat16", "float32"))
    monkeypatch.setattr("dpid.runner.worth_trying", lambda denoiser, samples: True)
    explainer = dpid.Explainer(tiny())
    first = ask(explainer)
    ask(explainer, samples=256, seed=3, estimator="standard")
    again = ask(explainer)
    assert first.metadata.precision == "bfloat16"
    assert equal(first, again)
    assert first.metadata.correction == again.metadata.correction


def plain_equals_the_pipeline(pipe, tolerance=1e-5):
    """ε̂ of the denoiser against one call of the pipeline's UNet a condition, in the types that the pipeline uses.

    ``tolerance``: of the same calls in another batch shape; by default float32's.
    """
    denoiser = from_pipeline(pipe)
    assert not denoiser.fused
    z, t = torch.randn(2, 1, 4, 8, 8, generator=torch.Generator().manual_seed(0)), torch.tensor([100, 900])
    prompts = ("", "cow")
    with torch.no_grad():
        hidden = pipe.encode_prompt(list(prompts), pipe._execution_device, 1, False)[0]
        want = torch.stack(
            [pipe.unet(z[:, 0].to(hidden.dtype), t, h.expand(2, -1, -1)).sample for h in hidden], 1
        ).float()  # fmt: skip
    got = denoiser.eps_hat(z, denoiser.logsnr_grid.flip(0)[t], denoiser.encode_conditions(prompts))
    assert float((got[:, :, 0].float() - want).norm() / want.norm()) < tolerance
    result = ask(dpid.Explainer(pipe))
    assert result.metadata.precision == denoiser.precision
    with pytest.raises(ValueError, match=r"precision: found 'float16'; this network computes in \w+ alone"):
        dpid.Explainer(pipe, precision="float16")


def test_layers_quantised_by_torch(tiny):
    pipe = tiny()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch announces the end of its own quantisation
        pipe.unet = torch.ao.quantization.quantize_dynamic(pipe.unet, {torch.nn.Linear}, dtype=torch.qint8)
        plain_equals_the_pipeline(pipe, 2e-2)  # eight bits for the range of a whole batch


def test_weights_stored_in_fp8(tiny):
    pipe = tiny().to(torch.bfloat16)
    if not hasattr(pipe.unet, "enable_layerwise_casting"):
        pytest.skip("this release of diffusers does not store weights in another type")
    pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.bfloat16)
    plain_equals_the_pipeline(pipe, 2e-2)  # a few roundings of 2⁻⁸


def test_weights_quantised_by_torchao(tiny):
    quantization = pytest.importorskip("torchao.quantization")
    pipe = tiny()
    quantization.quantize_(pipe.unet, quantization.Int8WeightOnlyConfig())
    plain_equals_the_pipeline(pipe)


@pytest.mark.parametrize("sequential", [True, False])
def test_offloaded_pipelines(tiny, sequential):
    """With the CPU as the executing device: weights lie on "meta" between two calls, and do so again afterwards."""
    accelerate = pytest.importorskip("accelerate")
    pipe, plain = tiny(), tiny()
    parts = [pipe.unet, pipe.vae, pipe.text_encoder]
    for part in parts:
        if sequential:
            accelerate.cpu_offload(part, execution_device=torch.device("cpu"), offload_buffers=True)
        else:
            accelerate.cpu_offload_with_hook(part, execution_device=torch.device("cpu"))
    hooks = [m._hf_hook for part in parts for m in part.modules() if hasattr(m, "_hf_hook")]
    plain_equals_the_pipeline(pipe)
    assert [m._hf_hook for part in parts for m in part.modules() if hasattr(m, "_hf_hook")] == hooks
    assert (pipe.unet.device.type == "meta") == sequential
    expected, got = ask(dpid.Explainer(plain, precision="float32")), ask(dpid.Explainer(pipe))
    assert got.information[CONCEPTS].value == pytest.approx(expected.information[CONCEPTS].value, rel=1e-4)  # float32


def test_lora_layers_and_their_scale(tiny):
    peft = pytest.importorskip("peft")
    pipe = tiny()
    explainer = dpid.Explainer(pipe, precision="float32")
    before = ask(explainer)
    pipe.unet.add_adapter(peft.LoraConfig(r=2, target_modules=["to_q", "to_k"], init_lora_weights=False), "style")
    adapted = ask(explainer)
    assert not explainer.denoiser.fused
    assert not equal(before, adapted)
    pipe.unet.set_adapters(["style"], weights=[0.1])
    assert not equal(adapted, ask(explainer))
    pipe.unet.disable_adapters()
    # Adding nothing: float32 rounding of another path.
    assert ask(explainer).redundancy.value == pytest.approx(before.redundancy.value, rel=1e-3, abs=1e-4)


def test_a_tiny_autoencoder(tiny):
    from diffusers import AutoencoderTiny

    pipe = tiny()
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8), decoder_block_out_channels=(8, 8), num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()  # fmt: skip
    denoiser = from_pipeline(pipe)
    with torch.no_grad():
        theirs = pipe.vae.encode(IMAGE[None] * 2 - 1).latents
    assert torch.equal(denoiser.encode_image(IMAGE[None] * 2 - 1), theirs)
    assert ask(dpid.Explainer(pipe)).maps.redundancy.shape == theirs.shape[-2:]


def test_latents_are_normalised_as_the_pipeline_does(tiny):
    """Decoding what was encoded, as the pipeline does, is what the VAE itself makes of its mode."""
    pipe = tiny(family="xl")
    pipe.vae.register_to_config(latents_mean=[1.0, 2.0, 3.0, 4.0], latents_std=[5.0, 4.0, 3.0, 2.0])
    ours = from_pipeline(pipe).encode_image(IMAGE[None] * 2 - 1)
    seen = []
    pipe.vae.decode = lambda z, *args, **named: seen.append(z) or (torch.zeros(1, 3, 16, 16),)
    pipe(prompt="cow", latents=ours, num_inference_steps=1, timesteps=None, guidance_scale=1.0, denoising_end=None,
         output_type="pt", callback_on_step_end=lambda p, i, t, kept: {"latents": ours},
         callback_on_step_end_tensor_inputs=["latents"])  # fmt: skip
    with torch.no_grad():
        mode = pipe.vae.encode(IMAGE[None] * 2 - 1).latent_dist.mode()
    torch.testing.assert_close(seen[0], mode, rtol=1e-5, atol=1e-5)  # float32, scaled and back


def test_a_textual_inversion_counts_as_the_vectors_that_it_is(tiny):
    pipe = tiny()
    pipe.load_textual_inversion(torch.ones(13, pipe.text_encoder.config.hidden_size), token="<style>")
    denoiser = from_pipeline(pipe)
    assert len(denoiser.encode_conditions(["<style> cow"]).names) == 1
    with pytest.raises(ValueError, match="17 tokens, but the text encoder takes 16"):
        denoiser.encode_conditions(["<style> cow cow"])


def test_sizes_given_as_height_and_width(tiny):
    pipe = tiny()
    pipe.unet.register_to_config(sample_size=(8, 16))
    denoiser = from_pipeline(pipe)
    assert denoiser.latent_shape == (4, 8, 16)
    assert denoiser.size_for(64, 32) == (32, 16)  # of the native shape, the native size
    wide = torch.rand(3, 16, 32, generator=torch.Generator().manual_seed(1))
    result = dpid.Explainer(pipe).explain(wide, PROMPT, CONCEPTS, samples=8)
    assert result.maps.redundancy.shape == (8, 16)


def test_a_pipeline_class_of_ones_own(tiny):
    made = tiny()
    kind = type("MyPipeline", (type(made),), {})
    pipe = kind(**made.components, requires_safety_checker=False)
    expected = ask(dpid.Explainer(made, precision="float32"))
    assert equal(ask(dpid.Explainer(pipe, precision="float32")), expected)


NEEDS = {
    "class_embed_type": ("timestep", "class labels"),
    "encoder_hid_dim_type": ("ip_image_proj", "a picture as a second prompt"),
}


@pytest.mark.parametrize("field", NEEDS)
def test_networks_that_need_more_than_texts_are_refused(tiny, field):
    pipe = tiny()
    value, message = NEEDS[field]
    explainer = dpid.Explainer(pipe)
    setattr(pipe.unet.config, field, value)  # as loading an IP-Adapter does, also afterwards
    for call in (lambda: dpid.Explainer(pipe), lambda: ask(explainer)):
        with pytest.raises(ValueError, match=f"pipe: the UNet of StableDiffusionPipeline needs {message}"):
            call()


def test_pipelines_of_other_kinds_are_named(tiny):
    from diffusers import StableDiffusionSAGPipeline

    pipe = StableDiffusionSAGPipeline(**tiny().components, requires_safety_checker=False)
    with pytest.raises(ValueError, match="found StableDiffusionSAGPipeline, which is not supported; its"):
        dpid.Explainer(pipe)


def test_text_widths_given_by_block(tiny):
    """The configuration has a width a block, all of them that of the text encoder."""
    made = tiny()
    config = {**made.unet.config, "cross_attention_dim": (16, 16)}
    unet = type(made.unet).from_config(config)
    unet.load_state_dict(made.unet.state_dict())
    expected = ask(dpid.Explainer(made, precision="float32"))
    made.unet = unet
    assert equal(ask(dpid.Explainer(made, precision="float32")), expected)
