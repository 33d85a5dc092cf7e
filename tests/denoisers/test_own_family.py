"""A model family from outside the package: a pipeline whose network is the exact velocity of Gaussian pictures."""

import pytest
import torch
from diffusers import AutoencoderKL, ConfigMixin, DiffusionPipeline, FlowMatchEulerDiscreteScheduler, ModelMixin
from diffusers.configuration_utils import register_to_config

import dpid
from dpid.denoisers import GaussianDenoiser
from dpid.denoisers.families import FAMILIES, Family
from dpid.denoisers.levels import Flow

MEANS = {"": 0.0, "cow": 0.4, "giraffe": -0.3, "cow giraffe": 0.9}
VARIANCE = torch.tensor([0.2, 0.7, 1.3, 2.0]).view(4, 1, 1)


class Velocity(ModelMixin, ConfigMixin):
    """E[ε - x | x_σ] of x ~ N(mean, VARIANCE), told 1000 σ: what a perfect rectified-flow network answers."""

    @register_to_config
    def __init__(self, sample_size=8, in_channels=4):
        super().__init__()
        self.variance = torch.nn.Parameter(VARIANCE.clone())

    def forward(self, hidden_states, timestep, mean, return_dict=False):
        sigma = (timestep / 1000).view(-1, 1, 1, 1)
        spread = (1 - sigma) ** 2 * self.variance + sigma**2
        slope = (sigma - (1 - sigma) * self.variance) / spread
        return (-mean + slope * (hidden_states - (1 - sigma) * mean),)


class DotsPipeline(DiffusionPipeline):
    def __init__(self, transformer, vae, scheduler):
        super().__init__()
        self.register_modules(transformer=transformer, vae=vae, scheduler=scheduler)

    def encode_prompt(self, texts):
        return torch.tensor([MEANS[text] for text in texts], dtype=torch.float32).view(-1, 1, 1, 1)

    @torch.no_grad()
    def __call__(self, prompt, height, width, num_inference_steps, generator):
        x = torch.randn(1, 4, height // 2, width // 2, generator=generator)
        self.scheduler.set_timesteps(num_inference_steps)
        for t in self.scheduler.timesteps:
            velocity = self.transformer(x, t[None], self.encode_prompt([prompt]))[0]
            x = self.scheduler.step(velocity, t, x)[0]
        return self.vae.decode(x / 2 + 0.5)[0]


@pytest.fixture
def pipe():
    class Dots(Family):
        pipelines = ("DotsPipeline",)
        tokenizers = {}  # noqa: RUF012
        example = "cow"

        def levels(self):
            return Flow(-9.0, 9.0)

        def encode_texts(self, texts):
            return {"mean": self.pipe.encode_prompt(texts)}

        def inputs(self, x, t, encoded):
            return {"hidden_states": x, "timestep": 1000 * t, **encoded}

    vae = AutoencoderKL(block_out_channels=(8, 8), down_block_types=("DownEncoderBlock2D",) * 2,
                        up_block_types=("UpDecoderBlock2D",) * 2, norm_num_groups=4, shift_factor=0.5,
                        scaling_factor=2.0)  # fmt: skip
    yield DotsPipeline(Velocity(), vae, FlowMatchEulerDiscreteScheduler())
    del FAMILIES["DotsPipeline"]


class Renamed(DotsPipeline):
    """A subclass of a known pipeline is of its family."""


def test_its_numbers_are_those_of_the_exact_model(pipe, caplog):
    """The same samples in the engine: velocity and noise are two ways to say one thing, i agrees to 1e-5 nats."""
    x = 0.7 + torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(1))
    conditions = {(): "", ("cow",): "cow", ("giraffe",): "giraffe", ("cow", "giraffe"): "cow giraffe"}
    flow = dpid.Explainer(pipe, precision="float32")
    exact = GaussianDenoiser({k: (torch.full((4, 8, 8), m), VARIANCE.expand(4, 8, 8)) for k, m in MEANS.items()})
    exact._grid = flow.denoiser.logsnr_grid
    ask = {"latents": x, "conditions": conditions, "samples": 64, "seed": 3}
    ours, theirs = flow.explain(**ask), dpid.Explainer(exact).explain(**ask)
    for name in ("rao-blackwell", "orthogonal"):
        for subset, estimate in ours.estimates[name].information.items():
            # float32 of ε̂ ~ 1e-7, of 64 samples over 18 of log-SNR and 256 numbers: sums of about 1 nat to 1e-5.
            assert estimate.value == pytest.approx(theirs.estimates[name].information[subset].value, abs=1e-5)
    # A thousand nats of noise are subtracted from a thousand: the same rounding, times a thousand.
    for subset, estimate in ours.estimates["standard"].information.items():
        assert estimate.value == pytest.approx(theirs.estimates["standard"].information[subset].value, abs=1e-2)
    assert not caplog.records  # a family without a fused network has nothing to say about it


def test_pictures_and_sizes_by_the_defaults(pipe):
    denoiser = dpid.Explainer(Renamed(pipe.transformer, pipe.vae, pipe.scheduler)).denoiser
    assert denoiser.latent_shape == (4, 8, 8)
    assert denoiser.size_for(40, 10) == (32, 8)
    image = torch.rand(1, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        mode = pipe.vae.encode(image).latent_dist.mode()
    torch.testing.assert_close(denoiser.encode_image(image), (mode - 0.5) * 2, rtol=1e-6, atol=1e-6)  # float32


def test_a_part_that_is_missing_is_named(pipe):
    pipe.vae = None
    with pytest.raises(ValueError, match="pipe: DotsPipeline has no vae; expected a DotsPipeline"):
        dpid.Explainer(pipe)


def test_unknown_again_without_the_family():
    with pytest.raises(ValueError, match=r"^model: found DotsPipeline; supported are "):
        dpid.Explainer(DotsPipeline(Velocity(), None, FlowMatchEulerDiscreteScheduler()))
