"""A network whose linear layers multiply 8-bit numbers, simulated: what rounding does, not how fast it would be."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpid.denoisers import Conditions, Denoiser
from dpid.denoisers.loading import load_pipeline
from dpid.denoisers.network import from_pipeline

# {type: (its largest number, rounding to it)}
ROUNDING: dict[str, tuple[float, Callable[[Tensor], Tensor]]] = {
    "float8_e4m3fn": (448.0, lambda x: x.to(torch.float8_e4m3fn).float()),
    "int8": (127.0, torch.round),
}


def rounded(x: Tensor, kind: str) -> Tensor:
    """``x`` [..., C] with every row brought to the range of the 8-bit type ``kind`` and rounded to it, float32.

    That is the finest scaling in use: one of every token of the input, and one of every output channel of the weights.
    """
    largest, round_ = ROUNDING[kind]
    scale = x.abs().amax(-1, keepdim=True).clamp(min=1e-12) / largest
    return round_(x / scale) * scale


class EightBits(Denoiser):
    """The embedded ``model`` with the products of attention and feed-forward layers in ``kind``, all else in float32.

    Those of the time's embedding, a thousandth of the operations, are left out, as quantisers do.
    """

    precision_is_chosen = True

    def __init__(self, model: str, kind: str) -> None:
        self.name, self.precision = model, kind
        self.exact = from_pipeline(load_pipeline(model, dtype=torch.float32), precision="float32")
        pipe = load_pipeline(model, dtype=torch.float32)
        network = pipe.unet if hasattr(pipe, "unet") else pipe.transformer
        for name, layer in network.named_modules():
            if isinstance(layer, nn.Linear) and (".attn" in name or ".ff" in name):
                layer.weight.data = rounded(layer.weight.data, kind)
                layer.register_forward_pre_hook(lambda _, given: (rounded(given[0], kind),))
        self.rounded = from_pipeline(pipe, precision="float32")

    @property
    def logsnr_grid(self) -> Tensor:
        return self.exact.logsnr_grid

    @property
    def latent_shape(self) -> tuple[int, int, int] | None:
        return self.exact.latent_shape

    @property
    def precisions(self) -> tuple[str, ...]:
        return (self.precision, "float32")

    def at(self, precision: str) -> Denoiser:
        return self if precision == self.precision else self.exact

    def encode_image(self, image: Tensor) -> Tensor:
        return self.exact.encode_image(image)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        return self.exact.size_for(width, height)

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        return self.rounded.encode_conditions(conditions)

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        return self.rounded.eps_hat(z, logsnr, conditions)
