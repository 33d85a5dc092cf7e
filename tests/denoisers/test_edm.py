"""Networks that are preconditioned as of EDM, compared with their pipeline's own last step."""

import functools
import math

import diffusers
import pytest
import torch

import dpid
from dpid import zoo
from dpid.denoisers import from_pipeline


@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "EDMDPMSolverMultistepScheduler"])
def test_networks_of_edm(tiny, kind, prediction):
    """Playground 2.5, a UNet of Stable Diffusion XL that is told log σ / 4: ε̂ is (x_σ - x̂) / σ of its own last step."""
    pipe = tiny(family="xl", scheduler=getattr(diffusers, kind)(prediction_type=prediction))
    mean, std = [0.1, -0.2, 0.3, 0.0], [0.8, 1.2, 1.0, 0.9]
    pipe.vae.register_to_config(latents_mean=mean, latents_std=std, scaling_factor=0.5)
    denoiser, found = from_pipeline(pipe), []
    assert denoiser.fused
    assert float(denoiser.logsnr_grid[0]) == pytest.approx(-2 * math.log(80))
    step = pipe.scheduler.step

    @functools.wraps(step)  # the pipeline looks at its signature
    def recorded(out, t, x, **more):
        result = step(out, t, x, **more)
        found.append((pipe.scheduler.sigmas[len(found)].double(), x, result[0]))
        return result

    pipe.scheduler.step = recorded
    size = {"height": 16, "width": 24}
    image = pipe("cow", num_inference_steps=4, guidance_scale=1.0, output_type="latent", **size).images
    del pipe.scheduler.step
    conditions = denoiser.encode_conditions(["cow"])
    sigma, x, clean = found[-1]
    assert torch.equal(clean, image)
    z = (x.double() / (1 + sigma**2).sqrt()).float()
    eps = denoiser.eps_hat(z[None], -2 * sigma.log()[None], conditions)[0, 0]
    # Float32 of x̂, of whose difference from x the scheduler's noise is made, relative to σ.
    tolerance = 1e-6 / float(sigma)
    torch.testing.assert_close(eps, ((x - clean).double() / sigma).float(), rtol=tolerance, atol=tolerance)
    pixels = torch.rand(1, 3, 16, 24, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mode = pipe.vae.encode(pixels).latent_dist.mode()
    standard = (mode - torch.tensor(mean).view(4, 1, 1)) * 0.5 / torch.tensor(std).view(4, 1, 1)
    torch.testing.assert_close(denoiser.encode_image(pixels), standard, rtol=1e-5, atol=1e-5)  # float32


@pytest.mark.parametrize("kind", ["DPMSolverMultistepScheduler", "EulerDiscreteScheduler"])
def test_networks_of_edm_under_another_scheduler_are_refused(tiny, kind):
    """Made of the configuration of EDM's, which it keeps, or told log σ / 4 by Euler's."""
    edm = diffusers.EDMEulerScheduler(sigma_data=0.5)
    euler = diffusers.EulerDiscreteScheduler(timestep_type="continuous", prediction_type="v_prediction")
    other = euler if kind.startswith("Euler") else getattr(diffusers, kind).from_config(edm.config)
    with pytest.raises(ValueError, match=f"^pipe: its {kind} is for a network that is preconditioned as of EDM"):
        from_pipeline(tiny(family="xl", scheduler=other))


def test_networks_of_edm_are_explained_and_sampled(tiny):
    pipe = tiny(family="xl", scheduler=diffusers.EDMDPMSolverMultistepScheduler())
    (picture,) = zoo.generate(pipe, ["a cow and a giraffe"], steps=3)
    result = dpid.Explainer(pipe).explain(picture, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert result.metadata.logsnr_range == pytest.approx((-2 * math.log(80), -2 * math.log(0.002)))
