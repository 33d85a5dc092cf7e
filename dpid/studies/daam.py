"""DAAM, diffusion attentive attribution maps (Tang et al., 2023), a baseline that our maps are compared with.

The map of a word is the probability with which a place of the picture attends to the word's tokens in the UNet's
cross-attentions, softmax(QKᵀ/√d), over heads, layers and steps of denoising. As in the authors' package, the layers are
those of the down and up blocks, not of the middle one; the map of every head is brought to the latents' size by bicubic
interpolation, and what it undershoots is cut at zero. Heads, layers and steps are averaged where the package adds steps
up, so that a map stays a probability, and differs by a factor alone; tokens of a phrase are averaged in both.

>>> from dpid.studies.daam import attention_maps
>>> from dpid.denoisers.loading import load_pipeline
>>> found = attention_maps(load_pipeline("emoji"), "a cow and a giraffe", ("cow", "giraffe"))
>>> found.picture, found.maps["cow"]
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dpid.denoisers.network import NetworkDenoiser
from dpid.images import ImageLike
from dpid.prompts.phrases import span_of
from dpid.studies.attention import AttentionMaps, AttentionWatch, check_network, conditional_rows, trace
from dpid.zoo import GUIDANCE

NAME = "DAAM"
NETWORKS = ("UNet2DConditionModel",)
BY_DENSITY = True  # its maps are better at the log-SNRs of our own estimates than at even ones
MIDDLE = "mid_block."  # what the names of the UNet's layers there begin with


def token_positions(
    tokenizer: Any, prompt: str, concept: str, written_out: Callable[[str], str] = str
) -> range:  # fmt: skip
    """Positions, in what ``tokenizer`` makes of ``prompt``, of the phrase ``concept`` ("bowl#2": its second "bowl").

    ``written_out``: what a text is turned into before it is read, where a textual inversion has several vectors.

    Raises
    ------
    ValueError
        The phrase is not in the prompt, or has no tokens to itself.
    """
    start, end = span_of(prompt, concept)

    def ids(text: str) -> list[int]:
        return list(tokenizer(written_out(text), verbose=False).input_ids[:-1])  # without the end of the text

    whole, before, through = ids(prompt), ids(prompt[:start]), ids(prompt[:end])
    # Tokens do not cross the ends of words, so that the text up to one begins with the same tokens as the whole.
    if not (whole[: len(before)] == before and whole[: len(through)] == through and len(before) < len(through)):
        raise ValueError(f"concepts: {concept!r} has no tokens of its own in the prompt")
    return range(len(before), len(through))


def positions_in(denoiser: NetworkDenoiser, text: str, concept: str) -> range:
    """:func:`token_positions` in what the tokenizer of the pipeline of ``denoiser`` makes of ``text``."""
    pipe = denoiser.family.pipe

    def written_out(said: str) -> str:
        return str(pipe.maybe_convert_prompt(said, pipe.tokenizer))

    return token_positions(pipe.tokenizer, text, concept, written_out if hasattr(pipe, "maybe_convert_prompt") else str)


def attend(attention: Any, hidden: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
    """Probabilities [B, heads, queries, L] float32 of ``hidden`` [B, queries, C] to attend to ``text`` [B,L,E]."""
    query, key = (attention.head_to_batch_dim(x) for x in (attention.to_q(hidden), attention.to_k(text)))
    scores: Tensor = attention.get_attention_scores(query, key, mask)  # [B·heads, queries, L]
    return torch.unflatten(scores, 0, (len(hidden), -1)).float()


@dataclass
class Recorder(AttentionWatch):
    """Adds up attention to ``tokens`` {concept: positions}, per layer and head, in the batch entries ``rows``.

    ``size``: height and width of the latents. ``without``: what the names of layers that do not count begin with.
    """

    tokens: Mapping[str, Sequence[int]]
    rows: slice
    size: tuple[int, int]
    without: tuple[str, ...]
    sums: dict[str, Tensor] = field(default_factory=dict)  # [heads, tokens of all concepts, queries] of a layer
    counts: dict[str, int] = field(default_factory=dict)
    evaluations: dict[str, int] = field(default_factory=dict)
    interpolation: ClassVar[str] = "bicubic"

    @property
    def columns(self) -> list[int]:
        """The positions of all concepts, one after another."""
        return [position for positions in self.tokens.values() for position in positions]

    def probabilities(self, attention: Any, hidden: Tensor, text: Tensor, mask: Tensor | None) -> Tensor:
        """[rows, heads, queries, tokens of all concepts]."""
        return attend(attention, hidden, text, mask)[self.rows, ..., self.columns]

    def add(self, layer: str, attention: Any, hidden: Tensor, text: Tensor, mask: Tensor | None) -> None:
        """hidden [B, queries, C], text [B, L, E]: what ``layer`` is about to compute."""
        found = self.probabilities(attention, hidden, text, mask)
        self.sums[layer] = self.sums.get(layer, 0) + found.sum(0).mT
        self.counts[layer] = self.counts.get(layer, 0) + len(found)
        self.evaluations[layer] = self.evaluations.get(layer, 0) + len(hidden)

    def _shape(self, queries: int) -> tuple[int, int]:
        """Height and width of a layer: strided convolutions halve both, rounding up."""
        h, w = self.size
        while h * w > queries:
            h, w = -(-h // 2), -(-w // 2)
        return h, w

    def maps(self) -> dict[str, Tensor]:
        """Probabilities {concept: float32 [h,w]} at the size of the latents."""
        total, heads = torch.zeros(len(self.columns), *self.size, dtype=torch.float32), 0
        for layer, values in self.sums.items():
            at = (values / self.counts[layer]).unflatten(2, self._shape(values.shape[2])).cpu()
            total += functional.interpolate(at, self.size, mode=self.interpolation).clamp(min=0).sum(0)
            heads += len(values)
        parts = (total / heads).split([len(positions) for positions in self.tokens.values()])
        return {concept: part.mean(0) for concept, part in zip(self.tokens, parts, strict=True)}

    def seen(self) -> int:
        """The number of evaluations, which is that of every layer."""
        return next(iter(self.evaluations.values()))

    @contextmanager
    def on(self, net: Any) -> Iterator[None]:
        """A context in which the cross-attentions that count are recorded; the processors of ``net`` are put back."""
        own = dict(net.attn_processors)
        cross = {
            name: _Recording(p, name, self) for name, p in own.items()
            if name.endswith("attn2.processor") and not name.startswith(self.without)
        }  # fmt: skip
        if not cross:
            raise ValueError(f"pipe: its UNet has no cross-attention but in {', '.join(self.without) or 'no block'}")
        try:
            net.set_attn_processor({**own, **cross})
            yield
        finally:
            net.set_attn_processor(dict(own))  # a copy, since diffusers empties what it is given


class _Recording:
    """An attention processor that records and then does what the one in its place does."""

    def __init__(self, inner: Any, layer: str, recorder: Recorder) -> None:
        self._inner, self._layer, self._recorder = inner, layer, recorder

    def __call__(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor,
        attention_mask: Tensor | None = None, **others: Any,
    ) -> Any:  # fmt: skip
        """As diffusers calls a processor."""
        self._recorder.add(self._layer, attn, hidden_states, encoder_hidden_states, attention_mask)
        return self._inner(attn, hidden_states, encoder_hidden_states, attention_mask, **others)


def attention_maps(
    pipe: Any, prompt: str, concepts: Sequence[str], *, image: ImageLike | None = None, samples: int = 32,
    seed: int = 0, guidance: float = GUIDANCE, density: Tensor | None = None, middle: bool = False,
) -> AttentionMaps:  # fmt: skip
    """The maps of DAAM, :class:`dpid.studies.attention.AttentionMaps`: where the picture attends to each concept.

    Parameters
    ----------
    pipe : a StableDiffusionPipeline (SD 1.x, 2.x) or StableDiffusionXLPipeline; nothing of it changes
    prompt, concepts : a text and phrases of it ("bowl#2": the second "bowl")
    image : None makes a picture and records while it is made, as the paper does; a picture (see
        :meth:`dpid.Explainer.explain`) is noised at log-SNRs of :func:`dpid.estimation.sampling.draw`, and denoised
        under ``prompt``
    samples : steps of generation, or evaluations of the UNet for a given image, rounded up to an even number
    seed : of the noise; the global random state is neither read nor changed
    guidance : classifier-free guidance's scale, of generation alone; the maps are those of the conditional half
    density : of the log-SNRs of a given picture, as of :attr:`dpid.Explainer.density`, with which they are those of our
        own estimates; None: even
    middle : the middle block counts too, which the authors' package leaves out

    Raises
    ------
    ValueError, TypeError
        A phrase is not in the prompt; the prompt, image or pipeline cannot be used; the message names the argument.
    FloatingPointError
        An attention is NaN or infinite.
    """
    check_network(pipe, NETWORKS, NAME)

    def recorder(denoiser: NetworkDenoiser) -> Recorder:
        tokens = {concept: positions_in(denoiser, prompt, concept) for concept in concepts}
        return Recorder(tokens, conditional_rows(image), denoiser.latent_shape[1:], () if middle else (MIDDLE,))

    return trace(pipe, prompt, concepts, recorder, image, samples, seed, guidance, density)
