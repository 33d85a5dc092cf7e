"""From a prompt and its concepts to the condition of every concept subset, each distinct text once.

PID: null = "", condition of S = the concept phrases of S in prompt order. CPID (``context=True``): null = the prompt
without the concepts, condition of S = the prompt without the concepts that are not in S.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

Subset = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """Which conditions to evaluate.

    Attributes
    ----------
    concepts : names of the concepts
    subsets : every subset of ``concepts``, smallest first, the null ``()`` at the start, all concepts at the end
    texts : the distinct conditions, K of them
    index : position in ``texts`` of each subset's condition
    full : position in ``texts`` of F, the condition that describes the picture best (theory: Rao–Blackwellised
        estimator); that of all concepts, unless :func:`with_reference` chose another
    """

    concepts: tuple[str, ...]
    subsets: tuple[Subset, ...]
    texts: tuple[Any, ...]
    index: tuple[int, ...]
    full: int


def _distinct(texts: Iterable[Any]) -> tuple[Any, ...]:
    """Each of ``texts`` once; ``TypeError`` for one that cannot be compared."""
    try:
        return tuple(dict.fromkeys(texts))
    except TypeError as error:
        raise TypeError(f"conditions: {error}; expected texts, or what can be a key of a dict") from error


def with_reference(plan: Plan, text: Any) -> Plan:
    """``plan`` with ``text`` as its F; a condition more where it is none of ``plan.texts``."""
    texts = _distinct((*plan.texts, text))
    return replace(plan, texts=texts, full=texts.index(text))


def merge(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The same plans over one list of texts, those they use: what occurs in several is evaluated once."""
    texts = tuple(dict.fromkeys(p.texts[k] for p in plans for k in (*p.index, p.full)))
    return tuple(
        replace(
            p, texts=texts, index=tuple(texts.index(p.texts[k]) for k in p.index), full=texts.index(p.texts[p.full])
        )
        for p in plans
    )


def subsets_of(concepts: Sequence[str]) -> tuple[Subset, ...]:
    """All subsets of ``concepts``, smallest first, in the order of ``concepts``."""
    return tuple(s for size in range(len(concepts) + 1) for s in combinations(concepts, size))


def _words(text: str) -> str:
    return ", ".join(dict.fromkeys(re.findall(r"\w[\w'-]*", text)))


def span_of(prompt: str, concept: str) -> tuple[int, int]:
    """Where ``concept`` ("bowl", or "bowl#2" for its second occurrence) stands in ``prompt``."""
    if not isinstance(concept, str) or not concept.strip():
        raise ValueError(f"concepts: found {concept!r}, a concept is a phrase of the prompt")
    phrase, mark, number = concept.partition("#")
    if mark and not (number.isdecimal() and int(number) > 0):
        raise ValueError(f"concepts: found {concept!r}; write {phrase}#2 for the second {phrase!r} of the prompt")
    if not phrase.strip():
        raise ValueError(f"concepts: found {concept!r}, a concept is a phrase of the prompt")
    pattern = r"(?<!\w)" + r"\s+".join(map(re.escape, phrase.split())) + r"(?!\w)"
    spans = [m.span() for m in re.finditer(pattern, prompt, re.IGNORECASE)]
    wanted = int(number) if mark else 1
    if not spans:
        raise ValueError(f"concepts: {phrase.strip()!r} is not in the prompt; its words are {_words(prompt)}")
    if wanted > len(spans):
        raise ValueError(f"concepts: found {concept!r}, but {phrase!r} occurs {len(spans)} time(s) in the prompt")
    return spans[wanted - 1]


def _without(prompt: str, spans: Sequence[tuple[int, int]]) -> str:
    for start, end in sorted(spans, reverse=True):
        prompt = prompt[:start] + " " + prompt[end:]
    # What a removed word leaves behind: doubled spaces, a space before a comma.
    return re.sub(r"\s+([,.;:!?])", r"\1", re.sub(r"\s+", " ", prompt)).strip()


