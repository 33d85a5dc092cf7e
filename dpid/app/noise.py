"""What the page shows over log-SNR: figures with a line where the slider is, and the numbers there."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import torch
from torch import Tensor

from dpid.app.views import Result, head, html_table, marked
from dpid.pid import mean_stderr
from dpid.report.page import drawn
from dpid.results.figure_style import literal, standard
from dpid.results.panels import entitle, new_panels
from dpid.results.profile import Profile
from dpid.results.result import PIDResult
from dpid.results.word import Word
from dpid.results.words import WordsResult
from dpid.results.words_plot import coloured

_OF_WORDS = "alone", "given the rest"
_UNSAMPLED = "no sample fell there; more samples will tell"
_LEGEND = 4  # words side by side below the figure


def over_noise(results: Sequence[Result], logsnr: float) -> str:
    """HTML of plots over log-SNR, one for each of ``results``: a line marks ``logsnr``, whose numbers are below."""
    return "".join((f"<h3>{head(r, mark)}</h3>" if mark else "") + _of(r, logsnr) for r, mark in marked(results))


def _of(result: Result, logsnr: float) -> str:
    if isinstance(result, WordsResult):
        figure, numbers = _plot_words(result), _numbers_of_words(result, logsnr)
        missing = [name for name in result.words if name not in coloured(result)]
        numbers += f"<p>Not in the figure: {escape(', '.join(missing))}.</p>" * bool(missing)
    else:
        figure, numbers = result.plot("profile"), f"<p>{_sentence(result, logsnr)}</p>"
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
            rows[escape(name)] = [f"{value[at]:.2f} ± {error[at]:.2f}" for value, error in _curves(word)]
        else:
            rows[escape(name)], note = ["–"] * len(_OF_WORDS), f"<p>–: {_UNSAMPLED}.</p>"
    unit = f"<small>{escape(result.metadata.unit)} per unit of log-SNR ± standard error</small>"
    return html_table([f"{between}<br>{unit}", *_OF_WORDS], rows) + note


def _curves(word: Word) -> list[tuple[Tensor, Tensor]]:
    """i(x; w) and i(x; w | rest) in every bin, per unit of log-SNR, with their standard errors, [L] each."""
    profile, f = word.pid.profile, word.pid.decomposition.profiles.double()
    assert profile.stderr is not None
    width = profile.edges[1:] - profile.edges[:-1]
    given, error = mean_stderr(f[:, 2] - f[:, 1])  # the error of the difference, whose terms have the same noise
    alone = (word.text,)
    return [(profile.information[alone], profile.stderr.information[alone]), (given / width, error / width)]


@standard()
def _plot_words(result: WordsResult) -> Any:
    """What every word that has a colour tells alone, left, and given the rest, right, with bands of one error."""
    colours = coloured(result)
    rows = -(-len(colours) // _LEGEND)
    figure, axes = new_panels(1, 2, (10, 3.95 + 0.17 * rows), 100)
    axes[1].sharey(axes[0])
    for text, colour in colours.items():
        word = result.words[text]
        profile, curves = word.pid.profile, _curves(word)
        for panel, (value, error) in zip(axes, curves, strict=True):
            v = profile.shown(value)
            # matplotlib leaves out labels that begin with "_".
            panel.plot(profile.logsnr, v, color=colour, marker="o", markersize=3, label=f" {literal(text)}")
            panel.fill_between(profile.logsnr, v - error, v + error, color=colour, alpha=0.12, linewidth=0)
    for panel, title in zip(axes, _OF_WORDS, strict=True):
        panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("log-SNR (noise on the left)")
        panel.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{result.metadata.unit} per unit of log-SNR")
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, loc="outside lower center", ncols=_LEGEND, fontsize=8, frameon=False)
    entitle(figure, result.metadata)
    return figure
