"""The page of results: of each what was found, the maps over the picture, the numbers, and how it was made."""

from __future__ import annotations

import io
import math
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dpid.files import atomic_write
from dpid.options import Options
from dpid.prompts.plan import plan_concepts
from dpid.report.page import drawn, number, png, render
from dpid.results.decomposition import antichain_name
from dpid.results.figure_style import Figure, standard
from dpid.results.intervals import Estimate
from dpid.results.overlay import REDUNDANCY, SYNERGY, colours_of, overlay, paint, scale_of
from dpid.results.result import PIDResult

_LIKELY = 14.0  # nats, a millionfold, from which on a factor is given as a power of ten
_NAMED = 3  # most concepts that a sentence names
_GRAPH = 3  # fewest concepts whose graph tells more than the table
_OPTIONS = ("estimator", "measure", "level", "smooth", "reference")  # of which the command has those that were chosen


def read(paths: Iterable[Path]) -> tuple[dict[str, PIDResult], list[str]]:
    """The results in files and folders, {path: result}, and of every path that is none, or has none, what is wrong."""
    results, problems = {}, []
    for path in paths:
        found = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        if not found:
            problems.append(f"{path} has no results, files of .safetensors")
        for file in found:
            try:
                results[str(file)] = PIDResult.load(file)
            except ValueError as error:
                problems.append(str(error).removeprefix("path: "))
    return results, problems


def write(results: Mapping[str, PIDResult], out: Path) -> None:
    """Write the page of ``results``, {name: result}, to ``out``: readers never see half a page."""
    text = page(results)
    with atomic_write(out) as path:
        path.write_bytes(text.encode(errors="replace"))  # half a letter of UTF-16, which no file can hold


def page(results: Mapping[str, PIDResult]) -> str:
    """The HTML of a page of ``results``, {name: result}, which contains its pictures and needs nothing else."""
    sections = [_section(f"r{i}", name, result) for i, (name, result) in enumerate(results.items(), 1)]
    return render("report/results.html.jinja", sections=sections)


def finding(result: PIDResult) -> str:
    """What a result says, in one or two sentences for a reader who knows none of the terms."""
    metadata = result.metadata
    count = len(metadata.concepts)
    names = _listed(metadata.concepts) if count <= _NAMED else f"The {count} words"
    whole = result.information[metadata.concepts]
    low, high = whole.interval()
    given = ", given the rest of the prompt," if metadata.context else ""
    told = f"{whole} {metadata.unit} (95\u00a0%\u00a0interval {low:.2f} to {high:.2f})"
    if low <= 0 <= high:
        return f"{names} together{given} tell nothing about this picture that stands out of the noise: {told}."
    if high < 0:
        return f"{names} together{given} mislead about this picture: {told}."
    sentence = f"{names} together{given} tell {told} about this picture"
    if not metadata.distilled and not metadata.context:
        sentence += f": with these words the model finds it {_times(whole.value)} times as likely"
    parts = [p for p in _parts(result) if p[1].interval()[0] > 0]
    if not parts:
        return f"{sentence}. How they share it is within the noise: more samples would tell."
    name, largest, meaning = max(parts, key=lambda p: p[1].value)
    return f"{sentence}. The largest part that stands out of the noise is {name}, {largest}: {meaning}."


def _times(nats: float) -> str:
    """e^``nats`` in two digits, or as a power of ten."""
    if nats < _LIKELY:
        return f"{float(f'{math.exp(nats):.2g}'):,.10g}"
    return f"10^{nats / math.log(10):.0f}"


def _listed(concepts: tuple[str, ...]) -> str:
    quoted = [f"“{c}”" for c in concepts]
    return f"{', '.join(quoted[:-1])} and {quoted[-1]}"


def _told(subset: tuple[str, ...]) -> str:
    """What i(x; y_S) is, in words."""
    if len(subset) == 1:
        return f"what “{subset[0]}” tells alone"
    return f"what {_listed(subset) if len(subset) <= _NAMED else 'all words'} tell together"


def _parts(result: PIDResult) -> list[tuple[str, Estimate, str]]:
    """(name, number, meaning) of redundancy, uniqueness and synergy."""
    two = len(result.metadata.concepts) == 2
    return [
        ("redundancy", result.redundancy, "what either word tells" if two else "what two or more of the words tell"),
        *((f"unique: {c}", e, f"what only “{c}” tells") for c, e in result.unique.items()),
        ("synergy", result.synergy, "what only both together tell" if two else "what words tell only together"),
    ]


