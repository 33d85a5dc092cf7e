"""Loads pipelines by name: an embedded model, a folder or a hub id. Only safetensors weights are read."""

from __future__ import annotations

import json
import re
import zlib
from importlib.resources import files
from pathlib import Path
from typing import Any

from safetensors.torch import load_file
from torch import Tensor

from dpid.denoisers.families import FAMILIES, Family, unknown
from dpid.files import as_path
from dpid.quiet import quiet

EMBEDDED = "emoji", "emoji-flow"
DENSITY = "density.safetensors"  # optional file of a model's folder, {"density": [T]} for rule "adaptive"
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
# model.safetensors, model.fp16.safetensors; of several files model-00001-of-00002.safetensors,
# model.fp16-00001-of-00002.safetensors or, as older versions wrote it, model-00001-of-00002.fp16.safetensors.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(\w+))?(?:-\d+-of-\d+(?:\.(\w+))?)?\.safetensors")
_UNREACHABLE = {
    "ConnectError",
    "ConnectionError",
    "LocalEntryNotFoundError",
    "OfflineModeIsEnabled",
    "TimeoutException",
}


def embedded_path(name: str) -> Path:
    """The folder of the embedded model ``name``."""
    return Path(str(files("dpid.zoo") / name.replace("-", "_") / "model"))


def folder_of(model: str | Path) -> Path:
    """The folder of an embedded model, else ``model`` as a path; "~" is the user's home."""
    return embedded_path(str(model)) if str(model) in EMBEDDED else as_path(model, "model")


def fingerprint(model: str | Path) -> str:
    """A checksum of a model folder's network and density, 8 hex digits: it differs where the model was trained again.

    "" for a hub id, which has no folder here.
    """
    folder = folder_of(model)
    found = 0
    networks = sorted({family.network for family in FAMILIES.values()})
    weights = [path for network in networks for path in sorted(folder.glob(f"{network}/*.safetensors"))]
    for path in weights + sorted(folder.glob(DENSITY)):
        with path.open("rb") as f:
            f.seek(-min(path.stat().st_size, 1 << 20), 2)  # the last MiB: training changes all weights
            found = zlib.crc32(f.read(), found)
    return f"{found:08x}" if found else ""


def shipped_density(folder: Path) -> Tensor | None:
    """:attr:`dpid.Explainer.density` [T] float64 of the model in ``folder``, where it comes with one."""
    path = folder / DENSITY
    return load_file(path)["density"].double() if path.is_file() else None


