"""What maps of attention have in common: the pictures that a network is watched on, and what is returned."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from dpid import ops
from dpid.denoisers.blocks import not_compiled
from dpid.denoisers.families import family_of
from dpid.denoisers.modes import evaluating, undisturbed
from dpid.denoisers.network import NetworkDenoiser, from_pipeline
from dpid.equality import Comparable
from dpid.estimation.engine import fitting
from dpid.estimation.sampling import draw
from dpid.images import ImageLike, to_pixels
from dpid.options import Options
from dpid.prompts.phrases import check_text
from dpid.videos import encode, read
from dpid.zoo import check_guidance, generate


@dataclass(frozen=True, eq=False)
class AttentionMaps(Comparable):
    """Where a network attended to each word of a prompt, and in which picture.

    Attributes
    ----------
    picture : uint8 [H,W,3], the one made, or the one given as the model sees it
    maps : {word: float32 [h,w]}, how much of the attention there is the word's, in [0, 1], on the CPU
    unet_evaluations : of the network, one for each picture, noise level and condition
    """

    picture: Tensor
    maps: dict[str, Tensor]
    unet_evaluations: int


class AttentionWatch(ABC):
    """Adds up what a network attends to while it is called.

    Attributes
    ----------
    size : height and width of the latents
    """

    size: tuple[int, int]

    @abstractmethod
    def on(self, net: Any) -> AbstractContextManager[None]:
        """A context in which the calls of ``net`` are watched, and after which it is as it was."""

    @abstractmethod
    def maps(self) -> dict[str, Tensor]:
        """The maps {word: float32 [h,w]} of all that was seen, at the size of the latents."""

    @abstractmethod
    def seen(self) -> int:
        """The number of evaluations of the network that were seen."""


def _generate(
    denoiser: NetworkDenoiser, prompt: str, watch: AttentionWatch, samples: int, seed: int, guidance: float
) -> Tensor:
    """The picture that the pipeline makes, uint8 [H,W,3]."""
    pipe = denoiser.family.pipe
    parts = [part for part in pipe.components.values() if isinstance(part, nn.Module)]
    with evaluating(*parts), watch.on(denoiser.family.net):
        (made,) = generate(pipe, [prompt], seed=seed, steps=samples, guidance=guidance)
    return to_pixels(made, made.size)


def _look(
    denoiser: NetworkDenoiser, prompt: str, image: ImageLike, watch: AttentionWatch, samples: int, seed: int,
    density: Tensor | None,
) -> Tensor:  # fmt: skip
    """Noise ``image`` at many levels and run the network on them; the picture as the model sees it, uint8 [H,W,3]."""
    picture = read(image, denoiser)
    x = encode(picture[None], denoiser)
    watch.size = (x.shape[-2], x.shape[-1])
    generator, rule = torch.Generator().manual_seed(seed), "shifted-grid" if density is None else "adaptive"
    points = draw(rule, denoiser.logsnr_grid, 2 * -(-samples // 2), 1, generator, density=density)
    points, size = points.to(x.device), fitting(denoiser, x, 1)
    condition = denoiser.encode_conditions((prompt,))
    with watch.on(denoiser.family.net):
        for start in range(0, len(points.logsnr), size):
            part = points[start : start + size]
            z = ops.noisy_channel(x, part.logsnr, part.sample_id, seed)
            denoiser.eps_hat(z, part.logsnr, condition)
    return picture


def conditional_rows(image: ImageLike | None) -> slice:
    """The entries of a batch that are computed under the prompt: of a given ``image`` all, of a run the last."""
    return slice(None) if image is not None else slice(-1, None)  # guidance puts the unconditional half first


def check_network(pipe: Any, networks: Sequence[str], name: str) -> None:
    """Raise ``ValueError`` unless the network of ``pipe`` is one of ``networks``, of which ``name`` makes maps."""
    found = family_of(pipe).networks
    if not set(found) & set(networks):
        raise ValueError(
            f"pipe: {name} makes maps of the attention of {' or '.join(networks)}; found {', '.join(found)}"
        )


def trace(
    pipe: Any, prompt: str, concepts: Sequence[str], made: Callable[[NetworkDenoiser], AttentionWatch],
    image: ImageLike | None, samples: int, seed: int, guidance: float, density: Tensor | None,
) -> AttentionMaps:  # fmt: skip
    """What the watch ``made`` for a pipeline's denoiser saw; see :func:`dpid.studies.daam.attention_maps`."""
    if isinstance(concepts, str) or not concepts:
        raise TypeError(f"concepts: found {concepts!r}, expected a sequence of phrases of the prompt")
    chosen = Options(samples=samples, seed=seed)
    check_text("prompt", prompt)
    check_guidance(guidance)
    with undisturbed():
        denoiser = from_pipeline(pipe, fused=False)
        with denoiser.lock, not_compiled(denoiser.family.net.modules()):  # compiled code would not notice the watch
            denoiser.encode_conditions((prompt,))  # refuses what the text encoder would cut
            watch = made(denoiser)
            if image is None:
                picture = _generate(denoiser, prompt, watch, chosen.samples, chosen.seed, guidance)
            else:
                picture = _look(denoiser, prompt, image, watch, chosen.samples, chosen.seed, density)
            maps = watch.maps()
            if not all(values.isfinite().all() for values in maps.values()):
                raise FloatingPointError("pipe: an attention is NaN or infinite; try float32")
            return AttentionMaps(picture, maps, watch.seen())
