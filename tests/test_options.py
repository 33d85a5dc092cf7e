"""The options of an explanation: what is allowed, and the errors for everything else."""

import math
import re
from dataclasses import fields
from fractions import Fraction
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dpid.options import Budget, ExplainOptions, Options, WordsOptions

COUNTS = ("samples", "replicates", "max_samples", "max_batch_size", "seed", "smooth")


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize("kind", [np.int64, np.uint8, np.array, torch.tensor])
def test_a_whole_number_is_one_whoever_made_it(name, kind):
    found = getattr(Options(**{name: kind(7)}), name)
    assert found == 7
    assert type(found) is int


def test_type_checkers_know_every_option_by_its_type():
    told = [{name: one.__forward_arg__ for name, one in kind.__annotations__.items()}
            for kind in (ExplainOptions, WordsOptions)]  # fmt: skip
    options, budget = ({field.name: field.type for field in fields(kind)} for kind in (Options, Budget))
    assert told[0] == options
    assert budget.items() <= told[1].items() <= (options | budget).items()


def test_values_are_plain():
    """What is written to JSON, compared and sent to other processes holds nothing of the library that made it."""
    options = Options(
        context=np.bool_(True), tolerance=np.float32(0.25), measure=np.str_("min"), level=np.str_("pixel"),
        reference=np.str_("a cow"), seed=np.int64(2**40),
    )  # fmt: skip
    assert options == Options(context=True, tolerance=0.25, level="pixel", reference="a cow", seed=2**40)
    for field in fields(Options):
        assert type(getattr(options, field.name)) in (bool, int, float, str, type(None))


@pytest.mark.parametrize("name", COUNTS)
@pytest.mark.parametrize(
    "value", [32.0, np.float64(32), True, np.bool_(True), "32", -1, 10**30, math.nan, torch.ones(2), [3]]
)
def test_other_values_are_no_whole_numbers(name, value):
    with pytest.raises(ValueError, match=rf"^{name}: found .*, expected a whole number from \d to ") as caught:
        Options(**{name: value})
    assert len(str(caught.value)) < 200


def test_more_than_a_machine_computes_is_refused_in_words():
    with pytest.raises(ValueError, match=r"^samples: found 1000000000000, expected a whole number from 1 to 1048576$"):
        Options(samples=10**12)
    with pytest.raises(ValueError, match=r"^smooth: found 999, expected a whole number from 1 to 99$"):
        Options(smooth=999)


def test_maps_are_at_least_as_large_as_what_smooths_them():
    Options(smooth=17).check_maps(8, 17)
    with pytest.raises(ValueError, match="smooth: found 17, expected at most the 16 latent pixels"):
        Options(smooth=17).check_maps(16, 16)


@pytest.mark.parametrize(
    ("value", "percent"),
    [(5, "5 % is 0.05"), (10.0, "10 % is 0.1"), (np.int64(2), "2 % is 0.02"), (0, "5 % is 0.05"), (1, "5 % is 0.05"),
     (-0.1, "5 % is 0.05"), (math.nan, "5 % is 0.05"), (math.inf, "5 % is 0.05"), (10**400, "5 % is 0.05")],
)  # fmt: skip
def test_a_tolerance_is_a_fraction_and_no_percentage(value, percent):
    with pytest.raises(ValueError, match=rf"^tolerance: found .*, expected a fraction between 0 and 1; {percent}$"):
        Options(tolerance=value)


@pytest.mark.parametrize("value", ["0.1", True, 1j, [0.1], torch.ones(2)])
def test_a_tolerance_is_a_number(value):
    with pytest.raises(TypeError, match=r"^tolerance: found .*, expected a number such as 0\.05 for 5 %$"):
        Options(tolerance=value)


def test_an_empty_reference_is_refused():
    """As F it would be the null condition, which describes nothing."""
    with pytest.raises(ValueError, match=r"^reference: found an empty text"):
        Options(reference=" ")


def test_a_value_that_is_nowhere_is_refused():
    with pytest.raises(TypeError, match=r"^seed: found tensor\(.*meta.*\), which holds no value"):
        Options(seed=torch.tensor(3, device="meta"))


@pytest.mark.parametrize(
    ("name", "hint"),
    [
        ("sample", "did you mean samples?"), ("tolerence", "did you mean tolerance?"), ("Seed", "did you mean seed?"),
        ("colour", "allowed are context, reference, estimator"), ("clip_skip", "belongs to the pipeline's own call"),
        ("guidance_scale", "belongs to the pipeline"), ("negative_prompt", "belongs to the pipeline"),
        ("num_inference_steps", "belongs to the pipeline"), ("generator", "belongs to the pipeline"),
        ("precision", "is chosen with the model"), ("device", "from_pretrained(…) or by the pipeline's to("),
        ("guidance", "is chosen with the model"),
        ("seconds", "belongs to words; to end an explanation early use stop="),
        ("margin", "belongs to words, which judges every word"),
    ],
)  # fmt: skip
def test_another_name_is_told_what_may_be_meant(name, hint):
    with pytest.raises(TypeError, match=rf"^{name}: .*{re.escape(hint)}"):
        Options.from_keywords({"samples": 8, name: 1})


def test_keywords_are_the_options():
    assert Options.from_keywords({"samples": 8, "seed": 3}) == Options(samples=8, seed=3)


numbers = st.one_of(
    st.integers(), st.integers(-2, 40), st.floats(), st.floats(0, 1), st.booleans(), st.complex_numbers(),
    st.fractions(), st.decimals(), st.integers(-2, 40).map(np.int32), st.floats(width=32).map(np.float32),
    st.booleans().map(np.bool_), st.floats().map(torch.tensor), st.integers(-9, 9).map(torch.tensor),
)  # fmt: skip
words = st.sampled_from(
    ["", "auto", "min", "MIN", "i_ccs", "i_ccs_plugin", "ppid", "i_sx", "i_min", "mmi", "learning", "adaptive", "image",
     "pixel", "standard", "orthogonal", "uniform", "mlm:", "prompt", "Prompt", "concepts", "\udcff", "\0", "a" * 10**4]
)  # fmt: skip
others = st.one_of(
    st.none(), st.binary(), st.lists(numbers, max_size=3), st.dictionaries(words, numbers, max_size=2),
    st.lists(st.integers(0, 3), min_size=1, max_size=3).map(np.array),
    st.lists(st.integers(0, 3), max_size=3).map(torch.tensor),
    st.builds(object), st.builds(SimpleNamespace, ndim=st.just(0)), st.sampled_from([int, math, Options, ..., print]),
)  # fmt: skip
values = st.one_of(numbers, words, words.map(np.str_), st.text(), others)


@settings(max_examples=400, deadline=None)
@given(st.dictionaries(st.sampled_from([f.name for f in fields(Options)]), values, max_size=3))
@example({"samples": 10**5000})
@example({"tolerance": Fraction(1, 10**400)})
@example({"measure": np.array(["min"])})
@example({"rule": []})
def test_whatever_is_given_makes_options_or_is_refused_by_name(given):
    refused = None
    try:
        options = Options(**given)
    except (ValueError, TypeError) as error:
        refused = str(error)
    if refused is not None:
        named = refused.partition(": ")[0]
        # Two that do not go together: the other is named, max_samples beside samples, priors beside a measure.
        assert named in given or (named in ("max_samples", "priors") and {"samples", "measure"} & given.keys())
        assert len(refused) < 300
        return
    assert options.per_round * options.rounds >= 1
    assert all(type(getattr(options, n)) in (bool, int, float, str, type(None)) for n in given if n != "priors")
    assert options.tolerance is None or 0 <= options.tolerance < 1
