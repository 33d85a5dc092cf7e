"""Plot of what every word of a prompt tells: numbers with intervals and verdicts, and a map of every word."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from dpid.results.figure_style import Figure, literal, standard
from dpid.results.plot import draw_maps

if TYPE_CHECKING:
    from dpid.results.words import WordsResult

# Colours that colour-blind people tell apart (Okabe & Ito, 2008).
COLOURS = {
    "used": "#009E73", "works only with others": "#56B4E9", "redundant": "#E69F00", "misleading": "#D55E00",
    "ignored": "0.6", "undecided": "0.6",
}  # fmt: skip
_COLUMNS, _WORD = 5, 24  # maps side by side; letters of a word


@standard()
def plot_words(result: WordsResult) -> Figure:
    """A figure of i(x; w) and i(x; w | rest) of every word with 95 % intervals, and of the picture and the maps.

    The maps are those of i(x; w | rest), on one colour scale, white at zero.
    """
    words = list(result.words.values())
    count = len(words) + (result.picture is not None)
    # Of a video, whose frames are side by side, a row each.
    columns, tall = (_COLUMNS, 2.3) if result.metadata.frames is None else (1, 1.8)
    rows = -(-count // columns)
    figure = Figure(figsize=(11, 1.4 + 0.42 * len(words) + tall * rows), dpi=120, layout="constrained")
    parts: Any = figure.subfigures(2, 1, height_ratios=(1 + 0.42 * len(words), 0.4 + tall * rows))
    top, bottom = parts
    ax = top.subplots()
    for place, word in enumerate(words):
        for number, shift, face in ((word.alone, -0.17, "none"), (word.given_rest, 0.17, COLOURS[word.verdict])):
            low, high = number.interval()
            ax.barh(place + shift, number.value, 0.3, color=face, edgecolor=COLOURS[word.verdict])
            ax.plot((low, high), (place + shift,) * 2, color="0.2", linewidth=1.2)
        ax.text(1.01, place, word.told, transform=ax.get_yaxis_transform(), va="center", color=COLOURS[word.verdict])
    ax.set_yticks(range(len(words)), [literal(word.text, _WORD) for word in words])
    ax.invert_yaxis()
    ax.axvline(0, color="0.3", linewidth=0.8)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.set_xlabel(f"{result.metadata.unit}: alone (outline) and given the rest of the prompt (filled), 95 % intervals")
    axes = list(bottom.subplots(rows, columns, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    drawn = draw_maps(axes[:count], result.picture, [word.map for word in words])
    for panel, word in zip(axes[count - len(words) : count], words, strict=True):
        panel.set_title(f"{literal(word.text, _WORD)}\n{word.given_rest}", fontsize=9)
    bottom.colorbar(drawn, ax=axes, shrink=0.7, pad=0.01, extend="both", label=f"{result.metadata.unit} per pixel")
    figure.suptitle(literal(f"“{result.metadata.prompt}”", 100, lines=4), fontsize=11, fontweight="bold")
    return figure
