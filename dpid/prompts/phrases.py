"""Finds a concept in a prompt, and removes concepts from a prompt.

Search. Case, composed or decomposed accents, and invisible characters (joiners, variation selectors, soft hyphens) are
ignored; a run of white space counts as one space. A match begins and ends between grapheme clusters ("👨‍👩‍👧" is one)
and, in scripts that separate words, at word boundaries; hyphens, apostrophes and underscores are boundaries, so that
"cow" is found in "cow's" and "eyes" in "red_eyes". In scripts without spaces (Chinese, Japanese, Thai, Lao, Khmer,
Burmese, …) a match may be any part of the text. A Korean noun carries its particle, so a match may end before further
Hangul ("소" in "소와", and also in "소나무"), but not begin after some.

"bowl#2" is the second "bowl", counted from the start. A literal match has priority: with "C#" in the prompt, "C#" is
that, and "C##2" its second occurrence; "#1" is found in "the #1 bowl". If the prompt contains "bowl#2" literally,
"bowl#02" is the second "bowl".

Removal (:func:`without`). All other words stay: "a cow and a giraffe" without "cow" is "a and a giraffe". Only what
touches the removed concept is removed with it:

- its own parts: "'s", the "'" of "cows'", the rest of a Korean word, brackets and quotes that would be empty, with
  their weight ("(cow:1.3)"), and hyphens, dashes, slashes and the like that joined it to another word
  ("black-and-white" without "black" is "and-white", without "and" it is "black-white");
- a separator (comma, semicolon, full stop, dash between spaces, …) that would begin the text, one other than a full
  stop that would end it, and the weaker of two that would meet: "cow, giraffe. Big" without "giraffe" is "cow. Big";
- the space before a separator or next to a bracket, and one of two spaces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import regex

Span = tuple[int, int]

_UNSPACED = r"\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}" + (
    r"\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}\p{Javanese}\p{Balinese}"
)
_WORD = r"\p{L}\p{M}\p{N}"
# \X alone would split off a consonant stacked under another (Khmer, Burmese) and a vowel sign beside its consonant.
_LETTER = regex.compile(
    r"\s+(?!\p{M})|(?:\X(?<=[\p{InSC=Virama}\p{InSC=Invisible_Stacker}]))*\X\p{M}*", regex.V1
)  # fmt: skip


class _Letter(NamedTuple):
    """One grapheme cluster, or a run of white space, at prompt[start:end]."""

    start: int
    end: int
    folded: str  # the form that is compared
    script: str  # "spaced", "unspaced" (between words), "Hangul", or "" for a character that is no part of a word


def _fold(letter: str) -> str:
    """``letter`` without case and invisible characters, for comparison. The Turkish dotted and dotless i become i."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", letter).casefold())
    return str(regex.sub(r"(?<=i)\u0307|\p{DI}", "", folded)).replace("ı", "i")


@lru_cache(maxsize=256)  # a prompt is searched for each of its concepts
def _letters(text: str) -> tuple[_Letter, ...]:
    letters = []
    for match in _LETTER.finditer(text):
        letter, (start, end) = match[0], match.span()
        if letter.isspace():
            letters.append(_Letter(start, end, " ", ""))
            continue
        script = ""
        if regex.match(f"[{_WORD}]", letter):
            script = "unspaced" if regex.match(f"[{_UNSPACED}]", letter) else "spaced"
            script = "Hangul" if regex.match(r"\p{Hangul}", letter) else script
        letters.append(_Letter(start, end, _fold(letter), script))
    return tuple(letters)


def check_text(name: str, text: Any) -> str:
    """``text`` as a plain str, for the argument ``name``.

    Raises
    ------
    TypeError
        It is no string.
    ValueError
        It has a lone surrogate, or a control character other than white space.
    """
    if not isinstance(text, str):
        hint = ", not several" if isinstance(text, (list, tuple)) else ""
        raise TypeError(f"{name}: found {type(text).__name__}, expected one text{hint}")
    if bad := regex.search(r"[[\p{Cs}\p{Cc}]--\s]", text, regex.V1):
        raise ValueError(f"{name}: found U+{ord(bad[0]):04X} at position {bad.start()}, expected letters and spaces")
    return str.__str__(text)


def holds(outer: Span, inner: Span) -> bool:
    """Whether the span ``inner`` lies within ``outer``, or is the same."""
    return outer[0] <= inner[0] and inner[1] <= outer[1]


def is_blank(text: str) -> bool:
    """Whether ``text`` has only white space and invisible characters."""
    return regex.search(r"[^\s\p{DI}]", text) is None


