"""The content words and phrases of prompts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid.prompts.plan import spans_of
from dpid.prompts.words import MOST, content_words
from dpid.zoo.emoji import scenes


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a cow and a giraffe", ["cow", "giraffe"]),
        ("A COW AND A GIRAFFE", ["COW", "GIRAFFE"]),
        ("a red apple on a wooden table",
         ["red apple", "red", "apple", "wooden table", "wooden", "table"]),
        ("a computer mouse", ["computer mouse", "computer", "mouse"]),
        ("two men and three women", ["two men", "two", "men", "three women", "three", "women"]),
        ("a castle in the style of Vincent van Gogh", ["castle", "in the style of Vincent van Gogh"]),
        ("a portrait of Frida Kahlo", ["portrait", "Frida Kahlo"]),
        ("a very old man, highly detailed", ["very old man", "very old", "man", "highly detailed"]),
        ("an astronaut riding a horse", ["astronaut", "riding", "horse"]),
        ("a bowl next to a bowl", ["bowl", "bowl#2"]),
        ("a dog's bowl", ["dog's bowl", "dog", "bowl"]),
        ("(cow:1.3), ((giraffe)), [tree]", ["cow", "giraffe", "tree"]),
        ("犬とソファ", ["犬", "ソファ"]),
        ("一只猫，一只长颈鹿", ["一只猫", "一只长颈鹿"]),
        ("корова и жираф", ["корова", "и", "жираф"]),
        ("소와 기린", ["소와", "기린"]),
        ("🐮 and 🦒", ["🐮", "🦒"]),
    ],
)  # fmt: skip
def test_words_are_found(prompt, expected):
    assert list(content_words(prompt)) == expected


def test_every_word_of_the_emoji_world_is_found():
    for picture in scenes.PICTURES.values():
        for phrase, _ in picture.phrases:
            assert set(phrase.split()) <= set(content_words(f"a {phrase} and a dog")), phrase


def test_long_prompts_are_told_in_phrases_then_in_clauses():
    coats = ", ".join(f"a {colour} coat" for colour in ("red", "green", "blue", "white", "black", "grey", "pink"))
    assert content_words(coats)[:2] == ("red coat", "green coat")  # 7 phrases of 2 words would be 21 concepts
    many = ", ".join(f"a cow and a dog {n}" for n in range(20))
    assert len(content_words(many)) <= MOST
    assert content_words(many)[0].startswith("cow and a dog 0")  # clauses, and neighbours joined
    spans = list(spans_of(many, content_words(many)).values())
    assert spans[-1][1] == len(many)


@pytest.mark.parametrize("prompt", ["a", "the and of", "", "  ", "...", "\u200b"])
def test_a_prompt_without_content_words_is_refused(prompt):
    with pytest.raises(ValueError, match=r"^prompt: "):
        content_words(prompt)


def test_only_texts_are_prompts():
    with pytest.raises(TypeError, match=r"^prompt: "):
        content_words(3)


WORDS = st.sampled_from(
    ["a", "cow", "Cow", "red-haired", "dog's", "’s", "#2", "in the style of", "猫", "の", "🐮", ".", ","]
)


@settings(max_examples=60)
@given(st.lists(WORDS | st.text(max_size=3), max_size=25).map(" ".join))
def test_any_prompt_gives_concepts_that_are_in_it(prompt):
    try:
        found = content_words(prompt)
    except ValueError:  # what it says is tested above
        return
    assert 0 < len(found) <= MOST
    spans = [spans_of(prompt, (name,))[name] for name in found]
    assert len(set(spans)) == len(found)
    assert spans == sorted(spans, key=lambda span: (span[0], -span[1]))
