"""The base class of families whose network is Stable Diffusion's UNet."""

from __future__ import annotations

from typing import ClassVar

from dpid.denoisers.families.discrete import DiscreteFamily


class UNetFamily(DiscreteFamily):
    """A pipeline with a UNet that is conditioned by cross-attention."""

    networks: ClassVar[tuple[str, ...]] = ("UNet2DConditionModel",)
    network = "unet"

    @property
    def step(self) -> int:
        """The UNet's downsampling factor."""
        return int(2 ** (len(self.net_config["block_out_channels"]) - 1))

    @property
    def patch(self) -> int:
        """1: the UNet makes up for what it cannot halve."""
        return 1

    def evaluation_bytes(self, height: int, width: int, itemsize: int) -> int:
        """An upper estimate of the memory of the activations of one evaluation on [C, height, width], in bytes.

        The finest level needs most: in feature maps of the first block's width up to 26, of which 16 are the widest
        feed-forward layer with its input, and most others skip connections and their concatenation.
        """
        return 28 * int(self.net_config["block_out_channels"][0]) * height * width * itemsize
