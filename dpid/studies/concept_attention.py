"""ConceptAttention (Helbling et al., 2025), maps of words for the joint attention of Stable Diffusion 3 and Flux.1.

Words are put beside the picture and the prompt as further tokens. In every block they attend to the picture and to one
another, and are changed as the prompt's tokens are, while the picture and the prompt do not attend to them: the network
computes what it computes without them. The map of a word is the scalar product of its attention's output and the
picture's, softmax over words, averaged over layers (docs/theory.md, eq. (63)).

As in the authors' code for Stable Diffusion 3, the words are read as one text, of which CLIP's tokens are taken, with
that of the beginning; outputs are those before their projection, of all layers, averaged over noise levels, and those
of words are brought to length one. The picture's are those that it has where the words take the place of the prompt. A
word of several tokens is the mean of their outputs, where that code takes one token a word.

As in their code for Flux.1, every word is read as a text of its own, of which T5's first token is taken, without CLIP's
summary of a text. The picture's outputs are those of the network's own call, nothing is brought to length one, and the
shares of words are averaged over the last four blocks with joint attention and over noise levels.

>>> from dpid.studies.concept_attention import attention_maps
>>> found = attention_maps(pipe, "a cow and a giraffe", ("cow", "giraffe"))
>>> found.picture, found.maps["cow"]
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.denoisers.network import NetworkDenoiser
from dpid.images import ImageLike
from dpid.prompts.phrases import without
from dpid.prompts.plan import spans_of
from dpid.studies.attention import AttentionMaps, Watch, check_network, trace
from dpid.zoo import GUIDANCE

NAME = "ConceptAttention"
NETWORKS = ("SD3Transformer2DModel", "FluxTransformer2DModel")
BY_DENSITY = False  # its maps are better at even log-SNRs than at those of our own estimates
_LAST = 4  # blocks of Flux.1 whose shares count, of 19


@dataclass
class _Beside(Watch):
    """Takes words along through the blocks of a network, and adds up their attention's outputs and the picture's.

    Parameters
    ----------
    words : {concept or other word: number of its tokens}; the first ``count`` are the concepts
    text : their tokens after the one of the beginning, [1,L,E], as the network takes texts
    rows : the batch entries that count
    """

    words: dict[str, int]
    count: int
    text: Tensor
    rows: slice
    size: tuple[int, int]
    _tokens: Tensor | None = field(init=False, default=None)  # the words [rows,L,C] before the next block
    _inside: bool = field(init=False, default=False)  # whether a block is called for the words
    _evaluations: int = field(init=False, default=0)
    _rows: int = field(init=False, default=0)  # of the evaluations, those that count
    # {of what: {layer: sum [L,C] of outputs}}
    _sums: dict[str, dict[int, Tensor]] = field(init=False, default_factory=lambda: {"words": {}, "picture": {}})

    def seen(self) -> int:
        """The number of evaluations, with those that do not count."""
        return self._evaluations

    def _begin(self, net: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before the network: the words as its first block takes texts."""
        m = len(inputs["hidden_states"])
        self._evaluations += m
        rows = len(range(m)[self.rows])
        self._rows += rows
        self._tokens = net.context_embedder(self.text.to(inputs["hidden_states"])).expand(rows, -1, -1)

    def _follow(self, block: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before a block: the words, by a call of the same block with them in place of the prompt."""
        if self._inside:
            return
        self._inside = True
        try:
            counted = {name: inputs[name][self.rows] for name in ("hidden_states", "temb")}
            self._tokens = block(**inputs | counted | {"encoder_hidden_states": self._tokens})[0]
        finally:
            self._inside = False

    def _add(self, of: str, layer: int, outputs: Tensor) -> None:
        """Adds ``outputs`` [rows,L,C] of the words' call of a block."""
        if self._inside:
            self._sums[of][layer] = self._sums[of].get(layer, 0) + outputs.float().sum(0)

    def _attended(self, layer: int, attention: Any, _: Any, outputs: tuple[Tensor, Tensor]) -> None:
        """After an attention: the words' outputs of the last block, which has no projection for them."""
        if attention.context_pre_only:
            self._add("words", layer, outputs[1])

    def _projected(self, of: str, layer: int, _: Any, inputs: tuple[Tensor]) -> None:
        """Before a projection of outputs."""
        self._add(of, layer, inputs[0])

    @contextmanager
    def on(self, net: Any) -> Iterator[None]:
        """A context in which ``net`` takes the words along; its hooks are removed."""
        with ExitStack() as hooks:
            hooks.callback(net.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for layer, block in enumerate(net.transformer_blocks):
                attention = block.attn
                hooks.callback(block.register_forward_pre_hook(self._follow, with_kwargs=True).remove)
                hooks.callback(attention.register_forward_hook(partial(self._attended, layer)).remove)
                projections = {"picture": attention.to_out[0]}
                if not attention.context_pre_only:
                    projections["words"] = attention.to_add_out
                for of, projection in projections.items():
                    hook = partial(self._projected, of, layer)
                    hooks.callback(projection.register_forward_pre_hook(hook).remove)
            yield

    def maps(self) -> dict[str, Tensor]:
        """The share [h,w] of every concept among all words, constant within a patch."""
        tokens, picture = (torch.stack(list(sums.values())).cpu() / self._rows for sums in self._sums.values())
        lengths = [1, *self.words.values()]
        words = torch.stack([part.mean(1) for part in tokens.split(lengths, 1)[1:]], 1)  # [layers, words, C]
        shares = (functional.normalize(words, dim=-1) @ picture.mT).softmax(1).mean(0)
        return dict(zip(self.words, _spread(shares[: self.count], self.size), strict=False))


@dataclass
class _BesideInFlux(Watch):
    """Takes words along through the blocks of Flux.1, and adds up their shares of the picture.

    ``concepts`` are the first of the words, of which ``text`` [1,L,E] has a token each; the others as of
    :class:`_Beside`.
    """

    concepts: tuple[str, ...]
    text: Tensor
    rows: slice
    size: tuple[int, int]
    _tokens: Tensor | None = field(init=False, default=None)  # the words [rows,L,C] before the next block
    _temb: Tensor | None = field(init=False, default=None)  # the time that they are told, and no text
    _said: Tensor | None = field(init=False, default=None)  # their attention's outputs [rows,L,C]
    _inside: bool = field(init=False, default=False)  # whether a block is called for the words
    _evaluations: int = field(init=False, default=0)
    _shares: list[Tensor] = field(init=False, default_factory=list)  # [L,Q] of every evaluation and block

    def seen(self) -> int:
        """The number of evaluations, with those that do not count."""
        return self._evaluations

    def _begin(self, net: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before the network: the words as its first block takes texts, and what it is told beside them."""
        x, pooled = inputs["hidden_states"], inputs["pooled_projections"][self.rows]
        self._evaluations += len(x)
        self._tokens = net.context_embedder(self.text.to(x)).expand(len(pooled), -1, -1)
        given = [inputs[name] for name in ("timestep", "guidance") if inputs.get(name) is not None]
        told = [time[self.rows].to(x.dtype) * 1000 for time in given]
        self._temb = net.time_text_embed(*told, torch.zeros_like(pooled))

    def _follow(self, block: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before a block: the words, by a call of the same block with them in place of the prompt."""
        if self._inside:
            return
        self._inside = True
        try:
            prompt, words = inputs["encoder_hidden_states"].shape[1], self.text.shape[1]
            # Every token of a text is at the same place.
            places = tuple(torch.cat((part[:words], part[prompt:])) for part in inputs["image_rotary_emb"])
            self._tokens = block(
                hidden_states=inputs["hidden_states"][self.rows], encoder_hidden_states=self._tokens, temb=self._temb,
                image_rotary_emb=places,
            )[0]  # fmt: skip
        finally:
            self._inside = False

    def _words(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Before the projection of a text's outputs."""
        if self._inside:
            self._said = inputs[0]

    def _picture(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Before the projection of the picture's outputs."""
        if not self._inside and self._said is not None:
            scores = self._said.float() @ inputs[0][self.rows].float().mT
            self._shares.extend(scores.softmax(1).cpu())

    @contextmanager
    def on(self, net: Any) -> Iterator[None]:
        """A context in which ``net`` takes the words along; its hooks are removed."""
        with ExitStack() as hooks:
            hooks.callback(net.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for block in net.transformer_blocks:
                hooks.callback(block.register_forward_pre_hook(self._follow, with_kwargs=True).remove)
            for block in net.transformer_blocks[-_LAST:]:
                hooks.callback(block.attn.to_add_out.register_forward_pre_hook(self._words).remove)
                hooks.callback(block.attn.to_out[0].register_forward_pre_hook(self._picture).remove)
            yield

    def maps(self) -> dict[str, Tensor]:
        """The share [h,w] of every concept among all words, constant within a patch."""
        shares = torch.stack(self._shares).mean(0)
        return dict(zip(self.concepts, _spread(shares[: len(self.concepts)], self.size), strict=True))


def _spread(shares: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps [L,h,w] of ``size`` of shares [L,Q] of the patches of a picture."""
    h, w = size
    patch = round((h * w / shares.shape[1]) ** 0.5)
    maps = shares.view(-1, h // patch, w // patch)
    return maps.repeat_interleave(patch, 1).repeat_interleave(patch, 2)


def _others(prompt: str, concepts: Sequence[str]) -> tuple[str, ...]:
    """The words of ``prompt`` that belong to no concept."""
    spans = spans_of(prompt, concepts)
    return tuple(dict.fromkeys(re.findall(r"\w+", without(prompt, list(spans.values()), ()))))


def attention_maps(
    pipe: Any, prompt: str, concepts: Sequence[str], *, beside: Sequence[str] | None = None,
    image: ImageLike | None = None, samples: int = 32, seed: int = 0, guidance: float = GUIDANCE,
    density: Tensor | None = None,
) -> AttentionMaps:  # fmt: skip
    """The maps of ConceptAttention, :class:`dpid.studies.attention.AttentionMaps`: each concept's share of every place.

    Parameters
    ----------
    pipe : a StableDiffusion3Pipeline or FluxPipeline; nothing of it changes
    beside : further words to divide the picture among, such as those for the background; None for the prompt's others
    prompt, concepts, image, samples, seed, guidance, density : as for :func:`dpid.studies.daam.attention_maps`

    Raises
    ------
    ValueError, TypeError, FloatingPointError
        As :func:`dpid.studies.daam.attention_maps`; also if there is no other word than one concept.
    """
    check_network(pipe, NETWORKS, NAME)
    spans = spans_of(prompt, concepts)
    more = _others(prompt, concepts) if beside is None else tuple(beside)
    said = [*(prompt[slice(*span)] for span in spans.values()), *more]
    if len(said) < 2:
        raise ValueError(f"beside: {said[0]!r} alone has all of the picture; name other words, such as 'background'")
    rows = slice(None) if image is not None else slice(-1, None)  # guidance puts the unconditional half first

    def watch(denoiser: NetworkDenoiser) -> Watch:
        family, size = denoiser.family, denoiser.latent_shape[1:]
        if family.networks[0] == "FluxTransformer2DModel":
            text = denoiser.encode_conditions(said).encoded["encoder_hidden_states"][None, :, 0]
            return _BesideInFlux(tuple(spans), text, rows, size)
        ends = [0]  # of every word, in tokens
        for n in range(1, len(said) + 1):
            ids = family.pipe.tokenizer(family.written("tokenizer", " ".join(said[:n])), verbose=False).input_ids
            ends.append(len(ids) - 2)  # without the beginning and the end of the text
        lengths = [end - start for start, end in pairwise(ends)]
        text = denoiser.encode_conditions((" ".join(said),)).encoded["encoder_hidden_states"][:, : ends[-1] + 1]
        names = [*spans, *(f"{n} {word}" for n, word in enumerate(more))]  # a word may be given twice
        words = dict(zip(names, lengths, strict=True))
        return _Beside(words, len(spans), text, rows, size)

    return trace(pipe, prompt, concepts, watch, image, samples, seed, guidance, density)
