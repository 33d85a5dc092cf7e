"""Models that predict the noise in noised latents: diffusers pipelines, embedded models, exact closed-form models."""

from dpid.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from dpid.denoisers.network import NetworkDenoiser, from_pipeline
from dpid.denoisers.protocol import Conditions, Denoiser

__all__ = ["Conditions", "Denoiser", "GaussianDenoiser", "MixtureDenoiser", "NetworkDenoiser", "from_pipeline"]
