"""The interface of a denoiser: the methods that every model has to implement, and the optional ones with defaults."""

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
    """K encoded conditions.

    Attributes
    ----------
    names : the conditions in words, for messages
    encoded : a tree (dict, tuple, …) of tensors with leading dimension K
    state : a token of the model's state when it encoded them; see :meth:`Denoiser.refresh`
    """

    names: tuple[str, ...]
    encoded: Any
    state: object = None

    def __getitem__(self, part: slice) -> Conditions:
        return Conditions(self.names[part], _pytree.tree_map(lambda tensor: tensor[part], self.encoded), self.state)


class Denoiser(ABC):
    """A model that predicts the noise in a noised picture, at every log-SNR of a grid and under K conditions at once.

    A subclass sets ``name`` and implements the three abstract members; the others have defaults. docs/extending.md has
    one of twenty lines.

    Attributes
    ----------
    name : the model's name in results
    precision : the type that it computes in, "float32", "bfloat16" or "float16"
    precision_is_chosen : whether the user asked for ``precision``; an explainer's "auto" then keeps it
    training : whether it is in training mode; such a model is refused, since dropout makes its output random
    """

    name: str
    precision: str = "float32"
    precision_is_chosen: bool = False
    training: bool = False

    @property
    def device(self) -> torch.device:
        """The device on which the model computes; by default the CPU."""
        return torch.device("cpu")

    @property
    def distilled(self) -> str:
        """One sentence on why predictions are no posterior means (a model distilled to few steps); "" if they are.

        The numbers of such a model have no unit.
        """
        return ""

    @property
    def caveat(self) -> str:
        """One sentence on what else limits the numbers of this model; "" by default."""
        return ""

    @property
    def latent_shape(self) -> tuple[int, int, int] | None:
        """(C, H, W) of the latents at the native size; None if latents of any shape are accepted."""
        return None

    @property
    def frames(self) -> int | None:
        """The number of frames of a video; None of a model of pictures."""
        return None

    @property
    def latent_frames(self) -> int | None:
        """The number T of frames of a video's latents, which come one below the other: [C,T·h,w]; None of pictures.

        :attr:`latent_shape` and :attr:`patch` are then those of one frame.
        """
        return None

    @property
    def any_size(self) -> bool:
        """Whether latents may have another height and width than :attr:`latent_shape`."""
        return True

    @property
    def patch(self) -> int:
        """The number that heights and widths of latents have to be multiples of: the side of a token."""
        return 1

    @property
    @abstractmethod
    def logsnr_grid(self) -> Tensor:
        """The log-SNRs at which the model can be evaluated, a tensor, ascending float64 [T]."""

    @abstractmethod
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """The K ``conditions`` encoded for :meth:`eps_hat`; ``ValueError`` for one that the model cannot take."""

    def encode_again(self, conditions: Sequence[Any]) -> Conditions:
        """The K ``conditions`` encoded in this precision, after the same model has encoded them in another.

        As :meth:`encode_conditions`, without another check of whether the model has changed.
        """
        return self.encode_conditions(conditions)

    @abstractmethod
    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """Predicted noise ε̂ [N,K,B,C,H,W] in z [N,B,C,H,W] at log-SNR [N] under K conditions."""

    def eps_hat_each(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """Predicted noise ε̂ [N,K,B,C,H,W] in z [N,B,C,H,W], every image under K conditions of its own.

        ``conditions`` are K·B: the first of every image, then the second of every image, …
        """
        images = z.shape[1]
        each = [self.eps_hat(z[:, b : b + 1], logsnr, conditions[b::images]) for b in range(images)]
        return each[0] if images == 1 else torch.cat(each, 2)

    @property
    def joins(self) -> bool:
        """Whether :meth:`eps_hat_each` is faster than its default, which evaluates one image after the other."""
        return False

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents [B,C,h,w] fp32 of pixels [B,3,H,W] in [-1,1]; ``ValueError`` if the model has no image encoder.

        Of a video: [B,C,T·h,w] of frames [B,3,F,H,W].
        """
        raise ValueError(f"image: the model {self.name!r} has no image encoder; pass latents= instead")

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """Pixels (width, height) to which a picture of this size is resized before it is encoded."""
        return width, height

    @property
    def precisions(self) -> tuple[str, ...]:
        """The types that the model can compute in, those that :meth:`at` accepts."""
        return (self.precision,)

    def at(self, precision: str) -> Denoiser:
        """The same model computing in ``precision``; ``ValueError`` if that is not in :attr:`precisions`."""
        if precision not in self.precisions:
            raise ValueError(
                f"precision: found {precision!r}, {self.name} computes in {' or '.join(self.precisions)} alone"
            )
        return self

    def evaluation_bytes(self, height: int, width: int) -> int:
        """Estimated memory of one evaluation on latents [C, height, width], in bytes; 0 if negligible."""
        return 0

    @property
    def state(self) -> object:
        """The token of the model's state as it was last looked at, that of :attr:`Conditions.state`; None by default.

        Pictures of one call whose tokens differ are not compared.
        """
        return None

    def refresh(self) -> None:  # noqa: B027, most models do not change
        """Check whether the model has changed since the last call.

        :meth:`encode_conditions` calls this itself. After a change :meth:`eps_hat` refuses conditions that were encoded
        before it.
        """

    def examine(self, x: Tensor, conditions: Conditions) -> None:  # noqa: B027, most models need not
        """Measure on latents ``x`` [B,C,H,W], before they are explained, what :attr:`caveat` has to say of them."""

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """A context that a thread enters while it uses the model; a lock, if the model is not thread-safe."""
        return nullcontext()
