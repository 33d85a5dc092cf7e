"""Pipelines from a name: the embedded model, a folder, or a hub id. Only safetensors weights are read."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

EMBEDDED = ("emoji",)
DENSITY = "density.safetensors"  # in a model's folder, where it comes with one: {"density": [T]}
_SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def embedded_path(name: str) -> Path:
    """Folder of an embedded model."""
    return Path(str(files("dpid.zoo") / name / "model"))


def fingerprint(model: str | Path) -> str:
    """Of a folder's UNet and density, which its name does not tell from those of another training: 8 hex digits.

    "" of a hub id.
    """
    folder = embedded_path(str(model)) if str(model) in EMBEDDED else Path(model)
    found = 0
    for path in sorted(folder.glob("unet/*.safetensors")) + sorted(folder.glob(DENSITY)):
        with path.open("rb") as f:
            f.seek(-min(path.stat().st_size, 1 << 20), 2)  # the last of them: all change in a step of training
            found = zlib.crc32(f.read(), found)
    return f"{found:08x}" if found else ""


def shipped_density(folder: Path) -> Tensor | None:
    """:attr:`dpid.Explainer.density` [T] float64 of the model in ``folder``, where it comes with one."""
    path = folder / DENSITY
    return load_file(path)["density"].double() if path.is_file() else None


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what other libraries say while they load (optional packages, progress bars) off the user's screen."""
    from diffusers.utils import logging as diffusers_log
    from transformers.utils import logging as transformers_log

    logs = (diffusers_log, transformers_log)
    before = [(log.get_verbosity(), log.is_progress_bar_enabled()) for log in logs]
    for log in logs:
        log.set_verbosity_error()
        log.disable_progress_bar()
    try:
        yield
    finally:
        for log, (verbosity, bar) in zip(logs, before, strict=True):
            log.set_verbosity(verbosity)
            if bar:
                log.enable_progress_bar()


def _check_folder(folder: Path) -> None:
    index = folder / "model_index.json"
    if not index.is_file():
        raise ValueError(f"model: {folder} is not a diffusers pipeline: it has no model_index.json")
    for part in ("unet", "vae", "text_encoder"):
        if not (folder / part / "config.json").is_file():
            raise ValueError(f"model: {folder} has no {part}/config.json; expected a StableDiffusionPipeline folder")
        weights = {p.suffix for p in (folder / part).iterdir()}
        if ".safetensors" not in weights:
            if weights & {".bin", ".pt", ".ckpt", ".pth"}:
                raise ValueError(
                    f"model: the weights of {folder / part} are pickle files, which can run code when they are read; "
                    "convert them to safetensors"
                )
            raise ValueError(f"model: {folder / part} has no weights (*.safetensors)")


def load_pipeline(model: str | Path, device: str | None = None, dtype: Any = None) -> Any:
    """A StableDiffusionPipeline of ``model``: an embedded name, a folder, or a hub id such as "sd-legacy/…".

    Raises
    ------
    ValueError
        No such folder or hub model, not a pipeline, not a supported one, or pickle-only weights.
    """
    import torch

    source = embedded_path(str(model)) if str(model) in EMBEDDED else Path(model)
    looks_like_path = source.exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1
    if looks_like_path:
        if not source.is_dir():
            raise ValueError(
                f"model: {model} is not a folder; give a folder, a hub id, or one of {', '.join(EMBEDDED)}"
            )
        _check_folder(source)
    with quiet():
        from diffusers import DiffusionPipeline

        try:
            pipe = DiffusionPipeline.from_pretrained(
                str(source) if looks_like_path else str(model), use_safetensors=True, safety_checker=None,
                requires_safety_checker=False, low_cpu_mem_usage=False,
            )  # fmt: skip
        except (OSError, ValueError) as error:
            reason = " ".join(str(error).split())
            raise ValueError(f"model: {model} could not be loaded: {reason[:300]}") from error
    if type(pipe).__name__ not in _SUPPORTED:
        raise ValueError(f"model: {model} is a {type(pipe).__name__}; supported are {', '.join(_SUPPORTED)}")
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        with quiet():
            return pipe.to(chosen, dtype or torch.float32)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device: {chosen!r} cannot be used: {str(error).splitlines()[0]}") from error
