"""What commands take from the command line: paths, and the options of an explanation."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from dpid.cli.progress import activity
from dpid.files import as_path
from dpid.options import Options

if TYPE_CHECKING:
    from dpid.explainer import Explainer

Command = TypeVar("Command", bound=Callable[..., None])
Model = Annotated[str, typer.Option(help="emoji, emoji-flow, a pipeline folder or .safetensors file, or a hub id.")]
PANEL = "What is computed"  # heading of the options of an explanation
LOADING: dict[str, tuple[Any, Any, str]] = {
    "variant": (str | None, None, "Of the model's weights: fp16, …"),
    "revision": (str | None, None, "Branch, tag or commit of a hub id."),
    "subfolder": (str | None, None, "The pipeline's folder within the model."),
    "precision": (str, "auto", "auto, float32, or bfloat16 or float16, corrected to it."),
    "size": (int | None, None, "Pixels a side of a square of the picture's area; the model's own if left out."),
    "frames": (int | None, None, "Of a video, from the first on; as many as the model makes if left out."),
    "guidance": (float, 1.0, "Of models distilled at guidance (Flux dev); any but 1, which is none, is undone."),
    "control": (list[Path] | None, None, "Picture for a ControlNet, laid out as the one explained; again for several."),
    "control_scale": (list[float] | None, None, "How much a ControlNet adds, 1 if left out; one for all, or one each."),
    "device": (str | None, None, "cpu, cuda, cuda:1, …; the fastest if left out."),
    "check": (bool, True, "Run a pipeline for two small steps first, to compare it with what dpid takes it for."),
}
"""{option of loading a model: (type, default, help)}"""
CONTROL = "control", "control_scale"  # of commands that take pictures of one layout


def at_home(path: Path | None) -> Path | None:
    """``path`` with "~" as the user's home, which a shell leaves as it is in quotes and after "--out="."""
    return None if path is None else as_path(path)


def all_at_home(paths: list[Path] | None) -> list[Path]:
    """Every one of ``paths`` with "~" as the user's home."""
    return [as_path(path) for path in paths or ()]


def with_options(command: Command) -> Command:
    """``command`` with flags for its ``**options``: how a model is loaded, and :class:`dpid.options.Options`."""
    flags = _loading()
    for option in fields(Options):
        kind: Any = option.metadata["flag"]
        if kind is not None:
            kind = kind if option.default is not None else kind | None
            flags.append(_flag(option.name, kind, option.default, f"{option.metadata['help']}.", PANEL))
    return _with(command, flags)


def with_loading(command: Command, *, without: Collection[str] = ()) -> Command:
    """``command`` with flags for its ``**loading``: how a model is loaded, ``without`` those that it has no use for."""
    return _with(command, _loading(without))


def chosen(loading: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the flags ``loading`` that are not as they are by default, by which a model is loaded anyway."""
    return {name: value for name, value in loading.items() if value != LOADING[name][1]}


def load(model: str, loading: Mapping[str, Any]) -> Explainer:
    """The explainer with ``model``, loaded by the flags ``loading``; a terminal says so."""
    from dpid.explainer import Explainer

    with activity() as tell:
        tell("loading the model, and checking its pipeline unless --no-check")
        return Explainer.from_pretrained(model, **chosen(loading))


def _loading(without: Collection[str] = ()) -> list[inspect.Parameter]:
    return [_flag(name, *about) for name, about in LOADING.items() if name not in without]


def _with(command: Command, flags: list[inspect.Parameter]) -> Command:
    """``command`` with ``flags`` in place of its variable keywords."""
    signature = inspect.signature(command, eval_str=True)
    own = [p for p in signature.parameters.values() if p.kind is not inspect.Parameter.VAR_KEYWORD]
    command.__signature__ = signature.replace(parameters=[*own, *flags])  # type: ignore[attr-defined]
    return command


def _flag(name: str, kind: Any, default: Any, told: str, panel: str | None = None) -> inspect.Parameter:
    described = Annotated[kind, typer.Option(help=told, rich_help_panel=panel)]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=described)
