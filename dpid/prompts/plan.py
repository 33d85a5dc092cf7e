"""The condition of every subset of concepts, made from a prompt or given explicitly; each distinct text occurs once.

PID: the null condition is "", the condition of S the phrases of S in the order of the prompt. CPID (``context=True``):
the null condition is the prompt without the concepts, the condition of S the prompt without the concepts that are not
in S. :mod:`dpid.prompts.phrases` finds and removes phrases.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

from dpid.prompts.phrases import Span, check_prompt, check_text, span_of, without

MOST_CONCEPTS = 8  # in one decomposition: their 2⁸ subsets are as many conditions

Subset = tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """The conditions to evaluate, and which subset of concepts has which.

    Attributes
    ----------
    concepts : names of the concepts
    subsets : every subset of ``concepts``, smallest first: ``()`` at the start, all concepts at the end
    texts : the K distinct conditions
    index : position in ``texts`` of every subset's condition
    full : position in ``texts`` of F, the condition that describes the picture best, docs/theory.md, eq. (11); that of
        all concepts, unless :func:`with_reference` chose another
    """

    concepts: tuple[str, ...]
    subsets: tuple[Subset, ...]
    texts: tuple[Any, ...]
    index: tuple[int, ...]
    full: int


def check_condition(name: str, condition: Any) -> Any:
    """``condition`` if it is valid; a text as :func:`dpid.prompts.phrases.check_text` returns it.

    ``TypeError``, naming the argument ``name``, for a tensor and for a value that is not hashable.
    """
    if isinstance(condition, str):
        return check_text(name, condition)
    if hasattr(condition, "__dlpack__"):  # a tensor of any library, such as an embedding; its == is elementwise
        raise TypeError(f"{name}: found a {type(condition).__name__}, expected texts; embeddings are not taken")
    try:
        hash(condition)
    except TypeError as error:
        raise TypeError(f"{name}: {error}; expected texts, or what can be a key of a dict") from error
    return condition


def with_reference(plan: Plan, text: Any) -> Plan:
    """``plan`` with ``text`` as the condition F, which is added to its texts if it is not among them."""
    text = check_condition("reference", text)
    texts = tuple(dict.fromkeys((*plan.texts, text)))
    return replace(plan, texts=texts, full=texts.index(text))


def merge(plans: Sequence[Plan]) -> tuple[Plan, ...]:
    """The same plans over one common list of the texts that they use, so that shared texts are evaluated once."""
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


def _from_texts(concepts: tuple[str, ...], texts: Mapping[Subset, Any]) -> Plan:
    subsets = subsets_of(concepts)
    if len({"+".join(s) for s in subsets}) < len(subsets):  # by which results name them
        raise ValueError(f"concepts: {concepts!r}, joined by '+', name two subsets alike; leave one of them out")
    distinct = tuple(dict.fromkeys(texts[s] for s in subsets))
    index = tuple(distinct.index(texts[s]) for s in subsets)
    return Plan(concepts, subsets, distinct, index, index[-1])


def check_concepts(concepts: Iterable[str]) -> tuple[str, ...]:
    """``concepts``, any iterable, as a tuple of strings; ``TypeError`` for one string or for items that are none."""
    if isinstance(concepts, str):
        such = tuple(concepts.replace(",", " ").split()[:2]) or ("cow", "giraffe")
        raise TypeError(f"concepts: found the string {concepts!r}, expected a sequence of texts such as {such}")
    try:
        words = tuple(concepts)
    except TypeError as error:
        raise TypeError(f"concepts: found {type(concepts).__name__}, expected a sequence of texts") from error
    return tuple(check_text("concepts", word) for word in words)


def spans_of(prompt: str, concepts: Iterable[str]) -> dict[str, Span]:
    """The place of every concept in ``prompt``: {concept: (start, end)}.

    Raises
    ------
    ValueError
        The prompt is empty; a concept is not in it (the message lists its words), repeats or overlaps another; a text
        has a lone surrogate or a control character.
    TypeError
        The prompt is no string, or the concepts are no sequence of strings.
    """
    prompt, names = check_prompt(prompt), check_concepts(concepts)
    spans = {concept: span_of(prompt, concept) for concept in names}
    for first, second in pairwise(sorted(spans, key=lambda c: spans[c])):
        if spans[first][1] > spans[second][0]:
            raise ValueError(f"concepts: {first!r} and {second!r} overlap in the prompt")
    if len(spans) < len(names):
        raise ValueError(f"concepts: found {', '.join(names)}; each may be given once")
    return spans


def plan(prompt: str, concepts: Iterable[str], context: bool = False) -> Plan:
    """The plan of all subsets of ``concepts``, phrases of ``prompt``; errors as of :func:`spans_of`."""
    prompt, spans = check_prompt(prompt), spans_of(prompt, concepts)
    texts: dict[Subset, str] = {}
    for subset in subsets_of(tuple(spans)):
        kept = sorted(spans[c] for c in subset)
        if context:
            texts[subset] = without(prompt, [span for c, span in spans.items() if c not in subset], kept)
        else:
            texts[subset] = " ".join(prompt[slice(*span)] for span in kept)
    return _from_texts(tuple(spans), texts)


def _by_subset(conditions: Mapping[Any, Any]) -> dict[Subset, Any]:
    """``conditions`` with tuples of concepts as keys; keys of a result ("", "cow", "cow+giraffe") are converted."""
    if not isinstance(conditions, Mapping):
        raise TypeError(f"conditions: found {type(conditions).__name__}, expected {{(): null, ('cow',): …}}")
    texts = {key: check_condition("conditions", text) for key, text in conditions.items()}
    if texts and all(isinstance(key, str) for key in texts):

        def joined(key: str) -> bool:
            """Whether ``key`` is a concept, a plus, and another key: "C+++cow" is one, "C++" none."""
            return any(c and key.startswith(f"{c}+") and key[len(c) + 1 :] in texts for c in texts)

        singles = [key for key in texts if key and not joined(key)]
        named = {"+".join(s): s for s in subsets_of(singles)} if 2 ** len(singles) == len(texts) else {}
        texts = {named.get(key, key): text for key, text in texts.items()}
    for key in texts:
        if not isinstance(key, tuple) or not all(isinstance(concept, str) and concept for concept in key):
            hint = f", such as ({key!r},) of one" if isinstance(key, str) else ""
            raise TypeError(f"conditions: found the key {key!r}, expected tuples of concepts{hint}")
    return texts


def from_mapping(conditions: Mapping[Subset, Any]) -> Plan:
    """The plan of explicit ``conditions``: {(): null, ("cow",): …, ("giraffe",): …, ("cow", "giraffe"): …}.

    ``metadata.conditions`` of a result is accepted too.

    Raises
    ------
    ValueError
        A subset is missing, or one names concepts that no single condition names.
    TypeError
        A key is no tuple of strings, or a condition is a tensor or not hashable.
    """
    texts = _by_subset(conditions)
    singles = tuple(s[0] for s in texts if len(s) == 1)
    if not singles:
        raise ValueError("conditions: no single concept is named; expected keys such as (), ('cow',), ('giraffe',), …")
    _check_number(singles, least=1)
    given = {frozenset(s): text for s, text in texts.items()}
    needed = subsets_of(singles)
    for subset in needed:
        if frozenset(subset) not in given:
            raise ValueError(f"conditions: {subset!r} is missing; all {len(needed)} subsets of {singles} are needed")
    if len(given) != len(needed) or len(given) != len(texts):
        raise ValueError(f"conditions: found {len(texts)} entries, expected the {len(needed)} subsets of {singles}")
    return _from_texts(singles, {s: given[frozenset(s)] for s in needed})


def plan_concepts(
    prompt: str | None, concepts: Iterable[str] | None, conditions: Mapping[Subset, Any] | None = None,
    context: bool = False,
) -> Plan:  # fmt: skip
    """The plan of two to eight concepts, from a prompt or from explicit conditions; ``ValueError`` if there is none."""
    if conditions is None:
        if prompt is None or concepts is None:
            raise ValueError("prompt, concepts: both are needed, or conditions instead")
        words = check_concepts(concepts)
        _check_number(words)
        return plan(prompt, words, context)
    if concepts is not None or context:
        raise ValueError("conditions: they name the concepts and hold the context; leave out concepts and context")
    if prompt is not None:
        check_text("prompt", prompt)
    chosen = from_mapping(conditions)
    _check_number(chosen.concepts)
    return chosen


def _check_number(concepts: Sequence[str], least: int = 2) -> None:
    if not least <= len(concepts) <= MOST_CONCEPTS:
        found = f" ({concepts[0]!r})" if len(concepts) == 1 else ""
        raise ValueError(f"concepts: found {len(concepts)}{found}, allowed are 2…{MOST_CONCEPTS}, each on its own")
