"""Positions of concepts in all kinds of prompts, and the prompts without them."""

from contextlib import suppress
from itertools import pairwise

import pytest
import regex
from hypothesis import assume, event, given, settings
from hypothesis import strategies as st

from dpid.prompts.phrases import is_blank, remarks_on, span_of, without
from dpid.prompts.plan import plan


@pytest.mark.parametrize(
    ("prompt", "concept", "found"),
    [
        ("一只牛和一只长颈鹿", "长颈鹿", "长颈鹿"),
        ("赤い車と青い犬", "車", "車"),
        ("ラーメンの写真", "ラーメン", "ラーメン"),  # ー belongs to no script of its own
        ("วัวและยีราฟ", "วัว", "วัว"),
        ("ງົວແລະຍີຣາຟ", "ງົວ", "ງົວ"),
        ("គោនិងសត្វ", "គោ", "គោ"),
        ("နွားနှင့်သစ်ကုလားအုတ်", "နွား", "နွား"),
        ("소와 기린", "소", "소"),
        ("cow와 기린", "cow", "cow"),
        ("红色cow和2只dog", "cow", "cow"),
        ("लाल गाय और जिराफ़", "गाय", "गाय"),
        ("a cow's bowl", "cow", "cow"),
        ("a cow’s bowl", "bowl", "bowl"),
        ("a black-and-white cow", "white", "white"),
        ("long_hair, red_eyes", "eyes", "eyes"),
        ("(cow:1.3), ((red)) [big]", "cow", "cow"),
        ("<lora:cow:0.8> BREAK", "BREAK", "BREAK"),
        ("a C# logo and C++ code", "C#", "C#"),
        ("a C# logo and C++ code", "C++", "C++"),
        ("ASP.NET", ".NET", ".NET"),
        ("the #1 bowl", "#1", "#1"),
        ("a caf\u00e9", "cafe\u0301", "caf\u00e9"),
        ("a cafe\u0301 bar", "caf\u00e9", "cafe\u0301"),
        ("der STRASSENBELAG und die Straße", "strasse", "Straße"),
        ("İİİ cow", "COW", "cow"),  # each İ has two characters in lower case
        ("İstanbul", "istanbul", "İstanbul"),
        ("a ﬁsh", "fish", "ﬁsh"),
        ("می\u200cخواهم", "میخواهم", "می\u200cخواهم"),
        ("a ❤️ here", "❤", "❤️"),
        ("the 👨‍👩‍👧 and 🐄", "👨‍👩‍👧", "👨‍👩‍👧"),
        ("a rose\u00a0\n bowl", "rose  bowl", "rose\u00a0\n bowl"),
        ("\ufeffcow", "cow", "cow"),
    ],
)
def test_found_as_written(prompt, concept, found):
    start, end = span_of(prompt, concept)
    assert prompt[start:end] == found


@pytest.mark.parametrize(
    ("prompt", "concept"),
    [
        ("a cowboy", "cow"),
        ("젖소", "소"),  # not at the start of the word
        ("क्षेत्र", "क्ष"),  # vowel signs are parts of words
        ("กำ", "ก"),
        ("ខ្មែរ", "ខ"),  # with a consonant under it
        ("a cafe\u0301", "cafe"),
        ("straße", "s"),
        ("a ﬁsh", "f"),
        ("the 👨‍👩‍👧", "👨"),
        ("🇫🇷🇩🇪", "🇷🇩"),
        ("한국", "하"),
    ],
)
def test_letters_and_words_are_not_cut(prompt, concept):
    with pytest.raises(ValueError, match=r"concepts: .* is not in the prompt; its words are"):
        span_of(prompt, concept)


def test_occurrences():
    assert span_of("C# and c# and C#2", "C##2") == (7, 9)
    assert span_of("C# and c# and C#2", "C#2") == (14, 17)  # literally there
    assert span_of("bowl#2 and a bowl", "bowl#02") == (13, 17)
    assert span_of("哈哈哈哈", "哈哈#2") == (2, 4)
    assert span_of("cows, a cow, a cow", "cow#02") == (15, 18)
    for wrong in ("cow#0", "cow#-1", "cow#x", "cow#" + "9" * 5000, "cow#²"):
        with pytest.raises(ValueError, match="write cow#2 for the second"):
            span_of("a cow", wrong)
    with pytest.raises(ValueError, match="'C#' is not in the prompt; its words are a, D"):
        span_of("a D", "C#")


@pytest.mark.parametrize("bad", ["\0", "\ud800", "\x1b[31m", "a\x9f"])
def test_what_no_tokenizer_reads_is_named(bad):
    with pytest.raises(ValueError, match=r"prompt: found U\+"):
        span_of(f"a cow {bad}", "cow")
    with pytest.raises(ValueError, match=r"concepts: found U\+"):
        span_of("a cow", bad)


