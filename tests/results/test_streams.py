"""Results that grow with their samples, of one decomposition and of every pair."""

import pytest

from dpid import ConvergenceWarning

ASKED = {"samples": 8, "max_samples": 24, "tolerance": 1e-9}


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