def _from_texts(concepts: tuple[str, ...], texts: Mapping[Subset, Any]) -> Plan:
    subsets = subsets_of(concepts)
    distinct = _distinct(texts[s] for s in subsets)
    index = tuple(distinct.index(texts[s]) for s in subsets)
    return Plan(concepts, subsets, distinct, index, index[-1])


def plan(prompt: str, concepts: Sequence[str], context: bool = False) -> Plan:
    """The conditions of all subsets of ``concepts``, phrases of ``prompt``.

    Raises
    ------
    ValueError
        The prompt is empty; a concept is not in it (the message lists its words), repeats or overlaps another.
    """
    if not isinstance(prompt, str) or not prompt.strip():
        raise ValueError("prompt: found an empty text; write what the picture shows, for example 'a cow and a giraffe'")
    if isinstance(concepts, str):
        raise TypeError(f"concepts: found the string {concepts!r}, expected a sequence such as ({concepts!r}, …)")
    spans = {concept: span_of(prompt, concept) for concept in concepts}
    ordered = sorted(spans, key=lambda c: spans[c])
    for first, second in pairwise(ordered):
        if spans[first][1] > spans[second][0]:
            raise ValueError(f"concepts: {first!r} and {second!r} overlap in the prompt")
    if len(spans) < len(concepts):
        raise ValueError(f"concepts: found {', '.join(concepts)}; each may be given once")
    texts: dict[Subset, str] = {}
    for subset in subsets_of(tuple(concepts)):
        if context:
            texts[subset] = _without(prompt, [span for c, span in spans.items() if c not in subset])
        else:
            texts[subset] = " ".join(prompt[slice(*spans[c])] for c in ordered if c in subset)
    return _from_texts(tuple(concepts), texts)


def from_mapping(conditions: Mapping[Subset, Any]) -> Plan:
    """The plan of explicit ``conditions``: {(): null, ("cow",): …, ("giraffe",): …, ("cow", "giraffe"): …}.

    Raises
    ------
    ValueError
        A subset is missing, or one names concepts that no single condition names.
    """
    singles = tuple(s[0] for s in conditions if isinstance(s, tuple) and len(s) == 1)
    if not singles:
        raise ValueError("conditions: no single concept is named; expected keys such as (), ('cow',), ('giraffe',), …")
    given = {frozenset(s): text for s, text in conditions.items()}
    needed = subsets_of(singles)
    for subset in needed:
        if frozenset(subset) not in given:
            raise ValueError(f"conditions: {subset!r} is missing; all {len(needed)} subsets of {singles} are needed")
    if len(given) != len(needed) or len(given) != len(conditions):
        raise ValueError(
            f"conditions: found {len(conditions)} entries, expected the {len(needed)} subsets of {singles}"
        )
    return _from_texts(singles, {s: given[frozenset(s)] for s in needed})


def plan_concepts(
    prompt: str | None, concepts: Sequence[str] | None, conditions: Mapping[Subset, Any] | None = None,
    context: bool = False,
) -> Plan:  # fmt: skip
    """The conditions of two to eight concepts, from a prompt or given; ``ValueError`` if they make no plan."""
    if conditions is None:
        if prompt is None or concepts is None:
            raise ValueError("prompt, concepts: both are needed, or conditions instead")
        if not isinstance(concepts, str):
            _check_number(concepts)
        return plan(prompt, concepts, context)
    if concepts is not None or context:
        raise ValueError("conditions: they name the concepts and hold the context; leave out concepts and context")
    chosen = from_mapping(conditions)
    _check_number(chosen.concepts)
    return chosen


def _check_number(concepts: Sequence[str]) -> None:
    if not 2 <= len(concepts) <= 8:
        found = f" ({concepts[0]!r})" if len(concepts) == 1 else ""
        raise ValueError(f"concepts: found {len(concepts)}{found}, allowed are 2…8, each on its own")
