"""Denoisers of pipelines, compared with the pipeline called prompt by prompt; the pipeline is not changed."""

import threading

import pytest
import torch

import dpid
from dpid.denoisers import from_pipeline

PROMPTS = ("", "cow", "giraffe", "cow giraffe")


def latents(n=3, b=2):
    return torch.randn(n, b, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def embedded(pipe, prompt):
    """Hidden states and, for XL, pooled text and sizes of ``prompt``, straight from the text encoders."""
    ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
    if not hasattr(pipe, "text_encoder_2"):
        return pipe.text_encoder(ids).last_hidden_state, {}
    first = pipe.text_encoder(ids, output_hidden_states=True)
    second = pipe.text_encoder_2(ids, output_hidden_states=True)
    hidden, pooled = torch.cat((first.hidden_states[-2], second.hidden_states[-2]), -1), second.text_embeds
    if not prompt:  # what its own guidance takes for no prompt
        _, hidden, _, pooled = pipe.encode_prompt("cow", do_classifier_free_guidance=True)
    sizes = torch.tensor([[16.0, 16.0, 0.0, 0.0, 16.0, 16.0]])
    return hidden, {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": sizes}}


def one_by_one(pipe, z, t, prompts=PROMPTS):
    """The user's way: one UNet call a sample, image and prompt."""
    out = torch.empty(z.shape[0], len(prompts), *z.shape[1:])
    pipe.unet.eval()
    with torch.no_grad():
        for k, prompt in enumerate(prompts):
            hidden, extra = embedded(pipe, prompt)
            for n in range(len(z)):
                for b in range(z.shape[1]):
                    out[n, k, b] = pipe.unet(z[n, b : b + 1], t[n], hidden, **extra).sample[0]
    return out


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
@pytest.mark.parametrize("fused", [True, False])
def test_equals_the_pipeline_prompt_by_prompt(tiny, family, fused):
    pipe = tiny(family=family)
    denoiser = from_pipeline(pipe, fused=fused)
    assert denoiser.fused == fused
    z, t = latents(), torch.tensor([0, 500, 999])
    logsnr = denoiser.logsnr_grid.flip(0)[t]
    conditions = denoiser.encode_conditions(PROMPTS)
    got = denoiser.eps_hat(z, logsnr, conditions)
    assert got.shape == (3, 4, 2, 4, 8, 8)
    # The same fp32 arithmetic in another batch shape: rounding leaves less than 1e-5.
    torch.testing.assert_close(got, one_by_one(pipe, z, t), rtol=1e-5, atol=1e-5)
    some = denoiser.eps_hat(z, logsnr, conditions[1:3])
    torch.testing.assert_close(some, got[:, 1:3], rtol=1e-5, atol=1e-5)


class LoraLike(torch.nn.Linear):
    """Stands for a layer of an adapter library: it computes something else than its class's name says."""

    def forward(self, x):
        return super().forward(x) + 0.1


class OtherProcessor:
    """A custom attention processor that halves what attention says."""

    def __init__(self):
        from diffusers.models.attention_processor import AttnProcessor2_0

        self.inner = AttnProcessor2_0()

    def __call__(self, attn, hidden_states, encoder_hidden_states=None, attention_mask=None, temb=None):
        return self.inner(attn, hidden_states, encoder_hidden_states, attention_mask, temb) / 2


def lora(pipe):
    attention = pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn2
    adapted = LoraLike(attention.to_q.in_features, attention.to_q.out_features, bias=False)
    adapted.load_state_dict(attention.to_q.state_dict())
    attention.to_q = adapted


CHANGES = {
    "LoraLike": lora,
    "OtherProcessor": lambda pipe: pipe.unet.set_attn_processor(OtherProcessor()),
    "FreeU is on": lambda pipe: pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.5, b2=1.6),
    "a forward hook": lambda pipe: pipe.unet.mid_block.register_forward_hook(lambda m, i, out: 2 * out),
    "differs from the pipeline's UNet by": lambda pipe: setattr(
        pipe.unet.mid_block.attentions[0].transformer_blocks[0].attn1, "rescale_output_factor", 2.0
    ),
}


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("change", CHANGES)
def test_what_the_fused_path_does_not_know_runs_as_a_plain_batch(tiny, caplog, change, late):
    """Whether the user's change comes before or after the denoiser was made; never a wrong number, one logged line."""
    pipe = tiny(family="sd2")
    if not late:
        CHANGES[change](pipe)
    denoiser = from_pipeline(pipe)
    if late:
        assert denoiser.fused
        CHANGES[change](pipe)
    z, t = latents(2), torch.tensor([100, 900])
    got = denoiser.eps_hat(z, denoiser.logsnr_grid.flip(0)[t], denoiser.encode_conditions(PROMPTS))
    assert not denoiser.fused
    denoiser.encode_conditions(PROMPTS)
    lines = [r.getMessage() for r in caplog.records if r.name == "dpid"]
    assert len(lines) == 1
    assert change in lines[0]
    torch.testing.assert_close(got, one_by_one(pipe, z, t), rtol=1e-5, atol=1e-5)  # as above


def test_weights_changed_later_are_the_ones_used(tiny):
    pipe = tiny()
    denoiser = from_pipeline(pipe)
    with torch.no_grad():
        pipe.unet.conv_out.weight.mul_(3)  # in place
    denoiser.encode_conditions(PROMPTS)
    pipe.unet.conv_in = torch.nn.Conv2d(4, 8, 3, padding=1)  # replaced
    denoiser.encode_conditions(PROMPTS)
    for p in pipe.unet.parameters():
        p.data.mul_(0.9)  # as an average of weights is put in, and counts no version
    z, t = latents(2), torch.tensor([100, 900])
    got = denoiser.eps_hat(z, denoiser.logsnr_grid.flip(0)[t], denoiser.encode_conditions(PROMPTS))
    assert denoiser.fused
    torch.testing.assert_close(got, one_by_one(pipe, z, t), rtol=1e-5, atol=1e-5)  # as above


def test_half_precision_pipelines(tiny):
    """An fp16 pipeline computed in fp32 is that of its own rounded weights; its VAE is upcast without being changed."""
    pipe = tiny()
    with torch.no_grad():
        for p in pipe.unet.parameters():
            p.copy_(p.half())
    z, t = latents(2), torch.tensor([100, 900])
    expected = one_by_one(pipe, z, t)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 2 - 1
    pipe.unet.half()
    pipe.vae.half()
    for fused in (True, False):
        denoiser = from_pipeline(pipe, fused=fused, precision="float32")
        assert denoiser.family.precision == "float16"
        got = denoiser.eps_hat(z, denoiser.logsnr_grid.flip(0)[t], denoiser.encode_conditions(PROMPTS))
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)  # as above
    before = denoiser.encode_image(image)
    assert pipe.vae.dtype == pipe.unet.dtype == torch.float16
    with torch.no_grad():
        theirs = pipe.vae.float().encode(image).latent_dist.mode() * pipe.vae.config.scaling_factor
    torch.testing.assert_close(before, theirs, rtol=1e-6, atol=1e-6)  # the same fp32 operations


