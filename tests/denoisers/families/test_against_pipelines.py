"""Every family against its own pipeline, which is run for two steps: what its scheduler makes of the last one is ε̂."""

import inspect
from contextlib import contextmanager

import pytest
import torch
from tiny_pipelines import TINY, build

from dpid.denoisers import from_pipeline

TEXT, OTHER = "a cow", "a cow and a giraffe"
SIZES = [(64, 64), (64, 96)]  # pixels (height, width)
# Of a call with guidance such that the scheduler is given 2 v̂ - v̂_∅, or None if the pipeline has no guidance.
GUIDED = {"guidance_scale": 2.0}


def relative(found, expected):
    return float((found - expected).norm() / expected.norm())


@contextmanager
def last_step(pipe, sample):
    """A list that receives what ``scheduler.step`` is given and makes of it, at a step that starts at ``sample``."""
    step, found = pipe.scheduler.step, []

    def recorded(out, t, latents, *args, **kwargs):
        result = step(out, t, latents, *args, **kwargs)
        if found:
            found.append((t, latents, result[0]))
            return result
        found.append(None)
        start = sample.to(latents) if sample.shape == latents.shape else pack(pipe, sample).to(latents)
        return (start,) if isinstance(result, tuple) else type(result)(prev_sample=start)

    recorded.__signature__ = inspect.signature(step)
    pipe.scheduler.step = recorded
    try:
        yield found
    finally:
        del pipe.scheduler.step


def pack(pipe, latents):
    """Latents [1,C,h,w] in the order in which the pipeline itself packs them."""
    return pipe._pack_latents(latents, *latents.shape)


def pipeline_eps(pipe, x, text, size, **call):
    """(log-SNR [1], z and ε̂ [1,C,h,w]) at the last step of the pipeline's own run from the latents ``x``."""
    height, width = size
    with last_step(pipe, x) as found:
        pipe(prompt=text, height=height, width=width, num_inference_steps=2, output_type="latent", **call)
    t, _, clean = found[-1]
    clean = clean if clean.ndim == 4 else pipe._unpack_latents(clean, height, width, pipe.vae_scale_factor)
    if hasattr(pipe.scheduler, "sigmas"):
        sigma = pipe.scheduler.sigmas[-2].double()
        eps = (x.double() - (1 - sigma) * clean.double()) / sigma
        logsnr = 2 * (torch.log1p(-sigma) - sigma.log())
        return logsnr[None], x / ((1 - sigma) ** 2 + sigma**2).sqrt().float(), eps.float()
    alpha = pipe.scheduler.alphas_cumprod[int(t)].double()
    eps = (x.double() - alpha.sqrt() * clean.double()) / (1 - alpha).sqrt()
    return torch.logit(alpha)[None], x, eps.float()


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", TINY)
def test_eps_hat_is_the_pipelines(name, size):
    pipe = build(name)
    denoiser = from_pipeline(pipe)
    c, factor = denoiser.latent_shape[0], denoiser.family.factor
    x = torch.randn(1, c, size[0] // factor, size[1] // factor, generator=torch.Generator().manual_seed(0))
    logsnr, z, expected = pipeline_eps(pipe, x, TEXT, size, guidance_scale=1.0)
    _, _, guided = pipeline_eps(pipe, x, TEXT, size, guidance_scale=2.0)
    found = denoiser.eps_hat(z[None], logsnr, denoiser.encode_conditions(["", TEXT, OTHER]))[0]
    # float32 of a few layers, in another order; the picture of the last step is subtracted from its start.
    assert relative(found[1], expected) < 1e-5
    assert relative(found[0], 2 * expected - guided) < 2e-5
    assert relative(found[2], expected) > 1e-3  # that it is another text can be told
