"""The Triton backend: imported only when it is asked for, since triton is optional."""

from dpid.triton_kernels.accumulate import accumulate
from dpid.triton_kernels.condition_attention import condition_attention
from dpid.triton_kernels.geglu import geglu
from dpid.triton_kernels.group_norm_silu import group_norm_silu
from dpid.triton_kernels.noisy_channel import noisy_channel

__all__ = ["accumulate", "condition_attention", "geglu", "group_norm_silu", "noisy_channel"]
