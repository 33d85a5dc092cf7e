"""The command line: ``dpid demo``, ``explain``, ``study``, ``info``. Bad input: one line on stderr, exit code 2."""

from __future__ import annotations

import json
import os
import platform
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from dpid.studies.command import study

if TYPE_CHECKING:
    from dpid.result import PIDResult

app = typer.Typer(
    help="Which word of a prompt put what into a picture, and how the words work together.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
SYMBOLS = {"rao-blackwell": "iʳ", "standard": "iˢ", "orthogonal": "i°"}
# The base of all errors of the command line itself, whether typer brings its own click or uses the package.
_UsageError: Any = typer.BadParameter.__mro__[2]
DEMO_PROMPT, DEMO_CONCEPTS = "a cow and a giraffe", ("cow", "giraffe")


@contextmanager
def writable(out: Path) -> Iterator[None]:
    """Make sure that ``out`` can be written before anything is computed; a failure inside leaves no folder behind."""
    made = [folder for folder in (out, *out.parents) if not folder.exists()]
    try:
        out.mkdir(parents=True, exist_ok=True)
        probe = out / f".dpid-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ValueError(f"out: {out} cannot be written ({error.strerror}); choose another folder") from error
    try:
        yield
    except BaseException:
        for folder in made:
            if not any(folder.iterdir()):
                folder.rmdir()
        raise


@contextmanager
def _bar() -> Iterator[Any]:
    columns = (TextColumn("UNet evaluations"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=None)
        yield lambda done, planned: progress.update(task, completed=done, total=planned)


def _write(result: PIDResult, out: Path) -> None:
    """result.safetensors, result.json and maps.png, each moved into place when it is whole."""
    result.save(out / "result.safetensors")
    for name, write in (
        ("result.json", lambda p: p.write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n")),
        ("maps.png", lambda p: result.plot().savefig(p, format="png")),
    ):
        partial = out / f".{name}.partial"
        write(partial)
        os.replace(partial, out / name)


def _show(result: PIDResult, out: Path) -> None:
    """The numbers of the chosen estimator and of iʳ and iˢ side by side, and what to make of them."""
    console = Console()
    names = list(dict.fromkeys([result.facts.estimator, "rao-blackwell", "standard"]))
    given = " (given the rest of the prompt)" if result.facts.context else ""
    table = Table(title=f"“{result.facts.prompt}”{given}, nats ± standard error", title_justify="left")
    table.add_column("")
    for name in names:
        table.add_column(f"{SYMBOLS[name]} {name}", justify="right")
    shown = [result.estimates[name] for name in names]
    for subset in result.information:
        table.add_row(f"i(x; {', '.join(subset)})", *(str(d.information[subset]) for d in shown))
    table.add_section()
    table.add_row("redundancy", *(str(d.redundancy) for d in shown))
    for concept in result.facts.concepts:
        table.add_row(f"unique: {concept}", *(str(d.unique[concept]) for d in shown))
    table.add_row("synergy", *(str(d.synergy) for d in shown))
    console.print(table)
    for line in result.remarks():
        console.print(f"note: {line}", style="yellow", highlight=False)
    console.print(
        f"{result.facts.unet_evaluations} UNet evaluations; written: {out}/maps.png, result.json, result.safetensors"
    )


def _explain(explainer: Any, image: Any, prompt: str, concepts: tuple[str, ...], out: Path, **options: Any) -> None:
    from dpid.explainer import ConvergenceWarning

    with _bar() as progress, warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # shown as a note under the table
        result = explainer.explain(image, prompt, concepts, progress=progress, **options)
    _write(result, out)
    _show(result, out)


@app.command()
def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the results.")] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the picture and of the noise.")] = 6,
) -> None:
    """Make a picture with the embedded model and explain it."""
    from dpid.explainer import Explainer, check_options
    from dpid.loading import load_pipeline
    from dpid.zoo import generate

    check_options(seed=seed)
    with writable(out):
        explainer = Explainer.from_pretrained("emoji")
        picture = generate(load_pipeline("emoji"), [DEMO_PROMPT], seed=seed)[0]
        picture.save(out / "picture.png")
        _explain(explainer, picture, DEMO_PROMPT, DEMO_CONCEPTS, out, seed=seed, samples=64)


