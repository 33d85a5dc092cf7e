"""``dpid rank PROMPT IMAGE …``: pictures in the order in which the prompt describes them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from dpid.cli.many import check_files, is_picture, tell
from dpid.cli.parameters import Model, all_at_home, at_home, load, with_loading
from dpid.cli.process import printing
from dpid.cli.progress import evaluations
from dpid.cli.tables import table_console
from dpid.files import as_path, writable, write_json
from dpid.options import Options


@with_loading
def rank(
    prompt: Annotated[str, typer.Argument(help="What the best picture shows.")],
    images: Annotated[
        list[Path],
        typer.Argument(
            help="PNG, JPEG or WebP of any size; of a video a GIF or a folder of frames.", callback=all_at_home
        ),
    ],
    model: Model = "emoji",
    samples: Annotated[int, typer.Option(help="Evaluations with the prompt, and as many without.")] = Options.samples,
    seed: Annotated[int, typer.Option(help="Of noise and log-SNRs.")] = Options.seed,
    out: Annotated[Path | None, typer.Option(help="Folder for ranking.json.", callback=at_home)] = None,
    **loading: Any,
) -> None:
    """Rank pictures by how much more likely the prompt makes them: the best of several that a model has drawn."""
    from dpid.ranking import question_for

    Options(samples=samples, seed=seed)  # before the model is loaded
    question_for(prompt)
    if is_picture(as_path(prompt)) and not any(map(is_picture, images)):
        raise ValueError(f"prompt: found the file {prompt!r}, expected a text; the prompt comes before the pictures")
    check_files(images, "first")
    with nullcontext() if out is None else writable(out):
        explainer = load(model, loading)
        with evaluations() as progress:
            found = explainer.rank(images, prompt, progress=progress, samples=samples, seed=seed)
        if out is not None:
            numbers = found.to_dict() | {"files": [str(image) for image in images]}
            write_json(out / "ranking.json", numbers)
    with nullcontext() if out is None else printing(str(out)):
        _show(found, images)
        if out is not None:
            typer.echo(f"written: {out}/ranking.json")
    tell({str(images[i]): error for i, error in found.errors.items()}, len(images))


def _show(found: Any, images: list[Path]) -> None:
    alike = len({image.name for image in images}) < len(images)
    names = [(str(i) if alike else i.name).encode(errors="replace").decode() for i in images]
    table = Table(title=f"“{found.prompt}”", title_justify="left")
    for column in ("", "picture", f"log p(x | prompt) - log p(x), {found.metadata['unit']}"):
        table.add_column(column, justify="left" if column == "picture" else "right")
    for place, (i, estimate) in enumerate(zip(found.order, found.information, strict=True), 1):
        table.add_row(str(place), names[i], str(estimate))
    console = table_console()
    console.print(table)
    if remark := found.remark(lambda i: names[i]):
        console.print(remark, highlight=False)
