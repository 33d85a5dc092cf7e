"""Texts of the studies: articles, and that the embedded models read them as they were."""

import pytest

from dpid.denoisers.loading import EMBEDDED, embedded_path
from dpid.studies import bias, words, world


@pytest.mark.parametrize(
    "phrase",
    ["a cow", "an elephant", "an Asian person", "an accountant", "a unicorn", "a university teacher", "an usher",
     "an uninsured driver", "an hour", "a house", "an umbrella", "a european"],
)  # fmt: skip
def test_articles(phrase):
    assert words.one(phrase.split(" ", 1)[1]) == phrase


def test_texts_for_other_models_have_articles():
    assert words.natural("elephant", "cat")["elephant", "cat"] == "an elephant and a cat"
    assert bias.people("asian", "accountant", articles=True) == {
        (): "a person", ("asian",): "an asian person", ("accountant",): "an accountant",
        ("asian", "accountant"): "an asian accountant",
    }  # fmt: skip
    assert bias.people("female", "engineer")["engineer",] == "engineer"


@pytest.mark.parametrize("model", EMBEDDED)
def test_the_embedded_models_are_asked_with_a_and_read_an_alike(model):
    from transformers import AutoTokenizer

    assert world.natural("elephant", "cat")["elephant", "cat"] == "a elephant and a cat"
    tokenizer = AutoTokenizer.from_pretrained(embedded_path(model) / "tokenizer")
    assert tokenizer("an elephant").input_ids == tokenizer("a elephant").input_ids
