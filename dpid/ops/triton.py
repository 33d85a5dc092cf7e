"""The Triton backend: imported only when it is asked for, since triton is optional."""

from dpid.triton_kernels.accumulate import accumulate
from dpid.triton_kernels.noisy_channel import noisy_channel

__all__ = ["accumulate", "noisy_channel"]
