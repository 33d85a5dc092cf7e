"""Stable Diffusion's UNet for all conditions at once: computations that do not depend on the text are done once."""

from dpid.denoisers.fused.runner import FusedNetwork, not_plain, sizes_of

__all__ = ["FusedNetwork", "not_plain", "sizes_of"]