def test_v_prediction_gives_the_schedulers_own_picture(tiny):
    pipe = tiny("v_prediction")
    denoiser = from_pipeline(pipe)
    z, t = latents(), torch.tensor([20, 500, 980])
    logsnr = denoiser.logsnr_grid.flip(0)[t]
    eps_hat = denoiser.eps_hat(z, logsnr, denoiser.encode_conditions(PROMPTS))
    v = one_by_one(pipe, z, t)
    pipe.scheduler.set_timesteps(1000)
    for n in range(3):
        a, b = logsnr[n].sigmoid().sqrt(), (-logsnr[n]).sigmoid().sqrt()
        ours = (z[n] - b * eps_hat[n, 1]) / a
        theirs = pipe.scheduler.step(v[n, 1], int(t[n]), z[n]).pred_original_sample
        # fp32 rounding of ε̂, divided by a = 0.07 at the noisiest level.
        torch.testing.assert_close(ours.float(), theirs, rtol=1e-4, atol=1e-4)


def test_shape_and_range(tiny):
    denoiser = from_pipeline(tiny())
    assert denoiser.latent_shape == (4, 8, 8)
    ends = denoiser.logsnr_grid[[0, -1]].tolist()
    assert ends == pytest.approx((-5.364, 7.069), abs=1e-3)  # of Stable Diffusion's schedule


