"""Denoisers of distributions with a known density, whose predictions are exact; for tests and examples."""

from dpid.denoisers.exact.base import ExactDenoiser
from dpid.denoisers.exact.gaussian import GaussianDenoiser
from dpid.denoisers.exact.mixture import MixtureDenoiser

__all__ = ["ExactDenoiser", "GaussianDenoiser", "MixtureDenoiser"]
