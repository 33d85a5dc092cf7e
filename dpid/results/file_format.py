"""The file format of results: to the bytes of a safetensors file and back, with all content checked."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, fields
from types import NoneType, UnionType
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor

from dpid.estimation.estimators import ESTIMATORS, MEASURED
from dpid.files import PathLike, as_path, atomic_write
from dpid.options import LEVELS
from dpid.pid.decomposition import image_priors, picture_measures
from dpid.prompts.plan import MOST_CONCEPTS, subsets_of
from dpid.results.metadata import UNITS, Metadata

FORMAT = "1"
Content = TypeVar("Content")


def write(path: PathLike, content: Callable[[], bytes]) -> None:
    """Write ``content()`` to the file ``path``, which is never incomplete.

    ``ValueError`` if ``path`` is a folder, or its folder does not exist.
    """
    target = as_path(path)
    if not target.parent.is_dir():
        raise ValueError(f"path: found {target}, but there is no folder {target.parent}")
    if target.is_dir():
        raise ValueError(f"path: {target} is a folder; give the name of a file")
    with atomic_write(target) as unfinished:
        unfinished.write_bytes(content())


def read(path: PathLike, parse: Callable[[bytes], Content]) -> Content:
    """What ``parse`` makes of the file ``path``; its ``ValueError`` and those of reading name the path."""
    source = as_path(path)
    if not source.is_file():
        raise ValueError(f"path: {source} {'is no file' if source.exists() else 'does not exist'}")
    try:
        # Read at once: safetensors would open the file twice, and a writer may replace it in between.
        data = source.read_bytes()
    except OSError as error:
        raise ValueError(f"path: {source} cannot be read ({error.strerror})") from error
    try:
        return parse(data)
    except ValueError as error:
        raise ValueError(f"path: {source}: {error}") from error


def to_bytes(metadata: Metadata, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> bytes:
    """The bytes of a safetensors file with ``tensors``, and with ``metadata`` and ``numbers`` in its header."""
    from safetensors.torch import save

    header = {"format": FORMAT, "metadata": json.dumps(asdict(metadata)), "result": json.dumps(numbers)}
    return bytes(save({k: t.detach().cpu().contiguous() for k, t in tensors.items()}, header))


def from_bytes(data: bytes) -> dict[str, Any]:
    """The fields {name: value} of the result that :func:`to_bytes` wrote; ``ValueError`` for any other content.

    The maps and the numbers in the header are not read, since they follow from the replicates.
    """
    tensors, header = parse(data)
    if header.get("format") == FORMAT and "words" in header:
        raise ValueError("has the results of words, which dpid.WordsResult.load reads")
    if header.get("format") != FORMAT or "metadata" not in header:
        raise ValueError(f"is not a dpid result of format {FORMAT}")
    return fields_of(tensors, from_json("metadata", header))


def from_json(name: str, header: Mapping[str, str]) -> Any:
    """The entry ``name`` of a file's header, parsed; ``ValueError`` if it is not JSON."""
    try:
        return json.loads(header[name])
    except RecursionError:
        raise ValueError(f"{name}: are nested too deeply") from None


def fields_of(tensors: Mapping[str, Tensor], stored: Any) -> dict[str, Any]:
    """The fields of a result from the tensors of its file and the parsed JSON of its metadata."""
    metadata, kinds = _metadata(stored), ("replicates", "profiles")
    needed = [*(f"{kind}/{name}" for kind in kinds for name in MEASURED), "edges", "products"]
    if missing := [name for name in needed if name not in tensors]:
        raise ValueError(f"lacks the tensor {missing[0]!r}")
    _check_metadata(metadata)
    _check_tensors(metadata, tensors)
    by_estimator = {kind: {name: tensors[f"{kind}/{name}"] for name in MEASURED} for kind in kinds}
    return by_estimator | {
        "metadata": metadata, "edges": tensors["edges"], "products": tensors["products"],
        "picture": tensors.get("picture"),
    }  # fmt: skip


def parse(data: bytes) -> tuple[dict[str, Tensor], Mapping[str, str]]:
    """The tensors and the header's metadata of a safetensors file; ``ValueError`` if it is none."""
    from safetensors.torch import load

    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    except Exception as error:  # the kind depends on the damage
        raise ValueError(f"is not a safetensors file ({error or type(error).__name__})") from error
    return tensors, header.get("__metadata__") or {}


def _metadata(stored: Any) -> Metadata:
    """The metadata from parsed JSON; ``ValueError`` for a missing or unknown field, or one of another type."""
    if not isinstance(stored, dict):
        raise ValueError(f"metadata: found {type(stored).__name__}, expected an object of JSON")
    if stored.pop("unit", None) not in UNITS:  # it follows from the other fields
        raise ValueError(f"metadata: unit is neither {' nor '.join(map(repr, UNITS))}")
    known = [f.name for f in fields(Metadata) if f.init]
    if unknown := [name for name in stored if name not in known]:
        raise ValueError(f"metadata: {unknown[0]!r} is not known here; another version of dpid may have written it")
    if missing := [name for name in known if name not in stored]:
        raise ValueError(f"metadata: {missing[0]!r} is missing")
    hints = get_type_hints(Metadata)
    return Metadata(**{name: _typed(name, value, hints[name]) for name, value in stored.items()})