def test_levels_are_those_of_the_scheduler(tiny):
    pipe = tiny()
    grid = from_pipeline(pipe).logsnr_grid
    alphas = pipe.scheduler.alphas_cumprod.double()
    torch.testing.assert_close(grid.flip(0).sigmoid(), alphas, rtol=1e-12, atol=0)
    assert (grid.diff() > 0).all()


def test_a_level_off_the_grid_is_refused(tiny):
    denoiser = from_pipeline(tiny())
    with pytest.raises(ValueError, match=r"off the trained grid, -5\.364…7\.069"):
        denoiser.eps_hat(latents(1), torch.tensor([9.0]), denoiser.encode_conditions(PROMPTS))


def test_nothing_of_the_user_changes(tiny):
    pipe = tiny(dropout=0.5)
    pipe.unet.train()
    pipe.text_encoder.eval()
    flags = [m.training for part in (pipe.unet, pipe.vae, pipe.text_encoder) for m in part.modules()]
    weights = {k: v.clone() for k, v in pipe.unet.state_dict().items()}
    processors, scheduler = dict(pipe.unet.attn_processors), pipe.scheduler
    torch.manual_seed(5)
    before = torch.get_rng_state()
    image = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(1))
    first = dpid.Explainer(pipe).explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert torch.equal(torch.get_rng_state(), before)
    assert flags == [m.training for part in (pipe.unet, pipe.vae, pipe.text_encoder) for m in part.modules()]
    assert pipe.unet.attn_processors == processors
    assert pipe.scheduler is scheduler
    assert all(torch.equal(v, weights[k]) for k, v in pipe.unet.state_dict().items())
    # Dropout was off, so a second run gives the very same numbers.
    second = dpid.Explainer(pipe).explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert first.redundancy == second.redundancy


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
def test_text_encoders_have_no_hooks_afterwards(tiny, family):
    pipe = tiny(family=family)
    from_pipeline(pipe, check=False).encode_conditions(["a cow"])
    encoders = [part for name, part in pipe.components.items() if name.startswith("text_encoder")]
    assert not any(m._forward_hooks or "_output_capturing_hooks_installed" in vars(m)
                   for encoder in encoders for m in encoder.modules())  # fmt: skip


def test_text_refusals(tiny):
    denoiser = from_pipeline(tiny())
    with pytest.raises(ValueError, match=r"18 tokens, but the text encoder takes 16; 'cow cow' would be cut"):
        denoiser.encode_conditions(["cow " * 16])
    with pytest.raises(ValueError, match=r"does not know 'unicorn'; it knows a, and, "):
        denoiser.encode_conditions(["a unicorn"])
    with pytest.raises(TypeError, match="expected texts"):
        denoiser.encode_conditions([3])


def test_pipeline_refusals(tiny):
    with pytest.raises(ValueError, match=r"^model: found object; supported are .*, StableDiffusionPipeline, "):
        from_pipeline(object())
    with pytest.raises(ValueError, match="precision: found 'int8'"):
        from_pipeline(tiny(), precision="int8")
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        from_pipeline(tiny("sample"))
    from diffusers import EulerDiscreteScheduler, FlowMatchEulerDiscreteScheduler

    from_pipeline(tiny(scheduler=EulerDiscreteScheduler(steps_offset=1)))
    flow = tiny()
    flow.scheduler = FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="FlowMatchEulerDiscreteScheduler has no trained noise levels"):
        from_pipeline(flow)


def test_a_change_may_leave_fewer_types(tiny, monkeypatch):
    """A hook, as of an adapter, takes the place of the fused UNet, which alone turns bfloat16 into float16."""
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("float16", "float32"))
    monkeypatch.setattr("dpid.runner.worth_trying", lambda denoiser, samples: True)
    pipe = tiny().to(torch.bfloat16)
    explainers = dpid.Explainer(pipe), dpid.Explainer(pipe, precision="float16")
    pipe.unet.register_forward_hook(lambda module, inputs, out: None)
    how = {"latents": torch.randn(4, 8, 8), "prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe")}
    for explainer in explainers:
        assert explainer.denoiser.precision == "float16"
        explainer.denoiser.refresh()
    assert explainers[0].explain(**how, samples=8).metadata.precision == "float32"
    with pytest.raises(ValueError, match="precision: found 'float16'; this network computes in float32 or bfloat16"):
        explainers[1].explain(**how, samples=8)


