"""Subsets and texts of conditions, and errors."""

import numpy as np
import pytest
import torch

from dpid.prompts.plan import from_mapping, plan, plan_concepts, subsets_of, with_reference


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
        ("the bowl", ("#1", "bowl"), "'#1' is not in the prompt"),
        ("a bowl", ("bowl#x", "a"), "write bowl#2"),
        ("  ", ("cow", "dog"), "prompt: found an empty text"),
        ("a cow", ("", "cow"), "concepts: found ''"),
        ("red, blue and red+blue", ("red", "blue", "red+blue"), r"joined by '\+', name two subsets alike"),
    ],
)
def test_refusals(prompt, concepts, message):
    with pytest.raises(ValueError, match=message):
        plan(prompt, concepts)


@pytest.mark.parametrize(
    ("prompt", "concepts", "message"),
    [
        (
            "a cow",
            "cow, a",
            r"concepts: found the string 'cow, a', expected a sequence of texts such as \('cow', 'a'\)",
        ),
        ("a cow", 3, "concepts: found int, expected a sequence"),
        ("a cow", np.array("cow"), "concepts: found ndarray, expected a sequence"),
        ("a cow", (("a", "cow"),), "concepts: found tuple, expected one text, not several"),
        ("a cow", b"ab", "concepts: found int, expected one text"),
        (["a cow"], ("a", "cow"), "prompt: found list, expected one text, not several"),
        (None, ("a", "cow"), "prompt: found NoneType"),
    ],
)
def test_what_is_no_text_is_named(prompt, concepts, message):
    with pytest.raises(TypeError, match=message):
        plan(prompt, concepts)


def test_any_iterable_of_texts_holds_concepts():
    expected = plan("a cow and a pig", ("pig", "cow"))
    for concepts in (["pig", "cow"], iter(("pig", "cow")), np.array(["pig", "cow"]), {"pig": 1, "cow": 2}):
        found = plan_concepts(np.str_("a cow and a pig"), concepts)
        assert found == expected
        assert {type(text) for text in (*found.texts, *found.concepts)} == {str}


def test_texts_are_cut_out_as_they_are_written():
    decomposed = "a cafe\u0301  and  a cow"
    assert texts(plan(decomposed, ("caf\u00e9", "COW")))[("caf\u00e9", "COW")] == "cafe\u0301 cow"
    chosen = plan(decomposed, ("caf\u00e9", "COW"), context=True)
    assert texts(chosen)[("caf\u00e9", "COW")] == decomposed  # so that it is no further condition to reference="prompt"


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
    with pytest.raises(ValueError, match="found 40, allowed"):
        from_mapping({(f"c{i}",): "" for i in range(40)})


@pytest.mark.parametrize("names", [("cow", "giraffe"), ("C++", "a", "b+c"), tuple("abcdefgh")])
def test_conditions_of_a_result_are_conditions(names):
    subsets = subsets_of(names)
    given = {s: f"text {i}" for i, s in enumerate(subsets)}
    of_result = {"+".join(s): text for s, text in given.items()}
    assert from_mapping(of_result) == from_mapping(given)
    assert texts(from_mapping(dict(sorted(of_result.items())))) == {
        tuple(sorted(s)): text for s, text in given.items()
    }  # as a JSON file may order them


@pytest.mark.parametrize(
    ("conditions", "error", "message"),
    [
        ({(): "", "cow": "", "pig": "", ("cow", "pig"): ""}, TypeError, r"found the key 'cow', expected .*\('cow',\)"),
        ({"": "", "cow": "", "pig": ""}, TypeError, "found the key ''"),
        ({"": "", "a": "", "b": "", "a+b": "", "a+c": ""}, TypeError, "found the key"),
        ({f"c{i}": "" for i in range(40)}, TypeError, "found the key 'c0'"),
        ({(): "", 3: ""}, TypeError, "found the key 3"),
        ({(): "", (3,): ""}, TypeError, r"found the key \(3,\)"),
        ({(): "", ("",): ""}, TypeError, r"found the key \('',\)"),
        ([((), "")], TypeError, "conditions: found list"),
        ({(): torch.zeros(7, 3), ("a",): ""}, TypeError, "conditions: found a Tensor, expected texts"),
        ({(): np.zeros(3), ("a",): ""}, TypeError, "conditions: found a ndarray, expected texts"),
        ({(): "", ("a",): "\ud800"}, ValueError, r"conditions: found U\+D800 at position 0"),
    ],
)
def test_conditions_are_refused_by_name(conditions, error, message):
    with pytest.raises(error, match=message):
        plan_concepts(None, None, conditions)


def test_references_and_prompts_beside_conditions():
    chosen = from_mapping({(): 0.0, ("a",): 1, ("b",): 2, ("a", "b"): (1, 2)})  # those of an exact model: any key
    assert with_reference(chosen, 2).full == chosen.texts.index(2)
    with pytest.raises(ValueError, match=r"reference: found U\+0000"):
        with_reference(chosen, "\0")
    with pytest.raises(TypeError, match="reference: found a Tensor"):
        with_reference(chosen, torch.zeros(2))
    with pytest.raises(TypeError, match="prompt: found list"):
        plan_concepts(["a"], None, {(): "", ("a",): "", ("b",): "", ("a", "b"): ""})


def test_conditions_that_cannot_be_compared_are_named():
    with pytest.raises(TypeError, match="conditions: unhashable type: 'list'; expected texts"):
        from_mapping({(): "", ("a",): ["a"], ("b",): "b", ("a", "b"): "ab"})
