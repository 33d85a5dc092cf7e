"""The Triton backend: imported only when it is asked for, since triton is optional."""

from dpid.device import on_device
from dpid.triton_kernels import accumulate as _accumulate
from dpid.triton_kernels import add_maps as _add_maps
from dpid.triton_kernels import geglu as _geglu
from dpid.triton_kernels import group_norm_silu as _group_norm_silu
from dpid.triton_kernels import layer_norm as _layer_norm
from dpid.triton_kernels import noisy_channel as _noisy_channel

accumulate = on_device(_accumulate.accumulate)
add_layer_norm = on_device(_layer_norm.add_layer_norm)
add_maps = on_device(_add_maps.add_maps)
geglu = on_device(_geglu.geglu)
group_norm_silu = on_device(_group_norm_silu.group_norm_silu)
layer_norm = on_device(_layer_norm.layer_norm)
noisy_channel = on_device(_noisy_channel.noisy_channel)
