"""What the page shows over log-SNR."""

import re
from itertools import pairwise

import pytest
from made_up import made

from dpid.app.noise import over_noise


def test_chosen_words_at_a_log_snr():
    """At the first edge, between two edges, and at the last one."""
    result = made()
    edges, synergy = result.profile.edges.tolist(), result.profile.synergy.tolist()
    for logsnr, at in ((edges[0], 0), ((edges[1] + edges[2]) / 2, 1), (edges[-1], len(synergy) - 1)):
        told = over_noise([result], logsnr)
        assert f"Between log-SNR {edges[at]:.1f} and {edges[at + 1]:.1f}:" in told
        assert f"synergy {synergy[at]:.2f} ±" in told


def test_every_word_at_every_log_snr(emoji, two_things):
    """Over all of log-SNR the numbers of a word sum up to its own; where no sample fell there are none."""
    result = emoji.words(*two_things[:2], samples=16)
    totals = {name: [0.0, 0.0] for name in result.words}
    edges = next(iter(result.words.values())).pid.edges.tolist()
    for low, high in pairwise(edges):
        told = over_noise([result], (low + high) / 2)
        assert f"Between log-SNR {low:.1f} and {high:.1f}<" in told
        assert ("no sample fell there" in told) is ("<td>–</td>" in told)
        for name, *numbers in re.findall(r"<tr><th>(\w+)</th><td>(\S+).*?</td><td>(\S+)", told.replace("–", "0")):
            totals[name] = [t + (high - low) * float(n) for t, n in zip(totals[name], numbers, strict=True)]
    for name, word in result.words.items():
        expected = [word.alone.value, word.given_rest.value]
        # Numbers are shown in hundredths, and the bins together are as wide as the range.
        assert totals[name] == pytest.approx(expected, abs=0.005 * (edges[-1] - edges[0]) + 1e-3)
