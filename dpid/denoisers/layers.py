"""Layers as functions of weights by name, as diffusers and transformers name them."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor
from torch.nn import functional


class Layers:
    """``weights``: {"<layer>.weight" and "<layer>.bias": tensor}, shared, never copied."""

    def __init__(self, weights: Mapping[str, Tensor]) -> None:
        self.weights = weights

    def has(self, name: str) -> bool:
        """Whether there is a layer ``name``."""
        return f"{name}.weight" in self.weights

    def linear(self, name: str, x: Tensor) -> Tensor:
        """x [..., D] -> [..., E], with a bias where there is one."""
        return functional.linear(x, self.weights[f"{name}.weight"], self.weights.get(f"{name}.bias"))

    def layer_norm(self, name: str, x: Tensor) -> Tensor:
        """Over the last dimension."""
        return functional.layer_norm(x, x.shape[-1:], self.weights[f"{name}.weight"], self.weights[f"{name}.bias"])

    def conv(self, name: str, x: Tensor, stride: int = 1, padding: int | None = None) -> Tensor:
        """x [B,C,H,W]; ``padding`` None keeps the size at stride 1."""
        weight = self.weights[f"{name}.weight"]
        padding = weight.shape[-1] // 2 if padding is None else padding
        return functional.conv2d(x, weight, self.weights[f"{name}.bias"], stride, padding)

    def group_norm(self, name: str, x: Tensor, groups: int, eps: float, channels: slice = slice(None)) -> Tensor:
        """x [B,C,H,W], normalised with the weights of ``channels``, which are all that x has."""
        weight, bias = self.weights[f"{name}.weight"][channels], self.weights[f"{name}.bias"][channels]
        return functional.group_norm(x, groups, weight, bias, eps)
