"""The section of a page for the result of a PID."""

from __future__ import annotations

import math
from typing import Any

from dpid.report.command import of_concepts
from dpid.report.page import drawn
from dpid.report.parts import Panel, frameless, interval, listed, panel, picture_panels, settings
from dpid.results.decomposition import antichain_name
from dpid.results.figure_style import standard
from dpid.results.intervals import Estimate
from dpid.results.overlay import REDUNDANCY, SYNERGY, colours_of, overlay, paint, scale_of
from dpid.results.plot import number_told
from dpid.results.result import PIDResult

_LIKELY = 14.0  # nats, a millionfold, from which on factors are given as powers of ten
_NAMED = 3  # most concepts that a sentence names
_GRAPH = 3  # fewest concepts whose graph tells more than the table


def finding(result: PIDResult) -> str:
    """What a result says, in one or two sentences for a reader who knows none of the terms."""
    metadata = result.metadata
    count = len(metadata.concepts)
    names = listed(metadata.concepts) if count <= _NAMED else f"The {count} words"
    whole = result.information[metadata.concepts]
    low, high = whole.interval()
    given = ", given the rest of the prompt," if metadata.context else ""
    told = f"{whole} {metadata.unit} (95\u00a0%\u00a0interval {interval(whole)})"
    if low <= 0 <= high:
        return f"{names} together{given} tell nothing about this picture that stands out of the noise: {told}."
    if high < 0 and not metadata.distilled:  # whose numbers say where words steer, not what they tell
        return f"{names} together{given} mislead about this picture: {told}."
    sentence = f"{names} together{given} tell {told} about this picture"
    if not metadata.distilled and not metadata.context and metadata.estimator != "orthogonal":
        sentence += f": with these words the model finds it {_times(low, high)} times as likely"
    parts = [p for p in _parts(result) if p[1].interval()[0] > 0]
    if not parts:
        return f"{sentence}. How they share it is within the noise: more samples would tell."
    name, largest, meaning = max(parts, key=lambda p: p[1].value)
    return f"{sentence}. The largest part that stands out of the noise is {name}, {largest}: {meaning}."


def _times(low: float, high: float) -> str:
    """e to the ends of an interval in nats, in two digits or, far from one, as powers of ten: "2.4 to 10^7"."""
    ends = [
        f"{float(f'{math.exp(nats):.2g}'):,.10g}" if abs(nats) < _LIKELY else f"10^{nats / math.log(10):.0f}"
        for nats in (low, high)
    ]
    return " to ".join(dict.fromkeys(ends))


def _told(subset: tuple[str, ...]) -> str:
    """What i(x; y_S) is, in words."""
    if len(subset) == 1:
        return f"what “{subset[0]}” tells alone"
    return f"what {listed(subset) if len(subset) <= _NAMED else 'all words'} tell together"


def _parts(result: PIDResult) -> list[tuple[str, Estimate, str]]:
    """(name, number, meaning) of redundancy, uniqueness and synergy."""
    two = len(result.metadata.concepts) == 2
    return [
        ("redundancy", result.redundancy, "what either word tells" if two else "what two or more of the words tell"),
        *((f"unique: {c}", e, f"what only “{c}” tells") for c, e in result.unique.items()),
        ("synergy", result.synergy, "what only both together tell" if two else "what words tell only together"),
    ]


def section(result: PIDResult) -> dict[str, Any]:
    """The variables of the template for a result."""
    concepts = result.metadata.concepts
    shown = [s for s in result.information if len(concepts) <= 3 or len(s) in (1, len(concepts))]
    numbers = [(f"i(x; {', '.join(s)})", result.information[s], _told(s)) for s in shown]
    profile = drawn(result.plot("profile")), "Over noise levels: i(x; y) and its parts, ± one standard error"
    strip = drawn(result.plot("strip")), "The maps in latent pixels, on one scale that is white at zero"
    graph = drawn(result.plot("graph")), "What every two words share, and what they tell only together"
    # Of a video, whose frames are many, the strip takes the place of the overlays.
    video = result.metadata.frames is not None
    return {
        "title": f"“{result.metadata.prompt}”: {', '.join(concepts)}", "finding": finding(result),
        "every_word": False, "sums_of_maps": result.metadata.level == "pixel",
        "panels": [] if video else [*panels(result), *picture_panels(result.picture)],
        "figures": ([strip] if video else []) + ([graph] if len(concepts) >= _GRAPH else []),
        "header": ("part", result.metadata.unit, "95 % interval"),
        "rows": [(n, m, str(e), interval(e)) for n, e, m in (*numbers, *_parts(result))],
        "more": "Over noise levels" if video else "Over noise levels, and the maps themselves",
        "more_figures": [profile] if video else [profile, strip],
        "estimators": _estimators(result), "estimator": result.metadata.estimator,
        "command": of_concepts(result), "settings": settings(result.metadata),
    }  # fmt: skip


@standard()
def panels(result: PIDResult) -> list[Panel]:
    """The maps over the picture: of uniqueness, redundancy and synergy, each with a legend of its colours."""
    maps, errors, picture = result.maps, result.maps.stderr, result.picture
    assert errors is not None
    concepts = result.metadata.concepts
    colours = colours_of(concepts)
    limit = scale_of([*maps.unique.values(), maps.redundancy, maps.synergy])
    parts = {name: meaning for name, _, meaning in _parts(result)}

    figure, ax = frameless(maps.redundancy if picture is None else picture)
    overlay(ax, picture, maps.unique, errors.unique, colours, limit)
    legend = [(colours[c], f"{c}: {number_told(result, e, maps.unique[c])}") for c, e in result.unique.items()]
    shown = [panel("unique", "what only this word tells", figure, legend)]
    for name, colour in (("redundancy", REDUNDANCY), ("synergy", SYNERGY)):
        value, error = getattr(maps, name), getattr(errors, name)
        figure, ax = frameless(maps.redundancy if picture is None else picture)
        paint(ax, picture, {name: value}, {name: error}, {name: colour}, limit)
        shown.append(panel(name, parts[name], figure, [(colour, number_told(result, getattr(result, name), value))]))
    return shown


def _estimators(result: PIDResult) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Header and rows of every number by every estimator."""
    found = result.estimates
    rows = [[f"i(x; {', '.join(s)})", *(str(d.information[s]) for d in found.values())] for s in result.information]
    atoms = result.decomposition.atoms
    rows += [[antichain_name(a), *(str(d.atoms.get(a, "–")) for d in found.values())] for a in atoms]
    return [("number", False), *((name, True) for name in found)], rows
