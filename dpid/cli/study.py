"""``dpid study NAME``: a study, or all of them, into a folder."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from dpid.cli.parameters import CONTROL, Model, at_home, chosen, with_loading
from dpid.cli.process import printing
from dpid.cli.progress import bar
from dpid.cli.tables import note
from dpid.errors import naming
from dpid.files import writable
from dpid.options import Options

if TYPE_CHECKING:
    from dpid.studies.data import Problem
    from dpid.studies.workbench import Workbench

_NEEDS_DATA = {"localisation", "retrieval"}  # of models other than the embedded one


def _data(
    path: Path | None, images: Path | None, captions: Path | None, name: str, console: Console
) -> dict[str, Any]:  # fmt: skip
    """The user's pictures, and which rows of their data cannot be used, which are named and left out."""
    coco = images is not None or captions is not None
    if coco and path is None:
        raise ValueError("images, captions: found without --data, give COCO's instances.json there")
    if coco and name == "retrieval":
        raise ValueError("images, captions: they belong to COCO's instances.json, which retrieval does not read")
    if path is None:
        return {}
    if not path.is_file():
        raise ValueError(f"data: {path} is not a file")
    if images is not None and not images.is_dir():
        raise ValueError(f"images: {images} is not a folder")
    if not coco and name != "retrieval" and path.suffix.lower() == ".json":
        raise ValueError(f"data: {path} is JSON, which is read as COCO's with --images or --captions; expected CSV")
    from dpid.studies.coco import read_coco
    from dpid.studies.data import read_pairs, read_scenes

    read: Any
    with naming("data", "path", "instances"):
        if coco:
            read = read_coco(path, images or path.parent, captions)
        else:
            read = read_pairs(path) if name == "retrieval" else read_scenes(path)
    _tell(read.problems, path, console)
    if not read.rows:
        raise ValueError(f"data: {path} has no row that can be used")
    return {"pairs" if name == "retrieval" else "scenes": read.rows, "problems": read.problems}


def _tell(problems: Sequence[Problem], path: Path, console: Console) -> None:
    """Name rows that are left out."""
    for problem in problems:
        note(console, f"{path.name}: {problem}; it is left out", wrap=False)


def _names(name: str, data: Path | None) -> list[str]:
    """The studies that ``name`` stands for; ``ValueError`` for one that there is not, and for "all" with ``data``."""
    from dpid.studies.runner import STUDIES

    if name not in (*STUDIES, "all"):
        raise ValueError(f"name: found {name!r}, allowed are all, {', '.join(STUDIES)}")
    if name == "all" and data is not None:
        raise ValueError("data: found with all, but studies need different data; run them one by one")
    return [n for n in STUDIES if name in (n, "all")]


# Maps of attention, which two of the studies compare with, are of the model's own size and guidance.
@partial(with_loading, without=("frames", "size", "guidance", *CONTROL))
def study(
    name: Annotated[str, typer.Argument(help="A study, or all.")],
    model: Model = "emoji",
    data: Annotated[
        Path | None,
        typer.Option(help="Your pictures: CSV with image, prompt, concepts and mask; COCO's instances.json (with "
                     "--images); for retrieval, CSV or JSON with image, true and false.", callback=at_home),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="COCO: folder of the pictures.", callback=at_home)] = None,
    captions: Annotated[
        Path | None,
        typer.Option(
            help="COCO: captions.json; the two largest things make the prompt if left out.", callback=at_home
        ),
    ] = None,
    pictures: Annotated[
        int | None, typer.Option(help="Pictures of every case; the study's own number if left out.")
    ] = None,
    samples: Annotated[int, typer.Option(help="Evaluations of every condition.")] = Options.samples,
    seed: Annotated[
        int, typer.Option(help="Of the noise, of generated pictures, and of which things are shown, not where.")
    ] = Options.seed,
    out: Annotated[
        Path, typer.Option(help="Folder; what is finished in it is not done again.", callback=at_home)
    ] = Path("report"),
    **loading: Any,
) -> None:  # fmt: skip
    """Run a study: bias, homonyms, synonyms, co-hyponyms, features, complex-prompts, intervention, localisation or
    retrieval.

    On the embedded model they need nothing; on others, localisation and retrieval need --data. Rows of the data that
    cannot be used are named and left out; so are, with all, studies that need --data.
    """
    from dpid.studies.workbench import Workbench

    names = _names(name, data)
    err = Console(stderr=True, markup=False)
    given = _data(data, images, captions, name, err)
    with writable(out):

        def tell(done: int, planned: int) -> None:
            progress.update(task, completed=done, total=planned)

        bench = Workbench(
            model, samples=samples, pictures=pictures, seed=seed, progress=tell, loading=chosen(loading), **given
        )
        if name == "all" and not bench.embedded:
            names = [n for n in names if n not in _NEEDS_DATA]
            left_out = " and ".join(sorted(_NEEDS_DATA))
            note(err, f"{left_out} need --data with this model; they are left out", wrap=False)
        for each in names:
            with bar(err, each) as (progress, task):
                how = _run(each, bench, out, data, err)
            with printing(str(out)):  # behind the bar: beside it rich puts all that is printed on the bar's stream
                print(f"{each}: {how}: {out / each}", flush=True)
    with printing(str(out)):
        print(f"{out}/report.html", flush=True)


def _run(name: str, bench: Workbench, out: Path, data: Path | None, err: Console) -> str:
    """How a study came to be in ``out``, "written" or "was there already"; names the rows of ``data`` it left out."""
    from dpid.studies.runner import write

    told = len(bench.problems)
    try:
        return "written" if write(name, bench, out) else "was there already"
    finally:
        if data is not None:
            _tell(bench.problems[told:], data, err)
