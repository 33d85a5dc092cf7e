"""Plots over log-SNR: of what concepts tell and its decomposition, and of what every word tells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from torch import Tensor

from dpid.pid import mean_stderr
from dpid.results.figure_style import Figure, columns_of, inches, literal, shortened, standard, within
from dpid.results.overlay import REDUNDANCY, SYNERGY, colours_of
from dpid.results.panels import frame, new_panels

if TYPE_CHECKING:
    from dpid.results.profile import Profile
    from dpid.results.result import PIDResult
    from dpid.results.word import Word
    from dpid.results.words import WordsResult

_SMALL, _LETTER = 7, 0.051  # points of text in axes of the user, and inches of a letter of it
# Greys of what all words tell, and two of them, beside the words' colours. Not every two colours of a plot are told
# apart by everyone: what several words tell is dashed, and pairs have markers of their own.
_WHOLE, _SEVERAL, _DASHES, _MARKERS = "0.2", "0.4", ("--", ":", "-."), ("s", "^", "x")
WORD_NUMBERS = "alone", "given the rest"
# Name, profile whose bins they are, values, standard errors, how it looks.
_Line = tuple[str, "Profile", Tensor, Tensor, dict[str, Any]]
_Lines = Callable[[int], tuple[Sequence[_Line], Sequence[_Line]]]  # of two panels, for as many letters of a name


@standard()
def plot_profile(result: PIDResult, ax: Any) -> Any:
    """i(x; y_S), left, and its decomposition, right, over log-SNR, with bands of one standard error."""
    lines, unit = partial(_profile_lines, result.profile), result.metadata.unit
    split = "atoms: every bin is split by itself"
    if result.metadata.level != "logsnr":
        split += ", and they do not add up to those of the whole picture"

    def finish(figure: Figure) -> None:
        frame(figure, result.metadata, f"{split}; {_bands(result.profile)}", parts="bin of log-SNR")

    return _drawn(ax, ("i(x; y)", "atoms"), lines, unit, finish)


@standard()
def plot_words_profile(result: WordsResult, colours: dict[str, str], ax: Any) -> Any:
    """i(x; w), left, and i(x; w | rest), right, of words that have ``colours``, over log-SNR with bands of errors."""
    panels: tuple[list[_Line], list[_Line]] = [], []
    for text, colour in colours.items():
        word = result.words[text]
        for lines, (value, error) in zip(panels, over_logsnr(word), strict=True):
            lines.append((text, word.pid.profile, value, error, {"color": colour}))
    unit = result.metadata.unit
    bands = _bands(next(iter(result.words.values())).pid.profile)
    return _drawn(ax, WORD_NUMBERS, lambda _: panels, unit, lambda figure: frame(figure, result.metadata, bands))


def _bands(profile: Profile) -> str:
    return f"bands: one standard error, of {profile.dof + 1} groups of samples"


def over_logsnr(word: Word) -> list[tuple[Tensor, Tensor]]:
    """i(x; w) and i(x; w | rest) of every bin of log-SNR, nats per unit of it, each with standard errors, [L] each."""
    profile, f = word.pid.profile, word.pid.decomposition.profiles.double()
    assert profile.stderr is not None
    width = profile.edges[1:] - profile.edges[:-1]
    given, error = mean_stderr(f[:, 2] - f[:, 1])  # the error of the difference, whose terms have the same noise
    alone = (word.text,)
    return [(profile.information[alone], profile.stderr.information[alone]), (given / width, error / width)]


def _drawn(ax: Any, titles: Sequence[str], lines: _Lines, unit: str, finish: Callable[[Figure], object]) -> Any:
    """A figure with two panels of ``lines``, to which ``finish`` adds texts, or that of ``ax`` with both in it."""
    from matplotlib.transforms import ScaledTranslation

    if ax is not None:
        return _drawn_within(ax, titles, lines, unit)
    both = lines(40)
    longest = max(columns_of(shortened(name)) for panel in both for name, *_ in panel)
    columns = max(1, int(4.7 / (0.65 + 0.058 * longest)))  # inches of a panel, of a line, and of a letter
    rows = -(-max(map(len, both)) // columns)
    figure, axes = new_panels(1, 2, (10, 3.95 + 0.17 * rows), 100)
    axes[1].sharey(axes[0])  # before there are lines: afterwards it would take the limits of the first alone
    for panel, title, own in zip(axes, titles, both, strict=True):
        _draw_lines(panel, own, 40)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel("log-SNR (noise on the left)")
        # Below the label: the lines of eight concepts leave no room.
        below = panel.transAxes + ScaledTranslation(0, -0.48, figure.dpi_scale_trans)
        panel.legend(
            loc="upper center", bbox_to_anchor=(0.5, 0), bbox_transform=below, borderaxespad=0, ncols=columns,
            fontsize=8, frameon=False, handlelength=3,
        )  # fmt: skip
    axes[0].set_ylabel(f"{unit} per unit of log-SNR")
    finish(figure)
    return figure


def _drawn_within(ax: Any, titles: Sequence[str], lines: _Lines, unit: str) -> Any:
    """The figure of ``ax``, into which both panels are drawn, with legends below: they would cover narrow panels."""
    wide, high = inches(ax)
    letters = int((0.49 * wide - 0.3) / _LETTER)  # from one legend to the next, less a line
    both = lines(letters)
    title, labels, key = 0.2, 0.36, 0.125 * max(map(len, both))  # inches, the last of the legend
    tall = max(high - title - labels - key, high / 3)
    axes = [within(ax, left * wide, high - title - tall, 0.4 * wide, tall) for left in (0.06, 0.55)]
    axes[1].sharey(axes[0])
    for panel, name, own in zip(axes, titles, both, strict=True):
        _draw_lines(panel, own, letters)
        panel.set_title(name, fontsize=_SMALL + 1, pad=2)
        panel.set_xlabel("log-SNR", fontsize=_SMALL, labelpad=1)
        panel.tick_params(labelsize=_SMALL, pad=2)
        panel.locator_params(nbins=4)
        panel.legend(
            loc="upper left", bbox_to_anchor=(-0.1, -labels / tall), borderaxespad=0, borderpad=0, frameon=False,
            fontsize=_SMALL, handlelength=2.4, handletextpad=0.3, labelspacing=0.2,
        )  # fmt: skip
    axes[1].tick_params(labelleft=False)
    axes[0].set_ylabel(f"{unit} per unit of log-SNR", fontsize=_SMALL, labelpad=1)
    return ax.figure


def _draw_lines(panel: Any, lines: Sequence[_Line], letters: int) -> None:
    """Draw lines over log-SNR with their bands, and a line at zero; ``letters`` of their names are in the legend."""
    for name, profile, value, error, look in lines:
        x, v, e = profile.logsnr.numpy(), profile.shown(value).numpy(), error.numpy()
        # matplotlib leaves out labels that begin with "_".
        look = {"marker": "o", "markersize": 3} | look
        (line,) = panel.plot(x, v, label=f" {literal(name, letters)}", **look)
        panel.fill_between(x, v - e, v + e, alpha=min(0.2, 0.8 / len(lines)), color=line.get_color())
    edges = [float(edge) for _, profile, *_ in lines for edge in profile.edges[[0, -1]]]
    panel.set_xlim(min(edges), max(edges))  # of a single bin, too
    panel.axhline(0, color="0.7", linewidth=0.8, zorder=0)
    panel.spines[["top", "right"]].set_visible(False)


def _profile_lines(profile: Profile, letters: int) -> tuple[list[_Line], list[_Line]]:
    """The lines of i(x; y_S), of four concepts and more those of each and of all, and those of the decomposition.

    That of all has all their names if there are at most ``letters`` of them.
    """
    errors, concepts = profile.stderr, tuple(profile.unique)
    assert errors is not None
    colours, pairs = colours_of(concepts), zip(_DASHES, _MARKERS, strict=True)
    information: list[_Line] = []
    for subset, f in profile.information.items():
        name = ", ".join(subset)
        look: dict[str, Any] = {"color": colours[subset[0]]}
        if subset == concepts:
            name = name if len(concepts) < 4 and len(name) <= letters else "all"
            look = {"color": _WHOLE, "linewidth": 2}
        elif len(subset) > 1:
            if len(concepts) > 3:  # 2ⁿ lines would be unreadable
                continue
            dashes, marker = next(pairs)
            look = {"color": _SEVERAL, "linestyle": dashes, "marker": marker, "markersize": 5}
        information.append((name, profile, f, errors.information[subset], look))
    shared, together = ({"color": colour, "linestyle": _DASHES[0]} for colour in (REDUNDANCY, SYNERGY))
    return information, [
        ("redundancy", profile, profile.redundancy, errors.redundancy, shared),
        *((f"unique: {c}", profile, f, errors.unique[c], {"color": colours[c]}) for c, f in profile.unique.items()),
        ("synergy", profile, profile.synergy, errors.synergy, together),
    ]
