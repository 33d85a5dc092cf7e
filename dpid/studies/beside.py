"""Words that go beside the picture and the prompt through a network with joint attention, of ConceptAttention.

In every block they attend to the picture and to one another, by a call of the same block in which they take the place
of the prompt; the network's own call does not see them.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from dpid.studies.attention import AttentionWatch


@dataclass
class Beside(AttentionWatch):
    """Takes words along through the blocks of a network.

    Parameters
    ----------
    concepts : the first of the words
    text : the tokens of all words [1,L,E], as the network takes texts
    """

    concepts: Sequence[str]
    text: Tensor
    size: tuple[int, int]
    _tokens: Tensor = field(init=False)  # the words [M,L,C] before the next block
    _counted: int = field(init=False, default=0)  # batch entries of the network's call that count
    _inside: bool = field(init=False, default=False)  # whether a block is called for the words
    _evaluations: int = field(init=False, default=0)

    @abstractmethod
    def _count(self, inputs: dict[str, Any]) -> int:
        """The number of batch entries that count in a call of the network with ``inputs``."""

    @abstractmethod
    def _given(self, inputs: dict[str, Any]) -> dict[str, Any]:
        """What a block is given for the words in place of its own ``inputs``, beside the words."""

    @abstractmethod
    def _hooked(self, blocks: Sequence[Any]) -> Iterator[Any]:
        """The handles of the hooks that read what attentions of ``blocks`` put out; each is put in place when asked."""

    @abstractmethod
    def shares(self) -> Tensor:
        """The shares [words,Q] of all words at the patches of the picture."""

    def seen(self) -> int:
        """The number of evaluations, with those that do not count."""
        return self._evaluations

    def _begin(self, net: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before the network: the words as its first block takes texts."""
        x = inputs["hidden_states"]
        self._evaluations += len(x)
        self._counted = self._count(inputs)
        self._tokens = net.context_embedder(self.text.to(x)).expand(self._counted, -1, -1)

    def _follow(self, block: Any, _: Any, inputs: dict[str, Any]) -> None:
        """Before a block: the words, by a call of the same block with them in place of the prompt."""
        if self._inside or not self._counted:
            return
        self._inside = True
        try:
            self._tokens = block(**inputs | self._given(inputs) | {"encoder_hidden_states": self._tokens})[0]
        finally:
            self._inside = False

    @contextmanager
    def on(self, net: Any) -> Iterator[None]:
        """A context in which ``net`` takes the words along; its hooks are removed."""
        with ExitStack() as hooks:
            hooks.callback(net.register_forward_pre_hook(self._begin, with_kwargs=True).remove)
            for block in net.transformer_blocks:
                hooks.callback(block.register_forward_pre_hook(self._follow, with_kwargs=True).remove)
            for handle in self._hooked(net.transformer_blocks):
                hooks.callback(handle.remove)
            yield

    def maps(self) -> dict[str, Tensor]:
        """The share [h,w] of every concept among all words, constant within a patch."""
        shares, (h, w) = self.shares()[: len(self.concepts)], self.size
        patch = round((h * w / shares.shape[1]) ** 0.5)
        maps = shares.view(-1, h // patch, w // patch).repeat_interleave(patch, 1).repeat_interleave(patch, 2)
        return dict(zip(self.concepts, maps, strict=True))


@dataclass
class InSD3(Beside):
    """Of Stable Diffusion 3: adds up the outputs of the words and those that the picture has beside them.

    Parameters
    ----------
    lengths : the number of tokens of every word, after the one of the beginning
    rows : the batch entries that count
    """

    lengths: Sequence[int]
    rows: slice
    _all: int = field(init=False, default=0)  # batch entries of all calls that count
    # {of what: {layer: sum [L,C] of outputs}}
    _sums: dict[str, dict[int, Tensor]] = field(init=False, default_factory=lambda: {"words": {}, "picture": {}})

    def _count(self, inputs: dict[str, Any]) -> int:
        counted = len(range(len(inputs["hidden_states"]))[self.rows])
        self._all += counted
        return counted

    def _given(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {name: inputs[name][self.rows] for name in ("hidden_states", "temb")}

    def _add(self, of: str, layer: int, outputs: Tensor) -> None:
        """Adds ``outputs`` [rows,L,C] of the words' call of a block."""
        if self._inside:
            self._sums[of][layer] = self._sums[of].get(layer, 0) + outputs.float().sum(0)

    def _attended(self, layer: int, _a: Any, _i: Any, outputs: tuple[Tensor, Tensor]) -> None:
        """After the attention of the last block, which has no projection for the words."""
        self._add("words", layer, outputs[1])

    def _projected(self, of: str, layer: int, _: Any, inputs: tuple[Tensor]) -> None:
        """Before a projection of outputs."""
        self._add(of, layer, inputs[0])

    def _hooked(self, blocks: Sequence[Any]) -> Iterator[Any]:
        for layer, attention in enumerate(block.attn for block in blocks):
            yield attention.to_out[0].register_forward_pre_hook(partial(self._projected, "picture", layer))
            if attention.context_pre_only:
                yield attention.register_forward_hook(partial(self._attended, layer))
            else:
                yield attention.to_add_out.register_forward_pre_hook(partial(self._projected, "words", layer))

    def shares(self) -> Tensor:
        """Means over layers; the outputs of a word, a mean over its tokens, have length one."""
        tokens, picture = (torch.stack(list(sums.values())).cpu() / self._all for sums in self._sums.values())
        words = torch.stack([part.mean(1) for part in tokens.split([1, *self.lengths], 1)[1:]], 1)  # [layers,words,C]
        return (functional.normalize(words, dim=-1) @ picture.mT).softmax(1).mean(0)


@dataclass
class _InFlux(Beside):
    """Of Flux.1 or Flux.2: products of outputs of the words, a token each, and those that the picture has of its own.

    ``places``: of the words' tokens in their texts.
    """

    places: Sequence[int]
    last: ClassVar[int]  # the number of blocks that count, at the end of those with joint attention
    _prompt: Tensor | None = field(init=False, default=None)
    _said: Tensor = field(init=False)  # the outputs [M,L,C] of the words
    _products: list[list[Tensor]] = field(init=False, default_factory=list)  # [M,L,Q] of every call and block

    def _count(self, inputs: dict[str, Any]) -> int:
        """All of a call with the prompt, that of a run's first; none of those that guidance makes without it."""
        text = inputs["encoder_hidden_states"]
        if self._prompt is None:
            self._prompt = text[0]
        if not torch.equal(text[0], self._prompt):
            return 0
        self._products.append([])
        return len(text)

    def _given(self, inputs: dict[str, Any]) -> dict[str, Any]:
        prompt = inputs["encoder_hidden_states"].shape[1]
        turns = inputs["image_rotary_emb"]  # of the prompt's places, then of the picture's
        return {"image_rotary_emb": tuple(torch.cat((part[list(self.places)], part[prompt:])) for part in turns)}

    def _words(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Before the projection of a text's outputs."""
        if self._inside:
            self._said = inputs[0]

    def _picture(self, _: Any, inputs: tuple[Tensor]) -> None:
        """Before the projection of the picture's outputs."""
        if self._counted and not self._inside:
            self._products[-1].append((self._said.float() @ inputs[0].float().mT).cpu())

    def _hooked(self, blocks: Sequence[Any]) -> Iterator[Any]:
        for attention in (block.attn for block in blocks[-self.last :]):
            yield attention.to_add_out.register_forward_pre_hook(self._words)
            yield attention.to_out[0].register_forward_pre_hook(self._picture)


@dataclass
class InFlux1(_InFlux):
    """Of Flux.1, whose blocks are told a summary of the prompt with the time; for the words it is zero."""

    last: ClassVar[int] = 4
    _temb: Tensor = field(init=False)

    def _begin(self, net: Any, _: Any, inputs: dict[str, Any]) -> None:
        super()._begin(net, _, inputs)
        given = [inputs[name] for name in ("timestep", "guidance") if inputs.get(name) is not None]
        told = [time.to(inputs["hidden_states"].dtype) * 1000 for time in given]
        self._temb = net.time_text_embed(*told, torch.zeros_like(inputs["pooled_projections"]))

    def _given(self, inputs: dict[str, Any]) -> dict[str, Any]:
        return {**super()._given(inputs), "temb": self._temb}

    def shares(self) -> Tensor:
        """Means over blocks and evaluations."""
        return torch.cat(list(chain.from_iterable(self._products))).softmax(1).mean(0)


@dataclass
class InFlux2(_InFlux):
    """Of Flux.2, whose blocks are told the time alone.

    ``run``: whether the calls are the steps of a run, of which those of its last 30 % count, without the very last.
    """

    run: bool
    last: ClassVar[int] = 3
    temperature: ClassVar[float] = 1000.0

    def shares(self) -> Tensor:
        """Those of the mean product over blocks and evaluations."""
        calls, n = self._products, len(self._products)
        if self.run:
            calls = calls[int(0.7 * n) : n - 1] or calls[-1:]  # of fewer than four steps, the last
        return (torch.cat(list(chain.from_iterable(calls))).mean(0) / self.temperature).softmax(0)
