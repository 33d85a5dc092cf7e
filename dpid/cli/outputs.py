"""The files of results: numbers, pictures, and a folder for every pair."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from rich.text import Text

from dpid.cli.process import printing, warn
from dpid.cli.progress import evaluations
from dpid.cli.tables import table_console
from dpid.files import atomic_write, write_json

if TYPE_CHECKING:
    from dpid.results.figure_style import Figure
    from dpid.results.result import PIDResult
    from dpid.results.words import Result

T = TypeVar("T")
Pictures: TypeAlias = "Mapping[Path, Callable[[], Figure]]"  # {file: function that makes its figure}
# In a name, to one file system or another; the last are of bytes that are no text.
_UNSAFE = re.compile('[<>:"/\\\\|?*.\x00-\x1f\x7f\ud800-\udfff]')
_LONGEST = 100  # bytes of a concept in a name, of which there are at most 255


def write(result: Result, out: Path, name: str = "result") -> None:
    """``name``.safetensors and ``name``.json, each moved into place when it is whole."""
    result.save(out / f"{name}.safetensors")
    write_json(out / f"{name}.json", result.to_dict())


def finish(
    stream: Callable[..., Iterable[T]], save: Callable[[T], None], pictures: Callable[[T], Pictures],
    show: Callable[[T], None], out: Path,
) -> None:  # fmt: skip
    """Compute the last result that ``stream(progress=…)`` gives, write its numbers, draw its pictures, and print it.

    Where an error or an interrupt ends the stream, the last one before is written and drawn, which another interrupt
    may end, and then that is raised.
    """
    found: T | None = None
    try:
        with evaluations() as progress:
            for found in stream(progress=progress):  # noqa: B007, used after the loop
                pass
    except BaseException as error:
        if found is not None:
            save(found)
            warn(f"what was found before is in {out}")
            draw(pictures(found))
        elif isinstance(error, KeyboardInterrupt):
            warn("nothing was found before, and nothing is written")
        raise
    assert found is not None  # there is at least one
    save(found)
    draw(pictures(found))
    with printing(str(out)):
        show(found)


def figures(result: PIDResult, folder: Path) -> Pictures:
    """What :func:`draw` draws of a result: maps.png and profile.png in its folder."""
    kinds = {"maps.png": "overlay", "profile.png": "profile"}
    return {folder / name: partial(result.plot, kind) for name, kind in kinds.items()}


def graph(results: Mapping[tuple[str, str], PIDResult], out: Path) -> Pictures:
    """What :func:`draw` draws of all pairs: graph.png."""

    def made() -> Figure:
        from dpid.results.graph import plot_graph

        figure: Figure = plot_graph(results)
        return figure

    return {out / "graph.png": made}


def draw(pictures: Pictures) -> None:
    """A PNG file of every figure in place of an earlier run's; what cannot be drawn is told."""
    for target in pictures:  # with other numbers, which must not stay if this is interrupted
        with suppress(OSError):
            target.unlink()
    failed: dict[Path, str] = {}
    for target, make in pictures.items():
        try:
            with atomic_write(target) as path:
                make().savefig(path, format="png")
        except Exception as error:  # of a font, a setting, a full disk: the numbers are there
            failed[target] = str(error) or type(error).__name__
    if failed:
        shown = (
            ", ".join(map(str, failed)) if len(failed) < 3 else f"{len(failed)} pictures, {next(iter(failed))} first,"
        )
        warn(f"{shown} could not be drawn: {next(iter(failed.values()))}; the numbers are in the .json beside it")


def page(files: Sequence[Path], out: Path) -> None:
    """Make the page ``out`` of the results in ``files``, and print a line that names it; a failure is told.

    In a terminal that shows links a click on the name opens the page.
    """
    try:
        from dpid.report import results

        results.write(results.read(files)[0], out)
    except Exception as error:  # as of a figure: the numbers are there
        warn(f"{out} could not be made: {error or type(error).__name__}")
    else:
        with printing(str(out.parent)):
            link = Text(str(out), style=f"link {out.absolute().as_uri()}")
            table_console().print(Text("A page of all this: ") + link, soft_wrap=True)


def folders(pairs: Sequence[tuple[str, ...]]) -> list[str]:
    """The name of the folder of each pair, or picture, no two of which any file system takes for the same.

    "cow+giraffe"; what cannot be in a name is "_", long concepts are cut, and a name that an earlier pair has, in
    small letters or large, is numbered: "a_b+c", "a_b+c (2)".
    """
    names: dict[str, str] = {}
    for pair in pairs:
        parts = (_UNSAFE.sub("_", concept.strip()).encode(errors="ignore")[:_LONGEST] for concept in pair)
        name = "+".join(part.decode(errors="ignore").strip() for part in parts)
        tries = (name if n == 1 else f"{name} ({n})" for n in range(1, len(pairs) + 1))
        keys = ((unicodedata.normalize("NFKC", tried).casefold(), tried) for tried in tries)
        key, tried = next((key, tried) for key, tried in keys if key not in names)
        names[key] = tried
    return list(names.values())
