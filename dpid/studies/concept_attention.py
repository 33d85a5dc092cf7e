"""ConceptAttention (Helbling et al., 2025), maps of words for the joint attention of SD 3, Flux.1 and Flux.2.

Words are put beside the picture and the prompt as further tokens. In every block they attend to the picture and to one
another, and are changed as the prompt's tokens are, while the picture and the prompt do not attend to them: the network
computes what it computes without them. The map of a word is the scalar product of its attention's output and the
picture's, both before their projection, softmax over words, averaged over layers (docs/theory.md, eq. (63)).

As in the authors' code for Stable Diffusion 3, the words are read as one text, of which CLIP's tokens are taken, with
that of the beginning; all layers count, outputs are averaged over noise levels, and those of words are brought to
length one. The picture's are those that it has where the words take the place of the prompt. A word of several tokens
is the mean of their outputs, where that code takes one token a word.

As in their code for Flux.1, every word is read as a text of its own, of which T5's first token is taken, without CLIP's
summary of a text. The picture's outputs are those of the network's own call, nothing is brought to length one, and the
shares of words are averaged over the last four blocks with joint attention and over noise levels.

As in their code for Flux.2 dev, every word is read as a text of its own within the system message and the template, of
which its last token is taken, at the place that it has there. The picture's outputs are as in Flux.1, and the products
are averaged over the last three blocks with joint attention and, of a run, over its last 30 % of steps without the very
last; shares are the softmax of a thousandth of that mean. Where a picture is given, all noise levels count, where that
code takes one; of a run of fewer than four steps the last counts, where it has none to take. It has no part for Flux.2
klein, which is read in the same way: what guidance asks without the prompt does not count.

>>> from dpid.studies.concept_attention import attention_maps
>>> found = attention_maps(pipe, "a cow and a giraffe", ("cow", "giraffe"))
>>> found.picture, found.maps["cow"]
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.network import NetworkDenoiser
from dpid.images import ImageLike
from dpid.prompts.phrases import check_text, without
from dpid.prompts.plan import spans_of
from dpid.studies.attention import AttentionMaps, AttentionWatch, check_network, conditional_rows, trace
from dpid.studies.beside import InFlux1, InFlux2, InSD3
from dpid.zoo import GUIDANCE

NAME = "ConceptAttention"
NETWORKS = ("SD3Transformer2DModel", "FluxTransformer2DModel", "Flux2Transformer2DModel")
BY_DENSITY = False  # its maps are better at even log-SNRs than at those of our own estimates


def _others(prompt: str, concepts: Sequence[str]) -> tuple[str, ...]:
    """The words of ``prompt`` that belong to no concept."""
    spans = spans_of(prompt, concepts)
    return tuple(dict.fromkeys(re.findall(r"\w+", without(prompt, list(spans.values()), ()))))


def _as_one_text(denoiser: NetworkDenoiser, words: Sequence[str]) -> tuple[Tensor, list[int]]:
    """CLIP's tokens [1,L,E] of ``words`` as one text, after that of its beginning, and the number of each word's."""
    family, ends = denoiser.family, [0]  # of every word, in tokens
    for n in range(1, len(words) + 1):
        ids = family.pipe.tokenizer(family.written("tokenizer", " ".join(words[:n])), verbose=False).input_ids
        ends.append(len(ids) - 2)  # without the beginning and the end of the text
    text = denoiser.encode_conditions((" ".join(words),)).encoded["encoder_hidden_states"][:, : ends[-1] + 1]
    return text, [end - start for start, end in pairwise(ends)]


def _last_tokens(denoiser: NetworkDenoiser, words: Sequence[str]) -> tuple[Tensor, list[int]]:
    """The last token [1,words,E] of every word, encoded, and its place in its text, template and padding included."""
    family, calls = denoiser.family, []
    family.check_texts(words)
    (encoder,) = family.text_encoders()
    # Counted in what the encoder is given: to the same text a tokenizer may add other tokens than the pipeline does.
    hook = encoder.register_forward_pre_hook(lambda _m, _a, given: calls.append(given), with_kwargs=True)
    try:
        texts = family.texts.encode(("", *words))["encoder_hidden_states"]
    finally:
        hook.remove()
    ids, kept = (torch.cat([call[name] for call in calls]) for name in ("input_ids", "attention_mask"))
    empty, *backwards = (row[keep > 0].flip(0).tolist() for row, keep in zip(ids, kept, strict=True))
    places = []
    for own, keep in zip(backwards, kept[1:], strict=True):
        pairs = enumerate(zip(own, empty, strict=False))
        behind = next((n for n, (token, other) in pairs if token != other), len(empty))  # tokens of the template
        places.append(int(keep.nonzero()[-1]) - behind)
    return texts[range(1, len(texts)), places][None], places


def attention_maps(
    pipe: Any, prompt: str, concepts: Sequence[str], *, beside: Sequence[str] | None = None,
    image: ImageLike | None = None, samples: int = 32, seed: int = 0, guidance: float = GUIDANCE,
    density: Tensor | None = None,
) -> AttentionMaps:  # fmt: skip
    """The maps of ConceptAttention, :class:`dpid.studies.attention.AttentionMaps`: each concept's share of every place.

    Parameters
    ----------
    pipe : a StableDiffusion3Pipeline, FluxPipeline, Flux2Pipeline or Flux2KleinPipeline; nothing of it changes
    beside : further words to divide the picture among, such as those for the background; None for the prompt's others
    prompt, concepts, image, samples, seed, guidance, density : as for :func:`dpid.studies.daam.attention_maps`

    Raises
    ------
    ValueError, TypeError, FloatingPointError
        As :func:`dpid.studies.daam.attention_maps`; also if a word of ``beside`` is blank, or if there is no other word
        than one concept.
    """
    check_network(pipe, NETWORKS, NAME)
    spans = spans_of(prompt, concepts)
    if isinstance(beside, str) or not (beside is None or isinstance(beside, Sequence)):
        raise TypeError(f"beside: found {beside!r}, expected a sequence of words")
    more = _others(prompt, concepts) if beside is None else tuple(check_text("beside", word) for word in beside)
    said = [*(prompt[slice(*span)] for span in spans.values()), *more]
    if len(said) < 2:
        raise ValueError(f"beside: {said[0]!r} alone has all of the picture; name other words, such as 'background'")
    if not all(word.strip() for word in more):
        raise ValueError(f"beside: found {list(more)!r}, expected words, of which none is blank")

    def watch(denoiser: NetworkDenoiser) -> AttentionWatch:
        network, size, named = denoiser.family.networks[0], denoiser.latent_shape[1:], tuple(spans)
        if network == "SD3Transformer2DModel":
            text, lengths = _as_one_text(denoiser, said)
            return InSD3(named, text, size, lengths, conditional_rows(image))
        if network == "FluxTransformer2DModel":
            texts = denoiser.encode_conditions(said).encoded["encoder_hidden_states"]
            return InFlux1(named, texts[None, :, 0], size, [0] * len(said))
        text, places = _last_tokens(denoiser, said)
        return InFlux2(named, text, size, places, run=image is None)

    return trace(pipe, prompt, concepts, watch, image, samples, seed, guidance, density)