def check_prompt(prompt: Any) -> str:
    """``prompt`` as a plain str; errors as of :func:`check_text`, and ``ValueError`` if it is blank."""
    text = check_text("prompt", prompt)
    if is_blank(text):
        raise ValueError("prompt: found an empty text; write what the picture shows, for example 'a cow and a giraffe'")
    return text


def _occurrences(prompt: str, phrase: str) -> list[Span]:
    """The spans of all occurrences of ``phrase`` in ``prompt``, in order and without overlap."""
    letters = _letters(prompt)
    folded = "".join(letter.folded for letter in letters)
    owner = [i for i, letter in enumerate(letters) for _ in letter.folded]  # of each character of ``folded``
    wanted = "".join(letter.folded for letter in _letters(phrase))
    wanted = regex.sub(r"^\s+(?!\p{M})|\s+$", "", wanted)

    def apart(i: int, *ends: str) -> bool:
        """Whether a match may begin or end before letter ``i``: at a word boundary, or before a script in ``ends``."""
        if not 0 < i < len(letters):
            return True
        before, after = letters[i - 1].script, letters[i].script
        return not before or not after or "unspaced" in (before, after) or after in ends

    found = []
    at = folded.find(wanted)
    while wanted and at >= 0:
        end = at + len(wanted)
        first, last = owner[at], owner[end - 1]
        splits_letter = owner[at - 1 : at] == [first] or owner[end : end + 1] == [last]
        if fits := not splits_letter and apart(first) and apart(last + 1, "Hangul"):
            found.append((letters[first].start, letters[last].end))
        at = folded.find(wanted, end if fits else at + 1)
    return found


def _words(text: str) -> str:
    """The words of ``text`` for a message, or ``text`` itself if it has none."""
    return ", ".join(dict.fromkeys(regex.findall(rf"[{_WORD}][{_WORD}'’-]*", text))) or repr(text)


def span_of(prompt: str, concept: str) -> Span:
    """The start and end of ``concept`` ("bowl", or "bowl#2" for its second occurrence) in ``prompt``.

    ``ValueError`` if it does not occur, ``TypeError`` if one of them is no string.
    """
    prompt, concept = check_text("prompt", prompt), check_text("concepts", concept)
    if is_blank(concept):
        raise ValueError(f"concepts: found {concept!r}, a concept is a phrase of the prompt")
    if spans := _occurrences(prompt, concept):
        return spans[0]
    phrase, mark, number = concept.rpartition("#")
    phrase = phrase.strip()
    spans = _occurrences(prompt, phrase) if mark else []
    if not spans:
        missing = phrase if phrase and number.isdecimal() else concept.strip()
        raise ValueError(f"concepts: {missing!r} is not in the prompt; its words are {_words(prompt)}")
    if not regex.fullmatch("0*[1-9][0-9]{0,5}", number):
        raise ValueError(f"concepts: found {concept!r}; write {phrase}#2 for the second {phrase!r} of the prompt")
    if int(number) > len(spans):
        raise ValueError(f"concepts: found {concept!r}, but {phrase!r} occurs {len(spans)} time(s) in the prompt")
    return spans[int(number) - 1]


