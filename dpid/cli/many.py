"""Several pictures on the command line: those that can be read are explained, the others are named."""

from __future__ import annotations

import os
import re
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import typer
from rich.table import Table

from dpid.cli.outputs import draw, figures, folders, write
from dpid.cli.process import printing, warn
from dpid.cli.progress import evaluations
from dpid.cli.tables import note, table_console
from dpid.cli.words import explain_words
from dpid.errors import told
from dpid.files import as_path, writable

_FILE = re.compile(r"[/\\]|\.\w{3,5}$")  # what names of files have, and words have not


def is_picture(path: Path) -> bool:
    """Whether ``path`` is there, or is named as a file would be."""
    return bool(_FILE.search(os.fspath(path))) or os.path.exists(path)  # which says no of any name, however long


def check_files(images: Sequence[Path], place: str) -> None:
    """Raise ``ValueError`` if some of ``images`` are words of a prompt, which comes ``place``: "first" or "last"."""
    if words := [repr(os.fspath(image)) for image in images if not is_picture(image)]:
        shown = ", ".join(words[:5]) + (", …" if len(words) > 5 else "")
        raise ValueError(f"images: there is no file {shown}; the prompt comes {place}, in quotes if of several words")


def pictures_and_prompts(
    images: Sequence[Path], prompt: str | None, file: Path | None
) -> tuple[list[Path], list[str]]:  # fmt: skip
    """The pictures of a command line, and a prompt for each: ``prompt``, or else a line each of ``file``.

    ``ValueError`` without pictures or prompts, for numbers of them that differ, and for words of a prompt without
    quotes. With ``file`` the last word of the command line, which is taken for a prompt, is a picture.
    """
    if file is None:
        if prompt is None or not images:
            found = "nothing" if prompt is None else f"{prompt!r} alone"
            raise ValueError(f"images, prompt: found {found}, expected pictures and a prompt, or --prompts")
        check_files(images, "last")
        return list(images), [prompt] * len(images)
    last = [] if prompt is None else [as_path(prompt)]
    if last and not is_picture(last[0]):
        raise ValueError(f"prompt: found {prompt!r} beside --prompts, which has those of all pictures; leave it out")
    pictures = [*images, *last]
    check_files(pictures, "last")
    try:
        lines = file.read_text(encoding="utf-8-sig").rstrip("\n").split("\n")
    except (OSError, UnicodeError) as error:
        raise ValueError(f"prompts: {file} cannot be read as text: {error}") from error
    if len(lines) != len(pictures):
        raise ValueError(f"prompts: found {len(lines)} lines in {file} for {len(pictures)} pictures, expected one each")
    return pictures, lines


def explain_many(
    explainer: Any, images: Sequence[Path], prompts: Sequence[str], concepts: tuple[str, ...], out: Path, **options: Any
) -> None:
    """A folder a picture, written as soon as it is explained, and a table of all.

    Exit code 1 if a picture could not be explained, or the model failed in a later round of samples.
    """
    from dpid.many import PicturesError
    from dpid.runner import ConvergenceWarning

    paths = _folders_of(images, out)
    results, errors = {}, {}
    with ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ConvergenceWarning)  # of which the results' own remarks tell
        progress = stack.enter_context(evaluations())
        try:
            for i, result in explainer.explain_many(images, prompts, concepts, progress=progress, **options):
                with writable(paths[i]):
                    write(result, paths[i])
                draw(figures(result, paths[i]))
                results[i] = result
        except PicturesError as error:
            errors = {str(images[i]): str(one) for i, one in error.errors.items()}
    if results:
        with printing(str(out)):
            _show({paths[i].name: result for i, result in results.items()}, out)
    tell(errors, len(images))
    if any(result.metadata.broken for result in results.values()):  # as a note below the table says
        raise typer.Exit(1)


def words_of_many(explainer: Any, images: Sequence[Path], prompts: Sequence[str], out: Path, **options: Any) -> None:
    """What every word does, a folder and a table for every picture; exit code 1 if one could not be explained.

    One after the other, since what is learnt of one picture helps the next.
    """
    errors = {}
    for image, prompt, path in zip(images, prompts, _folders_of(images, out), strict=True):
        try:
            with writable(path):
                explain_words(explainer, image, prompt, path, **options)
        except OSError:  # of the folder, in which the next ones could not be written either
            raise
        except Exception as error:  # as of dpid.many.apart
            errors[str(image)] = told(error)[0]
    tell(errors, len(images))


def _folders_of(images: Sequence[Path], out: Path) -> list[Path]:
    """The folder of every picture in ``out``; ``ValueError`` if one of them cannot be written."""
    paths = [out / name for name in folders([(image.stem,) for image in images])]
    for path in paths:  # before anything is computed
        with writable(path), suppress(OSError):
            path.rmdir()  # of a picture that cannot be explained there is none
    return paths


def _show(results: Mapping[str, Any], out: Path) -> None:
    console = table_console()
    metadata = next(iter(results.values())).metadata
    prompts = {result.metadata.prompt for result in results.values()}
    title = f"“{metadata.prompt}”, " if len(prompts) == 1 else ""
    table = Table(title=f"{title}{metadata.unit} ± standard error", title_justify="left")
    for column in ["picture"] + ["prompt"] * (len(prompts) > 1):
        table.add_column(column)
    for column in ("redundancy", *(f"unique: {concept}" for concept in metadata.concepts), "synergy"):
        table.add_column(column, justify="right")
    for name, result in results.items():
        about = [name] + [result.metadata.prompt] * (len(prompts) > 1)
        table.add_row(*about, *map(str, (result.redundancy, *result.unique.values(), result.synergy)))
    console.print(table)
    for name, result in results.items():
        for line in result.remarks():
            note(console, f"{name}: {line}")
    where = f"{len(results)} pictures; a folder each: {out}" if len(results) > 1 else f"1 picture: {out / name}"
    console.print(f"{where}/", highlight=False)


def tell(errors: Mapping[str, str], pictures: int) -> None:
    """Name the pictures of ``errors`` {file: what is wrong} on stderr and end with exit code 1, if there are any.

    ``ValueError`` where the same is wrong with all of several ``pictures``, and so with what is asked of them.
    """
    if 1 < pictures == len(errors) and len(set(errors.values())) == 1:
        raise ValueError(next(iter(errors.values())))
    for name, error in errors.items():
        warn(error if name in error else f"{name}: {error}")
    if errors:
        raise typer.Exit(1)