def _typed(name: str, value: Any, hint: Any) -> Any:
    """``value`` from JSON as type ``hint``; ``ValueError`` for another type, infinity, or a negative integer."""
    origin, args = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value is None else _typed(name, value, next(a for a in args if a is not NoneType))
    if origin is dict and isinstance(value, dict):
        return {k: _typed(f"{name}[{k!r}]", v, args[1]) for k, v in value.items()}
    if origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) == len(value):
            return tuple(_typed(name, v, kind) for v, kind in zip(value, kinds, strict=True))
    if hint is float and type(value) in (int, float) and abs(value) < 1e300:
        return float(value)
    if hint in (str, bool, int) and type(value) is hint and not (hint is int and value < 0):
        return value
    raise ValueError(f"metadata: {name} is {str(value)[:60]!r}, expected {getattr(hint, '__name__', hint)}")


def _check_metadata(metadata: Metadata) -> None:
    """Raise ``ValueError`` unless a result can be computed with the settings of ``metadata``."""
    concepts = metadata.concepts
    if not 2 <= len(concepts) <= MOST_CONCEPTS or len(set(concepts)) < len(concepts):
        raise ValueError(f"metadata: concepts are {concepts!r}, expected two to eight different ones")
    for name, allowed in (("estimator", ESTIMATORS), ("level", LEVELS), ("measure", picture_measures())):
        if getattr(metadata, name) not in allowed:
            raise ValueError(f"metadata: {name} is {getattr(metadata, name)!r}, allowed are {', '.join(allowed)}")
    if metadata.smooth % 2 == 0:
        raise ValueError(f"metadata: smooth is {metadata.smooth}, expected an odd number")
    names = {"+".join(s): s for s in subsets_of(concepts)[1:]}
    if missing := {"", *names} - metadata.conditions.keys():
        raise ValueError(f"metadata: conditions lack {min(missing)!r}")
    if unknown := set(metadata.priors or ()) - names.keys():
        raise ValueError(f"metadata: priors name {min(unknown)!r}, which is none of {', '.join(names)}")
    image_priors({names[k]: h for k, h in (metadata.priors or {}).items()}, concepts, metadata.measure, None)


def _check_tensors(metadata: Metadata, tensors: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError`` unless the tensors of a file fit the metadata and one another."""
    subsets, edges, picture = 2 ** len(metadata.concepts) - 1, tensors["edges"], tensors.get("picture")
    first, profile = (tensors[f"{kind}/{MEASURED[0]}"] for kind in ("replicates", "profiles"))
    groups = 4 if profile.ndim and len(profile) == 4 else metadata.replicates
    shapes = {f"replicates/{name}": (metadata.replicates, subsets, *first.shape[2:]) for name in MEASURED}
    shapes |= {f"profiles/{name}": (groups, subsets, edges.numel() - 1) for name in MEASURED}
    shapes["products"] = (groups, 2, edges.numel() - 1)
    if first.ndim != 4 or metadata.replicates < 2 or not math.prod(first.shape):
        raise ValueError(f"replicates: found {list(first.shape)}, expected [replicates ≥ 2, subsets, h, w]")
    for name, shape in shapes.items():
        f = tensors[name]
        if f.shape != shape or f.dtype != torch.float32:
            raise ValueError(
                f"{name}: found {f.dtype} {list(f.shape)}, expected torch.float32 {list(shape)}, as the metadata says"
            )
        if not f.isfinite().all():
            raise ValueError(f"{name}: found NaN or infinity")
    rising = edges.ndim == 1 and len(edges) > 1 and edges.is_floating_point() and bool((edges.diff() > 0).all())
    if not rising or not edges.isfinite().all():
        raise ValueError(f"edges: found {edges.dtype} {list(edges.shape)}, expected rising log-SNRs")
    frames = () if metadata.frames is None else (metadata.frames,)
    if frames and (not metadata.frames or first.shape[2] % metadata.frames):
        raise ValueError(f"replicates: found {first.shape[2]} rows, which are no {metadata.frames} frames")
    if picture is not None and (
        picture.dtype != torch.uint8 or picture.ndim != 3 + len(frames) or picture.shape[-1] != 3 or not picture.numel()
        or picture.shape[: len(frames)] != frames
    ):  # fmt: skip
        expected = ", ".join(map(str, (*frames, "H", "W", 3)))
        raise ValueError(f"picture: found {picture.dtype} {list(picture.shape)}, expected torch.uint8 [{expected}]")
