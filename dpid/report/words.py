"""The section of a page for what every word of a prompt tells."""

from __future__ import annotations

from typing import Any

from dpid.report.page import drawn
from dpid.report.parts import Panel, frameless, listed, panel, picture_panel, settings
from dpid.results.figure_style import standard
from dpid.results.overlay import colours_of, overlay
from dpid.results.words import WordsResult


def section(result: WordsResult) -> dict[str, Any]:
    """The variables of the template for a result."""
    metadata = result.metadata
    return {
        "title": f"“{metadata.prompt}”: every word", "finding": finding(result),
        "panels": _panels(result) if metadata.frames is None else [], "figures": [],
        "header": (f"word, {metadata.unit}", "alone", "given the rest", "unique"),
        "rows": [(name, w.told, str(w.alone), str(w.given_rest), str(w.unique)) for name, w in result.words.items()],
        "more": "Intervals, and the map of every word",
        "more_figures": [(drawn(result.plot()), "Every word alone and given the rest, and its map given the rest")],
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


@standard()
def _panels(result: WordsResult) -> list[Panel]:
    """The picture, and over it what only each word tells, and what would be lost without it."""
    words, picture = result.words, result.picture
    colours = colours_of(words)
    panels = [] if picture is None else [picture_panel(picture)]
    unique = {name: word.pid.maps.unique[name] for name, word in words.items()}
    errors = {name: word.pid.maps.stderr.unique[name] for name, word in words.items() if word.pid.maps.stderr}
    lost, uncertain = {n: w.map for n, w in words.items()}, {n: w.map_stderr for n, w in words.items()}
    for title, meaning, maps, stderr, numbers in (
        ("unique", "what only this word tells", unique, errors, {n: w.unique for n, w in words.items()}),
        ("given the rest", "what would be lost without the word", lost, uncertain,
         {n: w.given_rest for n, w in words.items()}),
    ):  # fmt: skip
        figure, ax = frameless(next(iter(maps.values())) if picture is None else picture)
        overlay(ax, picture, maps, stderr, colours)
        panels.append(panel(title, meaning, figure, [(colours[n], f"{n}: {e}") for n, e in numbers.items()]))
    return panels
