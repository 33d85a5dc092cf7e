"""Layers (linear, convolution, norms) as functions of weights under the names that diffusers and transformers use."""

from __future__ import annotations

from collections.abc import Mapping

import psutil
import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.device import is_gpu

_LARGE = 2**22  # bytes of a convolution's weights worth packing: 320 channels are below, 640 above


def add(x: Tensor, y: Tensor) -> Tensor:
    """x [k·M, …] + y [k'·M, …] as [max(k, k')·M, …], where k or k' may be 1; ``x`` may be overwritten."""
    if len(x) >= len(y):
        x.view(-1, len(y), *x.shape[1:]).add_(y)
        return x
    return (y.view(-1, len(x), *y.shape[1:]) + x).flatten(0, 1)


class Layers:
    """Layers over ``weights``, {"<layer>.weight" or "<layer>.bias": tensor}, which are shared, not copied.

    Attributes
    ----------
    packed : {layer: its weights in oneDNN's own layout}, those of :meth:`pack`
    """

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights
        self.packed: dict[str, Tensor] = {}

    def pack(self) -> None:
        """Copy weights of convolutions and linear layers into oneDNN's own layout, which is else done in every call.

        On two cores SD 2.1 is 11 % faster with it: at 16×16 and 8×8 the copy takes a fifth of a convolution, and packed
        linear layers are 10 % faster than MKL's. Small convolutions are faster unpacked. It applies to float32 on the
        CPU, if torch has the ops (they belong to its compiler) and the copy takes less than a quarter of the free
        memory; else nothing changes.
        """
        known = hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available()
        weights = {name: w for name, w in self.weights.items() if name.endswith(".weight") and w.ndim in (2, 4)}
        bytes_ = sum(w.nbytes for w in weights.values())
        if not known or bytes_ > psutil.virtual_memory().available // 4:
            return
        for name, w in weights.items():
            # Writes to a tensor of inference mode leave no trace: the copy could be out of date.
            if w.device.type != "cpu" or w.dtype != torch.float32 or w.is_inference():
                continue
            if w.ndim == 4 and w.nbytes < _LARGE:
                continue
            with torch.inference_mode():
                if w.ndim == 2:
                    packed = torch.ops.mkldnn._reorder_linear_weight(w, None)
                else:
                    pad = [w.shape[-1] // 2] * 2
                    packed = torch._C._nn.mkldnn_reorder_conv2d_weight(w.to_mkldnn(), pad, [1, 1], [1, 1], 1)
            self.packed[name.removesuffix(".weight")] = packed

    def has(self, name: str) -> bool:
        """Whether the weights have a layer ``name``."""
        return f"{name}.weight" in self.weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        """The linear layer ``name`` of x [..., D]: [..., E], with a bias if it has one."""
        if name in self.packed:
            bias = self.weights.get(f"{name}.bias")
            out: Tensor = torch.ops.mkldnn._linear_pointwise(x, self.packed[name], bias, "none", [], "")
            return out
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """The LayerNorm ``name`` of x [..., D] over its last dimension: [..., D]."""
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """The convolution ``name`` of x [B,C,H,W]: [B,E,H',W']; the default ``padding`` keeps the size at stride 1."""
        weight = self.weights[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        if name in self.packed:
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed[name], self.weights[f"{name}.bias"], (padding,) * 2, (stride,) * 2, (1, 1), 1,
                "none", [], "",
            )  # fmt: skip
            return out
        return functional.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding)

    def group_norm(
        self, name: str, x: Tensor, groups: int, eps: float, channels: slice = slice(None), silu: bool = False,
        added: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The GroupNorm ``name`` of x [B,C,H,W], with SiLU after it if ``silu``: [B,C,H,W].

        ``channels``: those of the layer that x consists of; only their weights are used. ``added`` [B',C] is added to x
        before, as :func:`add` does, which may overwrite x.
        """
        weight, bias = self.weights[f"{name}.weight"][channels], self.weights[f"{name}.bias"][channels]
        if added is not None and not is_gpu(x.device):  # where it is read in the same pass
            x, added = add(x, added[:, :, None, None]), None
        return ops.group_norm_silu(x, groups, weight, bias, eps, silu, added)

    def add_layer_norm(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of x [k·M,T,D] and y [M,T,D], as :func:`add` computes it, and its LayerNorm ``name``."""
        if is_gpu(x.device):  # both in one pass
            return ops.add_layer_norm(x, y, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        total = add(x, y)
        return total, self.layer_norm(name, total)
