"""The interface between a model and the rest of dpid: what a denoiser must answer, and what it may offer besides."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree


@dataclass(frozen=True)
class Conditions:
    """K encoded conditions: their names, and a tree (dict, tuple, …) of tensors with leading dimension K.

    ``state``: the state of the model that encoded them; see :meth:`Denoiser.refresh`.
    """

    names: tuple[str, ...]
    encoded: Any
    state: object = None

    def __getitem__(self, part: slice) -> Conditions:
        return Conditions(self.names[part], _pytree.tree_map(lambda tensor: tensor[part], self.encoded), self.state)


class Denoiser(ABC):
    """A model that predicts the noise in a noised picture, at every log-SNR of a grid and under K conditions at once.

    A subclass sets ``name`` and writes three methods; what else a model may offer has a default here.

    Attributes
    ----------
    name : what results call the model
    precision : "float32", "bfloat16" or "float16", the type that it computes in
    precision_is_chosen : whether somebody asked for ``precision``; "auto" then keeps it
    distilled : why its predictions are no posterior means, in one sentence; "" where they are
    training : whether it is in training mode, where dropout makes every answer another; such a model is refused
    """

    name: str
    precision: str = "float32"
    precision_is_chosen: bool = False
    distilled: str = ""
    training: bool = False

    @property
    def device(self) -> torch.device:
        """Where the model computes; the CPU, unless a subclass says otherwise."""
        return torch.device("cpu")

    @property
    def latent_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of its latents at the native size; None: of any."""
        return None

    @property
    def any_size(self) -> bool:
        """Whether latents of another height and width than those of :attr:`latent_shape` are taken too."""
        return True

    @property
    @abstractmethod
    def logsnr_grid(self) -> Tensor:
        """Ascending log-SNRs [T] float64 at which the model may be asked."""

    @abstractmethod
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Encode K conditions; raises ``ValueError`` for one that the model cannot take."""

    @abstractmethod
    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """Predicted noise [N,K,B,C,H,W] of z [N,B,C,H,W] at log-SNR [N] under K conditions."""

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]; ``ValueError`` where there is no image encoder."""
        raise ValueError(f"image: the model {self.name!r} has no image encoder; pass latents= instead")

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height) to which a picture of this size is brought before it is encoded."""
        return width, height

    @property
    def precisions(self) -> tuple[str, ...]:
        """The types that :meth:`at` takes."""
        return (self.precision,)

    def at(self, precision: str) -> Denoiser:
        """The same model computing in another type; ``ValueError`` for one that is none of :attr:`precisions`."""
        if precision not in self.precisions:
            raise ValueError(
                f"precision: found {precision!r}, {self.name} computes in {' or '.join(self.precisions)} alone"
            )
        return self

    def evaluation_bytes(self, height: int, width: int) -> int:
        """About the memory, in bytes, that one evaluation on latents [C, height, width] takes; 0: next to nothing."""
        return 0

    def refresh(self) -> None:  # noqa: B027, most models do not change
        """Take notice of what has changed in the model since the last call.

        :meth:`encode_conditions` does so by itself; conditions that were encoded before a change are refused by
        :meth:`eps_hat` after it.
        """

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """What to hold while the model works, if it can only do one thing at a time."""
        return nullcontext()