_GONE, _KEPT = "\0", "\x01"  # marks in place of concepts; check_text refuses prompts with control characters
_STRONG = ".!?…。！？؟।"
_WEAK = r"(?:[,;:|、，；：،؛]|(?<![^\s\0])[-–—/+•·&](?![^\s\0]))"  # a dash and the like only between spaces
_SEPARATOR = rf"(?:[{_STRONG}]|{_WEAK})"
_OPEN, _CLOSE = r"[\p{Ps}\p{Pi}<]", r"[\p{Pe}\p{Pf}>]"
_WEIGHT = r":\s*[-+]?[\d.]+\s*\p{Pe}"  # of "(cow:1.3)"
_JOIN = r"[-‐‑–—―_/\\+&#@~=]"
# A separator after a space must not be followed by a word: the dot of ".NET" is none.
_NEXT = rf"(?!{_WEIGHT})(?:(?<!\s){_SEPARATOR}|{_SEPARATOR}(?![\w\x01]))"
# A quotation that is still open; the apostrophe of "'80s" begins none, and that of "dog's" ends none.
_QUOTED = r"(?<!\w)['‘](?!\d0s\b)(?:[^'’]|(?<=\w)['’](?=\w))*"
POSSESSIVE = rf"['’]s(?!\w)|(?<=s)(?<!{_QUOTED})['’](?!\w)"  # the "'" of "cows'" unless it closes a quotation
# What is removed after a word: its possessive, its Korean particle.
_ENDING = regex.compile(
    rf"{POSSESSIVE}|(?<=[[{_WORD}]--[{_UNSPACED}]])\p{{Hangul}}+", regex.V1 | regex.IGNORECASE
)  # fmt: skip
_CLEANING = [
    (regex.compile(pattern, regex.V1), replacement)
    for pattern, replacement in (
        (r"\0\s*\0", "\0"),
        (rf"""(?:{_OPEN}\s*\0\s*(?:{_CLOSE}|\p{{Pi}}|{_WEIGHT})|(["'`*_])\s*\0\s*\1)""", "\0"),
        (r"(?<![^\s\p{Ps}])\p{Pf}\0[\p{Pi}\p{Pf}]", "\0"),  # »cow«, ”cow”; spaces within are those between quotations
        (rf"(?<=[\w\x01])({_JOIN}+)\0{_JOIN}+(?=[\w\x01])", r"\1"),
        (rf"{_JOIN}+\0|\0{_JOIN}+", "\0"),
        (rf"(^|{_OPEN})\s*\0\s*{_NEXT}\s*", "\\1\0"),
        (rf"{_WEAK}\s*\0\s*(?=$|{_CLOSE}|{_WEIGHT})", "\0"),
        (rf"([{_STRONG}])\s*\0\s*{_NEXT}", r"\1"),
        (rf"{_WEAK}\s*\0\s*(?={_NEXT})", ""),
    )
]
_SPACING = [
    (regex.compile(pattern, regex.V1), replacement)
    for pattern, replacement in (
        (rf"^\s*\0\s*|(?<={_OPEN})\s*\0\s*|(?<=[\"'*])\0\s+", ""),
        (rf"\s*\0\s*(?=$|{_CLOSE}|{_WEIGHT}|{_NEXT})|\s+\0(?=[\"'*])", ""),
        (r"\s+\0\s*|\0\s+", " "),
        (rf"(?<=[[{_WORD}\x01]--[{_UNSPACED}]])\0(?=[[{_WORD}\x01]--[{_UNSPACED}]])", " "),
        (r"\0", ""),
    )
]


def without(prompt: str, gone: Sequence[Span], kept: Sequence[Span]) -> str:
    """``prompt`` without the spans ``gone``, by the rules of this module; the spans ``kept`` stay as they are."""
    if not gone:
        return prompt
    marks = sorted([(*span, _GONE) for span in gone] + [(*span, _KEPT) for span in kept])
    text, done = "", 0
    for i, (start, end, mark) in enumerate(marks):
        text += prompt[done:start] + mark
        done = end
        if mark == _GONE and (ending := _ENDING.match(prompt, end)):
            done = min([ending.end(), *(begin for begin, _, _ in marks[i + 1 : i + 2])])
    text += prompt[done:]
    before = ""
    while text != before:
        before = text
        for pattern, replacement in _CLEANING:
            text = pattern.sub(replacement, text)
    for pattern, replacement in _SPACING:
        text = pattern.sub(replacement, text)
    in_order = iter(sorted(kept))
    return str(regex.sub(_KEPT, lambda _: prompt[slice(*next(in_order))], text.strip()))


# Weights, keywords, extra networks and alternation of other front ends; not "(cow)", which may be plain text.
_SYNTAX = regex.compile(
    r"[(\[]+[^()\[\]{}<>]*:\s*[-+]?(?:\d|\d?\.\d+)\s*[)\]]+|\(\([^()]*\)\)|\[[^\[\]]*\]|\{[^{}]*\|[^{}]*\}|<\w+:[^<>]*>"
    r"|\bBREAK\b|(?<=[^,.;:]\s)AND(?=\s)"
)  # fmt: skip


def remarks_on(prompt: str) -> list[str]:
    """A warning, or none, of syntax in ``prompt`` that other programs interpret and here is plain text for the model.

    It covers "(cow:1.3)", "((cow))", "[cow]", "{red|blue}", "<lora:…>", BREAK and AND of some front ends of Stable
    Diffusion.
    """
    found = list(dict.fromkeys(_SYNTAX.findall(prompt)))
    if not found:
        return []
    named = ", ".join(repr(part) for part in found[:3]) + (", …" if len(found) > 3 else "")
    return [f"prompt: {named} {'is' if len(found) == 1 else 'are'} given to the model as plain text; weights and "
            "keywords of other programs mean nothing to it, unless a pipeline of your own reads them"]  # fmt: skip
