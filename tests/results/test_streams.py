"""Results of every pair of concepts, and results that grow with their samples."""

import pytest
import torch

from dpid import ConvergenceWarning
from dpid.prompts.plan import subsets_of
from dpid.results.result import ranked

ASKED = {"samples": 8, "max_samples": 24, "tolerance": 1e-9}


def test_pairs_share_their_conditions(emoji, two_things):
    path, prompt, concepts = two_things
    three = ("a", *concepts)
    # Priors of all three, of which each pair takes its own.
    priors = {s: 11.0 * len(s) for s in subsets_of(three)[1:]}
    shared = emoji.explain_pairs(path, prompt, three, samples=8, measure="ppid", priors=priors)
    assert {len(result.metadata.priors) for result in shared.values()} == {3}
    assert all(abs(result.redundancy.value) < torch.inf for result in shared.values())
    pairs = emoji.explain_pairs(path, prompt, three, samples=8)
    assert list(pairs) == [(three[0], three[1]), (three[0], three[2]), (three[1], three[2])]
    # null, three concepts, three pairs
    assert pairs[three[:2]].metadata.unet_evaluations == 8 * 7
    alone = emoji.explain(path, prompt, concepts, samples=8)
    # Another batch of conditions changes the order of sums inside the UNet's convolutions.
    assert pairs[concepts].redundancy.value == pytest.approx(alone.redundancy.value, rel=1e-3, abs=1e-3)
    assert ranked(pairs)[0] == max(pairs, key=lambda p: pairs[p].redundancy.value)


def test_stream_grows_to_what_explain_gives(emoji, two_things):
    path, prompt, concepts = two_things
    growing = list(emoji.stream(path, prompt, concepts, samples=8, max_samples=24))
    assert [r.metadata.samples for r in growing] == [8, 16, 24]
    assert growing[0].redundancy == emoji.explain(path, prompt, concepts, samples=8).redundancy


def test_pairs_grow_to_what_explain_pairs_gives(emoji, two_things):
    path, prompt, concepts = two_things
    asked = {"samples": 8, "max_samples": 16, "tolerance": 1e-9}
    growing = list(emoji.stream_pairs(path, prompt, ("a", *concepts), **asked))
    assert [{r.metadata.samples for r in pairs.values()} for pairs in growing] == [{8}, {16}]
    with pytest.warns(ConvergenceWarning):
        assert growing[-1] == emoji.explain_pairs(path, prompt, ("a", *concepts), **asked)
    with pytest.raises(ValueError, match="max_samples: found 8, expected at least samples = 32"):
        emoji.stream_pairs(path, prompt, concepts, max_samples=8)
    with pytest.raises(ValueError, match="concepts: found 1, expected at least 2"):
        emoji.stream_pairs(path, prompt, concepts[:1])


@pytest.mark.parametrize("method", ["explain", "explain_pairs"])
def test_a_stream_raises_where_all_at_once_would_be_marked(emoji, two_things, broken_later, method):
    """NaN in the second round: what the first found was given before, and is all that a call returns."""
    given = []
    with pytest.raises(FloatingPointError, match="returned NaN or infinity for condition"):
        given.extend(getattr(emoji, method.replace("explain", "stream"))(*two_things, **ASKED))
    broken_later.clear()
    with pytest.warns(ConvergenceWarning, match="the result is that of the rounds before"):
        marked = getattr(emoji, method)(*two_things, **ASKED)
    (found,) = given
    for stream, whole in zip(
        *(one.values() if isinstance(one, dict) else [one] for one in (found, marked)), strict=True
    ):
        assert stream.metadata.samples == 8
        assert stream.metadata.broken == ""
        assert "returned NaN or infinity for condition" in whole.metadata.broken
        assert stream.information == whole.information
