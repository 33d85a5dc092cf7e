"""Models that predict noise: diffusers pipelines, the embedded models, and exact ones with known answers."""

from dpid.denoisers.exact import GaussianDenoiser, MixtureDenoiser
from dpid.denoisers.network import NetworkDenoiser, from_pipeline
from dpid.denoisers.protocol import Conditions, Denoiser

__all__ = ["Conditions", "Denoiser", "GaussianDenoiser", "MixtureDenoiser", "NetworkDenoiser", "from_pipeline"]
