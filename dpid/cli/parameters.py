"""What commands take from the command line: paths, and the options of an explanation."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer

from dpid.files import as_path
from dpid.options import Options

Command = TypeVar("Command", bound=Callable[..., None])
PANEL = "What is computed"  # heading of the options of an explanation


def at_home(path: Path | None) -> Path | None:
    """``path`` with "~" as the user's home, which a shell leaves as it is in quotes and after "--out="."""
    return None if path is None else as_path(path)


def all_at_home(paths: list[Path]) -> list[Path]:
    """Every one of ``paths`` with "~" as the user's home."""
    return [as_path(path) for path in paths]


def with_options(command: Command) -> Command:
    """``command`` with a flag for every option of :class:`dpid.options.Options` that has one, for its ``**options``."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    flags = []
    for option in fields(Options):
        kind: Any = option.metadata["flag"]
        if kind is not None:
            kind = kind if option.default is not None else kind | None
            described = typer.Option(help=f"{option.metadata['help']}.", rich_help_panel=PANEL)
            flags.append(inspect.Parameter(
                option.name, inspect.Parameter.KEYWORD_ONLY, default=option.default,
                annotation=Annotated[kind, described],
            ))  # fmt: skip
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    return command
