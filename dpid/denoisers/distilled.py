"""What tells by configuration and names that a network was distilled to a few steps, and which networks are refused.

Such a network answers with the end of a path of many steps, or with a sharp picture: a draw, where explanations in nats
need the posterior mean. What leaves no trace here shows in :mod:`dpid.results.diagnostics`, such as a Flux.1 schnell
without its name: in it ``guidance_embeds`` is False, but so it is where its distillation was trained away (OpenFLUX.1,
LibreFLUX).
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from typing import Any

_CONSISTENCY = "consistency distillation trained it to answer with the end of a guided path, which is no mean"
_SHARP = "it was trained to end at a sharp picture after a few steps, which is a draw and no mean"
_JUMPS = "distillation trained it to jump between a few noise levels, and where a jump ends is no mean"
# By schedulers that are for nothing else, and by words in the names of pipelines and adapters.
_SCHEDULERS = {
    "LCMScheduler": _CONSISTENCY, "FlowMatchLCMScheduler": _CONSISTENCY, "TCDScheduler": _CONSISTENCY,
}  # fmt: skip
_WORDS = {
    "lcm": _CONSISTENCY, "tcd": _CONSISTENCY, "pcm": _CONSISTENCY,
    "turbo": _SHARP, "schnell": _SHARP, "dmd": _SHARP, "flash": _SHARP,
    "lightning": _JUMPS, "hyper": _JUMPS,
}  # fmt: skip
# Words that mean something else in other families, by the beginning of the pipeline's class.
_OWN = {
    "HiDream": {"dev": _SHARP, "fast": _SHARP}, "HunyuanDiT": {"distilled": _JUMPS}, "LTX": {"distilled": _SHARP},
}  # fmt: skip
# Everyday words, too ("hyper_detail", "flash_photography"): they count at the end of a name, or before what goes on
# about a model and not about a subject.
_EVERYDAY = {"flash", "hyper", "lightning"}
_OF_MODELS = {
    "sd", "sdxl", "xl", "flux", "pixart", "qwen", "wan", "chroma",
    "lora", "loras", "unet", "transformer", "model", "vae", "bakedvae", "inpaint", "inpainting", "v", "fp", "bf", "r",
    "rank", "mini", "high", "low", "heun", "dpmsde", "by",
}  # fmt: skip
_STEPS = re.compile(r"(?<!\d)\d{1,2}[-_ ]?steps?(?![a-z])", re.IGNORECASE)  # "4step_lora", not "100000-steps"
_PART = re.compile(r"[A-Z]?[a-z]+|[A-Z]+(?![a-z])")  # of "DreamShaperXL_Turbo", "SDXL-Lightning", "lcm-lora"


def distilled(pipe: Any, net: Any) -> str:
    """One sentence on why the predictions of the network ``net`` of ``pipe`` are no means; "" if nothing says so."""
    scheduler = type(pipe.scheduler).__name__
    if scheduler in _SCHEDULERS:
        return f"the scheduler is a {scheduler}: {_SCHEDULERS[scheduler]}"
    if getattr(net.config, "time_cond_proj_dim", None):
        return f"the network takes its guidance as an input (time_cond_proj_dim): {_CONSISTENCY}"
    if pipe.config.get("is_distilled"):
        return f"the pipeline's configuration says is_distilled: {_SHARP}"
    kinds = (own for kind, own in _OWN.items() if type(pipe).__name__.startswith(kind))
    words = _WORDS | next(kinds, {})
    for kind, name in _names(pipe, net):
        parts = _PART.findall(name)
        for part, after in zip(parts, [*parts[1:], ""], strict=False):
            everyday = part.lower() in _EVERYDAY and after and after.lower() not in _OF_MODELS
            if part.lower() in words and not everyday:
                return f"{part!r} in the {kind} {name!r}: {words[part.lower()]}"
        if found := _STEPS.search(name):
            return f"{found[0]!r} in the {kind} {name!r}: {_JUMPS}"
    return ""


def _names(pipe: Any, net: Any) -> Iterator[tuple[str, str]]:
    """(what has it, name) of the pipeline, of its network, and of the adapters that are active."""
    for owner in (pipe, net):
        for path in (getattr(owner, "name_or_path", ""), owner.config.get("_name_or_path", "")):
            yield from (("name", name) for name in _last(str(path or "")))
    configs = getattr(net, "peft_config", None) or {}
    layers = (module for module in net.modules() if hasattr(module, "active_adapters"))
    active = {name for layer in layers if not layer.disable_adapters for name in layer.active_adapters}
    for name in sorted(active):
        yield "adapter", name
        path = getattr(configs.get(name), "base_model_name_or_path", None)
        yield from (("adapter", part) for part in _last(str(path or "")))


def _last(path: str) -> Iterator[str]:
    """What names the model in a path or hub id: its end, and the folder of the hub's cache. Others are the user's."""
    parts = re.split(r"[/\\]+", path.rstrip("/\\").removesuffix(".safetensors"))
    yield parts[-1]
    yield from (part.rpartition("--")[2] for part in parts[:-1] if part.startswith("models--"))


def check_parametrisation(pipe: Any, net: Any) -> None:
    """``ValueError`` if the network predicts what no noise follows from at one level: a mean flow, a TrigFlow."""
    scheduler = type(pipe.scheduler).__name__
    if scheduler == "SCMScheduler":
        found = "is made for an SCMScheduler (TrigFlow, as in Sana Sprint)"
    elif type(net).__name__ == "SanaTransformer2DModel" and net.config.get("guidance_embeds"):
        found = "is that of Sana Sprint (TrigFlow)"
    elif net.config.get("use_meanflow") or _needs_two_times(net):
        found = "predicts the mean velocity between two times (mean flow)"
    else:
        return
    raise ValueError(
        f"pipe: the network of {type(pipe).__name__} {found}, from which the noise at one level does not follow; "
        "take the model that it was distilled from"
    )


def _needs_two_times(net: Any) -> bool:
    second = inspect.signature(net.forward).parameters.get("timestep_r")
    return second is not None and second.default is inspect.Parameter.empty