@pytest.mark.parametrize("nothing", ["", " \t\n", "\u200b", "\ufeff \u2060", "\u3164"])
def test_what_nobody_sees_is_empty(nothing):
    assert is_blank(nothing)
    with pytest.raises(ValueError, match="concepts: found"):
        span_of("a cow", nothing)
    with pytest.raises(ValueError, match="prompt: found an empty text"):
        plan(nothing, ("cow", "giraffe"))


@pytest.mark.parametrize(
    ("prompt", "gone", "left"),
    [
        ("a cow and a giraffe", "cow", "a and a giraffe"),  # words stay, articles too
        ("cow and giraffe", "cow", "and giraffe"),
        ("A cow and a giraffe.", "giraffe", "A cow and a."),
        ("cow, giraffe, red, big", "giraffe", "cow, red, big"),
        ("cow, giraffe, red, big", "cow", "giraffe, red, big"),
        ("cow, giraffe, red, big", "big", "cow, giraffe, red"),
        ("cow, giraffe, red, big", "cow giraffe big", "red"),
        ("cow, giraffe", "cow giraffe", ""),
        ("an '80s photo of cows' heads", "cows", "an '80s photo of heads"),
        ("the 'good' cows' heads", "cows", "the 'good' heads"),
        ("a sign 'the dog's cows' here", "cows", "a sign 'the dog's' here"),
        ("eine »Kuh« im Bild", "Kuh", "eine im Bild"),
        ("en bild (”ko”) av ”gul ko”", "gul ko ko#02", "en bild av"),
        ("the “dogs’ cow” here", "cow", "the “dogs’” here"),
        ("« chat » vache « chien »", "vache", "« chat » « chien »"),
        ("a stormy sky—barn", "barn", "a stormy sky"),
        ("a black–white cow", "white", "a black cow"),
        ("cow—dog—barn", "dog", "cow—barn"),
        ("cow, giraffe. Big", "giraffe", "cow. Big"),
        ("Giraffe. A cow!", "giraffe", "A cow!"),
        ("cow - giraffe - pig", "giraffe", "cow - pig"),
        ("cow | giraffe", "cow", "giraffe"),
        ("(cow:1.3) and a giraffe", "cow", "and a giraffe"),
        ("a (cow:1.3), giraffe", "cow", "a, giraffe"),
        ("(cow:-1.0) dog", "cow", "dog"),
        ("a (cow, giraffe:1.3), red", "giraffe", "a (cow:1.3), red"),
        ("a (cow, giraffe:1.3), red", "cow giraffe", "a, red"),
        ("((cow)), [giraffe], “pig”", "cow pig", "[giraffe]"),
        ("[cow|giraffe] and [cow:pig:0.5]", "cow cow#2", "[giraffe] and [pig:0.5]"),
        ("a (big cow) here", "cow", "a (big) here"),
        ('a "big cow" here', "cow", 'a "big" here'),
        ('a "big cow" here', "big", 'a "cow" here'),
        ("a cow's bowl", "cow", "a bowl"),
        ("a cow’s bowl", "bowl", "a cow’s"),
        ("the cows' bowl", "cows", "the bowl"),
        ("the 'two cows' bowl", "cows", "the 'two' bowl"),
        ("a black-and-white cow", "black", "a and-white cow"),
        ("a black-and-white cow", "white", "a black-and cow"),
        ("a black-and-white cow", "and", "a black-white cow"),
        ("a black-and-white cow", "black white", "a and cow"),
        ("long_hair, red_eyes", "eyes", "long_hair, red"),
        ("#cow #giraffe", "cow", "#giraffe"),
        ("a C# logo", "C#", "a logo"),
        ("a cow .NET logo", "cow", "a .NET logo"),
        ("ASP.NET, a cow", "cow", "ASP.NET, a"),
        ("a cow🐄 here", "cow", "a 🐄 here"),
        ("cow\ngiraffe", "cow", "giraffe"),
        ("a big  cow  --v 5", "cow", "a big --v 5"),
        ("a  b, c , d cow", "cow", "a  b, c , d"),  # what the concept did not touch stays
        ("一只牛和一只长颈鹿", "牛", "一只和一只长颈鹿"),
        ("牛，长颈鹿，红色", "长颈鹿", "牛，红色"),
        ("「牛」と犬", "牛", "と犬"),
        ("cow牛dog", "牛", "cow dog"),
        ("소와 기린", "소", "기린"),
        ("소는 기린과 함께", "기린", "소는 함께"),
    ],
)
def test_what_is_left(prompt, gone, left):
    assert without(prompt, [span_of(prompt, concept) for concept in gone.split()], []) == left


def test_what_stays_is_untouched():
    prompt = "a cow's s, .NET, - (big)"
    kept = [span_of(prompt, concept) for concept in ("s#1", ".NET", "-", "(big)")]
    assert without(prompt, [span_of(prompt, "cow")], kept) == "a s s, .NET, - (big)"
    assert without(" a  cow ,", [], kept) == " a  cow ,"


