"""The command line: ``dpid demo``, ``explain``, ``study``, ``info``.

Bad input: one line on stderr, exit code 2; what should not happen: one line, exit code 1. Numbers are written before
anything is drawn or printed, and neither can fail a run.
"""

from __future__ import annotations

import gc
import json
import os
import platform
import re
import sys
import traceback
import unicodedata
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from dpid.files import atomic_write, writable
from dpid.process import prepare, printing, told, warn
from dpid.studies.command import at_home, bar, study

if TYPE_CHECKING:
    from dpid.results.result import PIDResult

app = typer.Typer(
    help="Which word of a prompt put what into a picture, and how the words work together.",
    epilog="--debug, anywhere: show where an error comes from.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
SYMBOLS = {"rao-blackwell": "iʳ", "standard": "iˢ", "orthogonal": "i°"}
# The base of all errors of the command line itself, whether typer brings its own click or uses the package.
_UsageError: Any = typer.BadParameter.__mro__[2]
_ATOMS = 8  # the largest atoms of three concepts and more that the table shows; result.json has all
_NARROWEST = 60  # columns of a table whose numbers can be read
DEMO_PROMPT, DEMO_CONCEPTS = "a cow and a giraffe", ("cow", "giraffe")


@contextmanager
def _evaluations() -> Iterator[Any]:
    """What :meth:`dpid.Explainer.explain` tells its progress to."""
    with bar(Console(stderr=True), "UNet evaluations") as (progress, task):
        yield lambda done, planned: progress.update(task, completed=done, total=planned)


def _write(result: PIDResult, out: Path) -> None:
    """result.safetensors and result.json, each moved into place when it is whole."""
    result.save(out / "result.safetensors")
    with atomic_write(out / "result.json") as path:
        path.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _draw(results: Mapping[Path, PIDResult]) -> None:
    """maps.png and profile.png of every result, in its folder; what cannot be drawn is told."""
    failed: dict[Path, str] = {}
    for folder, result in results.items():
        for name, draw in (("maps.png", result.plot), ("profile.png", result.plot_profile)):
            try:
                with atomic_write(folder / name) as path:
                    draw().savefig(path, format="png")
            except Exception as error:  # of a font, a setting, a full disk: the numbers are there
                failed[folder / name] = str(error) or type(error).__name__
                with suppress(OSError):
                    (folder / name).unlink()  # of an earlier run, with other numbers
    if failed:
        shown = (
            ", ".join(map(str, failed)) if len(failed) < 3 else f"{len(failed)} pictures, {next(iter(failed))} first,"
        )
        warn(f"{shown} could not be drawn: {next(iter(failed.values()))}; the numbers are in result.json beside it")


def _console() -> Console:
    """Where tables are printed; a line too short for a number wraps, and shows it all."""
    console = Console(markup=False)  # brackets are the user's
    console.width = max(console.width, _NARROWEST)
    return console


def _show(result: PIDResult, out: Path) -> None:
    """Print the numbers of the chosen estimator and of iʳ and iˢ side by side, and what to make of them."""
    from dpid.results.decomposition import antichain_name

    console = _console()
    names = list(dict.fromkeys([result.metadata.estimator, "rao-blackwell", "standard"]))
    given = " (given the rest of the prompt)" if result.metadata.context else ""
    table = Table(title=f"“{result.metadata.prompt}”{given}, nats ± standard error", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(f"{SYMBOLS[name]} {name}", justify="right")
    shown = [result.estimates[name] for name in names]
    few = len(result.metadata.concepts) <= 3
    for subset in [s for s in result.information if few or len(s) in (1, len(result.metadata.concepts))]:
        table.add_row(f"i(x; {', '.join(subset)})", *(str(d.information[subset]) for d in shown))
    table.add_section()
    table.add_row("redundancy", *(str(d.redundancy) for d in shown))
    for concept in result.metadata.concepts:
        table.add_row(f"unique: {concept}", *(str(d.unique[concept]) for d in shown))
    table.add_row("synergy", *(str(d.synergy) for d in shown))
    if len(result.metadata.concepts) > 2:
        table.add_section()
        largest = sorted(result.decomposition.atoms, key=lambda a: -abs(result.decomposition.atoms[a].value))[:_ATOMS]
        for atom in largest:
            table.add_row(antichain_name(atom), *(str(d.atoms.get(atom, "")) for d in shown))
    console.print(table)
    for line in result.remarks():
        console.print(f"note: {line}", style="yellow", highlight=False)
    names = [n for n in ("maps.png", "profile.png", "result.json", "result.safetensors") if (out / n).is_file()]
    console.print(f"{result.metadata.unet_evaluations} UNet evaluations; written: {out}/{', '.join(names)}")


def _explain(explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any) -> None:
    from dpid.explainer import ConvergenceWarning

    with _evaluations() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as a note under the table
        result = explainer.explain(image, prompt, concepts, progress=progress, **options)
    _write(result, out)
    _draw({out: result})
    with printing(str(out)):
        _show(result, out)


# In a name, to one file system or another; the last are of bytes that are no text.
_UNSAFE = re.compile('[<>:"/\\\\|?*.\x00-\x1f\x7f\ud800-\udfff]')
_LONGEST = 100  # bytes of a concept in a name, of which there are at most 255


def _folders(pairs: Sequence[tuple[str, str]]) -> list[str]:
    """The name of each pair's folder, no two of which any file system takes for the same.

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


def _explain_pairs(
    explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any
) -> None:
    """A folder a pair, and a table of all, the most redundant first."""
    from dpid.explainer import ConvergenceWarning

    folders = [out / name for name in _folders(list(combinations(concepts, 2)))]
    with ExitStack() as stack:
        for folder in folders:  # before anything is computed
            stack.enter_context(writable(folder))
        stack.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as a note, as above
        progress = stack.enter_context(_evaluations())
        results = explainer.explain_pairs(image, prompt, concepts, progress=progress, **options)
        for folder, result in zip(folders, results.values(), strict=True):
            _write(result, folder)
    _draw(dict(zip(folders, results.values(), strict=True)))
    with printing(str(out)):
        _show_pairs(results, prompt, out)


def _show_pairs(results: Mapping[tuple[str, str], PIDResult], prompt: str, out: Path) -> None:
    """Print a table of all pairs, and what to make of each."""
    from dpid.results.result import ranked

    table = Table(title=f"“{prompt}”, every pair, nats ± standard error", title_justify="left")
    for column in ("pair", "redundancy", "unique, first", "unique, second", "synergy"):
        table.add_column(column, justify="left" if column == "pair" else "right")
    for pair in ranked(results):
        result = results[pair]
        numbers = (result.redundancy, *result.unique.values(), result.synergy)
        table.add_row(" + ".join(pair), *map(str, numbers))
    console = _console()
    console.print(table)
    for pair, result in results.items():
        for line in result.remarks():
            console.print(f"note: {' + '.join(pair)}: {line}", style="yellow", highlight=False)
    first = next(iter(results.values()))
    synergy = ", ".join(" + ".join(pair) for pair in ranked(results, "synergy")[:3])
    console.print(f"most synergy: {synergy}; {first.metadata.unet_evaluations} UNet evaluations; folders: {out}/")


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the results.", callback=at_home)] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the picture and of the noise.")] = 40,
) -> None:
    """Make a picture with the embedded model and explain it."""
    from dpid.denoisers.loading import load_pipeline
    from dpid.explainer import Explainer
    from dpid.options import Options
    from dpid.zoo import generate

    Options(seed=seed)
    with writable(out):
        explainer = Explainer.from_pretrained("emoji")
        picture = generate(load_pipeline("emoji"), [DEMO_PROMPT], seed=seed)[0]
        picture.save(out / "picture.png")
        _explain(explainer, picture, DEMO_PROMPT, DEMO_CONCEPTS, out, seed=seed, samples=64)


@app.command()
def explain(
    image: Annotated[Path, typer.Argument(help="PNG, JPEG or WebP of any size.", callback=at_home)],
    prompt: Annotated[
        str,
        typer.Argument(
            help="What the picture shows. The model is given its concepts alone, but for --context and --reference."
        ),
    ],
    concept: Annotated[list[str], typer.Option("-c", "--concept", help="A phrase of the prompt; give two to eight.")],
    model: Annotated[str, typer.Option(help="emoji, a pipeline folder, or a hub id.")] = "emoji",
    context: Annotated[bool, typer.Option(help="Condition on the rest of the prompt (CPID).")] = False,
    pairs: Annotated[
        bool, typer.Option(help="The PID of every pair of concepts, ranked, from one run; a folder each, cow+giraffe.")
    ] = False,
    measure: Annotated[str, typer.Option(help="Redundancy measure: min, i_ccs, ppid, i_sx.")] = "min",
    priors: Annotated[str | None, typer.Option(help="For ppid and i_sx: uniform, or mlm:<model>.")] = None,
    level: Annotated[str, typer.Option(help="What it acts on: image, pixel or logsnr.")] = "image",
    reference: Annotated[
        str, typer.Option(help="What describes the picture best: concepts, prompt, or a text.")
    ] = "concepts",
    smooth: Annotated[int, typer.Option(help="Maps are means over this many pixels a side; 1 for none.")] = 3,
    estimator: Annotated[str, typer.Option(help="rao-blackwell, standard or orthogonal.")] = "rao-blackwell",
    samples: Annotated[
        int | None,
        typer.Option(
            help="Evaluations of every condition, rounded up to a multiple of 16 (of 8 below): 32; with --tolerance at "
            "most so many, in steps of 32: 1024."
        ),
    ] = None,
    tolerance: Annotated[
        float | None, typer.Option(help="Go on until i(x; all) is known to this fraction, 0.05 for 5 %.")
    ] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the fastest if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.", callback=at_home)] = Path("explained"),
) -> None:
    """Explain a picture: what each concept of its prompt, alone and together, tells about it."""
    from dpid.estimation.precision import for_one
    from dpid.explainer import Explainer
    from dpid.images import open_image
    from dpid.options import Options
    from dpid.prompts.plan import plan_concepts

    # Everything that can be wrong without the model is found before the model is loaded and the folder is made.
    if samples is None:
        samples = 32 if tolerance is None else 1024
    for name, text in (("prompt", prompt), ("concepts", " ".join(concept)), ("model", model), ("reference", reference)):
        if not text.isascii() and any("\ud800" <= c <= "\udfff" for c in text):  # bytes of another code page
            raise ValueError(f"{name}: found {text!r}, which is not in the terminal's encoding")
    Options(samples=samples)  # by the name that it has here
    # With a tolerance, --samples is the limit and the steps towards it are of the default size.
    budget = {"samples": samples} if tolerance is None else {"samples": min(samples, 32), "max_samples": samples}
    options: dict[str, Any] = {
        "context": context, "measure": measure, "priors": priors, "level": level, "reference": reference,
        "smooth": smooth, "estimator": estimator, "tolerance": tolerance, "seed": seed, **budget,
    }  # fmt: skip
    Options(**options)
    plan_concepts(prompt, concept, context=context)
    picture = open_image(image)
    if not pairs:
        precision = for_one(precision, device, samples)
    with writable(out):
        explainer = Explainer.from_pretrained(model, device=device, precision=precision)
        (_explain_pairs if pairs else _explain)(explainer, picture, prompt, tuple(concept), out, **options)


app.command()(study)


@app.command()
def info() -> None:
    """Versions, build, devices and embedded models."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from dpid import __version__
    from dpid.denoisers.loading import EMBEDDED, embedded_path
    from dpid.device import gpu_names
    from dpid.ops.compiled import CUDA_ARCHITECTURES, HAS_CUDA

    def installed(package: str) -> str:
        try:
            return version(package)
        except PackageNotFoundError:
            return "not installed"

    table = Table(show_header=False, box=None)
    table.add_row("dpid", __version__)
    table.add_row("python", f"{platform.python_version()} on {platform.system()} {platform.machine()}")
    for package in ("torch", "diffusers", "transformers", "triton"):
        table.add_row(package, installed(package))
    table.add_row("CUDA in this build", f"yes, {CUDA_ARCHITECTURES}" if HAS_CUDA else "no")
    devices = gpu_names()
    table.add_row("devices", ", ".join([f"CPU ({torch.get_num_threads()} threads)", *devices]))
    for name in EMBEDDED:
        words = json.loads((embedded_path(name) / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
        known = sorted(w for w in words if w.isalpha())
        table.add_row(f"model {name!r}", f"{len(known)} words: {', '.join(known)}")
    _console().print(table)


def run() -> int:
    """Do what the command line says; the exit code. Every error becomes a line on stderr."""
    # Importing torch and matplotlib makes a million objects that stay: looking for garbage among them costs 0.4 s.
    gc.set_threshold(100_000, 50, 50)
    arguments = sys.argv[1:]
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in ours
    try:
        code = app([a for a in ours if a != "--debug"] + arguments[len(ours) :], standalone_mode=False) or 0
        sys.stdout.flush()  # what cannot be written is an error too
        message = "interrupted" if code == 130 else ""  # which typer tells by the code alone
    except _UsageError as error:
        message, code = error.format_message(), 2
    except BaseException as error:
        # Abort is what typer makes of the end of a file, and click of an interrupt.
        message, code = told((error.__cause__ or KeyboardInterrupt()) if isinstance(error, typer.Abort) else error)
        if debug:
            traceback.print_exc()
    if message:  # the help that stands for no command has been printed
        with suppress(OSError):
            print(f"dpid: {' '.join(message.split())}", file=sys.stderr)
    return int(code)


def main() -> None:
    """Entry point of the process, which ends here: taking all those objects apart would cost it 0.5 s more."""
    prepare()
    code = run()
    with suppress(OSError):  # which run has told, and what is left cannot be written either
        sys.stdout.flush()  # what was printed before an error
    os._exit(code)
