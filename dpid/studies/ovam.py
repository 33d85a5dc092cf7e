"""OVAM, open-vocabulary attention maps (Marcos-Manchón et al., 2024), without their optimised tokens.

The queries of the picture, as the UNet makes them under the prompt, are set against the keys of another text, the
attribution: softmax(QKᵀ/√d) over the attribution's own tokens, with those of its beginning and end, but none of those
that fill it up. So a word need not be in the prompt. As in the authors' code, layers are those of the up blocks and of
the down blocks but the last, in which Stable Diffusion has no cross-attention, brought to the latents' size by bilinear
interpolation. Heads, layers and steps are averaged where that code adds them up; its queries are those of guidance's
unconditional half, here of the conditional one, whose maps are better.

>>> from dpid.studies.ovam import attention_maps
>>> from dpid.denoisers.loading import load_pipeline
>>> found = attention_maps(load_pipeline("emoji"), "a cow and a giraffe", ("cow",), attribution="a cow and a zebra")
>>> found.maps["cow"]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from torch import Tensor

from dpid.denoisers.network import NetworkDenoiser
from dpid.images import ImageLike
from dpid.studies.attention import AttentionMaps, check_network, conditional_rows, trace
from dpid.studies.daam import MIDDLE, NETWORKS, Recorder, attend, positions_in
from dpid.zoo import GUIDANCE

NAME = "OVAM"
BY_DENSITY = True  # as DAAM's


@dataclass
class _Attributing(Recorder):
    """A recorder of attention to the tokens of ``attribution`` [L,E], in place of the prompt's."""

    attribution: Tensor = field(kw_only=True)
    interpolation: ClassVar[str] = "bilinear"

    def probabilities(self, attention: Any, hidden: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, heads, queries, tokens of all concepts], whatever ``text`` the UNet reads."""
        hidden = hidden[self.rows]
        text = self.attribution.to(text).expand(len(hidden), -1, -1)
        return attend(attention, hidden, text, None)[..., self.columns]


def attention_maps(
    pipe: Any, prompt: str, concepts: Sequence[str], *, attribution: str | None = None,
    image: ImageLike | None = None, samples: int = 32, seed: int = 0, guidance: float = GUIDANCE,
    density: Tensor | None = None,
) -> AttentionMaps:  # fmt: skip
    """The maps of OVAM, :class:`dpid.studies.attention.AttentionMaps`: where the picture attends to each concept.

    Parameters
    ----------
    concepts : phrases of ``attribution`` ("bowl#2": the second "bowl")
    attribution : any text; None for the prompt
    pipe, prompt, image, samples, seed, guidance, density : as for :func:`dpid.studies.daam.attention_maps`

    Raises
    ------
    ValueError, TypeError, FloatingPointError
        As :func:`dpid.studies.daam.attention_maps`.
    """
    check_network(pipe, NETWORKS, NAME)
    said = prompt if attribution is None else attribution

    def recorder(denoiser: NetworkDenoiser) -> Recorder:
        tokens = {concept: positions_in(denoiser, said, concept) for concept in concepts}
        (hidden,) = denoiser.encode_conditions((said,)).encoded["encoder_hidden_states"]
        # The encoder is causal: what fills the text up changes nothing before it. + 1: the end of the text.
        text = hidden[: positions_in(denoiser, said, said).stop + 1]
        last = f"down_blocks.{len(denoiser.family.net.down_blocks) - 1}."
        rows = conditional_rows(image)
        return _Attributing(tokens, rows, denoiser.latent_shape[1:], (MIDDLE, last), attribution=text)

    return trace(pipe, prompt, concepts, recorder, image, samples, seed, guidance, density)
