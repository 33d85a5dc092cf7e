"""Where a concept stands in a prompt, and what is left of the prompt without it.

A concept is found as a reader would find it. Upper and lower case, composed and decomposed accents, and what has no
width (joiners, variation selectors, soft hyphens) make no difference; runs of white space are one space. It begins and
ends between letters as a reader sees them (grapheme clusters: "👨‍👩‍👧" is one), and, in scripts that write words apart,
at the ends of words: hyphens, apostrophes and underscores are such ends, so that "cow's" has a "cow" and "red_eyes" has
"eyes". Chinese, Japanese, Thai, Lao, Khmer, Burmese and their kin are not written with spaces: any part of the text is
a phrase there. In Korean a noun carries its particle: a concept may end before Hangul that goes on ("소" in "소와", and
in "소나무"), but not begin after some.

"bowl#2" is the second "bowl", counted from the start. What stands in the prompt literally comes first: with "C#" in the
prompt "C#" is that, and "C##2" its second; "#1" is found in "the #1 bowl". Where a "bowl#2" is in the prompt, "bowl#02"
is the second "bowl".

What is left of a prompt without some concepts (:func:`without`) keeps all other words and all that the concept did not
touch, so that "a cow and a giraffe" without its cow is "a and a giraffe". Of what touched the concept there goes

- what was a part of it: "'s" and the "'" of "cows'", the rest of a Korean word, brackets and quotes around nothing with
  their weight ("(cow:1.3)"), hyphens, slashes and the like that joined it to something ("black-and-white" without
  "black" is "and-white", without "and" it is "black-white");
- a separator (comma, semicolon, full stop, dash between spaces, …) at the start, one that is no full stop at the end,
  the weaker of two that meet: "cow, giraffe. Big" without its giraffe is "cow. Big";
- the space before a separator or at a bracket, and one of two spaces.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from typing import Any, NamedTuple

import regex

Span = tuple[int, int]

_UNSPACED = r"\p{scx=Han}\p{scx=Hira}\p{scx=Kana}\p{scx=Bopo}\p{Yi}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tai_Le}" + (
    r"\p{New_Tai_Lue}\p{Tai_Tham}\p{Tai_Viet}\p{Ahom}\p{Javanese}\p{Balinese}"
)
_WORD = r"\p{L}\p{M}\p{N}"
# A consonant stacked under another (Khmer, Burmese) and a vowel sign beside its consonant are no letters of their own.
_LETTER = regex.compile(
    r"\s+(?!\p{M})|(?:\X(?<=[\p{InSC=Virama}\p{InSC=Invisible_Stacker}]))*\X\p{M}*", regex.V1
)  # fmt: skip


class _Letter(NamedTuple):
    """A letter as a reader sees it, or a run of white space: prompt[start:end]."""

    start: int
    end: int
    folded: str  # for comparison
    script: str  # "spaced", "unspaced", "Hangul", or "" for what is no part of a word


def _fold(letter: str) -> str:
    """``letter`` without what makes no difference. The Turkish dotted and dotless i count as i."""
    folded = unicodedata.normalize("NFD", unicodedata.normalize("NFD", letter).casefold())
    return str(regex.sub(r"(?<=i)\u0307|\p{DI}", "", folded)).replace("ı", "i")


def _letters(text: str) -> list[_Letter]:
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
    return letters


def check_text(name: str, text: Any) -> str:
    """``text`` as a plain str, for the argument ``name``.

    Raises
    ------
    TypeError
        It is no text.
    ValueError
        It has half a surrogate pair, or a control character other than white space.
    """
    if not isinstance(text, str):
        hint = ", not several" if isinstance(text, (list, tuple)) else ""
        raise TypeError(f"{name}: found {type(text).__name__}, expected one text{hint}")
    if bad := regex.search(r"[[\p{Cs}\p{Cc}]--\s]", text, regex.V1):
        raise ValueError(f"{name}: found U+{ord(bad[0]):04X} at position {bad.start()}, expected letters and spaces")
    return str.__str__(text)


def is_blank(text: str) -> bool:
    """Whether there is nothing to see in ``text``."""
    return regex.search(r"[^\s\p{DI}]", text) is None


def _occurrences(prompt: str, phrase: str) -> list[Span]:
    """Where ``phrase`` stands in ``prompt``, from the start, none overlapping."""
    letters = _letters(prompt)
    folded = "".join(letter.folded for letter in letters)
    owner = [i for i, letter in enumerate(letters) for _ in letter.folded]  # of each character of ``folded``
    wanted = "".join(letter.folded for letter in _letters(phrase))
    wanted = regex.sub(r"^\s+(?!\p{M})|\s+$", "", wanted)

    def apart(i: int, *ends: str) -> bool:
        """Whether a phrase may begin or end before letter ``i``; it may end before one of the scripts ``ends``."""
        if not 0 < i < len(letters):
            return True
        before, after = letters[i - 1].script, letters[i].script
        return not before or not after or "unspaced" in (before, after) or after in ends

    found = []
    at = folded.find(wanted)
    while wanted and at >= 0:
        end = at + len(wanted)
        first, last = owner[at], owner[end - 1]
        whole = owner[at - 1 : at] != [first] and owner[end : end + 1] != [last]
        if fits := whole and apart(first) and apart(last + 1, "Hangul"):
            found.append((letters[first].start, letters[last].end))
        at = folded.find(wanted, end if fits else at + 1)
    return found


def _words(text: str) -> str:
    """For a message: the words of ``text``, or all of it where it has none."""
    return ", ".join(dict.fromkeys(regex.findall(rf"[{_WORD}][{_WORD}'’-]*", text))) or repr(text)


def span_of(prompt: str, concept: str) -> Span:
    """Where ``concept`` ("bowl", or "bowl#2" for its second occurrence) stands in ``prompt``: its start and its end.

    ``ValueError`` if it does not, ``TypeError`` for what is no text.
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