@app.command()
def explain(
    image: Annotated[str, typer.Argument(help="PNG, JPEG or WebP of any size.")],
    prompt: Annotated[str, typer.Argument(help="What the picture shows.")],
    concept: Annotated[list[str], typer.Option("-c", "--concept", help="A phrase of the prompt; give two.")],
    model: Annotated[str, typer.Option(help="emoji, a pipeline folder, or a hub id.")] = "emoji",
    context: Annotated[bool, typer.Option(help="Condition on the rest of the prompt (CPID).")] = False,
    measure: Annotated[str, typer.Option(help="Redundancy measure.")] = "min",
    estimator: Annotated[str, typer.Option(help="rao-blackwell, standard or orthogonal.")] = "rao-blackwell",
    samples: Annotated[
        int | None, typer.Option(help="Evaluations of every condition: 32, or with --tolerance at most 1024.")
    ] = None,
    tolerance: Annotated[float | None, typer.Option(help="Go on until stderr / i(x; both) is below this.")] = None,
    precision: Annotated[str, typer.Option(help="auto, float32, bfloat16 or float16.")] = "auto",
    device: Annotated[str | None, typer.Option(help="cpu, cuda, cuda:1, …; the fastest if left out.")] = None,
    seed: Annotated[int, typer.Option(help="Of the noise.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the results.")] = Path("explained"),
) -> None:
    """Explain a picture: what each of two concepts of its prompt, alone and together, tells about it."""
    from dpid.explainer import Explainer, check_options, plan_pair
    from dpid.images import open_image

    # Everything that can be wrong without the model is found before the model is loaded and the folder is made.
    if samples is None:
        samples = 32 if tolerance is None else 1024
    check_options(estimator=estimator, measure=measure, samples=samples, tolerance=tolerance, seed=seed)
    plan_pair(prompt, concept, context=context)
    picture = open_image(image)
    # With a tolerance, --samples is the limit and the steps towards it are of the default size.
    budget = {"samples": samples} if tolerance is None else {"samples": min(samples, 32), "max_samples": samples}
    with writable(out):
        explainer = Explainer.from_pretrained(model, device=device, precision=precision)
        _explain(
            explainer, picture, prompt, tuple(concept), out, context=context, measure=measure, estimator=estimator,
            tolerance=tolerance, seed=seed, **budget,
        )  # fmt: skip


app.command()(study)


@app.command()
def info() -> None:
    """Versions, build, devices and embedded models."""
    from importlib.metadata import PackageNotFoundError, version

    import torch

    from dpid import __version__
    from dpid.loading import EMBEDDED, embedded_path
    from dpid.ops.native import CUDA_ARCHITECTURES, HAS_CUDA

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
    devices = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    table.add_row("devices", ", ".join([f"CPU ({torch.get_num_threads()} threads)", *devices]))
    for name in EMBEDDED:
        words = json.loads((embedded_path(name) / "tokenizer/tokenizer.json").read_text())["model"]["vocab"]
        known = sorted(w for w in words if w.isalpha())
        table.add_row(f"model {name!r}", f"{len(known)} words: {', '.join(known)}")
    Console().print(table)


def run() -> None:
    """Entry point: errors of the input become one line."""
    try:
        code = app(standalone_mode=False)
    except _UsageError as error:
        message, code = error.format_message(), 2
    except (ValueError, TypeError, OSError, RuntimeError, FloatingPointError) as error:
        message, code = " ".join(str(error).split()), 2
    except (KeyboardInterrupt, typer.Abort):
        message, code = "interrupted", 130
    else:
        sys.exit(code)
    print(f"dpid: {message}", file=sys.stderr)
    sys.exit(code)
