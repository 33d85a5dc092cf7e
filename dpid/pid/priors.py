"""Prior surprisals h(y_S) = -log p(y_S) of concepts, in nats, for the redundancy measures that need them.

They are given by the caller, uniform, or those of a masked language model. h is that of the image; a map of P pixels
gets h / P at every pixel, so that it sums to h (docs/theory.md, eq. (44); ``pixels`` of :func:`dpid.pid.decompose`).
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from dpid.pid.lattice import members
from dpid.prompts.phrases import span_of
from dpid.prompts.plan import Subset, subsets_of

VOCABULARY = 49_408  # tokens of CLIP, the text encoder of Stable Diffusion

Priors = Mapping[Subset, Any] | str
Step = tuple[tuple[int, ...], int]
"""Positions of the tokens that are not masked, and of the masked token whose probability is wanted."""


class PriorWarning(UserWarning):
    """The warning that an information exceeds what the prior allows, i(x; y) > h(y)."""


def uniform(concepts: Sequence[str], vocabulary: int = VOCABULARY) -> dict[Subset, float]:
    """{S: h(y_S)} in nats where every concept is drawn independently and evenly from ``vocabulary`` words."""
    return {s: len(s) * math.log(vocabulary) for s in subsets_of(concepts)[1:]}


def masked_lm(model: str, prompt: str, concepts: Sequence[str]) -> dict[Subset, float]:
    """{S: h(y_S)} in nats of ``concepts``, phrases of ``prompt``, under a masked language model.

    ``model`` is a name or folder for transformers. The tokens of all concepts are masked, and those of S are revealed
    one after another in the order of the prompt (docs/theory.md, eq. (44)), so that p(y_S) is conditioned on the rest
    of the prompt and on the number of tokens. The probabilities of a masked language model need not be consistent:
    where its p(y_S) exceeds that of a subset of S, the latter is used, and where no joint distribution has all of them,
    those of one near them: of n = 2 concepts, all are divided by the p(y_1) + p(y_2) - p(y_1, y_2) > 1.

    Raises
    ------
    ValueError
        The model cannot be loaded or has no mask token; a concept is not in the prompt, or has no token of its own.
    """
    tokenizer, network = _load(model)
    encoded = tokenizer(prompt, return_offsets_mapping=True, return_tensors="pt")
    ids, offsets = encoded["input_ids"][0], encoded["offset_mapping"][0].tolist()
    at: dict[str, list[int]] = {}
    for concept in concepts:
        start, end = span_of(prompt, concept)
        at[concept] = [i for i, (a, b) in enumerate(offsets) if a < end and b > start]
        if not at[concept]:
            raise ValueError(f"priors: {concept!r} has no token under {model!r}")
    paths = {s: sorted({i for c in s for i in at[c]}) for s in subsets_of(concepts)[1:]}
    # Subsets share their first steps: the network evaluates every step once.
    steps = list(dict.fromkeys((tuple(path[:k]), path[k]) for path in paths.values() for k in range(len(path))))
    masked = ids.clone()
    masked[sorted({i for where in at.values() for i in where})] = tokenizer.mask_token_id
    surprisal = _surprisals(network, ids, masked, steps)
    h: dict[Subset, float] = {}
    for s, path in paths.items():
        joint = sum(surprisal[tuple(path[:k]), path[k]] for k in range(len(path)))
        h[s] = max([joint, *(h[part] for part in combinations(s, len(s) - 1) if part)])
    return _of_a_distribution(h)


def _of_a_distribution(h: dict[Subset, float]) -> dict[Subset, float]:
    """``h`` itself if some joint distribution has it, else that of one near it. Larger subsets come last in it."""
    only: dict[Subset, float] = {}  # the probability of S and no other concept, which a distribution has not below zero
    least = 0.0
    for s in reversed(h):
        others = math.fsum(p for t, p in only.items() if set(s) < set(t))
        least = min(least, math.exp(-h[s]) - others)
        only[s] = max(math.exp(-h[s]) - others, 0.0)
    total = max(math.fsum(only.values()), 1.0)
    if least > -1e-9 and total < 1 + 1e-9:  # of float64 that have 16 digits
        return h
    p = {s: math.fsum(p for t, p in only.items() if set(s) <= set(t)) for s in h}
    return {s: math.log(total) + (-math.log(p[s]) if p[s] else h[s]) for s in h}  # exp(-h) is 0 beyond 745 nats


@lru_cache(maxsize=1)  # every picture and every pair of concepts asks for it
def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and network of a masked language model."""
    from transformers import AutoConfig, AutoModelForMaskedLM, AutoTokenizer

    from dpid.quiet import quiet

    try:
        with quiet():
            AutoConfig.from_pretrained(model)  # the tokenizer would go on after half a minute without the hub
            tokenizer = AutoTokenizer.from_pretrained(model)
            network = AutoModelForMaskedLM.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"priors: cannot load the masked language model {model!r} ({reason})") from error
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ValueError(f"priors: {model!r} needs a fast tokenizer with a mask token")
    return tokenizer, network


