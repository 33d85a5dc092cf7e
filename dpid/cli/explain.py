"""``dpid explain IMAGE… PROMPT``: every word, an explanation of chosen concepts, or one of every pair of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dpid.cli.many import explain_many, pictures_and_prompts, words_of_many
from dpid.cli.outputs import Pictures, figures, finish, folders, graph, write
from dpid.cli.parameters import LOADING, PANEL, Model, all_at_home, at_home, load, with_options
from dpid.cli.tables import show_pairs, show_result
from dpid.cli.words import check_words, explain_words
from dpid.files import writable
from dpid.options import Budget, Options

if TYPE_CHECKING:
    from dpid.results.result import PIDResult


@with_options
def explain(
    images: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="IMAGE",
            help="PNG, JPEG or WebP of any size, of several a folder each; of a video a GIF or a folder of frames.",
            callback=all_at_home,
        ),
    ] = None,
    prompt: Annotated[
        str | None,
        typer.Argument(
            metavar="PROMPT",
            help="What the picture shows; left out with --prompts. The model is given its concepts alone, but for "
            "--context and --reference.",
        ),
    ] = None,
    prompts: Annotated[
        Path | None,
        typer.Option(
            help="A text file of prompts in place of PROMPT: a line for every picture, in their order.",
            callback=at_home,
        ),
    ] = None,
    concept: Annotated[
        list[str] | None,
        typer.Option("-c", "--concept", help="A phrase of the prompt; give two to eight, or none to judge every word."),
    ] = None,
    model: Model = "emoji",
    pairs: Annotated[
        bool,
        typer.Option(
            help="The PID of every pair of concepts, from one run; a folder each, cow+giraffe, and a graph of all."
        ),
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=at_home)] = Path("explained"),
    samples: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of every condition, rounded up to a multiple of 16 (of 8 below): "
            f"{Options.samples}; with --tolerance at most so many, in steps of {Options.samples}: "
            f"{Options.max_samples}; without -c at most so many, too: {Budget.samples}.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Without -c: no more rounds after 10s, 2m, …", rich_help_panel=PANEL)
    ] = None,
    **options: Any,
) -> None:
    """Explain pictures: what every word of the prompt does, or what concepts given by -c tell, alone and together."""
    # Everything that can be wrong without the model is found before the model is loaded and the folder is made.
    shown, texts = pictures_and_prompts(images or [], prompt, prompts)
    concepts = tuple(concept or ())
    loading = {name: options.pop(name) for name in LOADING}
    # Prompts of a file have been read as text; of the command line there is one.
    _check_encoding(prompt=texts[0], concepts=" ".join(concepts), model=model, reference=options["reference"])
    _check_prompts(texts, concepts, options["context"])
    options = _check_concepts(samples, time, options) if concepts else check_words(samples, time, pairs, options)
    _check_pictures(shown, pairs)
    with writable(out):
        explainer = load(model, loading)
        if len(shown) > 1 and concepts:
            explain_many(explainer, shown, texts, concepts, out, **options)
        elif len(shown) > 1:
            words_of_many(explainer, shown, texts, out, **options)
        elif concepts:
            (explain_pairs if pairs else explain_one)(explainer, shown[0], texts[0], concepts, out, **options)
        else:
            explain_words(explainer, shown[0], texts[0], out, **options)


def _check_encoding(**texts: str) -> None:
    """Raise ``ValueError`` for the first of ``texts`` that has bytes of another code page than the terminal's."""
    for name, text in texts.items():
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):
            raise ValueError(f"{name}: found {text!r}, which is not in the terminal's encoding")


def _check_prompts(prompts: Sequence[str], concepts: tuple[str, ...], context: bool) -> None:
    """Raise ``ValueError`` for a prompt without the ``concepts``, or without a word to judge, named by its line."""
    from dpid.prompts.plan import plan_concepts
    from dpid.prompts.words import content_words

    lines = {prompt: prompts.index(prompt) + 1 for prompt in prompts}
    for prompt, line in lines.items():
        try:
            if concepts:
                plan_concepts(prompt, concepts, context=context)
            else:
                content_words(prompt)
        except ValueError as error:
            raise ValueError(f"prompts: line {line}: {error}" if len(lines) > 1 else str(error)) from error


def _check_concepts(samples: int | None, time: str | None, options: dict[str, Any]) -> dict[str, Any]:
    """The options of an explanation of concepts; errors name what is not allowed."""
    if time is not None:
        raise ValueError("time: is for every word, without -c; with -c, --tolerance and --samples end a run")
    if samples is None:
        samples = Options.samples if options["tolerance"] is None else Options.max_samples
    Options(samples=samples)  # by the name that it has here
    # With a tolerance --samples is the limit, and the steps towards it are of the default size.
    a_round = samples if options["tolerance"] is None else min(samples, Options.samples)
    options = options | {"samples": a_round, "max_samples": samples}
    Options(**options)
    return options


def _check_pictures(images: Sequence[Path], pairs: bool) -> None:
    """Raise ``ValueError`` for a picture that cannot be read, and for several where ``pairs`` are asked for."""
    from dpid.images import open_image

    if pairs and len(images) > 1:
        raise ValueError(f"pairs: found {len(images)} pictures, expected one")
    # Of several pictures those that cannot be read are told at the end; a folder has the frames of a video.
    if len(images) == 1 and not images[0].is_dir():
        open_image(images[0])


def explain_one(explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any) -> None:
    """Write numbers and pictures into ``out``, and print a table."""
    stream = partial(explainer.stream, image, prompt, concepts, **options)
    finish(stream, partial(write, out=out), partial(figures, folder=out), partial(show_result, out=out), out)


def explain_pairs(
    explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any
) -> None:
    """Write a folder a pair and a graph of all into ``out``, and print a table, the most redundant first."""
    paths = [out / name for name in folders(list(combinations(concepts, 2)))]

    def save(results: Mapping[tuple[str, str], PIDResult]) -> None:
        for path, result in zip(paths, results.values(), strict=True):
            write(result, path)

    def pictures(results: Mapping[tuple[str, str], PIDResult]) -> Pictures:
        own = [figures(result, path) for path, result in zip(paths, results.values(), strict=True)]
        return {target: made for one in (graph(results, out), *own) for target, made in one.items()}

    with ExitStack() as stack:
        for path in paths:  # before anything is computed
            stack.enter_context(writable(path))
        stream = partial(explainer.stream_pairs, image, prompt, concepts, **options)
        finish(stream, save, pictures, partial(show_pairs, prompt=prompt, out=out), out)
