"""Finds the content words of a prompt, and the phrases that they form.

A tagger of parts of speech (HanTa, Wartena 2019) tells content words, which are nouns, names, adjectives, verbs and
numbers, from articles, prepositions, pronouns and the like. A name of several words is one word ("Van Gogh"), and an
adverb belongs to the word after it ("highly detailed"). Content words that follow one another are a phrase ("wooden
table", "dog's bowl") unless one is a verb, and so is "in the style of Van Gogh". In other languages than English every
word counts, and in scripts without spaces what stands between spaces, punctuation and Japanese particles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any

import regex

from dpid.prompts.phrases import Span, check_text, is_blank, span_of

MOST = 16  # concepts; every one takes two conditions

_TOKEN = regex.compile(
    r"[\p{Han}\p{Katakana}ー々]+|(?:(?=\p{Extended_Pictographic})\X)+"
    r"|(?<!\w['’]|:[\d.]*)[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Katakana}]]+(?:[-‐'’.](?!s\b)[\p{L}\p{M}\p{N}]+)*",
    regex.V1,
)  # fmt: skip
_WITHIN = regex.compile(r"(?:['’]s?)?\s*")  # between words of one phrase
_PARTICLE = regex.compile(r"\p{Hiragana}{1,2}")
_STYLE = regex.compile(r"\bin the style of (?:(?:the|an?) )?", regex.IGNORECASE)
_CLAUSE = regex.compile(r"[^,;.!?|、，。；！？]+")
# Tags of the British National Corpus, or their beginnings; foreign words have one of our own.
_CONTENT = ("NN", "NP", "AJ", "VV", "CRD", "UNC", "ZZ0", "foreign")
_ALONE = ("VVB", "VVD", "VVG", "VVI", "VVZ", "foreign")  # part of no phrase; a participle ("haired") is of one
_tagging = Lock()  # the tagger keeps what it has seen


@dataclass(frozen=True)
class _Token:
    """A word at prompt[start:end], and its part of speech."""

    start: int
    end: int
    tag: str

    @property
    def content(self) -> bool:
        """Whether it is part of a phrase, as an adverb is, too."""
        return self.tag.startswith(_CONTENT) or self.tag == "AV0"


def content_words(prompt: str) -> tuple[str, ...]:
    """The content words of ``prompt`` and their phrases, as concepts: a phrase before its words, "bowl#2" the second.

    Of more than 16 only the phrases are taken, of more than 16 of these what stands between commas, and of more than
    16 of those neighbours together. Every concept is one of :func:`dpid.prompts.plan.plan`, but a phrase overlaps its
    words.

    Raises
    ------
    ValueError
        The prompt is empty or has no content word.
    TypeError
        The prompt is no string.
    """
    prompt = check_text("prompt", prompt)
    if is_blank(prompt):
        raise ValueError("prompt: found an empty text; write what the picture shows, for example 'a cow and a giraffe'")
    runs = list(_runs(prompt))
    phrases = [(run[0][0], run[-1][1]) for run in runs]
    both = sorted({*phrases, *(word for run in runs for word in run)}, key=lambda span: (span[0], -span[1]))
    chosen = next((spans for spans in (both, phrases) if len(spans) <= MOST), None) or _clauses(prompt, phrases)
    names = tuple(name for span in chosen if (name := _name(prompt, span)))
    if not names:
        raise ValueError(f"prompt: found {prompt!r}, which has no content word; name what the picture shows")
    return names


def _runs(prompt: str) -> Iterator[list[Span]]:
    """The words of every run of content words; a run that names a style begins with all of "in the style of …"."""
    styles = [match.span() for match in _STYLE.finditer(prompt)]
    run: list[_Token] = []
    for token in [*_tokens(prompt), None]:
        if run and not (token and token.content and _joined(prompt, run[-1], token)):
            if words := _words(prompt, run):
                begin = next((start for start, end in styles if end == run[0].start), None)
                yield words if begin is None else [(begin, words[-1][1])]
            run = []
        if token and token.content and not any(start <= token.start < end for start, end in styles):
            run.append(token)


def _joined(prompt: str, before: _Token, token: _Token) -> bool:
    """Whether ``token`` goes on with the phrase in which the token ``before`` it is."""
    alone = before.tag in _ALONE or token.tag in _ALONE
    return not alone and _WITHIN.fullmatch(prompt, before.end, token.start) is not None


def _words(prompt: str, run: list[_Token]) -> list[Span]:
    """The spans of the words of a ``run``: names are joined, and adverbs to what follows."""
    while run and run[-1].tag == "AV0":
        run.pop()
    words: list[Span] = []
    before = ""
    for token in run:
        joined = before == "AV0" or (before == token.tag == "NP0" and prompt[token.start].isupper())
        words.append((words.pop()[0] if joined else token.start, token.end))
        before = token.tag
    return words


def _tokens(prompt: str) -> list[_Token]:
    """The words of ``prompt`` with their tags; those of a script other than Latin are content."""
    spans = [m.span() for m in _TOKEN.finditer(prompt) if not _PARTICLE.fullmatch(m[0])]
    words = [prompt[start:end] for start, end in spans]
    with _tagging:
        tags = [tag for _, _, tag in _tagger().tag_sent(words)]
    latin = [bool(regex.search(r"\p{Latin}", word)) for word in words]
    return [
        _Token(start, end, tag if ours or word.isascii() else "foreign")
        for (start, end), word, tag, ours in zip(spans, words, tags, latin, strict=True)
    ]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger  # with its model, reading which takes half a second

    return HanoverTagger("morphmodel_en.pgz")


def _clauses(prompt: str, phrases: list[Span]) -> list[Span]:
    """What stands between commas and has a phrase, from its first to its last word; at most 16, by joining some."""
    found = []
    for clause in _CLAUSE.finditer(prompt):
        within = [span for span in phrases if clause.start() <= span[0] < clause.end()]
        if within:
            found.append((within[0][0], within[-1][1]))
    ends = [round(i * len(found) / MOST) for i in range(MOST + 1)] if len(found) > MOST else range(len(found) + 1)
    return [(found[i][0], found[j - 1][1]) for i, j in pairwise(ends)]


def _name(prompt: str, span: Span) -> str:
    """The concept of ``prompt`` that is found at ``span``; "" if there is none, as within a letter."""
    phrase = prompt[slice(*span)]
    for number in range(1, len(prompt) + 1):
        name = phrase if number == 1 else f"{phrase}#{number}"
        try:
            if (found := span_of(prompt, name)) == span:
                return name
        except ValueError:
            return ""
        if found[0] > span[0]:
            return ""
    return ""