def _surprisals(network: Any, ids: Tensor, masked: Tensor, steps: list[Step]) -> dict[Step, float]:
    """{step: -log p of its token of ``ids`` [L]} in nats, from ``masked`` [L] with the tokens of the step revealed."""
    surprisal: dict[Step, float] = {}
    for first in range(0, len(steps), 64):
        batch = steps[first : first + 64]
        inputs = masked.repeat(len(batch), 1)
        for row, (before, _) in zip(inputs, batch, strict=True):
            row[list(before)] = ids[list(before)]
        with torch.inference_mode():
            logits = network(input_ids=inputs, attention_mask=torch.ones_like(inputs)).logits
        for row, step in zip(logits.double().log_softmax(-1), batch, strict=True):
            surprisal[step] = -float(row[step[1], ids[step[1]]])
    return surprisal


def resolve(
    priors: Priors | None, concepts: Sequence[str], kind: str, prompt: str | None = None
) -> Mapping[Subset, Any]:
    """``priors``, a name or a mapping, as {subset: h(y_S)}; ``ValueError`` for anything else.

    ``kind`` is the ``priors`` of :func:`dpid.pid.measures.register`.
    """
    if isinstance(priors, str):
        name, _, detail = priors.partition(":")
        if name == "uniform" and kind != "candidates":
            if detail and not (detail.isdecimal() and int(detail) > 1):
                raise ValueError(f"priors: found {priors!r}, expected 'uniform' or 'uniform:V' with V > 1 words")
            return uniform(concepts, int(detail or VOCABULARY))
        if name == "mlm" and detail and kind != "candidates":
            if prompt is None:
                raise ValueError(f"prompt: found None, but priors {priors!r} need the prompt that holds the concepts")
            return masked_lm(detail, prompt, concepts)
    elif isinstance(priors, Mapping):
        return priors
    allowed = "'uniform'" if kind == "candidates" else "'uniform', 'uniform:V', 'mlm:<model>'"
    raise ValueError(f"priors: found {priors!r}, expected {{subset: h(y_S) in nats}}, or {allowed}")


def check_joint(h: Mapping[int, Tensor], concepts: Sequence[str]) -> None:
    """Raise ``ValueError`` unless {mask: h} are -log of probabilities that some joint distribution has."""

    def name(mask: int) -> str:
        return " + ".join(concepts[k] for k in members(mask))

    for s, value in h.items():
        if not (value.isfinite() & (value >= 0)).all():
            raise ValueError(f"priors: h({name(s)}) is negative or not finite; expected -log of a probability")
        for k in members(s):
            part = s ^ (1 << k)
            slack = 64 * torch.finfo(value.dtype).eps * (1 + value)  # rounding in the caller's computation
            if part in h and (h[part] > value + slack).any():
                raise ValueError(f"priors: p({name(s)}) is larger than p({name(part)}), which it is a part of")
    n = len(concepts)
    if len(h) < 2**n - 1:
        return
    for t in range(2**n):
        exactly = torch.zeros_like(h[2**n - 1])
        for s in range(2**n):
            if s & t == t:
                exactly = exactly + (-1) ** (s ^ t).bit_count() * (torch.exp(-h[s]) if s else 1.0)
        if (exactly < -1e-6).any():  # the rounding of 2^n float32 terms of at most 1
            only = name(t) or "no concept"
            raise ValueError(f"priors: they do not sum, the probability of {only} alone comes out negative")


def warn_beyond(f: Mapping[int, Tensor], h: Mapping[int, Tensor], concepts: Sequence[str]) -> None:
    """Warn with :class:`PriorWarning` where i(x; y_S) exceeds h(y_S)."""
    slack = 64 * torch.finfo(next(iter(f.values())).dtype).eps
    exceeded = []
    for s, value in f.items():
        over = (value - h[s]).detach()
        if bool((over > slack * h[s].abs()).any()):
            exceeded.append(f"{' + '.join(concepts[k] for k in members(s))} by up to {float(over.max()):.3g}")
    if exceeded:
        warnings.warn(
            f"i(x; y) exceeds the prior h(y) of {', '.join(exceeded)} nats: the word cannot tell that much, and the "
            "atoms of this measure mean less there",
            PriorWarning,
            stacklevel=4,
        )
