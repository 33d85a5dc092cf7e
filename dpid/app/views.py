"""What the page shows of a result: another way to look at its samples, figures, tables, and files."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from html import escape
from operator import itemgetter
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from dpid.files import write_json
from dpid.pid.decomposition import find, image_priors
from dpid.report import pid, words
from dpid.report.page import drawn, render
from dpid.report.parts import Panel, panel
from dpid.report.results import write
from dpid.results.figure_style import Figure
from dpid.results.intervals import Estimate
from dpid.results.result import PIDResult
from dpid.results.word import verdict
from dpid.results.words import Result, WordsResult

FILES = {
    "result": "result.safetensors", "numbers": "result.json", "figure": "figure.png", "report": "report.html"
}  # fmt: skip
"""{what can be downloaded: name of the file}"""
KINDS = {PIDResult: ("overlay", "strip", "graph"), WordsResult: ("overlay", "words", "strip")}
"""{class of a result: kinds of its figure}, the first of which stands for those that only the other class has"""
_SMALL = 160  # most pixels of a side of a picture in a heading


def seen(result: Result, estimator: str, measure: str, level: str) -> Result:
    """``result`` by another estimator and measure, and at another level, from the samples that it has.

    A measure that needs priors of words gets uniform ones. Verdicts on every word know one way only: they stay.
    """
    if isinstance(result, WordsResult):
        return result
    metadata = result.metadata
    uniform = "uniform" if find(measure).priors else None
    h = image_priors(uniform, metadata.concepts, measure, metadata.prompt)
    priors = None if h is None else {"+".join(subset): nats for subset, nats in h.items()}
    return replace(result, metadata=replace(metadata, estimator=estimator, measure=measure, level=level, priors=priors))


def marked(results: Sequence[Result]) -> list[tuple[Result, str]]:
    """``results``, and what to call each beside the others: those after the first were kept; "" for one alone."""
    marks = ["New", *["Kept"] * (len(results) - 1)] if len(results) > 1 else [""]
    return list(zip(results, marks, strict=True))


def head(result: Result, mark: str) -> str:
    """The prompt of ``result`` as HTML, and before it a ``mark`` and the picture, unless the mark is ""."""
    prompt = f"“{escape(result.metadata.prompt)}”"
    return f"{_small(result.picture)}{mark}: {prompt}" if mark else prompt


def _small(picture: Tensor | None) -> str:
    """A picture uint8 [H,W,3] as HTML, as small as it is shown: a page of two prompts has it several times."""
    if picture is None:
        return ""
    image = Image.fromarray(picture.numpy())
    image.thumbnail((_SMALL, _SMALL))
    return f'<img class="small" src="{drawn(image)}" alt="">'


def maps_of(results: Sequence[Result], kind: str) -> str:
    """The figures of ``results`` of a ``kind`` in :data:`KINDS` as HTML; those after the first were kept."""
    return render("app/maps.html.jinja", results=[_shown(*each, kind) for each in marked(results)])


def _shown(result: Result, mark: str, kind: str) -> dict[str, Any]:
    """The variables of the template: panels, of which a narrow window has fewer side by side, or else one figure."""
    kind, panels = _own(result, kind), []
    if kind == "overlay":
        panels = [*words.panels(result), _bars(result)] if isinstance(result, WordsResult) else pid.panels(result)
    figure = "" if panels else drawn(result.plot(kind))
    return {"prompt": result.metadata.prompt, "head": mark and head(result, mark), "panels": panels, "figure": figure}


def _bars(result: WordsResult) -> Panel:
    """The panel of every word's numbers."""
    figure = Figure(figsize=(4.8, 1.0 + 0.42 * len(result.words)), dpi=150, layout="constrained")
    result.plot("words", ax=figure.subplots())
    return panel("numbers", "what each word tells alone and given the rest, with 95 % intervals", figure, [])


def _own(result: Result, kind: str) -> str:
    """``kind`` if ``result`` has such a figure, else its first kind."""
    kinds = KINDS[type(result)]
    return kind if kind in kinds else kinds[0]


def numbers(result: PIDResult) -> dict[tuple[int, str], Estimate]:
    """The numbers of ``result`` by what they are, in words; the first part of a key is the place in a table."""
    concepts = result.metadata.concepts
    rows = {(0, f"“{concept}” alone"): result.information[(concept,)] for concept in concepts}
    rows[1, "all words together"] = result.information[concepts]
    rows[2, f"redundancy: told by {'each' if len(concepts) == 2 else 'two or more'}"] = result.redundancy
    rows |= {(3, f"unique: told by “{concept}” only"): estimate for concept, estimate in result.unique.items()}
    rows[4, "synergy: told only together"] = result.synergy
    return rows


def table(results: Sequence[Result]) -> str:
    """The numbers of ``results`` as tables of HTML, and what is to be known of them.

    Those of chosen words stand side by side, those of every word below one another.
    """
    columns = [(result, head(result, mark) + _sampled(result)) for result, mark in marked(results)]
    chosen = [(result, title) for result, title in columns if isinstance(result, PIDResult)]
    tables = [_of_words(result, title) for result, title in columns if isinstance(result, WordsResult)]
    tables[:0] = [_side_by_side(chosen)] if chosen else []
    notes = [(mark and f"{mark}: ") + line for result, mark in marked(results) for line in result.remarks()]
    return f"{''.join(tables)}<ul>{''.join(f'<li>{escape(note)}</li>' for note in notes)}</ul>"


def _side_by_side(titled: Sequence[tuple[PIDResult, str]]) -> str:
    columns = [numbers(result) for result, _ in titled]
    rows = sorted(dict.fromkeys(row for column in columns for row in column), key=itemgetter(0))
    unit = ", ".join(dict.fromkeys(result.metadata.unit for result, _ in titled))
    return html_table(
        [f"{escape(unit)} ± standard error", *(title for _, title in titled)],
        {escape(row[1]): [column.get(row, "") for column in columns] for row in rows},
    )


def _of_words(result: WordsResult, title: str) -> str:
    rows = {
        f"{escape(name)}: <b>{escape(verdict(word))}</b>": [word.alone, word.given_rest]
        for name, word in result.words.items()
    }
    return html_table([title, "alone", "given the rest"], rows)


def html_table(heads: Sequence[str], rows: Mapping[str, Sequence[object]]) -> str:
    """A table of HTML; ``heads`` and the names of rows are HTML already."""
    body = "".join(f"<tr><th>{name}</th>{_cells('td', row)}</tr>" for name, row in rows.items())
    return f'<div class="wide"><table><thead><tr>{_cells("th", heads)}</tr></thead><tbody>{body}</tbody></table></div>'


def _cells(tag: str, contents: Sequence[object]) -> str:
    return "".join(f"<{tag}>{content}</{tag}>" for content in contents)


def _sampled(result: Result) -> str:
    """How much was sampled for ``result``, as HTML to go below its prompt."""
    given = ", given the rest of the prompt" if result.metadata.context else ""
    return f"<br><small>{result.metadata.samples} samples{given}</small>"


def write_file(result: Result, what: str, folder: Path, kind: str) -> Path:
    """The path of one of :data:`FILES`, written into ``folder``."""
    path = folder / FILES[what]
    if what == "result":
        result.save(path)
    elif what == "numbers":
        write_json(path, result.to_dict())
    elif what == "figure":
        result.plot(_own(result, kind)).savefig(path)
    else:
        write({"": result}, path)
    return path
