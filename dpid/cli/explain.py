"""``dpid explain IMAGE… PROMPT``: every word, an explanation of chosen concepts, or one of every pair of them."""

from __future__ import annotations

import warnings
from contextlib import ExitStack
from itertools import combinations
from pathlib import Path
from typing import Annotated, Any

import typer

from dpid.cli.many import explain_many, words_of_many
from dpid.cli.outputs import draw, figures, folders, graph, write
from dpid.cli.parameters import PANEL, all_at_home, at_home, with_options
from dpid.cli.process import printing
from dpid.cli.progress import evaluations
from dpid.cli.tables import show_pairs, show_result
from dpid.cli.words import SAMPLES as WORDS_SAMPLES
from dpid.cli.words import check_words, explain_words
from dpid.files import writable
from dpid.options import Options


@with_options
def explain(
    images: Annotated[
        list[Path],
        typer.Argument(
            metavar="IMAGE",
            help="PNG, JPEG or WebP of any size, of several a folder each; of a video a GIF or a folder of frames.",
            callback=all_at_home,
        ),
    ],
    prompt: Annotated[
        str,
        typer.Argument(
            help="What the picture shows. The model is given its concepts alone, but for --context and --reference."
        ),
    ],
    concept: Annotated[
        list[str] | None,
        typer.Option("-c", "--concept", help="A phrase of the prompt; give two to eight, or none to judge every word."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="emoji, emoji-flow, a pipeline folder or .safetensors file, or a hub id.")
    ] = "emoji",
    variant: Annotated[str | None, typer.Option(help="Of the model's weights: fp16, …")] = None,
    revision: Annotated[str | None, typer.Option(help="Branch, tag or commit of a hub id.")] = None,
    subfolder: Annotated[str | None, typer.Option(help="The pipeline's folder within the model.")] = None,
    pairs: Annotated[
        bool,
        typer.Option(
            help="The PID of every pair of concepts, from one run; a folder each, cow+giraffe, and a graph of all."
        ),
    ] = False,
    precision: Annotated[str, typer.Option(help="auto, float32, or bfloat16 or float16, corrected to it.")] = "auto",
    size: Annotated[
        int | None, typer.Option(help="Pixels a side of a square of the picture's area; the model's own if left out.")
    ] = None,
    frames: Annotated[
        int | None, typer.Option(help="Of a video, from the first on; as many as the model makes if left out.")
    ] = None,
    guidance: Annotated[
        float, typer.Option(help="Of models distilled at guidance (Flux dev); any but 1, which is none, is undone.")
    ] = 1.0,
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the fastest if left out.")] = None,
    check: Annotated[
        bool, typer.Option(help="Run a pipeline for two small steps first, to compare it with what dpid takes it for.")
    ] = True,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=at_home)] = Path("explained"),
    samples: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of every condition, rounded up to a multiple of 16 (of 8 below): "
            f"{Options.samples}; with --tolerance at most so many, in steps of {Options.samples}: "
            f"{Options.max_samples}; without -c at most so many, too: {WORDS_SAMPLES}.",
            rich_help_panel=PANEL,
        ),
    ] = None,
    time: Annotated[
        str | None, typer.Option(help="Without -c: no more rounds after 10s, 2m, …", rich_help_panel=PANEL)
    ] = None,
    **options: Any,
) -> None:
    """Explain pictures: what every word of the prompt does, or what concepts given by -c tell, alone and together."""
    from dpid.explainer import Explainer
    from dpid.images import open_image

    # Everything that can be wrong without the model is found before the model is loaded and the folder is made.
    concepts = tuple(concept or ())
    named = (
        ("prompt", prompt),
        ("concepts", " ".join(concepts)),
        ("model", model),
        ("reference", options["reference"]),
    )
    for name, text in named:
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):  # bytes of another code page
            raise ValueError(f"{name}: found {text!r}, which is not in the terminal's encoding")
    if not concepts:
        options = check_words(prompt, samples, time, pairs, options)
    elif time is not None:
        raise ValueError("time: is for every word, without -c; with -c, --tolerance and --samples end a run")
    else:
        options = _check_concepts(prompt, concepts, samples, options)
    if pairs and len(images) > 1:
        raise ValueError(f"pairs: found {len(images)} pictures, expected one")
    # Of several pictures those that cannot be read are told at the end; a folder has the frames of a video.
    if len(images) == 1 and not images[0].is_dir():
        open_image(images[0])
    with writable(out):
        asked = {"variant": variant, "revision": revision, "subfolder": subfolder, "size": size, "frames": frames}
        given: dict[str, Any] = {name: value for name, value in asked.items() if value is not None}
        explainer = Explainer.from_pretrained(
            model, device=device, precision=precision, check=check, guidance=guidance, **given
        )
        if len(images) > 1 and concepts:
            explain_many(explainer, images, prompt, concepts, out, **options)
        elif len(images) > 1:
            words_of_many(explainer, images, prompt, out, **options)
        elif concepts:
            (explain_pairs if pairs else explain_one)(explainer, images[0], prompt, concepts, out, **options)
        else:
            explain_words(explainer, images[0], prompt, out, **options)


def _check_concepts(
    prompt: str, concepts: tuple[str, ...], samples: int | None, options: dict[str, Any]
) -> dict[str, Any]:  # fmt: skip
    """The options of an explanation of ``concepts``; errors name what is not allowed."""
    from dpid.prompts.plan import plan_concepts

    if samples is None:
        samples = Options.samples if options["tolerance"] is None else Options.max_samples
    Options(samples=samples)  # by the name that it has here
    options = options | {"samples": samples}
    if options["tolerance"] is not None:  # --samples is the limit, and the steps towards it are of the default size
        options |= {"samples": min(samples, Options.samples), "max_samples": samples}
    Options(**options)
    plan_concepts(prompt, concepts, context=options["context"])
    return options


def explain_one(explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any) -> None:
    """Write numbers and pictures into ``out``, and print a table."""
    from dpid.explainer import ConvergenceWarning

    with evaluations() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as a note under the table
        result = explainer.explain(image, prompt, concepts, progress=progress, **options)
    write(result, out)
    draw(figures(result, out))
    with printing(str(out)):
        show_result(result, out)


def explain_pairs(
    explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any
) -> None:
    """A folder a pair, a graph of all, and a table, the most redundant first."""
    from dpid.explainer import ConvergenceWarning

    paths = [out / name for name in folders(list(combinations(concepts, 2)))]
    with ExitStack() as stack:
        for path in paths:  # before anything is computed
            stack.enter_context(writable(path))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as a note, as above
        progress = stack.enter_context(evaluations())
        results = explainer.explain_pairs(image, prompt, concepts, progress=progress, **options)
        for path, result in zip(paths, results.values(), strict=True):
            write(result, path)
    pictures = [figures(result, path) for path, result in zip(paths, results.values(), strict=True)]
    draw({target: made for one in (*pictures, graph(results, out)) for target, made in one.items()})
    with printing(str(out)):
        show_pairs(results, prompt, out)