def test_remarks():
    for prompt, named in (
        ("a (cow:1.3) and ((red)) things", "'(cow:1.3)', '((red))' are given"),
        ("a cow BREAK a giraffe", "'BREAK' is given"),
        ("a (cow: -0.5)", "'(cow: -0.5)' is given"),
        ("[cow], {red|blue}, <lora:pixel:0.8>, a AND b", "'[cow]', '{red|blue}', '<lora:pixel:0.8>', … are given"),
    ):
        (line,) = remarks_on(prompt)
        assert named in line
        assert "\n" not in line
    assert remarks_on("A cow (at 10:30), and a giraffe: 3.5 m; Break, c<d>") == []


# What people write with, and what trips up whoever cuts it.
_PARTS = [
    "cow", "Giraffe", "red", "café", "cafe\u0301", "Straße", "İ", "ı", "ﬁ", "牛", "长颈鹿", "車", "ラー", "วัว", "ยี",
    "ខ្មែ", "ကာ", "소", "기린", "गाय", "क्षे", "שלום", "مرحبا", "👨‍👩‍👧", "❤️", "🇫🇷", "1️⃣", "3", "²", "C#", "C++", ".NET",
    "#1", "#2", "(", ")", ":1.3)", "[", "]", "{", "}", "<lora:", ">", "BREAK", ",", ".", ";", "-", "–", "_", "/", "'",
    "’", "'s", '"', "“", "”", "。", "，", "\u200b", "\u200d", "\u00ad", "\ufeff", "\u0301", "\u200f", "\n ", *[" "] * 9,
]  # fmt: skip
_LETTERS = st.text(st.characters(exclude_categories=("Cc", "Cs")), max_size=2)
_PROMPTS = st.lists(st.sampled_from(_PARTS) | _LETTERS, min_size=1, max_size=14).map("".join)
_THOROUGH = settings(max_examples=300, deadline=None, derandomize=True)
_NO_SPACES = r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}]"


def _ends(prompt):
    """Places between letters, of which one is no part of a word or of a script without spaces; the second no mark."""
    letters = list(regex.finditer(r"\X", prompt))
    for before, after in pairwise(letters):
        words = [regex.match(r"[\p{L}\p{M}\p{N}]", letter[0]) for letter in (before, after)]
        apart = not all(words) or any(regex.match(_NO_SPACES, letter[0]) for letter in (before, after))
        if apart and not regex.match(r"\p{M}", after[0]):
            yield after.start()


def _cuts(data, prompt, most):
    """Up to ``most`` pieces of ``prompt`` that one can see, none overlapping, from the start."""
    ends = sorted({0, *_ends(prompt), len(prompt)})
    ends = sorted(data.draw(st.lists(st.sampled_from(ends), max_size=2 * most, unique=True)))
    return [(a, b) for a, b in zip(ends[::2], ends[1::2], strict=False) if not is_blank(prompt[a:b])]


@_THOROUGH
@given(st.data(), _PROMPTS)
def test_what_is_cut_between_letters_is_found(data, prompt):
    assume(not regex.search(r"\p{InSC=Virama}", prompt))  # which joins what follows to its letter
    for start, end in _cuts(data, prompt, 3):
        concept = prompt[start:end]
        spans = [span_of(prompt, concept)]
        with suppress(ValueError):
            while True:
                spans.append(span_of(prompt, f"{concept}#0{len(spans) + 1}"))
        # There, or at a place that looks the same and has begun before it.
        assert any(a < end and b > start for a, b in spans)


@_THOROUGH
@given(st.data(), _PROMPTS | st.text(max_size=9), st.booleans())
def test_a_plan_is_made_or_an_argument_is_named(data, prompt, context):
    other = st.text(max_size=3) | st.sampled_from(["", "#", "#2", None, 3, prompt])
    concepts = [prompt[start:end] for start, end in _cuts(data, prompt, 3)]
    concepts += data.draw(st.lists(other, max_size=1)) if data.draw(st.integers(0, 4)) == 4 else []
    try:
        chosen = plan(prompt, concepts, context)
    except (ValueError, TypeError) as error:
        event("refused")
        assert str(error).startswith(("prompt: ", "concepts: "))  # noqa: PT017, most plans raise nothing
        return
    spans = {concept: span_of(prompt, concept) for concept in concepts}
    for subset, i in zip(chosen.subsets, chosen.index, strict=True):
        text, kept = chosen.texts[i], [prompt[a:b] for a, b in sorted(spans[c] for c in subset)]
        if not context:
            assert text == " ".join(kept)
            continue
        # What stays is there in its order; of what goes nothing: of the characters that have a width, in their order,
        # the text has none that is not in the prompt outside of it.
        assert regex.search(".*?".join(map(regex.escape, kept)), text, regex.DOTALL)
        gone = {k for c in concepts if c not in subset for k in range(*spans[c])}
        outside = iter([character for k, character in enumerate(prompt) if k not in gone])
        assert all(character in outside for character in text if not character.isspace())
