"""Every family against its own pipeline, which runs for two steps: what its scheduler makes of the last one is ε̂."""

import inspect
from dataclasses import dataclass

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
    if latents.ndim == 5:  # frames one below the other
        return latents.flatten(2, 3)
    if hasattr(pipe, "vae_spatial_compression_ratio"):  # of videos: two frames of latents
        sides = (side // pipe.vae_spatial_compression_ratio for side in (height, width))
        return pipe._unpack_latents(latents, 2, *sides).flatten(2, 3)
    if hasattr(pipe, "_unpack_latents"):
        found = pipe._unpack_latents(latents, height, width, pipe.vae_scale_factor)
        return found if found.ndim == 4 else found[:, :, 0]
    side = 2 * pipe.vae_scale_factor
    ids = pipe._prepare_latent_ids(latents.new_empty(1, 1, height // side, width // side))
    return pipe._unpatchify_latents(pipe._unpack_latents_with_ids(latents, ids))


def last_step(pipe, text, size, **call):
    """(log-SNR [1], start x and end [1,C,h,w], VAE's input) of the last of two steps, which starts at random x."""
    step, decode, found, decoded = pipe.scheduler.step, pipe.vae.decode, [], []

    def recorded(out, t, latents, *args, **kwargs):
        result = step(out, t, latents, *args, **kwargs)
        found.append((t, latents, result[0]))
        if len(found) == 2:
            return result
        return (torch.randn(latents.shape, generator=torch.Generator().manual_seed(1)).to(latents),)

    recorded.__signature__ = inspect.signature(step)  # pipelines look at it
    pipe.scheduler.step = recorded
    pipe.vae.decode = lambda z, *args, **kwargs: decoded.append(z) or decode(z, *args, **kwargs)
    try:
        height, width = size
        pipe(prompt=text, height=height, width=width, num_inference_steps=2, output_type="pt", **call)
    finally:
        del pipe.scheduler.step, pipe.vae.decode
    (t, *latents), scheduler = found[1], pipe.scheduler
    if "FlowMatch" in type(scheduler).__name__:
        sigma = scheduler.sigmas[-2].double()
        logsnr = 2 * (torch.log1p(-sigma) - sigma.log())
    else:
        logsnr = torch.logit(scheduler.alphas_cumprod[int(t)].double())
    start, end = (unpacked(pipe, part, height, width).double() for part in latents)
    return logsnr[None], start, end, decoded[0]


def in_channel(logsnr, x, clean, flow):
    """z = √σ(λ) x + √σ(-λ) ε and ε of a step from ``x`` to the picture ``clean``, in float32."""
    if not flow:
        return x.float(), ((x - logsnr.sigmoid().sqrt() * clean) / (-logsnr).sigmoid().sqrt()).float()
    sigma = (-logsnr / 2).sigmoid()
    return (x / ((1 - sigma) ** 2 + sigma**2).sqrt()).float(), ((x - (1 - sigma) * clean) / sigma).float()


@dataclass
class Expected:
    """At a log-SNR [1] and z [1,C,h,w]: ε̂ of ``TEXT`` and of no text; a picture's latents, and the VAE's for it."""

    logsnr: torch.Tensor
    z: torch.Tensor
    eps: torch.Tensor
    none: torch.Tensor
    clean: torch.Tensor
    decoded: torch.Tensor


def expected(pipe, name, size):
    """What the pipeline alone computes."""
    plain, guided = CALLS.get(name, (PLAIN, GUIDED))
    logsnr, x, clean, decoded = last_step(pipe, TEXT, size, **plain)
    if guided is None:
        none = last_step(pipe, "", size, **plain)[2]
    else:
        none = 2 * clean - last_step(pipe, TEXT, size, **{**plain, **guided})[2]
    flow = "FlowMatch" in type(pipe.scheduler).__name__
    z, eps = in_channel(logsnr, x, clean, flow)
    return Expected(logsnr, z, eps, in_channel(logsnr, x, none, flow)[1], clean.float(), decoded)


@pytest.mark.parametrize("name", TINY)
def test_eps_hat_and_latents_are_the_pipelines(name):
    pipe = build(name)
    denoiser = from_pipeline(pipe)
    conditions = denoiser.encode_conditions(["", TEXT, OTHER])
    for size in SIZES:
        truth = expected(pipe, name, size)
        found = denoiser.eps_hat(truth.z[None], truth.logsnr, conditions)[0]
        assert found.dtype == torch.float32
        # float32 of a few layers in another order, and of a division by √σ(-λ) > 0.3.
        assert relative(found[1], truth.eps) < 1e-5
        assert relative(found[0], truth.none) < 1e-5
        assert relative(found[0], truth.eps) > 2e-5  # the texts can be told apart
        assert relative(found[2], truth.eps) > 2e-5
        mode = truth.decoded.flatten(2, 3) if truth.decoded.ndim == 5 else truth.decoded  # of a video's VAE
        assert relative(denoiser.family.normalise(mode), truth.clean) < 1e-6  # float32 of one scale and shift
        height, width = (side * denoiser.family.factor for side in truth.z.shape[2:])
        shape = (height, width) if denoiser.frames is None else (denoiser.frames, height // 2, width)
        assert denoiser.encode_image(torch.zeros(1, 3, *shape)).shape == truth.z.shape


# bfloat16 rounds by 2⁻⁹ at most, weights and activations; it adds up over the encoder's and the network's few layers.
BFLOAT16 = 2e-2


@pytest.mark.parametrize("name", TINY)
def test_half_precision(name):
    """Weights in bfloat16, computed with in bfloat16 and in float32, against the pipeline's float32."""
    pipe = build(name)
    truth = expected(pipe, name, SIZES[0])
    model = from_pipeline(pipe.to(torch.bfloat16))
    assert model.precisions == ("float32", "bfloat16")
    for denoiser in (model, model.at("float32")):
        found = denoiser.eps_hat(truth.z[None], truth.logsnr, denoiser.encode_conditions(["", TEXT]))[0]
        assert 1e-5 < relative(found[1], truth.eps) < BFLOAT16
        assert relative(found[0], truth.none) < BFLOAT16
    assert pipe.vae.dtype == getattr(pipe, model.family.network).dtype == torch.bfloat16
