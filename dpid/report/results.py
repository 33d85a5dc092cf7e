"""The page of results: of each what was found, the maps over the picture, the numbers, and how it was made."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from dpid.checks import found
from dpid.errors import naming
from dpid.files import PathLike, as_path
from dpid.report import pid, words
from dpid.report.page import render
from dpid.results.file_format import FORMAT
from dpid.results.file_format import write as write_file
from dpid.results.result import PIDResult
from dpid.results.words import Result, WordsResult


def read(paths: PathLike | Iterable[PathLike]) -> tuple[dict[str, Result], list[str]]:
    """The results in a file or folder, or several, {path: result}, and of every path without one what is wrong."""
    results: dict[str, Result] = {}
    problems = []
    listed = [paths] if isinstance(paths, (str, bytes, os.PathLike)) else paths
    if not isinstance(listed, Iterable):
        raise TypeError(f"paths: found {found(paths)}, expected a path, or several")
    for path in map(as_path, listed):
        files = sorted(path.rglob("*.safetensors")) if path.is_dir() else [path]
        if not files:
            problems.append(f"{path} has no results, files of .safetensors")
        for file in files:
            try:
                results[str(file)] = _kind(file).load(file)
            except ValueError as error:
                problems.append(str(error).removeprefix("path: "))
    return results, problems


def _kind(path: Path) -> type[PIDResult] | type[WordsResult]:
    """Of which kind the result in a file is, of a broken file PIDResult, which says so; ``ValueError`` for other files.

    Only the header is read: weights of a model may lie beside results.
    """
    from safetensors import safe_open

    header = None
    with suppress(Exception), safe_open(path, "pt") as file:  # of a header that is broken in many ways
        header = file.metadata() or {}
    if header is not None and header.get("format") != FORMAT:
        raise ValueError(f"{path}: is not a dpid result of format {FORMAT}")
    return WordsResult if header and "words" in header else PIDResult


def write(results: Mapping[str, Result], out: PathLike) -> None:
    """Write the page of ``results``, as of :func:`page`, to ``out``: readers never see half a page.

    ``ValueError`` if ``out`` is a folder, or its folder does not exist.
    """
    target, text = as_path(out, "out"), page(results)
    with naming("out", "path"):
        write_file(target, lambda: text.encode(errors="replace"))  # half a letter of UTF-16, which no file can hold


def page(results: Mapping[str, Result]) -> str:
    """The HTML of a page of ``results``, which contains its pictures and needs nothing else.

    ``results`` is {path of its file: result}, "" for one of no file; the page has the file's name alone. ``TypeError``
    if it is something else.
    """
    if not isinstance(results, Mapping) or not all(isinstance(one, Result) for one in results.values()):
        raise TypeError(f"results: found {found(results)}, expected {{path of its file: result}}")
    sections = [
        (words.section(result) if isinstance(result, WordsResult) else pid.section(result))
        | {"key": f"r{i}", "file": Path(name).name, "prompt": result.metadata.prompt, "remarks": result.remarks()}
        for i, (name, result) in enumerate(results.items(), 1)
    ]
    return render("report/results.html.jinja", sections=sections)
