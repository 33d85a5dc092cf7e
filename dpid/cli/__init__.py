"""The command line ``dpid``: a file for every command.

Bad input: one line on stderr, exit code 2; what should not happen: one line, exit code 1. Numbers are written before
anything is drawn or printed, and neither can fail a run.
"""

from __future__ import annotations

import gc
import inspect
import os
import re
import sys
import traceback
from contextlib import suppress
from typing import Annotated, Any

import typer

import dpid
from dpid.checks import found
from dpid.cli import app, bench, demo, explain, info, models, rank, report, study
from dpid.cli.process import prepare
from dpid.errors import told

program = typer.Typer(
    help="Which word of a prompt put what into a picture, and how the words work together.",
    epilog="--debug, anywhere: show where an error comes from.",
    no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False,
)  # fmt: skip
for _command in (
    demo.demo, explain.explain, rank.rank, report.report, study.study, bench.bench, models.models, info.info, app.app,
):  # fmt: skip
    # A paragraph is a line, which the help breaks anew for the width of the terminal.
    _told = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.getdoc(_command) or "")
    program.command(help=_told)(_command)


def _tell_version(asked: bool) -> None:
    if asked:
        typer.echo(f"dpid {dpid.__version__}")
        raise typer.Exit


@program.callback()
def _of_all(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version; dpid info has all others.", callback=_tell_version, is_eager=True
        ),
    ] = False,
) -> None: ...


# The base of all errors of the command line itself, whether typer brings its own click or uses the package.
_UsageError: Any = typer.BadParameter.__mro__[2]


def _refused(error: Any) -> str:
    """What is said of an error of the line itself: where a text is no number, what dpid's own checks would say."""
    kind = re.search("integer|number|float", getattr(error, "message", ""))
    if kind is None or not getattr(error, "param", None):
        return str(error.format_message())
    # New typers have the text in an error of pydantic, older ones in the message: "'many' is not a valid integer".
    cause = error.__cause__
    text = cause.errors()[0]["input"] if hasattr(cause, "errors") else error.message.partition(" is not")[0].strip("'")
    return f"{error.param.name}: found {found(text)}, expected a {'whole ' * (kind[0] == 'integer')}number"


def run() -> int:
    """Do what the command line says; the exit code. Every error becomes a line on stderr."""
    # Importing torch and matplotlib makes a million objects that stay: looking for garbage among them costs 0.4 s.
    gc.set_threshold(100_000, 50, 50)
    arguments = sys.argv[1:]
    ours = arguments[: arguments.index("--")] if "--" in arguments else arguments
    debug = "--debug" in ours
    try:
        code = program([a for a in ours if a != "--debug"] + arguments[len(ours) :], standalone_mode=False) or 0
        sys.stdout.flush()  # what cannot be written is an error too
        message = "interrupted" if code == 130 else ""  # which typer tells by the code alone
    except _UsageError as error:
        message, code = _refused(error), 2
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
