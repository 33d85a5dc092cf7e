"""Asks of every word of a prompt what it does: rounds of samples, each for the words that are not yet settled.

Every round has noise of its own, and a word's numbers are means over the rounds that evaluated it. All words of a round
share their noise, the empty prompt and the whole one, so that n words take 2n + 2 conditions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from random import Random
from time import monotonic
from typing import Any

from dpid.options import Budget, WordsOptions, check_allowed
from dpid.prompts.phrases import Span, check_prompt, holds, span_of, without
from dpid.prompts.plan import Plan, check_concepts, from_mapping, merge, plan, with_reference
from dpid.prompts.words import content_words
from dpid.results.result import PIDResult
from dpid.results.word import REST, Word, co_information, pooled
from dpid.results.words import WordsResult
from dpid.run import may_stop

_UNSIGNED = ("orthogonal", "rao-blackwell")  # of what a word adds, these are integrals of squares
_MOST = 64  # concepts


def allowed(options: dict[str, Any]) -> dict[str, Any]:
    """The ``options`` of an explanation by which words are judged; an error for one that is fixed, or does not suit."""
    check_allowed(options, tuple(WordsOptions.__annotations__), "words are judged")
    if options.get("estimator") in _UNSIGNED:
        raise ValueError(
            f"estimator: found {options['estimator']!r}, by which no word misleads; allowed are shrinkage and standard"
        )
    return options | {"level": "pixel"}


def concepts_of(prompt: str | None, concepts: Sequence[str] | None) -> tuple[str, ...]:
    """The concepts to judge: those given, or else the content words of ``prompt``.

    ``ValueError`` or ``TypeError`` if there are none, or too many, or if one is not in the prompt.
    """
    if prompt is None:
        raise ValueError("prompt: is needed to find words in")
    if concepts is None:
        return content_words(prompt)
    names = check_concepts(concepts)
    if not 0 < len(names) <= _MOST or len(set(names)) < len(names):
        raise ValueError(f"concepts: found {len(names)}, expected 1 to {_MOST}, each given once")
    if REST in names:
        raise ValueError(f"concepts: {REST!r} is the name of the other words here; write {REST + '#1'!r}")
    prompt = check_prompt(prompt)
    if len({span_of(prompt, name) for name in names}) < len(names):
        raise ValueError("concepts: two of them are the same place of the prompt, expected each once")
    return names


def margin_of(spans: Mapping[str, Span], share: float) -> float:
    """What counts as nothing, as a share of i(x; prompt): ``share`` by the number of words in ``spans`` {word: place}.

    A phrase of several of them is no further word.
    """
    return share / sum(not _holds_another(w, spans) for w in spans)


def _holds_another(w: str, spans: Mapping[str, Span]) -> bool:
    """Whether ``w`` is a phrase of several of the words at ``spans``."""
    return any(u != w and holds(spans[w], span) for u, span in spans.items())


def seed_of(seed: int, turn: int) -> int:
    """The seed of round ``turn``, of which no two rounds of any search share one."""
    return seed if not turn else Random(f"{seed} {turn}").getrandbits(62)


@dataclass
class _Known:
    """A word as it was found by the mean of so many rounds, and whether it is settled and asked no more."""

    word: Word
    rounds: int
    settled: bool


class Search:
    """What is known of the words of a prompt, and what is to be asked next, round after round.

    Parameters
    ----------
    concepts : of :func:`concepts_of`
    rounds : of all words, at most. Then, if some are redundant or work with one of several others, one of pairs follows
        that names these, if there is time

    Attributes
    ----------
    questions : of the next round, over the texts that they have in common; none if the search is at its end
    turn : the number of that round
    """

    def __init__(self, prompt: str, concepts: Sequence[str], budget: Budget, rounds: int) -> None:
        self.prompt = prompt
        self.spans = {concept: span_of(prompt, concept) for concept in concepts}
        self.margin = margin_of(self.spans, budget.margin)
        self.known: dict[str, _Known] = {}
        self.misleading: list[str] = []
        self.evaluations, self.turn, self._rounds = 0, 0, rounds
        self._seconds, self._started = budget.seconds, monotonic()
        self.questions = self._unsettled()

    @property
    def result(self) -> WordsResult:
        """What is known after the rounds so far, of which there must be one."""
        return WordsResult({w: self.known[w].word for w in self.spans}, self.evaluations)

    @property
    def left(self) -> int:
        """How many rounds may follow, before one of pairs."""
        if not self.questions:
            return 0
        return self._rounds - self.turn if self._asks_rest else 1

    @property
    def _asks_rest(self) -> bool:
        """Whether the next round asks for words beside the rest of the prompt, and not for pairs."""
        return REST in self.questions[0].concepts

    def add(self, results: Sequence[PIDResult], began: float) -> None:
        """Add the ``results`` of a round of :attr:`questions` that ``began`` then, and decide what is asked next."""
        self.evaluations += results[0].metadata.unet_evaluations
        self.turn += 1
        if not self._asks_rest:
            self._choose_partners(results)
            self.questions = ()
            return
        self._judge(results)
        now = monotonic()
        # Conditions for which there is time, if each takes as long as those of this round.
        room = math.inf
        if self._seconds is not None:
            room = (self._seconds - (now - self._started)) / (now - began) * len(self.questions[0].texts)
        self.questions = self._unsettled() if self.turn < self._rounds else ()
        if not self.questions or room < len(self.questions[0].texts):
            pairs = self._name_partners()
            self.questions = pairs if pairs and len(pairs[0].texts) <= room else ()

    def _unsettled(self) -> tuple[Plan, ...]:
        """The plans of the words whose verdicts are not settled."""
        return merge([self._question(w) for w in self.spans if w not in self.known or not self.known[w].settled])

    def _judge(self, results: Sequence[PIDResult]) -> None:
        """Add the ``results`` of a round; words beside one that turns out to mislead are to be judged anew."""
        for question, found in zip(self.questions, results, strict=True):
            w, _ = question.concepts
            before = self.known.get(w)
            rounds = before.rounds if before else 0
            word = Word(pooled(before.word.pid, rounds, found) if before and rounds else found, self.margin)
            self.known[w] = _Known(word, rounds + 1, may_stop(rounds + 1) and word.settled)
        # A word that is true by itself may only seem to mislead beside one that is not.
        wrong = [
            w for w, known in self.known.items()
            if known.settled and known.word.verdict == "misleading" and known.word.alone < 0
        ]  # fmt: skip
        new = [self.spans[w] for w in wrong if w not in self.misleading]
        self.misleading = wrong
        for w, known in self.known.items():
            if w not in wrong and any(_apart(self.spans[w], span) for span in new):  # its question has changed
                self.known[w] = _Known(replace(known.word, outdated=True), 0, False)

    def _context(self, w: str) -> list[Span]:
        """The words that mislead, which ``w`` is not asked beside."""
        return [self.spans[m] for m in self.misleading if _apart(self.spans[m], self.spans[w])]

    def _question(self, w: str) -> Plan:
        """The plan of ``w`` and the rest of the prompt, with all that does not mislead as the reference."""
        span, context = self.spans[w], self._context(w)
        whole, rest = (without(self.prompt, _outer(gone), []) for gone in (context, [*context, span]))
        texts = {(): "", (w,): self.prompt[slice(*span)], (REST,): rest, (w, REST): whole}
        return with_reference(from_mapping(texts), whole)

    def _name_partners(self) -> tuple[Plan, ...]:
        """Name the word that another is redundant or works with where there is one; the plans of pairs elsewhere."""
        plans: list[Plan] = []
        for w, known in self.known.items():
            if known.word.verdict in ("redundant", "works only with others"):
                others = self._others(w)
                if len(others) == 1:
                    self.known[w] = replace(known, word=replace(known.word, partner=others[0]))
                else:
                    reference = without(self.prompt, _outer(self._context(w)), [])
                    plans += [with_reference(plan(self.prompt, (w, v)), reference) for v in others]
        return merge(plans)

    def _choose_partners(self, results: Sequence[PIDResult]) -> None:
        """Name the words that others are redundant or work with by the ``results``, one of every pair."""
        found: dict[str, dict[str, PIDResult]] = {}
        for pair, result in zip(self.questions, results, strict=True):
            w, v = pair.concepts
            found.setdefault(w, {})[v] = result
        for w, beside in found.items():
            known = self.known[w]
            self.known[w] = replace(known, word=replace(known.word, partner=_partner(known.word, beside)))

    def _others(self, w: str) -> list[str]:
        """The words beside ``w`` that do something, without phrases of several of them."""
        return [
            v for v, known in self.known.items()
            if _apart(self.spans[v], self.spans[w]) and not _holds_another(v, self.spans)
            and known.word.verdict not in ("misleading", "ignored")
        ]  # fmt: skip


def _partner(word: Word, beside: Mapping[str, PIDResult]) -> str:
    """The word with which ``word`` shares what it tells, or with which it tells it; "" if none stands out.

    ``beside`` has the decomposition of the pair with every other word.
    """
    if word.alone > word.nothing:  # beside the one that tells the same, it tells less than alone
        shared = {v: co_information(result).value for v, result in beside.items()}
        first, second = sorted(shared, key=lambda v: -shared[v])[:2]
        return first if shared[first] - shared[second] >= word.alone.value / 2 else ""
    synergy = {v: result.synergy.value for v, result in beside.items()}
    most = max(synergy, key=lambda v: synergy[v])
    return most if synergy[most] >= word.synergy.value / 2 else ""


def _apart(first: Span, second: Span) -> bool:
    return first[1] <= second[0] or second[1] <= first[0]


def _outer(spans: Sequence[Span]) -> list[Span]:
    """``spans`` without those inside another one."""
    kept: list[Span] = []
    for span in sorted(set(spans), key=lambda s: (s[0], -s[1])):
        if not kept or _apart(kept[-1], span):
            kept.append(span)
    return kept
