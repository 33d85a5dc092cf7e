"""Subsets, texts and refusals of conditions."""

import pytest

from dpid.conditions import from_mapping, plan


def texts(chosen):
    return {s: chosen.texts[i] for s, i in zip(chosen.subsets, chosen.index, strict=True)}


def test_pid_and_cpid_texts():
    prompt = "A cow, and a Giraffe"
    assert texts(plan(prompt, ("giraffe", "cow"))) == {
        (): "",
        ("giraffe",): "Giraffe",
        ("cow",): "cow",
        ("giraffe", "cow"): "cow Giraffe",  # in prompt order
    }
    assert texts(plan(prompt, ("cow", "giraffe"), context=True)) == {
        (): "A, and a",
        ("cow",): "A cow, and a",
        ("giraffe",): "A, and a Giraffe",
        ("cow", "giraffe"): "A cow, and a Giraffe",
    }


def test_second_occurrence_and_phrases():
    prompt = "a bowl in a rose bowl"
    assert texts(plan(prompt, ("bowl#2", "rose"), context=True))[("rose",)] == "a bowl in a rose"
    assert texts(plan(prompt, ("rose  bowl", "bowl")))[("rose  bowl",)] == "rose bowl"


def test_each_distinct_text_once():
    chosen = plan("cow cow", ("cow", "cow#2"))
    assert chosen.texts == ("", "cow", "cow cow")
    assert chosen.index == (0, 1, 1, 2)


@pytest.mark.parametrize(
    ("prompt", "concepts", "message"),
    [
        ("a cow and a giraffe", ("cow", "dog"), "'dog' is not in the prompt; its words are a, cow, and, giraffe"),
        ("a cowboy", ("cow", "a"), "'cow' is not in the prompt"),
        ("a cow", ("cow", "cow"), "each may be given once"),
        ("a rose bowl", ("rose bowl", "bowl"), "overlap"),
        ("a bowl", ("bowl#2", "a"), "occurs 1 time"),
        ("the #1 bowl", ("#1", "bowl"), "found '#1', a concept is a phrase"),
        ("a bowl", ("bowl#x", "a"), "write bowl#2"),
        ("  ", ("cow", "dog"), "prompt: found an empty text"),
        ("a cow", ("", "cow"), "concepts: found ''"),
    ],
)
def test_refusals(prompt, concepts, message):
    with pytest.raises(ValueError, match=message):
        plan(prompt, concepts)


def test_a_string_is_not_a_list_of_concepts():
    with pytest.raises(TypeError, match="expected a sequence"):
        plan("a cow", "cow")


def test_mapping():
    chosen = from_mapping({(): "", ("a",): "x", ("b",): "x", ("b", "a"): "y"})
    assert chosen.concepts == ("a", "b")
    assert texts(chosen) == {(): "", ("a",): "x", ("b",): "x", ("a", "b"): "y"}
    with pytest.raises(ValueError, match=r"\('a', 'b'\) is missing"):
        from_mapping({(): "", ("a",): "x", ("b",): "x"})
    with pytest.raises(ValueError, match="found 5 entries"):
        from_mapping({(): "", ("a",): "x", ("b",): "x", ("a", "b"): "y", ("a", "c"): "z"})
    with pytest.raises(ValueError, match="no single concept"):
        from_mapping({(): ""})


def test_conditions_that_cannot_be_compared_are_named():
    with pytest.raises(TypeError, match="conditions: unhashable type: 'list'; expected texts"):
        from_mapping({(): "", ("a",): ["a"], ("b",): "b", ("a", "b"): "ab"})
