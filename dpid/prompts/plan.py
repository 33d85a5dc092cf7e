"""From a prompt and its concepts to the condition of every concept subset, each distinct text once.

PID: null = "", condition of S = the concept phrases of S in prompt order. CPID (``context=True``): null = the prompt
without the concepts, condition of S = the prompt without the concepts that are not in S. All are cut out of the prompt
as it is written; :mod:`dpid.prompts.phrases` says where a concept stands and what is left without it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, pairwise
from typing import Any

from dpid.prompts.phrases import Span, check_text, is_blank, span_of, without

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


def check_condition(name: str, condition: Any) -> Any:
    """``condition``, for the argument ``name``; a text as :func:`dpid.prompts.phrases.check_text` returns it.

    ``TypeError`` for a tensor and for what cannot be a key of a dict.
    """
    if isinstance(condition, str):
        return check_text(name, condition)
    if hasattr(condition, "__dlpack__"):  # a tensor of any library, such as an embedding: == has no one answer
        raise TypeError(f"{name}: found a {type(condition).__name__}, expected texts; embeddings are not taken")
    try:
        hash(condition)
    except TypeError as error:
        raise TypeError(f"{name}: {error}; expected texts, or what can be a key of a dict") from error
    return condition


def with_reference(plan: Plan, text: Any) -> Plan:
    """``plan`` with ``text`` as its F; a condition more where it is none of ``plan.texts``."""
    text = check_condition("reference", text)
    texts = tuple(dict.fromkeys((*plan.texts, text)))
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


def _from_texts(concepts: tuple[str, ...], texts: Mapping[Subset, Any]) -> Plan:
    subsets = subsets_of(concepts)
    distinct = tuple(dict.fromkeys(texts[s] for s in subsets))
    index = tuple(distinct.index(texts[s]) for s in subsets)
    return Plan(concepts, subsets, distinct, index, index[-1])


def check_concepts(concepts: Iterable[str]) -> tuple[str, ...]:
    """``concepts``, any iterable, as plain texts; ``TypeError`` for one string and for what holds no texts."""
    if isinstance(concepts, str):
        such = tuple(concepts.replace(",", " ").split()[:2]) or ("cow", "giraffe")
        raise TypeError(f"concepts: found the string {concepts!r}, expected a sequence of texts such as {such}")
    try:
        words = tuple(concepts)
    except TypeError as error:
        raise TypeError(f"concepts: found {type(concepts).__name__}, expected a sequence of texts") from error
    return tuple(check_text("concepts", word) for word in words)


def spans_of(prompt: str, concepts: Iterable[str]) -> dict[str, Span]:
    """Where each of ``concepts``, phrases of ``prompt``, stands in it: {concept: (start, end)}.

    Raises
    ------
    ValueError
        The prompt is empty; a concept is not in it (the message lists its words), repeats or overlaps another; one has
        half a surrogate pair or a control character.
    TypeError
        The prompt is not one text, the concepts are not several.
    """
    prompt, names = check_text("prompt", prompt), check_concepts(concepts)
    if is_blank(prompt):
        raise ValueError("prompt: found an empty text; write what the picture shows, for example 'a cow and a giraffe'")
    spans = {concept: span_of(prompt, concept) for concept in names}
    for first, second in pairwise(sorted(spans, key=lambda c: spans[c])):
        if spans[first][1] > spans[second][0]:
            raise ValueError(f"concepts: {first!r} and {second!r} overlap in the prompt")
    if len(spans) < len(names):
        raise ValueError(f"concepts: found {', '.join(names)}; each may be given once")
    return spans


def plan(prompt: str, concepts: Iterable[str], context: bool = False) -> Plan:
    """The conditions of all subsets of ``concepts``, phrases of ``prompt``; raises what :func:`spans_of` does."""
    prompt, names = check_text("prompt", prompt), check_concepts(concepts)
    spans = spans_of(prompt, names)
    texts: dict[Subset, str] = {}
    for subset in subsets_of(names):
        kept = sorted(spans[c] for c in subset)
        if context:
            texts[subset] = without(prompt, [span for c, span in spans.items() if c not in subset], kept)
        else:
            texts[subset] = " ".join(prompt[slice(*span)] for span in kept)
    return _from_texts(names, texts)


def _by_subset(conditions: Mapping[Any, Any]) -> dict[Subset, Any]:
    """``conditions`` by tuples of concepts, also where the keys are those of a result: "", "cow", "cow+giraffe"."""
    if not isinstance(conditions, Mapping):
        raise TypeError(f"conditions: found {type(conditions).__name__}, expected {{(): null, ('cow',): …}}")
    texts = {key: check_condition("conditions", text) for key, text in conditions.items()}
    if texts and all(isinstance(key, str) for key in texts):

        def joined(key: str) -> bool:
            """Whether it is a concept, a plus, and another key: "C+++cow", but not "C++"."""
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

    Those of a result, ``metadata.conditions``, are taken too.

    Raises
    ------
    ValueError
        A subset is missing, or one names concepts that no single condition names.
    TypeError
        A key is no tuple of texts, or a condition is a tensor or cannot be a key of a dict.
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
    """The conditions of two to eight concepts, from a prompt or given; ``ValueError`` if they make no plan."""
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
    if not least <= len(concepts) <= 8:
        found = f" ({concepts[0]!r})" if len(concepts) == 1 else ""
        raise ValueError(f"concepts: found {len(concepts)}{found}, allowed are 2…8, each on its own")
