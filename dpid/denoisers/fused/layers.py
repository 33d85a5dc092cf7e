"""Layers (linear, convolution, norms) as functions of weights under the names that diffusers and transformers use."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.device import free_memory, is_gpu

# Padding, padding of the output, stride, dilation and groups of the transposed convolutions of `Layers.doubled`.
_DOUBLING = (1, 1), (0, 0), (2, 2), (1, 1), 1
_LARGE = 2**22  # bytes of a convolution's weights worth packing: 320 channels are below, 640 above


def add(x: Tensor, y: Tensor) -> Tensor:
    """x [k·M, …] + y [k'·M, …] as [max(k, k')·M, …], where k or k' may be 1; ``x`` may be overwritten."""
    if len(x) >= len(y):
        x.view(-1, len(y), *x.shape[1:]).add_(y)
        return x
    return (y.view(-1, len(x), *y.shape[1:]) + x).flatten(0, 1)


def doubling_kernel(weight: Tensor) -> Tensor:
    """The kernel [C,E,4,4] of the transposed convolution of stride 2 that equals enlarging twice, then ``weight``.

    ``weight`` is that of a convolution 3×3, [E,C,3,3], of a map in which every pixel is repeated 2×2. Each of its
    outputs sees two pixels a side, so that 16 products a pixel and pair of channels do the work of 36.
    """
    wide = weight.detach().double()
    spread = sum(functional.pad(wide, (1 - i, i, 1 - j, j)) for i in (0, 1) for j in (0, 1))
    assert isinstance(spread, Tensor)
    kernel = spread.flip(2, 3).transpose(0, 1).to(weight.dtype)
    return kernel.contiguous(memory_format=torch.channels_last)


def _packs(weight: Tensor) -> bool:
    """Whether oneDNN can pack ``weight`` here."""
    # Writes to a tensor of inference mode leave no trace: the copy could be out of date.
    if weight.device.type != "cpu" or weight.is_inference():
        return False
    bf16 = weight.dtype == torch.bfloat16 and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
    return bf16 or weight.dtype == torch.float32


