"""What a family may have instead of plain batches: Stable Diffusion's UNet for all conditions at once."""

from dpid.denoisers.fused.network import FusedNetwork, not_plain, sizes_of

__all__ = ["FusedNetwork", "not_plain", "sizes_of"]
