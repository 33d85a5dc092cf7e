"""The content words and phrases of prompts."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dpid.prompts.phrases import span_of
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
        ("(giraffe: 1.3) and (dog:-1.0)", ["giraffe", "dog"]),
        ("a clock at 10:30, a 16:9 photo", ["clock", "10:30", "16:9 photo", "16:9", "photo"]),
        ("Subject:cow, mood:calm", ["Subject", "cow", "mood", "calm"]),  # after a colon only a weight is none
        ("[cow:pig pen:0.5], style:80s", ["cow", "pig pen", "pig", "pen", "style", "80s"]),
        ("an 18th century house", ["18th century house", "18th", "century", "house"]),
        ("the third eye next to the first", ["third eye", "third", "eye"]),
        ("a sign that reads 'Coffee' neon lights", ["sign", "reads", "Coffee", "neon lights", "neon", "lights"]),
        ("the dogs' bowl", ["dogs' bowl", "dogs", "bowl"]),
        ("cow\ngiraffe\r\ntree", ["cow", "giraffe", "tree"]),
        ("a Lego® castle and a cow™", ["Lego® castle", "Lego", "castle", "cow"]),
        ("the 🇫🇷 and the ☂️", ["🇫🇷", "☂️"]),
        ("a gir\u00adaffe", ["gir\u00adaffe"]),
        ("گربه\u200cها روی مبل", ["گربه\u200cها", "روی", "مبل"]),
        ("ශ්\u200dරී, क्\u200d", ["ශ්\u200dරී", "क्\u200d"]),
        ("cow\u200bgiraffe", ["cow", "giraffe"]),
        ("ねこ、いぬ", ["ねこ", "いぬ"]),
        ("赤い ねこ と いぬ", ["赤い", "ねこ", "いぬ"]),
        ("赤い車と青い犬", ["赤い", "車", "青い", "犬"]),
        ("リアルな猫のいる静かな海", ["リアル", "猫", "いる", "静かな", "海"]),
        ("お花とcowの絵", ["お花", "cow", "絵"]),
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


def test_long_prompts_without_commas_are_told_in_parts_of_a_line():
    crowd = " and ".join(f"a cow of {n}" for n in range(10))
    parts = content_words(f"a sky\n{crowd}")  # 21 phrases on two lines
    assert len(parts) == MOST
    assert parts[0] == "sky"
    assert parts[-1].endswith("9")
    assert {part.count("cow") for part in parts[1:]} == {0, 1}, "of one phrase or two"
    assert len(spans_of(f"a sky\n{crowd}", parts)) == MOST, "none overlaps another"


@pytest.mark.parametrize("letter", ["x", "х", "x\u200d"])
def test_words_of_any_length_take_no_time(letter):
    assert content_words(letter * 3000) == (letter * 3000,)  # the tagger itself would take minutes


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
    spans = [span_of(prompt, name) for name in found]
    assert len(set(spans)) == len(found)
    assert spans == sorted(spans, key=lambda span: (span[0], -span[1]))
