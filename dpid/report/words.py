"""The section of a page for what every word of a prompt tells."""

from __future__ import annotations

from typing import Any

from dpid.report.page import drawn
from dpid.report.parts import Panel, frameless, listed, panel, picture_panels, settings
from dpid.results.overlay import colours_of
from dpid.results.words import WordsResult
from dpid.results.words_plot import outer


def section(result: WordsResult) -> dict[str, Any]:
    """The variables of the template for a result."""
    metadata = result.metadata
    return {
        "title": f"“{metadata.prompt}”: every word", "finding": finding(result),
        "panels": [*picture_panels(result.picture), *panels(result)] if metadata.frames is None else [], "figures": [],
        "header": (f"word, {metadata.unit}", "alone", "given the rest", "unique, by pixel"),
        "rows": [(name, w.told, str(w.alone), str(w.given_rest), str(w.unique)) for name, w in result.words.items()],
        "more": "Intervals, and the map of every word",
        "more_figures": [
            (drawn(result.plot("words")), "Every word alone and given the rest of the prompt"),
            (drawn(result.plot("strip")), "Maps of what is lost without each word, in latent pixels"),
        ],
        "estimators": None, "command": None, "settings": settings(metadata),
    }  # fmt: skip


def finding(result: WordsResult) -> str:
    """The verdicts, in a sentence for each."""
    groups: dict[str, list[str]] = {}
    for name, verdict in result.verdicts.items():
        groups.setdefault(verdict, []).append(name)
    said = []
    for verdict, names in groups.items():
        verbs = ("is", "works") if len(names) == 1 else ("are", "work")
        works = verdict.startswith("works")
        said.append(f"{listed(names)} {verbs[works]} {verdict.removeprefix('works ')}.")
    return " ".join(said)


def panels(result: WordsResult) -> list[Panel]:
    """What only each word tells, over the picture, with a legend of the words' colours."""
    words = outer(result)
    colours = colours_of(word.text for word in words)
    figure, ax = frameless(words[0].map if result.picture is None else result.picture)
    result.plot("overlay", ax=ax)
    legend = [(colours[word.text], f"{word.text}: {word.unique}, {word.told}") for word in words]
    return [panel("unique", "what only this word tells", figure, legend)]
