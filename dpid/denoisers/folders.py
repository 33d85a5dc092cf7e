"""Folders of diffusers pipelines: what is in them, and whether they can be loaded; no weight is read."""

from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from dpid.denoisers.families import FAMILIES, Family, unknown

PICKLES = (".bin", ".pt", ".ckpt", ".pth")
_OTHERS = (*PICKLES, ".safetensors", ".msgpack", ".onnx", ".onnx_data", ".pb")  # weights that are not read
_UNUSED = ("safety_checker", "feature_extractor", "image_encoder")
# model.safetensors, model.fp16.safetensors; of several files model-00001-of-00002.safetensors,
# model.fp16-00001-of-00002.safetensors or, as older versions wrote it, model-00001-of-00002.fp16.safetensors.
_WEIGHTS = re.compile(r"(?:diffusion_pytorch_)?model(?:\.(\w+))?(?:-\d+-of-\d+(?:\.(\w+))?)?\.safetensors")
_TYPES = {"F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}


def has_weights(folder: Path) -> bool:
    """Whether any part of the pipeline in ``folder`` has safetensors weights, of any variant."""
    return any(_WEIGHTS.fullmatch(path.name) for path in folder.glob("*/*"))


def read_index(folder: Path) -> dict[str, Any]:
    """The content of ``folder``/model_index.json; ``ValueError`` if there is none."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise ValueError(f"model: {folder} is not a diffusers pipeline: it has no model_index.json")
    try:
        index = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"model: {path} cannot be read ({error})") from error
    if not isinstance(index, dict):
        raise ValueError(f"model: {path} holds a {type(index).__name__}, expected a dict")
    return index


def family_named(model: str | Path, index: dict[str, Any]) -> type[Family]:
    """The family of the pipeline that ``index`` describes; ``ValueError`` if there is none."""
    name = index.get("_class_name")
    name = name[-1] if isinstance(name, list) and name else name  # a custom class is stored as [module, class]
    if not isinstance(name, str) or name not in FAMILIES:
        parts = (kind[-1] for kind in index.values() if isinstance(kind, list) and kind and isinstance(kind[-1], str))
        raise ValueError(f"model: {model} is a {unknown(str(name), parts)}")
    return FAMILIES[name]


def check_folder(folder: Path, index: dict[str, Any], given: Collection[str], variant: str | None) -> str | None:
    """The variant ("fp16", …) that all weights in ``folder`` have, None for plain ones.

    ``given`` are parts that need no folder. ``ValueError`` if the folder holds no pipeline that can be loaded, or has
    not the ``variant`` that is asked for.
    """
    family = family_named(folder, index)
    listed = [part for part, kind in index.items() if isinstance(kind, list) and kind and kind[0]]
    parts = [part for part in dict.fromkeys((*family.parts(), *listed)) if part not in _UNUSED and part[0] != "_"]
    parts = [part for part in parts if part not in given]
    for part in parts:
        if not (folder / part).is_dir():
            raise ValueError(f"model: {folder} has no folder {part}, expected all of a {family.pipelines[0]}")
    found = [_variants(folder / part, family.pipelines[0]) for part in parts if _has_weights(family, part)]
    return _chosen(folder, found, variant)


def needed(
    model: str, family: type[Family], files: Iterable[str], given: Collection[str], variant: str | None
) -> list[str]:
    """Those of the ``files`` in the folder of ``model`` that it is loaded from: of weights those of one variant.

    That is the one of :func:`check_folder`; plain weights of parts that have it not. ``given`` parts need none.
    """
    found: dict[str, set[str | None]] = {}
    variants: dict[str, str | None] = {}
    files = [file for file in files if file.split("/")[0] not in given]
    for file in files:
        part, _, name = file.rpartition("/")
        if m := _WEIGHTS.fullmatch(name):
            variants[file] = m[1] or m[2]
            found.setdefault(part, set()).add(variants[file])
    chosen = _chosen(model, [found[part] for part in found if _has_weights(family, part)], variant)

    def wanted(file: str) -> bool:
        own = found.get(file.rpartition("/")[0], set())
        return variants[file] == (chosen if chosen in own else None) if file in variants else not file.endswith(_OTHERS)

    return [file for file in files if wanted(file)]


def _has_weights(family: type[Family], part: str) -> bool:
    return part in (family.network, "vae") or part.startswith(("text_encoder", "controlnet"))


def _chosen(model: str | Path, found: Sequence[set[str | None]], variant: str | None) -> str | None:
    """The variant to load of parts of ``model`` whose weights have the variants ``found``; ``variant`` if any has it.

    ``ValueError`` if none has, or without one if there is none that all have, or have plain weights beside.
    """
    if variant is not None:
        if not any(variant in variants for variants in found):
            known = ", ".join(sorted(filter(None, set().union(*found)))) or "none"
            raise ValueError(f"variant: found {variant!r}, {model} has {known}")
        return variant
    if all(None in variants for variants in found):
        return None
    common = [v for v in set().union(*found) - {None} if all({v, None} & variants for variants in found)]
    if not common:
        raise ValueError(f"model: the parts of {model} have no variant of their weights in common")
    return max(map(str, common))  # fp16 before bf16, which is coarser


def _variants(part: Path, pipeline: str) -> set[str | None]:
    """The variants ("fp16", "non_ema", …) of the weights in folder ``part``, None for plain ones.

    ``ValueError`` if there are no safetensors weights or no config.json.
    """
    if not (part / "config.json").is_file():
        raise ValueError(f"model: {part.parent} has no {part.name}/config.json; expected a {pipeline} folder")
    found = {m[1] or m[2] for path in part.iterdir() if (m := _WEIGHTS.fullmatch(path.name))}
    if not found and {path.suffix for path in part.iterdir()} & set(PICKLES):
        raise ValueError(
            f"model: the weights of {part} are pickle files, which can run code when they are read; "
            "convert them to safetensors"
        )
    if not found:
        raise ValueError(f"model: {part} has no weights (model or diffusion_pytorch_model, .safetensors)")
    return found


def own_type(folder: Path, variant: str | None) -> torch.dtype:
    """The type of most weights in ``folder``, of a variant; bfloat16 where they are quantised, to compute in."""
    matches = [(path, _WEIGHTS.fullmatch(path.name)) for path in sorted(folder.iterdir())]
    plain, own = ([path for path, m in matches if m and (m[1] or m[2]) == v] for v in (None, variant))
    return type_of(own or plain)


def type_of(files: Sequence[Path]) -> torch.dtype:
    """The type of most weights in safetensors ``files``, a key of torch; bfloat16 for all that it cannot compute in."""
    sizes: Counter[str] = Counter()
    for path in files:
        for kind, shape in _headers(path).values():
            sizes[kind] += math.prod(shape)
    if not sizes:
        raise ValueError("its network has no weights, or none of this variant")
    return _TYPES.get(sizes.most_common(1)[0][0], torch.bfloat16)


def shapes(file: Path) -> dict[str, list[int]]:
    """The shapes of the weights in a safetensors ``file``."""
    return {name: shape for name, (_, shape) in _headers(file).items()}


def _headers(file: Path) -> dict[str, tuple[str, list[int]]]:
    with safe_open(file, "pt") as opened:
        parts = {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118, it is no dictionary
        return {name: (part.get_dtype(), part.get_shape()) for name, part in parts.items()}
