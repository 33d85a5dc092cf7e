"""The pipeline adapter against the pipeline itself, called prompt by prompt, and what it must leave alone."""

import pytest
import torch

import dpid
from dpid.denoisers import from_pipeline

PROMPTS = ("", "cow", "giraffe", "cow giraffe")


def latents(n=3, b=2):
    return torch.randn(n, b, 4, 8, 8, generator=torch.Generator().manual_seed(0))


def one_by_one(pipe, z, t, prompts=PROMPTS):
    """The user's way: one UNet call a sample and prompt, hidden states straight from the text encoder."""
    out = torch.empty(z.shape[0], len(prompts), *z.shape[1:])
    pipe.unet.eval()
    with torch.no_grad():
        for k, prompt in enumerate(prompts):
            ids = pipe.tokenizer(prompt, padding="max_length", return_tensors="pt").input_ids
            hidden = pipe.text_encoder(ids).last_hidden_state
            for n in range(len(z)):
                out[n, k] = pipe.unet(z[n], t[n], hidden.expand(z.shape[1], -1, -1)).sample
    return out


def test_equals_the_pipeline_prompt_by_prompt(tiny):
    pipe = tiny()
    denoiser = from_pipeline(pipe)
    z, t = latents(), torch.tensor([0, 500, 999])
    logsnr = denoiser.logsnr_grid.flip(0)[t]
    got = denoiser.eps_hat(z, logsnr, denoiser.encode_conditions(PROMPTS))
    assert got.shape == (3, 4, 2, 4, 8, 8)
    # The same fp32 arithmetic in another batch shape: 1e-5 relative is the contract of exactness.
    torch.testing.assert_close(got, one_by_one(pipe, z, t), rtol=1e-5, atol=1e-5)


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


def test_text_refusals(tiny):
    denoiser = from_pipeline(tiny())
    with pytest.raises(ValueError, match=r"18 tokens, but the text encoder takes 16; 'cow cow' would be cut"):
        denoiser.encode_conditions(["cow " * 16])
    with pytest.raises(ValueError, match=r"does not know 'unicorn'; it knows a, and, "):
        denoiser.encode_conditions(["a unicorn"])
    with pytest.raises(TypeError, match="expected texts"):
        denoiser.encode_conditions([3])


def test_pipeline_refusals(tiny):
    with pytest.raises(ValueError, match="expected a StableDiffusionPipeline"):
        from_pipeline(object())
    with pytest.raises(ValueError, match="precision: found 'int8'"):
        from_pipeline(tiny(), precision="int8")
    with pytest.raises(ValueError, match="prediction_type 'sample'"):
        from_pipeline(tiny("sample"))


def test_nan_is_named_with_its_condition_and_sample(tiny):
    explainer = dpid.Explainer(tiny())
    whole = explainer.denoiser.eps_hat

    def spoiled(z, logsnr, conditions):
        out = whole(z, logsnr, conditions).clone()
        out[(logsnr > 2), 2, :, 1, 3, 3] = torch.nan
        return out

    explainer.denoiser.eps_hat = spoiled
    with pytest.raises(FloatingPointError, match=r"for condition 'giraffe' at log-SNR [2-7]\.\d+ \(sample -?\d+\)"):
        explainer.explain(latents=torch.zeros(4, 8, 8), prompt="cow giraffe", concepts=("cow", "giraffe"))


def test_predictions_too_large_to_square_are_an_error(tiny):
    explainer = dpid.Explainer(tiny())
    whole = explainer.denoiser.eps_hat
    explainer.denoiser.eps_hat = lambda *a: whole(*a).clone().fill_(1e30)
    with pytest.raises(FloatingPointError, match="so large that their squares are not"):
        explainer.explain(latents=torch.zeros(4, 8, 8), prompt="cow giraffe", concepts=("cow", "giraffe"))


@pytest.mark.parametrize("size", [(64, 64), (100, 50), (1, 3000), (517, 803)])
def test_any_size_is_brought_to_what_the_unet_can_halve(tiny, size):
    width, height = from_pipeline(tiny()).size_for(*size)
    assert width % 4 == height % 4 == 0
    assert min(width, height) >= 4