@torch.inference_mode()
def _packed(weight: Tensor, doubling: bool) -> Tensor:
    """A copy of ``weight`` in the layout in which oneDNN computes.

    It is that of a linear layer [E,C], a convolution [E,C,k,k] or, if ``doubling``, a transposed one [C,E,4,4].
    """
    packed: Tensor
    if weight.ndim == 2:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, None)
    elif doubling:
        packed = torch.ops.mkldnn._reorder_convolution_transpose_weight(weight, *_DOUBLING)
    else:
        pad = [weight.shape[-1] // 2] * 2
        packed = torch._C._nn.mkldnn_reorder_conv2d_weight(weight.to_mkldnn(), pad, [1, 1], [1, 1], 1)
    return packed


class Layers:
    """Layers over ``weights``, {"<layer>.weight" or "<layer>.bias": tensor}, which are shared, not copied.

    Attributes
    ----------
    weights : those given, and those of :meth:`join`
    doubling : {layer: its :func:`doubling_kernel`} of the convolutions that :meth:`doubled` computes
    packed : {layer: its weights in oneDNN's own layout}, those of :meth:`pack`; of ``doubling`` as "<layer>.doubled",
        since of a map with an odd side the layer itself is computed
    """

    def __init__(self, weights: Mapping[str, Tensor], doubling: Iterable[str] = ()) -> None:
        self.weights = dict(weights)
        self.doubling = {name: doubling_kernel(weights[f"{name}.weight"]) for name in doubling}
        self.packed: dict[str, Tensor] = {}
        self._elsewhere = set(self.doubling)  # layers that others compute

    def join(self, layers: Mapping[str, Sequence[str]]) -> None:
        """Add linear layers {name: those whose outputs it returns, one after the other}, which have no biases.

        One product is faster than several of the same input. It copies weights, so that nothing changes if they take
        more than a quarter of the free memory.
        """
        parts = {name: [self.weights[f"{part}.weight"] for part in of] for name, of in layers.items()}
        bytes_ = sum(w.nbytes for of in parts.values() for w in of)
        if not parts or bytes_ > free_memory(next(iter(parts.values()))[0].device) // 4:
            return
        self.weights |= {f"{name}.weight": torch.cat([w.detach() for w in of]) for name, of in parts.items()}
        self._elsewhere.update(part for of in layers.values() for part in of)

    def pack(self) -> None:
        """Copy weights into the layout that they are computed in, which is else done in every call.

        On a GPU convolutions compute in channels-last memory. On the CPU convolutions and linear layers in float32 and
        bfloat16 compute in oneDNN's own layout: on two cores SD 2.1 is 11 % faster with it in float32, where the copy
        takes a fifth of a convolution at 16×16 and 8×8, and packed linear layers are 10 % faster than MKL's. Nothing
        changes if the copy takes more than a quarter of the free memory, or torch lacks the ops for it (they belong to
        its compiler).
        """
        named = {
            name: w
            for name, w in self.weights.items()
            if name.endswith(".weight") and w.ndim in (2, 4) and name.removesuffix(".weight") not in self._elsewhere
        }
        device = next(iter(named.values())).device
        if is_gpu(device):
            named = {name: w for name, w in named.items() if w.ndim == 4}
        bytes_ = sum(w.nbytes for w in (*named.values(), *self.doubling.values()))
        if bytes_ > free_memory(device) // 4:
            return
        if is_gpu(device):
            last = torch.channels_last
            self.weights |= {name: w.detach().contiguous(memory_format=last) for name, w in named.items()}
        elif hasattr(torch.ops.mkldnn, "_linear_pointwise") and torch.backends.mkldnn.is_available():
            self._pack_for_onednn(named)

    def _pack_for_onednn(self, named: Mapping[str, Tensor]) -> None:
        for name, w in named.items():
            if _packs(w) and (w.ndim == 2 or w.nbytes >= _LARGE):  # small convolutions are faster unpacked
                self.packed[name.removesuffix(".weight")] = _packed(w, False)
        self.packed |= {f"{layer}.doubled": _packed(w, True) for layer, w in self.doubling.items() if _packs(w)}

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

    def linear_onto(self, total: Tensor, name: str, x: Tensor) -> Tensor:
        """``total`` [B,T,E], which may be overwritten, plus the linear layer ``name``, without a bias, of x [B,T,D]."""
        if not is_gpu(x.device):
            return add(self.linear(name, x), total)
        # A product reads what it is added to as it writes.
        total.view(-1, total.shape[-1]).addmm_(x.flatten(0, 1), self.weights[f"{name}.weight"].mT)
        return total

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """The LayerNorm ``name`` of x [..., D] over its last dimension: [..., D]."""
        return ops.layer_norm(x, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def conv(
        self, name: str, x: Tensor, stride: int = 1, padding: int | None = None, channels: slice = slice(None),
        later: bool = False,
    ) -> Tensor:  # fmt: skip
        """The output [B,E,H',W'] of the network's convolution ``name`` for x [B,C,H,W], with its bias if it has one.

        The default ``padding`` keeps the size at stride 1. ``channels``: those of the layer's input that x consists of.
        With ``later``, a GPU leaves the bias to :meth:`add`. Otherwise :func:`dpid.ops.add_maps` adds it there, as
        torch does it slowly.
        """
        weight = self.weights[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        bias = self.weights.get(f"{name}.bias")
        if name in self.packed and channels == slice(None):
            out: Tensor = torch.ops.mkldnn._convolution_pointwise(
                x, self.packed[name], bias, (padding,) * 2, (stride,) * 2, (1, 1), 1, "none", [], ""
            )
            return out
        if not is_gpu(x.device):
            return functional.conv2d(x, weight[:, channels], bias, stride, padding)
        out = functional.conv2d(x, weight[:, channels], None, stride, padding)
        return out if later or bias is None else ops.add_maps(out, bias=bias)

    def conv_to_few(self, name: str, x: Tensor) -> Tensor:
        """The convolution 3×3 ``name`` of x [B,C,H,W] to a few channels E: [B,E,H,W].

        On a GPU as a matrix product of every pixel with all 9·E columns, which are then added where they belong: in
        float32 a convolution to four channels takes cuDNN as long as one to 32. Not where torch compiles it, which
        would add them in an order that changes.
        """
        if not is_gpu(x.device) or torch.compiler.is_compiling():
            return self.conv(name, x)
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        columns = x.movedim(1, -1).flatten(1, 2) @ weight.flip(2, 3).movedim(1, 0).flatten(1)  # [B,H·W,E·9]
        return functional.fold(columns.mT, x.shape[-2:], 3, padding=1) + bias[:, None, None]

    def mixed(self, name: str, x: Tensor, y: Tensor) -> Tensor:
        """The convolution 1×1 ``name`` of the channels of x, then y, without a bias: [B,E,H,W]; not joined before.

        In channels-last memory it is a matrix product, to whose result the second is added.
        """
        weight = self.weights[f"{name}.weight"].flatten(1)
        first, second = (t.movedim(1, -1).flatten(0, 2) for t in (x, y))
        out = first @ weight[:, : first.shape[1]].mT
        return out.addmm_(second, weight[:, first.shape[1] :].mT).view(len(x), *x.shape[2:], -1).movedim(-1, 1)

    def add(self, x: Tensor, y: Tensor, later: str = "") -> Tensor:
        """x + y as of :func:`add`, plus the bias of the convolution that left it to be added ``later``."""
        if not is_gpu(x.device):
            return add(x, y)
        return ops.add_maps(x, y, self.weights[f"{later}.bias"] if later else None)

    def doubled(self, name: str, x: Tensor) -> Tensor:
        """The convolution ``name``, one of ``doubling``, of x [B,C,H,W] enlarged to the nearest: [B,E,2H,2W]."""
        bias = self.weights[f"{name}.bias"]
        if (packed := self.packed.get(f"{name}.doubled")) is not None:
            out: Tensor = torch.ops.mkldnn._convolution_transpose_pointwise(x, packed, bias, *_DOUBLING, "none", [], "")
            return out
        if not is_gpu(x.device):
            return functional.conv_transpose2d(x, self.doubling[name], bias, stride=2, padding=1)
        return ops.add_maps(functional.conv_transpose2d(x, self.doubling[name], stride=2, padding=1), bias=bias)

    def group_norm(
        self, name: str, x: Tensor, groups: int, eps: float, channels: slice = slice(None), silu: bool = False,
        added: Tensor | None = None, skip: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The GroupNorm ``name`` of x [B,C,H,W], with SiLU after it if ``silu``: [B,C,H,W].

        ``channels``: those of the layer that x consists of; only their weights are used. ``added`` [B',C] is added to x
        before, as :func:`add` does, which may overwrite x. The channels of ``skip`` [B,C',H,W] follow those of x.
        """
        weight, bias = self.weights[f"{name}.weight"][channels], self.weights[f"{name}.bias"][channels]
        if added is not None and not is_gpu(x.device):  # where it is read in the same pass
            x, added = add(x, added[:, :, None, None]), None
        return ops.group_norm_silu(x, groups, weight, bias, eps, silu, added, skip)

    def add_layer_norm(self, name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """The sum of x [k·M,T,D] and y [M,T,D], as :func:`add` computes it, and its LayerNorm ``name``."""
        if is_gpu(x.device):  # both in one pass
            return ops.add_layer_norm(x, y, self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])
        total = add(x, y)
        return total, self.layer_norm(name, total)
