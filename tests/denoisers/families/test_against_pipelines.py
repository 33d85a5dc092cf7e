"""Every family against its own pipeline, which runs for two steps: what its scheduler makes of the last one is ε̂."""

import inspect

import pytest
import torch
from tiny_pipelines import TINY, build

from dpid.denoisers import from_pipeline

TEXT, OTHER = "a cow", "a cow and a giraffe"
SIZES = [(64, 64), (64, 96)]  # pixels (height, width)
# Arguments of a call without guidance and, as further ones, of one whose scheduler is given 2 v̂ - v̂_∅, if there is any.
PLAIN = {"guidance_scale": 1.0}
GUIDED = {"guidance_scale": 2.0}
UNBINNED = {"guidance_scale": 1.0, "use_resolution_binning": False}
SIGMAS = {"sigmas": [1.0, 0.6]}  # by default the last of two steps starts close to the picture, where ε̂ is rounded
CALLS = {
    "sd3": ({**PLAIN, **SIGMAS}, GUIDED),
    "aura_flow": ({**PLAIN, **SIGMAS}, GUIDED),
    "cogview4": ({**PLAIN, "timesteps": [1000, 600]}, GUIDED),
    "hidream": ({**PLAIN, **SIGMAS}, GUIDED),
    "flux": (PLAIN, {"true_cfg_scale": 2.0, "negative_prompt": ""}),
    "flux2": (PLAIN, None),
    "z_image": ({"guidance_scale": 0.0}, PLAIN),
    "sana": ({**UNBINNED, **SIGMAS}, GUIDED),
    "pixart_alpha": ({**UNBINNED, "clean_caption": False}, GUIDED),
    "pixart_sigma": ({**UNBINNED, "clean_caption": False}, GUIDED),
    "lumina2": (PLAIN, {**GUIDED, "cfg_normalization": False}),
    "hunyuan_dit": (UNBINNED, GUIDED),
    "qwen_image": ({"true_cfg_scale": 1.0}, None),  # its guidance changes the norm
}


def relative(found, expected):
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def unpacked(pipe, latents, height, width):
    """Latents [1,C,h,w] of what the scheduler works on, by the pipeline's own functions."""
    if latents.ndim == 4:
        return latents
    if hasattr(pipe, "_unpack_latents"):
        found = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        return found if found.ndim == 4 else found[:, :, 0]
    side = 2 * pipe.vae_scale_factor
    ids = pipe._prepare_latent_ids(latents.new_empty(1, 1, height // side, width // side))
    return pipe._unpatchify_latents(pipe._unpack_latents_with_ids(latents, ids))


def last_step(pipe, text, size, **call):
    """(log-SNR [1], start x and end [1,C,h,w]) of the pipeline's last of two steps, which starts at random numbers."""
    step, found = pipe.scheduler.step, []

    def recorded(out, t, latents, *args, **kwargs):
        result = step(out, t, latents, *args, **kwargs)
        found.append((t, latents, result[0]))
        if len(found) == 2:
            return result
        return (torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents),)

    recorded.__signature__ = inspect.signature(step)  # pipelines look at it
    pipe.scheduler.step = recorded
    try:
        height, width = size
        pipe(prompt=text, height=height, width=width, num_inference_steps=2, output_type="latent", **call)
    finally:
        del pipe.scheduler.step
    (t, *latents), scheduler = found[1], pipe.scheduler
    if "FlowMatch" in type(scheduler).__name__:
        sigma = scheduler.sigmas[-2].double()
        logsnr = 2 * (torch.log1p(-sigma) - sigma.log())
    else:
        logsnr = torch.logit(scheduler.alphas_cumprod[int(t)].double())
    return logsnr[None], *(unpacked(pipe, part, height, width).double() for part in latents)


def in_channel(logsnr, x, clean, flow):
    """z = √σ(λ) x + √σ(-λ) ε and ε of a step from ``x`` to the picture ``clean``."""
    if not flow:
        return x, (x - logsnr.sigmoid().sqrt() * clean) / (-logsnr).sigmoid().sqrt()
    sigma = (-logsnr / 2).sigmoid()
    return x / ((1 - sigma) ** 2 + sigma**2).sqrt(), (x - (1 - sigma) * clean) / sigma


def expected(pipe, name, size):
    """(log-SNR [1], z, ε̂ of ``TEXT``, ε̂ of the pipeline's null), by the pipeline alone."""
    plain, guided = CALLS.get(name, (PLAIN, GUIDED))
    logsnr, x, clean = last_step(pipe, TEXT, size, **plain)
    if guided is None:
        none = last_step(pipe, "", size, **plain)[2]
    else:
        none = 2 * clean - last_step(pipe, TEXT, size, **{**plain, **guided})[2]
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    z, eps = in_channel(logsnr, x, clean, flow)
    return logsnr, z.float(), eps.float(), in_channel(logsnr, x, none, flow)[1].float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TINY)
def test_eps_hat_is_the_pipelines(name, size):
    pipe = build(name)
    denoiser = from_pipeline(pipe)
    logsnr, z, eps, none = expected(pipe, name, size)
    found = denoiser.eps_hat(z[None], logsnr, denoiser.encode_conditions(["", TEXT, OTHER]))[0]
    assert found.dtype == torch.float32
    # float32 of a few layers in another order, and of a division by √σ(-λ) > 0.3.
    assert relative(found[1], eps) < 1e-5
    assert relative(found[0], none) < 1e-5
    assert relative(found[0], eps) > 2e-5  # the texts can be told apart
    assert relative(found[2], eps) > 2e-5