def _section(key: str, name: str, result: PIDResult) -> dict[str, Any]:
    """The variables of the template for one result."""
    concepts = result.metadata.concepts
    shown = [s for s in result.information if len(concepts) <= 3 or len(s) in (1, len(concepts))]
    numbers = [(f"i(x; {', '.join(s)})", result.information[s], _told(s)) for s in shown]
    rows = [(n, str(e), "{:.2f} to {:.2f}".format(*e.interval()), m) for n, e, m in (*numbers, *_parts(result))]
    return {
        "key": key, "name": name, "prompt": result.metadata.prompt, "concepts": concepts,
        "finding": finding(result), "rows": rows,
        # Of a video, whose frames are many, the strip takes the place of the overlays.
        "panels": _panels(result) if result.metadata.frames is None else [],
        "unit": result.metadata.unit, "remarks": result.remarks(),
        "graph": drawn(result.plot("graph")) if len(concepts) >= _GRAPH else None,
        "strip": (drawn(result.plot("strip")), "The maps in latent pixels, on one scale that is white at zero"),
        "profile": (drawn(result.plot("profile")), "Over noise levels: i(x; y) and its parts, ± one standard error"),
        "estimators": _estimators(result), "command": command(result), "settings": _settings(result),
    }  # fmt: skip


@standard()
def _panels(result: PIDResult) -> list[dict[str, Any]]:
    """The picture and the maps over it: title, meaning, the address of the picture, and the legend of its colours."""
    maps, errors, picture = result.maps, result.maps.stderr, result.picture
    assert errors is not None
    concepts = result.metadata.concepts
    colours = colours_of(concepts)
    limit = scale_of([*maps.unique.values(), maps.redundancy, maps.synergy])
    parts = {name: meaning for name, _, meaning in _parts(result)}
    panels: list[dict[str, Any]] = []
    if picture is not None:
        file = io.BytesIO()
        Image.fromarray(picture.numpy()).save(file, format="png")
        panels.append({"title": "picture", "meaning": "", "data": png(file.getvalue()), "legend": []})
    figure, ax = _frameless(result)
    overlay(ax, picture, maps.unique, errors.unique, colours, limit)
    legend = [(colours[c], f"{c}: {e}, {_sum(maps.unique[c])}") for c, e in result.unique.items()]
    panels.append({"title": "unique", "meaning": "what only this word tells", "data": drawn(figure), "legend": legend})
    for name, colour in (("redundancy", REDUNDANCY), ("synergy", SYNERGY)):
        figure, ax = _frameless(result)
        paint(ax, picture, {name: getattr(maps, name)}, {name: getattr(errors, name)}, {name: colour}, limit)
        legend = [(colour, f"{getattr(result, name)}, {_sum(getattr(maps, name))}")]
        panels.append({"title": name, "meaning": parts[name], "data": drawn(figure), "legend": legend})
    return panels


def _sum(values: Tensor) -> str:
    return f"map sum {float(values.sum()):.1f}"


def _frameless(result: PIDResult) -> tuple[Figure, Any]:
    """A figure of the picture's shape that its axes fill."""
    height, width = (result.maps.redundancy if result.picture is None else result.picture).shape[:2]
    scale = 3.2 / max(height, width)
    figure = Figure(figsize=(max(width * scale, 0.5), max(height * scale, 0.5)), dpi=180)
    return figure, figure.add_axes((0, 0, 1, 1))


def _estimators(result: PIDResult) -> tuple[list[tuple[str, bool]], list[list[str]]]:
    """Header and rows of every number by every estimator."""
    found = result.estimates
    rows = [[f"i(x; {', '.join(s)})", *(str(d.information[s]) for d in found.values())] for s in result.information]
    atoms = result.decomposition.atoms
    rows += [[antichain_name(a), *(str(d.atoms.get(a, "–")) for d in found.values())] for a in atoms]
    return [("", False), *((name, True) for name in found)], rows


def command(result: PIDResult) -> str | None:
    """The command that explains a picture as ``result`` was made, or None where none does, as of own conditions."""
    metadata = result.metadata
    try:
        plan = plan_concepts(metadata.prompt, metadata.concepts, context=metadata.context)
    except ValueError:
        return None
    texts = {"+".join(s): plan.texts[k] for s, k in zip(plan.subsets, plan.index, strict=True)}
    if texts != metadata.conditions:
        return None
    words = ["dpid", "explain", "PICTURE", metadata.prompt]
    for concept in metadata.concepts:
        words += ["-c", concept]
    words += ["--model", metadata.model, "--samples", str(metadata.samples), "--seed", str(metadata.seed)]
    words += ["--context"] if metadata.context else []
    defaults = {f.name: f.default for f in fields(Options)}
    full = texts["+".join(metadata.concepts)]
    for name in _OPTIONS:
        value = getattr(metadata, name)
        if value != defaults[name] and not (name == "reference" and value == full):
            words += [f"--{name}", str(value)]
    return shlex.join(words)


def _settings(result: PIDResult) -> list[tuple[str, str]]:
    """(name, value) of everything that is known of how a result was made."""
    shown = {
        name: value
        for name, value in vars(result.metadata).items()
        if value not in (None, "", {}) and name not in ("prompt", "concepts", "conditions")
    }
    rows = [
        (name.replace("_", " "), ", ".join(map(number, value)) if isinstance(value, tuple) else number(value))
        for name, value in shown.items()
    ]
    texts = [(f"condition {k or '∅'}", text or "the empty prompt") for k, text in result.metadata.conditions.items()]
    return [*rows, *texts]
