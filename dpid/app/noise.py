"""What the page shows over log-SNR: figures with a line where the slider is, and the numbers there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import torch

from dpid.app.views import head, html_table, marked
from dpid.report.page import drawn
from dpid.results.profile import Profile
from dpid.results.profile_plot import WORD_NUMBERS, over_logsnr
from dpid.results.result import PIDResult
from dpid.results.words import Result, WordsResult
from dpid.results.words_plot import coloured

_UNSAMPLED = "no sample fell there; more samples will tell"


def over_noise(results: Sequence[Result], logsnr: float) -> str:
    """HTML of plots over log-SNR, one for each of ``results``: a line marks ``logsnr``, whose numbers are below."""
    return "".join((f"<h3>{head(r, mark)}</h3>" if mark else "") + _of(r, logsnr) for r, mark in marked(results))


def _of(result: Result, logsnr: float) -> str:
    if isinstance(result, WordsResult):
        numbers = _numbers_of_words(result, logsnr)
        missing = [name for name in result.words if name not in coloured(result)]
        numbers += f"<p>Not in the figure: {escape(', '.join(missing))}.</p>" * bool(missing)
    else:
        numbers = f"<p>{_sentence(result, logsnr)}</p>"
    figure = result.plot("profile")
    for axes in figure.axes:
        axes.axvline(logsnr, color="black", linewidth=1, linestyle=":")
    return f'<div class="wide"><img src="{drawn(figure)}" alt="Over log-SNR"></div>{numbers}'


def _bin(profile: Profile, logsnr: float) -> tuple[int, str]:
    """The index of the bin of ``profile`` that has ``logsnr``, or is nearest to it, and a phrase that says its ends."""
    last = len(profile.logsnr) - 1
    at = min(last, max(0, int(torch.searchsorted(profile.edges, logsnr, right=True)) - 1))
    return at, "Between log-SNR {:.1f} and {:.1f}".format(*profile.edges[at : at + 2].tolist())


def _sentence(result: PIDResult, logsnr: float) -> str:
    """The numbers of chosen words at ``logsnr``."""
    profile = result.profile
    assert profile.stderr is not None
    at, between = _bin(profile, logsnr)
    numbers = zip(_at(profile, at).items(), _at(profile.stderr, at).values(), strict=True)
    told = "; ".join(f"{escape(name)} {value:.2f} ± {error:.2f}" for (name, value), error in numbers)
    told += f" ({result.metadata.unit} per unit of log-SNR)"
    if not profile.sampled[at]:
        told = _UNSAMPLED
    return f"{between}: {told}."


def _at(profile: Profile, at: int) -> dict[str, float]:
    """The parts of ``profile`` in bin ``at``, by name."""
    unique = {f"only “{concept}”": float(values[at]) for concept, values in profile.unique.items()}
    return {"redundancy": float(profile.redundancy[at]), **unique, "synergy": float(profile.synergy[at])}


def _numbers_of_words(result: WordsResult, logsnr: float) -> str:
    """A table of the numbers of every word at ``logsnr``; of a word without a sample there it has dashes."""
    rows, note = {}, ""
    for name, word in result.words.items():
        at, between = _bin(word.pid.profile, logsnr)
        if word.pid.profile.sampled[at]:
            rows[escape(name)] = [f"{value[at]:.2f} ± {error[at]:.2f}" for value, error in over_logsnr(word)]
        else:
            rows[escape(name)], note = ["–"] * len(WORD_NUMBERS), f"<p>–: {_UNSAMPLED}.</p>"
    unit = f"<small>{escape(result.metadata.unit)} per unit of log-SNR ± standard error</small>"
    return html_table([f"{between}<br>{unit}", *WORD_NUMBERS], rows) + note
