"""Runs the fused UNet in place of a pipeline's own, in one precision and by CUDA graphs; and tells when it may."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from copy import copy
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor, nn

from dpid.denoisers.fused.compiled import Compiled
from dpid.denoisers.fused.graphs import Graphed
from dpid.denoisers.fused.unet import FusedUNet, KeysValues, unsupported
from dpid.denoisers.modes import PRECISIONS
from dpid.device import repeatable

# The last layers stay in fp32: their rounding biases the squared errors most, and they take next to no time.
_LAST = ("conv_norm_out.", "conv_out.")
# Classes of the modules of a plain Stable Diffusion UNet. LoRA, IP-Adapter and the like add modules of other classes.
_MODULES = {
    "Attention", "BasicTransformerBlock", "Conv2d", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "DownBlock2D",
    "Downsample2D", "Dropout", "FeedForward", "GEGLU", "GroupNorm", "LayerNorm", "Linear", "ModuleList",
    "ResnetBlock2D", "SiLU", "TimestepEmbedding", "Timesteps", "Transformer2DModel", "UNet2DConditionModel",
    "UNetMidBlock2DCrossAttn", "UpBlock2D", "Upsample2D",
}  # fmt: skip
_PROCESSORS = {"AttnProcessor", "AttnProcessor2_0"}


def not_plain(unet: nn.Module) -> str | None:
    """What makes ``unet`` differ from a plain Stable Diffusion UNet (another module, a hook, …), or None."""
    for name, module in unet.named_modules():
        kind = type(module)
        if kind.__name__ not in _MODULES or not kind.__module__.startswith(("diffusers.models.", "torch.nn.modules.")):
            return f"{name or 'the UNet'} is a {kind.__module__.split('.')[0]} {kind.__name__}"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"{name or 'the UNet'} has a forward hook"
        processor = getattr(module, "processor", None)
        if processor is not None and type(processor).__name__ not in _PROCESSORS:
            return f"{name} has a {type(processor).__name__}"
        if any(getattr(module, factor, None) is not None for factor in ("s1", "s2", "b1", "b2")):
            return "FreeU is on"
    for name, p in unet.named_parameters():
        if p.dtype not in PRECISIONS.values() or type(p.data) is not Tensor:
            return f"{name} is quantised"
    return unsupported(unet.config)  # type: ignore[arg-type]


@lru_cache(maxsize=16)  # a copy from the host in every call would make it wait for the device
def _sizes(height: int, width: int, device: torch.device) -> Tensor:
    return torch.tensor([[height, width, 0, 0, height, width]], device=device)


def sizes_of(x: Tensor, factor: int) -> Tensor:
    """SDXL's size conditioning [1, 6] for latents ``x`` [*,h,w]: original size, crop (0, 0), target size, in pixels."""
    height, width = x.shape[-2:]
    return _sizes(height * factor, width * factor, x.device)


Changing = tuple[Tensor, Tensor, Tensor | None, int]  # x, t, what SD XL adds to t, and images


def _called(unet: FusedUNet, changing: Changing, keys_values: KeysValues) -> Tensor:
    """The output [M,K,C,h,w], in the order in which it is summed up: of a graph's memory it is copied once, in that."""
    x, t, added, images = changing
    return unet(x, t, keys_values, added, images).transpose(0, 1)


class FusedNetwork:
    """The fused UNet in one precision; calling it gives the output for all conditions.

    Parameters
    ----------
    config, weights : of a ``UNet2DConditionModel``; weights that already have the type of ``precision`` are shared
    precision : "float32", "bfloat16" or "float16"
    factor : the side of a latent pixel in pixels
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor], precision: str, factor: int) -> None:
        self.dtype, self._factor, self._precision = PRECISIONS[precision], factor, precision
        typed = {name: w.to(torch.float32 if name.startswith(_LAST) else self.dtype) for name, w in weights.items()}
        self.unet = FusedUNet(config, typed)
        self.unet.pack()
        # Not a method: a circle would keep the memory of a network that is no longer used.
        self._call = partial(_called, self.unet)
        self.graphed: Callable[[Any, Any], Tensor] = Graphed(self._call)

    def compile(self) -> None:
        """From now on full batches are computed by a compiled UNet; :mod:`dpid.denoisers.fused.compiled` says how."""
        # Torch's compiler does not know the layout of packed weights.
        same = copy(self.unet)
        same.packed = {}
        self.graphed = Graphed(Compiled(self._call, partial(_called, same), self._precision))

    def drop_graphs(self) -> None:
        """Free the memory of the CUDA graphs; they are captured again when they are needed."""
        if isinstance(self.graphed, Graphed):  # not within :meth:`plainly`
            self.graphed.drop()

    @contextmanager
    def plainly(self) -> Iterator[None]:
        """A context in which the UNet is called as it is written, for counting its operations.

        They cannot be counted in a CUDA graph, in what was compiled, or in oneDNN's own layouts of weights.
        """
        before = self.graphed, self.unet.packed
        self.graphed, self.unet.packed = self._call, {}
        try:
            yield
        finally:
            self.graphed, self.unet.packed = before

    @torch.inference_mode()
    def encode(self, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """``encoded`` texts together with "keys_values" of every cross-attention, which depend on the texts only."""
        return {**encoded, "keys_values": self.unet.encode(encoded["encoder_hidden_states"].to(self.dtype))}

    @torch.inference_mode()
    @repeatable()
    def __call__(self, x: Tensor, t: Tensor, encoded: Mapping[str, Any], images: int = 1) -> Tensor:
        """The UNet's output [K,M,C,h,w] for x [M,C,h,w], timesteps t [M] and K conditions from :meth:`encode`.

        With ``images``, each has K of its own, as :meth:`FusedUNet.__call__` takes them.
        """
        added = None
        if "text_embeds" in encoded:
            pooled = encoded["text_embeds"].to(self.dtype)
            added = self.unet.embed_added(pooled, sizes_of(x, self._factor).expand(len(pooled), -1))
        # channels_last: attention reads pixels as tokens without a copy, and convolutions are as fast.
        x = x.to(self.dtype, memory_format=torch.channels_last)
        return self.graphed((x, t, added, images), encoded["keys_values"]).transpose(0, 1)
