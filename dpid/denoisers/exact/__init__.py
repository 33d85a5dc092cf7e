"""Denoisers whose answers are known in closed form."""

from dpid.denoisers.exact.base import ExactDenoiser
from dpid.denoisers.exact.gaussian import GaussianDenoiser
from dpid.denoisers.exact.mixture import MixtureDenoiser

__all__ = ["ExactDenoiser", "GaussianDenoiser", "MixtureDenoiser"]
