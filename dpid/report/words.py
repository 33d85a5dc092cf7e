"""The section of a page for what every word of a prompt tells."""

from __future__ import annotations

from typing import Any

from dpid.report.command import of_words
from dpid.report.page import drawn
from dpid.report.parts import Panel, frameless, interval, listed, panel, picture_panels, settings
from dpid.results.word import Word, verdict
from dpid.results.words import WordsResult
from dpid.results.words_plot import coloured, left_out


def section(result: WordsResult) -> dict[str, Any]:
    """The variables of the template for a result."""
    metadata = result.metadata
    return {
        "title": f"“{metadata.prompt}”: every word", "finding": finding(result),
        "every_word": True, "sums_of_maps": True,
        "panels": [*panels(result), *picture_panels(result.picture)] if metadata.frames is None else [], "figures": [],
        "header": ("alone", "given the rest", "unique, by pixel"), "unit": metadata.unit,
        "rows": [(name, verdict(word), _cells(word)) for name, word in result.words.items()],
        "more": "A figure of the numbers, and the map of every word",
        "more_figures": [
            (drawn(result.plot("words")), "Every word alone and given the rest of the prompt"),
            (drawn(result.plot("strip")), "Maps of every word given the rest of the prompt, in latent pixels"),
        ],
        "estimators": None, "command": of_words(result), "settings": settings(metadata),
    }  # fmt: skip


def _cells(word: Word) -> list[tuple[str, str]]:
    """The numbers of a word with their errors, each with its interval."""
    return [(str(number), interval(number)) for number in (word.alone, word.given_rest, word.unique)]


def finding(result: WordsResult) -> str:
    """The verdicts, in a sentence for each."""
    groups: dict[str, list[str]] = {}
    for name, word in result.words.items():
        groups.setdefault(verdict(word), []).append(name)
    said = []
    for told, names in groups.items():
        verbs = ("is", "works") if len(names) == 1 else ("are", "work")
        works = told.startswith("works")
        said.append(f"{listed(names)} {verbs[works]} {told.removeprefix('works ')}.")
    return " ".join(said)


def panels(result: WordsResult) -> list[Panel]:
    """What only each word tells, over the picture, with a legend of the words' colours."""
    colours = coloured(result)
    figure, ax = frameless(next(iter(result.words.values())).map if result.picture is None else result.picture)
    result.plot("overlay", ax=ax)
    words = {name: result.words[name] for name in colours}
    legend = [(colours[name], f"{name}: {word.unique}, {verdict(word)}") for name, word in words.items()]
    if missing := left_out(result):
        legend.append(("transparent", f"not drawn (least unique): {', '.join(missing)}"))
    return [panel("unique", "what only this word tells", figure, legend)]
