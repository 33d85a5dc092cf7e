"""Models that predict noise: Stable Diffusion pipelines, and exact ones with known answers."""

from dpid.denoisers.diffusers import DiffusersDenoiser, from_pipeline
from dpid.denoisers.gaussian import GaussianDenoiser
from dpid.denoisers.mixture import MixtureDenoiser
from dpid.denoisers.protocol import Conditions, Denoiser

__all__ = ["Conditions", "Denoiser", "DiffusersDenoiser", "GaussianDenoiser", "MixtureDenoiser", "from_pipeline"]