def _index(folder: Path) -> tuple[dict[str, Any], type[Family]]:
    """The content of ``folder``/model_index.json, and the pipeline's family; ``ValueError`` if there is none."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(f"model: {folder} is not a diffusers pipeline: it has no model_index.json")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} cannot be read ({error})") from error
    if not isinstance(index, dict):
        raise ValueError(f"model: {path} holds a {type(index).__name__}, expected a dict")
    name = index.get("_class_name")
    name = name[-1] if isinstance(name, list) and name else name  # a custom class is stored as [module, class]
    if not isinstance(name, str) or name not in FAMILIES:
        parts = (kind[-1] for kind in index.values() if isinstance(kind, list) and kind and isinstance(kind[-1], str))
        raise ValueError(f"model: {folder} is a {unknown(str(name), parts)}")
    return index, FAMILIES[name]


def _check_folder(folder: Path) -> str | None:
    """The variant ("fp16", …) that all weights in ``folder`` have, None for plain ones.

    ``ValueError`` if the folder holds no pipeline that can be loaded.
    """
    index, family = _index(folder)
    listed = [part for part, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    parts = [part for part in dict.fromkeys((*family.parts(), *listed)) if part not in _UNUSED and part[0] != "_"]
    for part in parts:
        if not (folder / part).is_dir():
            raise ValueError(f"model: {folder} has no folder {part}, expected all of a {family.pipelines[0]}")
    weighted = [part for part in parts if part in (family.network, "vae") or part.startswith("text_encoder")]
    found = [_variants(folder / part) for part in weighted]
    if all(None in variants for variants in found):
        return None
    common = [v for v in set().union(*found) - {None} if all({v, None} & variants for variants in found)]
    if not common:
        raise ValueError(f"model: the parts of {folder} have no variant of their weights in common")
    return max(map(str, common))  # fp16 before bf16, which is coarser


def _variants(part: Path) -> set[str | None]:
    """The variants ("fp16", "non_ema", …) of the weights in folder ``part``, None for plain ones.

    ``ValueError`` if there are no safetensors weights or no config.json.
    """
    if not (part / "config.json").is_file():
        raise ValueError(
            f"model: {part.parent} has no {part.name}/config.json; expected a StableDiffusionPipeline folder"
        )
    found = {m[1] or m[2] for path in part.iterdir() if (m := _WEIGHTS.fullmatch(path.name))}
    if not found and {path.suffix for path in part.iterdir()} & {".bin", ".pt", ".ckpt", ".pth"}:
        raise ValueError(
            f"model: the weights of {part} are pickle files, which can run code when they are read; "
            "convert them to safetensors"
        )
    if not found:
        raise ValueError(f"model: {part} has no weights (model or diffusion_pytorch_model, .safetensors)")
    return found


def _reason(error: BaseException) -> str:
    """The reason for ``error`` in one line that a user can act on."""
    kinds: set[str] = set()
    cause: BaseException | None = error
    while cause is not None:
        kinds |= {kind.__name__ for kind in type(cause).__mro__}
        cause = cause.__cause__ or cause.__context__
    if "GatedRepoError" in kinds:
        return "it is gated: accept its terms on its page at huggingface.co, then log in with `hf auth login`"
    if "RepositoryNotFoundError" in kinds:
        return "the hub has no such model, or it is private and you are not logged in (`hf auth login`)"
    if kinds & _UNREACHABLE:
        offline = " (HF_HUB_OFFLINE is set)" if "OfflineModeIsEnabled" in kinds else ""
        return f"it is not in this machine's cache, and the hub cannot be reached{offline}"
    return " ".join(str(error).split())[:300] or type(error).__name__


def _from_pretrained(model: str, variant: str | None, otherwise: str | None = None) -> Any:
    """The diffusers pipeline ``model`` with weights of ``variant``, or of ``otherwise`` if it lacks that variant.

    ``ValueError`` says why it cannot be loaded.
    """
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(
            model, variant=variant, use_safetensors=True, safety_checker=None, requires_safety_checker=False,
            low_cpu_mem_usage=False,
        )  # fmt: skip
    except MemoryError:
        raise
    except Exception as error:  # diffusers, transformers and the hub raise too many kinds to list
        if otherwise and ("no file named" in str(error) or "variant=" in str(error)):
            return _from_pretrained(model, otherwise)
        raise ValueError(f"model: {model} could not be loaded: {_reason(error)}") from error


def load_pipeline(model: str | Path, device: str | None = None, dtype: Any = None) -> Any:
    """The diffusers pipeline ``model``: the name of an embedded model, a folder, or a hub id such as "sd-legacy/…".

    It is moved to ``device`` (by default the fastest) and converted to ``dtype`` (by default float32). Where only a
    variant of the weights exists ("fp16"), that is loaded.

    Raises
    ------
    ValueError
        There is no such folder or hub model, it is no pipeline of a supported family, or its weights are pickle files;
        or ``device`` cannot be used.
    """
    import torch

    from dpid.denoisers.modes import usable_device

    source = folder_of(model)
    local = source.exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1
    if source.is_file():
        raise ValueError(
            f"model: {model} is a single file, expected a folder; in Python, "
            "dpid.Explainer(diffusers.StableDiffusionPipeline.from_single_file(…)) takes it, and its "
            "save_pretrained(…) makes a folder"
        )
    if local and not source.is_dir():
        raise ValueError(f"model: {model} is not a folder; give a folder, a hub id, or one of {', '.join(EMBEDDED)}")
    chosen = usable_device(device)
    with quiet():
        if local:
            pipe = _from_pretrained(str(source), _check_folder(source))
        else:
            pipe = _from_pretrained(str(model), None, otherwise="fp16")
    if not any(kind.__name__ in FAMILIES for kind in type(pipe).__mro__):
        parts = (type(part).__name__ for part in pipe.components.values())
        raise ValueError(f"model: {model} is a {unknown(type(pipe).__name__, parts)}")
    try:
        with quiet():
            return pipe.to(chosen, dtype or torch.float32)
    except RuntimeError as error:
        raise ValueError(f"device: {str(chosen)!r} cannot be used: {str(error).splitlines()[0]}") from error
