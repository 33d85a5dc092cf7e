"""Priors h(y_S) = -log p(y_S) of concepts, in nats: given, uniform, or from a masked language model.

h belongs to the image as a whole: it is what the words could tell before any picture is seen. A map of P pixels gets
h / P at every pixel, so that the map sums to the scale of the image; see ``pixels`` of :func:`dpid.pid.decompose`.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from torch import Tensor

from dpid.pid.lattice import members
from dpid.prompts.phrases import span_of
from dpid.prompts.plan import Subset, subsets_of

VOCABULARY = 49_408  # tokens of CLIP, the text encoder of Stable Diffusion: what "uniform" draws a concept from

Priors = Mapping[Subset, Any] | str
Step = tuple[tuple[int, ...], int]
"""Positions of a text that are open, and the one that is asked for."""


class PriorWarning(UserWarning):
    """A concept tells more about the image than its prior allows, i(x; y) > h(y)."""


def uniform(concepts: Sequence[str], vocabulary: int = VOCABULARY) -> dict[Subset, float]:
    """h(y_S) = \\|S\\| ln V: every concept drawn by itself, evenly from ``vocabulary`` words."""
    return {s: len(s) * math.log(vocabulary) for s in subsets_of(concepts)[1:]}


def masked_lm(model: str, prompt: str, concepts: Sequence[str]) -> dict[Subset, float]:
    """h(y_S) of ``concepts``, phrases of ``prompt``, by a masked language model (a name or folder for transformers).

    The tokens of all concepts are masked, and those of S uncovered one after another in the order of the prompt: by the
    chain rule h(y_S) = -Σ_k log p(token_k | prompt without the concepts, tokens of S before k). So p(y_S) is given the
    rest of the prompt and the number of tokens. A masked language model is no distribution over several words: where
    its p(y_S) exceeds that of a part of S, the part's is taken.

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
    # Subsets share their first steps: each is asked for once.
    steps = list(dict.fromkeys((tuple(path[:k]), path[k]) for path in paths.values() for k in range(len(path))))
    covered = ids.clone()
    covered[sorted({i for where in at.values() for i in where})] = tokenizer.mask_token_id
    surprisal = _surprisals(network, ids, covered, steps)
    h: dict[Subset, float] = {}
    for s, path in paths.items():
        whole = sum(surprisal[tuple(path[:k]), path[k]] for k in range(len(path)))
        h[s] = max([whole, *(h[part] for part in combinations(s, len(s) - 1) if part)])
    return h


def _load(model: str) -> tuple[Any, Any]:
    """Tokenizer and network of a masked language model."""
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    from dpid.quiet import quiet

    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(model)
            network = AutoModelForMaskedLM.from_pretrained(model, use_safetensors=True).eval()
    except (OSError, ValueError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"priors: cannot load the masked language model {model!r} ({reason})") from error
    if tokenizer.mask_token_id is None or not tokenizer.is_fast:
        raise ValueError(f"priors: {model!r} needs a fast tokenizer with a mask token")
    return tokenizer, network


def _surprisals(network: Any, ids: Tensor, covered: Tensor, steps: list[Step]) -> dict[Step, float]:
    """-log p of the token of ``ids`` [L] that each step asks for, in ``covered`` [L] with the step's positions open."""
    surprisal: dict[Step, float] = {}
    for first in range(0, len(steps), 64):
        batch = steps[first : first + 64]
        inputs = covered.repeat(len(batch), 1)
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
    """``priors`` as {subset: h}, however they were asked for; ``kind`` as in :func:`dpid.pid.measures.register`."""
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
    """``ValueError`` unless {mask: h} are -log probabilities that one joint distribution can have."""

    def name(mask: int) -> str:
        return " + ".join(concepts[k] for k in members(mask))

    for s, value in h.items():
        if not (value.isfinite() & (value >= 0)).all():
            raise ValueError(f"priors: h({name(s)}) is negative or not finite; expected -log of a probability")
        for k in members(s):
            part = s ^ (1 << k)
            slack = 64 * torch.finfo(value.dtype).eps * (1 + value)  # the rounding of what the caller computed
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
    """:class:`PriorWarning` where a concept tells more than its prior allows."""
    slack = 64 * torch.finfo(next(iter(f.values())).dtype).eps
    beyond = []
    for s, value in f.items():
        over = (value - h[s]).detach()
        if bool((over > slack * h[s].abs()).any()):
            beyond.append(f"{' + '.join(concepts[k] for k in members(s))} by up to {float(over.max()):.3g}")
    if beyond:
        warnings.warn(
            f"i(x; y) exceeds the prior h(y) of {', '.join(beyond)} nats: the word cannot tell that much, and the "
            "atoms of this measure mean less there",
            PriorWarning,
            stacklevel=4,
        )