def test_a_network_that_torch_has_compiled_is_what_it_was(tiny):
    pipe, plain = tiny(), from_pipeline(tiny())
    pipe.unet = torch.compile(pipe.unet, backend=lambda module, inputs: pytest.fail("it was compiled"))
    denoiser = from_pipeline(pipe)
    assert denoiser.fused
    assert denoiser.precisions == plain.precisions
    z, t = latents(), plain.logsnr_grid[[0, 500, 999]]
    got, want = (one.eps_hat(z, t, one.encode_conditions(PROMPTS)) for one in (denoiser, plain))
    assert torch.equal(got, want)


def test_pipelines_that_share_a_part_take_turns(tiny):
    """A thread that uses one waits for the other, whichever part it is that they share, and two others do not."""
    first, second, apart = tiny(), tiny(), tiny()
    second.unet = first.unet
    held, others = from_pipeline(first), [from_pipeline(second), from_pipeline(apart)]

    def free(denoiser, seconds):
        def enter():
            with denoiser.lock:
                entered.set()

        entered, thread = threading.Event(), threading.Thread(target=enter)
        thread.start()
        return entered.wait(seconds), thread

    with held.lock:
        # A busy machine may be slow to let the one in that may enter.
        found = [free(other, seconds) for other, seconds in zip(others, (0.3, 60), strict=True)]
        assert [answer for answer, _ in found] == [False, True]
    for _, thread in found:
        thread.join()


def test_a_type_that_was_asked_for_is_kept(tiny, monkeypatch):
    monkeypatch.setattr("dpid.estimation.precision.candidates", lambda device: ("bfloat16", "float32"))
    pipe = tiny()
    assert dpid.Explainer(from_pipeline(pipe)).denoiser.precision == "bfloat16"
    assert dpid.Explainer(from_pipeline(pipe, precision="float32")).denoiser.precision == "float32"
    assert dpid.Explainer(from_pipeline(pipe).at("float32")).denoiser.precision == "float32"
    coarse = dpid.Explainer(from_pipeline(pipe, precision="float32"), precision="bfloat16")
    assert coarse.denoiser.precision == "bfloat16"


def test_types_share_what_is_derived_from_the_pipeline(tiny):
    denoiser = from_pipeline(tiny())
    assert denoiser.at("bfloat16").network is denoiser.at("bfloat16").network
    assert denoiser.at("float32").network is denoiser.network is not denoiser.at("bfloat16").network


def test_nan_is_named_with_its_condition_and_sample(tiny):
    explainer = dpid.Explainer(tiny(), precision="float32")
    whole = explainer.denoiser.eps_hat

    def spoiled(z, logsnr, conditions):
        out = whole(z, logsnr, conditions).clone()
        out[(logsnr > 2), 2, :, 1, 3, 3] = torch.nan
        return out

    explainer.denoiser.eps_hat = spoiled
    with pytest.raises(FloatingPointError, match=r"for condition 'giraffe' at log-SNR [2-7]\.\d+ \(sample -?\d+\)"):
        explainer.explain(latents=torch.zeros(4, 8, 8), prompt="cow giraffe", concepts=("cow", "giraffe"))


def test_predictions_too_large_to_square_are_an_error(tiny):
    explainer = dpid.Explainer(tiny(), precision="float32")
    whole = explainer.denoiser.eps_hat
    explainer.denoiser.eps_hat = lambda *a: whole(*a).clone().fill_(1e30)
    with pytest.raises(FloatingPointError, match="so large that their squares are not"):
        explainer.explain(latents=torch.zeros(4, 8, 8), prompt="cow giraffe", concepts=("cow", "giraffe"))


@pytest.mark.parametrize("size", [(64, 64), (100, 50), (1, 3000), (517, 803)])
def test_any_size_is_brought_to_what_the_unet_can_halve(tiny, size):
    width, height = from_pipeline(tiny()).size_for(*size)
    assert width % 4 == height % 4 == 0
    assert min(width, height) >= 4
