"""Loads pipelines by name: an embedded model, a folder, a file or a hub id. Only safetensors weights are read."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from dpid.denoisers.families import Family
from dpid.denoisers.families.control_net import controlled
from dpid.denoisers.folders import (
    PICKLES,
    check_folder,
    family_named,
    has_weights,
    needed,
    own_type,
    read_index,
    shapes,
    type_of,
)
from dpid.denoisers.modes import usable_device
from dpid.device import out_of_memory
from dpid.files import as_path
from dpid.quiet import quiet

EMBEDDED = "emoji", "emoji-flow"
DENSITY = "density.safetensors"  # optional file of a model's folder, {"density": [T]} for rule "adaptive"
_HUB = ("revision", "token", "cache_dir", "local_files_only")
_PLACED = ("device_map", "max_memory", "quantization_config")
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


def shipped_density(folder: Path) -> Tensor | None:
    """:attr:`dpid.Explainer.density` [T] float64 of the model in ``folder``, where it comes with one."""
    path = folder / DENSITY
    return load_file(path)["density"].double() if path.is_file() else None


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


@contextmanager
def _loading(model: str | Path) -> Iterator[None]:
    """A context in which an error is a ``ValueError`` that says in one line why ``model`` cannot be loaded."""
    try:
        yield
    except MemoryError:
        raise
    except Exception as error:  # diffusers, transformers and the hub raise too many kinds to list
        raise ValueError(f"model: {model} could not be loaded: {_reason(error)}") from error


def _downloaded(model: str, subfolder: str, variant: str | None, hub: dict[str, Any], options: dict[str, Any]) -> Path:
    """The folder in this machine's cache of the hub model ``model``, of which only safetensors weights are fetched.

    Where it has a variant of the weights alone ("fp16" or "bf16"), that is fetched. Wrong options and missing parts
    are found before.
    """
    from diffusers import DiffusionPipeline
    from huggingface_hub import hf_hub_download

    with _loading(model):
        index = Path(hf_hub_download(model, "model_index.json", subfolder=subfolder or None, **hub)).parent
    family = _family_in(model, read_index(index), options)
    if subfolder:
        return _within(model, index, subfolder, family, options, variant, hub)
    given = {name: part for name, part in options.items() if name not in _PLACED}
    errors: list[Exception] = []
    with _loading(model):
        for tried in (variant,) if variant else (None, "fp16", "bf16"):
            try:
                folder = Path(DiffusionPipeline.download(model, variant=tried, use_safetensors=True, **given, **hub))
            except (OSError, ValueError) as error:  # old and new diffusers, where there are no weights of that variant
                errors.append(error)
                continue
            if has_weights(folder):
                return folder
        if errors:
            raise errors[0]
    return folder


def _within(
    model: str, cached: Path, subfolder: str, family: type[Family], given: Collection[str], variant: str | None,
    hub: dict[str, Any],
) -> Path:  # fmt: skip
    """The ``subfolder`` of the hub model ``model`` as :func:`_downloaded` has it, without the parts ``given``.

    Where the hub cannot list its files, those that are wanted are in ``cached``, the folder of an earlier download.
    """
    from huggingface_hub import list_repo_files, snapshot_download

    inside, where = f"{subfolder.strip('/')}/", {name: hub[name] for name in hub.keys() & {"revision", "token"}}
    try:
        names = [] if hub.get("local_files_only") else list_repo_files(model, **where)
    except Exception:  # snapshot_download finds it in the cache, or says what is wrong
        names = []
    files = [name.removeprefix(inside) for name in names if name.startswith(inside)]
    if not files:  # what was left out then would be missed if all were asked for
        files = [path.relative_to(cached).as_posix() for path in cached.rglob("*") if path.is_file()]
        files = files if len(files) > 1 else []  # of a new folder, with its index alone, all
    patterns = [inside + file for file in needed(model, family, files, given, variant)] if files else [f"{inside}*"]
    with _loading(model):
        whole = snapshot_download(model, allow_patterns=patterns, ignore_patterns=[f"*{s}" for s in PICKLES], **hub)
    return Path(whole) / subfolder


def load_pipeline(
    model: str | Path, device: str | None = None, dtype: Any = None, *, variant: str | None = None,
    subfolder: str = "", config: str | Path | None = None, **options: Any,
) -> Any:  # fmt: skip
    """The diffusers pipeline ``model``: the name of an embedded model, a folder, or a hub id such as "sd-legacy/…".

    Or a single ``.safetensors`` file, as far as diffusers' ``from_single_file`` takes it.

    Parameters
    ----------
    device : where it is moved to; by default the fastest
    dtype : the type of its weights, also as ``torch_dtype``. By default that of the network's stored weights, and
        float32 for UNets, of which dpid makes the copies in other types
    variant : of the weights, such as "fp16"; by default plain ones, or the variant that exists alone
    subfolder : the pipeline's folder within ``model``
    config : of a single file: the folder or hub id of a pipeline of its kind, by default the one that diffusers names
    options : ``revision``, ``token``, ``cache_dir`` and ``local_files_only`` of a hub id; ``device_map``,
        ``max_memory`` and ``quantization_config`` as of diffusers' ``DiffusionPipeline.from_pretrained``; and parts of
        the pipeline, such as ``vae=…``, or ``text_encoder_3=None, tokenizer_3=None`` to do without;
        ``controlnet=…``, a ControlNet of diffusers or a list, makes it the same pipeline with a ControlNet

    Raises
    ------
    ValueError
        There is no such folder or hub model, it is no pipeline of a supported family, or its weights are pickle files;
        or ``device`` cannot be used.
    TypeError
        An option is none of those above.
    """
    dtype = options.pop("torch_dtype", None) if dtype is None else dtype
    hub = {name: options.pop(name) for name in _HUB if name in options}
    source = folder_of(model)
    local = source.exists() or str(model).startswith((".", "/", "~")) or str(model).count("/") != 1
    given = {"variant": variant, "subfolder": subfolder, "config": config, "revision": hub.get("revision")}
    _check_source(model, source, local, given)
    if "device_map" in options and device is not None:
        raise ValueError(f"device: found {device!r} beside device_map = {options['device_map']!r}; give one of them")
    chosen = usable_device(device)
    with quiet():
        if source.is_file():
            pipe = _from_file(source, config, dtype, hub, options)
        else:
            folder = source / subfolder if local else _downloaded(str(model), subfolder, variant, hub, options)
            pipe = _from_folder(str(model), folder, variant, dtype, options)
        return pipe if "device_map" in options else _moved(pipe, chosen, str(model))


def _check_source(model: str | Path, source: Path, local: bool, given: dict[str, Any]) -> None:
    """``ValueError`` if there is nothing at ``source``, or something is ``given`` that its kind has not."""
    kind = "single file" if source.is_file() else "folder" if local else "hub id"
    none = {
        "single file": ("variant", "subfolder", "revision"),
        "folder": ("config", "revision"),
        "hub id": ("config",),
    }
    for name in none[kind]:
        if given[name]:
            raise ValueError(f"{name}: found {given[name]!r}, {model} is a {kind}, which has none")
    if kind == "folder" and not (source / given["subfolder"]).is_dir():
        named = ", ".join(EMBEDDED)
        raise ValueError(
            f"model: {Path(model) / given['subfolder']} is not a folder; give a folder, a hub id, or one of {named}"
        )


def _moved(pipe: Any, device: torch.device, model: str) -> Any:
    """``pipe`` on ``device``; ``ValueError`` where that cannot be used, or is too small for ``model``."""
    try:
        return pipe.to(device)
    except RuntimeError as error:
        if out_of_memory(error):
            raise ValueError(
                f"device: {model} does not fit into the memory of {str(device)!r}; load its pipeline with diffusers, "
                "call its enable_model_cpu_offload(), and give it to dpid.Explainer"
            ) from error
        raise ValueError(f"device: {str(device)!r} cannot be used: {str(error).splitlines()[0]}") from error


def _typed(dtype: Any) -> dict[str, Any]:
    """The argument of diffusers for the type of weights, by the name that it has in this release."""
    from diffusers.pipelines import pipeline_utils

    return {"dtype" if hasattr(pipeline_utils, "_resolve_dtype") else "torch_dtype": dtype}


def _family_in(model: str, index: dict[str, Any], options: dict[str, Any]) -> type[Family]:
    """The family that explains the pipeline of ``index``, the content of a model_index.json, with a given ControlNet.

    ``TypeError`` for a name among ``options`` that is none of loading and no part of the pipeline, ``ValueError`` where
    there is no family, or something that it needs has neither a class in the index nor is given.
    """
    family = family_named(model, index)
    family = family if options.get("controlnet") is None else controlled(family)
    needed, listed = family.parts(), {part: kind[0] for part, kind in index.items() if isinstance(kind, list) and kind}
    for name in options:
        if name not in _PLACED and name not in listed and name not in needed:
            raise TypeError(f"{name}: is no option of loading, and {model} has no such part")
    lacking = [part for part in needed if options.get(part, listed.get(part)) is None]
    if lacking:
        raise ValueError(
            f"model: {model} comes without {', '.join(lacking)}, which a {family.pipelines[0]} needs; give them to "
            f"dpid.Explainer.from_pretrained: {', '.join(f'{part}=…' for part in lacking)}"
        )
    return family


def _from_folder(model: str, folder: Path, variant: str | None, dtype: Any, options: dict[str, Any]) -> Any:
    """The diffusers pipeline in ``folder``, which ``model`` stands for."""
    import diffusers
    from diffusers.utils import is_accelerate_available

    index = read_index(folder)
    family, variant = _family_in(model, index, options), check_folder(folder, index, options, variant)
    if dtype is None:
        given = getattr(options.get(family.network), "dtype", None)
        with _loading(model):
            dtype = family.dtype or given or own_type(folder / family.network, variant)
    unused = {"safety_checker": None, "requires_safety_checker": False} if "safety_checker" in index else {}
    with _loading(model):
        own = family is family_named(model, index)
        return getattr(diffusers, "DiffusionPipeline" if own else family.pipelines[0]).from_pretrained(
            folder, variant=variant, use_safetensors=True, low_cpu_mem_usage=is_accelerate_available(),
            **unused | _typed(dtype) | options,
        )  # fmt: skip


def _is_result(path: Path) -> bool:
    """Whether the safetensors file ``path`` has what :meth:`dpid.PIDResult.save` or that of words writes."""
    with _loading(path), safe_open(path, "pt") as opened:
        header = opened.metadata() or {}
    return "result" in header and not {"metadata", "words"}.isdisjoint(header)


def _from_file(path: Path, config: Any, dtype: Any, hub: dict[str, Any], options: dict[str, Any]) -> Any:
    """The diffusers pipeline of the single file ``path``, with the configuration of the pipeline ``config``."""
    import diffusers
    from diffusers.loaders.single_file_utils import fetch_diffusers_config
    from huggingface_hub import hf_hub_download

    if path.suffix == ".gguf":
        raise ValueError(
            f"model: {path} is a GGUF file, which has a network alone; load that with diffusers (from_single_file of "
            "its class, with a GGUFQuantizationConfig), and give dpid.Explainer a pipeline that has it"
        )
    if path.suffix != ".safetensors":
        raise ValueError(f"model: {path} is no .safetensors file; other kinds can run code when they are read")
    if _is_result(path):
        raise ValueError(f"model: {path} is a result of dpid, and no checkpoint of a model")
    with _loading(path):
        weights = {name: torch.empty(shape, device="meta") for name, shape in shapes(path).items()}
        config = config or fetch_diffusers_config(weights)["pretrained_model_name_or_path"]
    if not Path(config).is_dir():
        others = "dpid.Explainer.from_pretrained takes another as config="
        with _loading(f"the configuration {config} of {path} ({others})"):
            index = read_index(Path(hf_hub_download(str(config), "model_index.json", **hub)).parent)
    else:
        index = read_index(Path(config))
    family = _family_in(str(path), index, options)
    with _loading(path):
        pipe = getattr(diffusers, family.pipelines[0]).from_single_file(
            str(path), config=str(config), **_typed(dtype or family.dtype or type_of([path])) | hub | options
        )
    pipe.register_to_config(_name_or_path=str(path))  # which diffusers stores of folders alone
    return pipe
