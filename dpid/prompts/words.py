"""Finds the content words of a prompt, and the phrases that they form.

A tagger of parts of speech (HanTa, Wartena 2019) tells content words, which are nouns, names, adjectives, verbs and
numbers, from articles, prepositions, pronouns and the like. A name of several words is one word ("Van Gogh"), and an
adverb belongs to the word after it ("highly detailed"). Content words that follow one another on a line are a phrase
("wooden table", "dog's bowl") unless one is a verb, and so is "in the style of Van Gogh". The tagger knows English: of
another language in Latin letters it takes most words for nouns. In other scripts every word counts, and in scripts
without spaces what stands between spaces, punctuation and Japanese particles.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from threading import Lock
from typing import Any

import regex

from dpid.prompts.phrases import POSSESSIVE, Span, check_prompt, span_of

MOST = 16  # concepts; every one takes two conditions

_LONGEST = 32  # letters that the tagger reads of a word, from its end; its time grows with their square

# Kana after a word are a particle where no more follow, or where it is one of cases and two more follow ("猫がいる").
_PARTICLE = (
    r"(?:(?:から|まで|より)[のはも]?|[にで][はも]|[でとへ]の|[のとはがをにでもへやかな])(?![\p{Hiragana}ー])"
    r"|(?<=\w)[のとはがをにで](?!っ)(?=\p{Hiragana}{2})"
)
_WORD = r"[[\p{L}\p{M}\p{N}]--[\p{Han}\p{Hiragana}\p{Katakana}ー]]"
_INVISIBLE = r"[\p{DI}--\u200b]"  # within a word; a zero-width space ends one
_TOKEN = regex.compile(
    rf"(?P<particle>(?<=\w\s*)(?:{_PARTICLE}))"
    rf"|[おご]?[\p{{Han}}\p{{Katakana}}ー]+(?:(?<=\p{{Han}})(?!{_PARTICLE})[\p{{Hiragana}}ー]+)?|[\p{{Hiragana}}ー]+"
    r"|(?:(?=[[\p{Extended_Pictographic}\p{RI}]--[©®™]])\X)+"
    r"|(?<!\w['’])(?!(?<=:[-+\d.\s]*)[\d.]+\s*[\p{Pe}>])"  # no weight, as of "(cow:1.3)"
    rf"(?:\d+:\d+(?![\w:]|\.\d|\s*[\p{{Pe}}>])|"  # "10:30"
    rf"{_WORD}+(?:{_INVISIBLE}+{_WORD}+|[-‐'’.](?!s\b){_WORD}+)*)[\u200c\u200d]*",
    regex.V1,
)
_ENDS = r"\n\v\f\r\x85\u2028\u2029"  # of a line
_WITHIN = regex.compile(rf"(?:{POSSESSIVE})?[®™]?[^\S{_ENDS}]*", regex.V1)  # between words of one phrase
_STYLE = regex.compile(r"\bin the style of (?:(?:the|an?) )?", regex.IGNORECASE)
_CLAUSE = regex.compile(rf"[^,;.!?|、，。；！？{_ENDS}]+")
# Tags of the British National Corpus, or their beginnings; foreign words have one of our own.
_CONTENT = ("NN", "NP", "AJ", "VV", "CRD", "UNC", "ZZ0", "foreign")
_BEFORE = ("AV0", "ORD")  # part of a phrase before another word of it: "very old", "18th century", but no "next to"
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
        """Whether it is part of a phrase, as adverbs and ordinals are, too."""
        return self.tag.startswith(_CONTENT) or self.tag in _BEFORE


def content_words(prompt: str) -> tuple[str, ...]:
    """The content words of ``prompt`` and their phrases, as concepts: a phrase before its words, "bowl#2" the second.

    Of more than 16 only the phrases are taken, of more than 16 of these 16 parts of the prompt: what stands between
    commas, halves of it where these are fewer, and neighbours together where they are more. Every concept is one of
    :func:`dpid.prompts.plan.plan`, but a phrase overlaps its words.

    Raises
    ------
    ValueError
        The prompt is empty or has no content word.
    TypeError
        The prompt is no string.
    """
    prompt = check_prompt(prompt)
    runs = list(_runs(prompt))
    phrases = [(run[0][0], run[-1][1]) for run in runs]
    both = sorted({*phrases, *(word for run in runs for word in run)}, key=lambda span: (span[0], -span[1]))
    chosen = next((spans for spans in (both, phrases) if len(spans) <= MOST), None)
    chosen = _clauses(prompt, phrases) if chosen is None else chosen
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
    while run and run[-1].tag in _BEFORE:
        run.pop()
    words: list[Span] = []
    before = ""
    for token in run:
        joined = before == "AV0" or (before == token.tag == "NP0" and prompt[token.start].isupper())
        words.append((words.pop()[0] if joined else token.start, token.end))
        before = token.tag
    return words


def _tokens(prompt: str) -> list[_Token]:
    """The words of ``prompt`` with their tags; "foreign" are those of a script other than Latin."""
    spans = [match.span() for match in _TOKEN.finditer(prompt) if match["particle"] is None]
    words = [prompt[start:end] for start, end in spans]
    foreign = [not word.isascii() and regex.search(r"\p{Latin}", word) is None for word in words]
    # In place of what it cannot read the tagger is given a noun, for the sake of the words around.
    read = ["thing" if other else word[-_LONGEST:] for word, other in zip(words, foreign, strict=True)]
    with _tagging:
        tags = _tagger().tag_sent(read, taglevel=0)
    return [
        _Token(start, end, "foreign" if other else tag)
        for (start, end), tag, other in zip(spans, tags, foreign, strict=True)
    ]


@cache
def _tagger() -> Any:
    from HanTa.HanoverTagger import HanoverTagger  # with its model, reading which takes half a second

    return HanoverTagger("morphmodel_en.pgz")


def _clauses(prompt: str, phrases: list[Span]) -> list[Span]:
    """16 spans from the first to the last of some of the ``phrases``, of which there are more.

    They are what stands between commas; the one of most phrases is halved while there are fewer, and neighbours are
    joined where there are more.
    """
    found = []
    for clause in _CLAUSE.finditer(prompt):
        within = [span for span in phrases if clause.start() <= span[0] < clause.end()]
        if within:
            found.append(within)
    while len(found) < MOST:
        longest = max(found, key=len)
        at, half = found.index(longest), (len(longest) + 1) // 2
        found[at : at + 1] = [longest[:half], longest[half:]]
    ends = [round(i * len(found) / MOST) for i in range(MOST + 1)]
    return [(found[i][0][0], found[j - 1][-1][1]) for i, j in pairwise(ends)]


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