_GONE, _KEPT = "\0", "\x01"  # control characters, which no prompt has: see check_text
_STRONG = ".!?…。！？؟।"
_WEAK = r"(?:[,;:|、，；：،؛]|(?<![^\s\0])[-–—/+•·&](?![^\s\0]))"  # a dash and the like only between spaces
_SEPARATOR = rf"(?:[{_STRONG}]|{_WEAK})"
_OPEN, _CLOSE = r"[\p{Ps}\p{Pi}<]", r"[\p{Pe}\p{Pf}>]"
_WEIGHT = r":\s*[\d.]+\s*\p{Pe}"  # of "(cow:1.3)"
_JOIN = r"[-‐‑_/\\+&#@~=]"
# After a separator that stands apart there is no word: ".NET" is none.
_NEXT = rf"(?!{_WEIGHT})(?:(?<!\s){_SEPARATOR}|{_SEPARATOR}(?![\w\x01]))"
# What goes with a removed word: its possessive (of "cows'" unless that closes a quotation), its Korean particle.
_ENDING = regex.compile(
    rf"['’]s(?!\w)|(?<=s)(?<!(?<!\w)['‘].*)['’](?!\w)|(?<=[[{_WORD}]--[{_UNSPACED}]])\p{{Hangul}}+",
    regex.V1 | regex.IGNORECASE | regex.DOTALL,
)
_CLEANING = [
    (regex.compile(pattern, regex.V1), replacement)
    for pattern, replacement in (
        (r"\0\s*\0", "\0"),
        (rf"""(?:{_OPEN}\s*\0\s*(?:{_CLOSE}|\p{{Pi}}|{_WEIGHT})|(["'`*_])\s*\0\s*\1)""", "\0"),
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
    """``prompt`` without what stands at ``gone``, with what stands at ``kept`` untouched, by the module's rules."""
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
    whole = iter(sorted(kept))
    return str(regex.sub(_KEPT, lambda _: prompt[slice(*next(whole))], text.strip()))


# Of other front ends: weights, keywords, extra networks, alternation. "(cow)" alone is left to who writes in brackets.
_SYNTAX = regex.compile(
    r"[(\[]+[^()\[\]{}<>]*:\s*(?:\d|\d?\.\d+)\s*[)\]]+|\(\([^()]*\)\)|\[[^\[\]]*\]|\{[^{}]*\|[^{}]*\}|<\w+:[^<>]*>"
    r"|\bBREAK\b|(?<=[^,.;:]\s)AND(?=\s)"
)  # fmt: skip


def remarks_on(prompt: str) -> list[str]:
    """A line that names what other programs read as weights or keywords and the model is given as plain text, or none.

    It concerns "(cow:1.3)", "((cow))", "[cow]", "{red|blue}", "<lora:…>", BREAK and AND, as some front ends of Stable
    Diffusion have them.
    """
    found = list(dict.fromkeys(_SYNTAX.findall(prompt)))
    if not found:
        return []
    named = ", ".join(repr(part) for part in found[:3]) + (", …" if len(found) > 3 else "")
    return [f"prompt: {named} {'is' if len(found) == 1 else 'are'} given to the model as plain text; weights and "
            "keywords of other programs mean nothing to it, unless a pipeline of your own reads them"]  # fmt: skip
