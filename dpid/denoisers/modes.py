"""Contexts that fix torch's global settings while a network computes and restore the caller's settings afterwards."""

from __future__ import annotations

import os
import sys
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from textwrap import shorten
from typing import Any

import torch
from torch import Tensor, nn

from dpid.device import default_device, shared, without_autocast

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# The largest relative difference at which a faster implementation of a network is used. In float32 only the order of
# additions differs; in float16 and bfloat16 a few roundings (2⁻¹¹, 2⁻⁸) add up over a network of a hundred layers.
TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
_IMPORTED_IN = os.getpid()
_LOCKS: weakref.WeakKeyDictionary[nn.Module, Any] = weakref.WeakKeyDictionary()  # pipelines may share a module


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """‖found - expected‖ / ‖expected‖; compare it by "<=" rather than "not >", so that NaN is a difference."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())


def check_precision(precision: str, *allowed: str) -> None:
    """Raise ``ValueError`` unless ``precision`` is ``allowed``; by default "auto" and all of ``PRECISIONS`` are."""
    allowed = allowed or ("auto", *PRECISIONS)
    if precision not in allowed:
        raise ValueError(f"precision: found {precision!r}, allowed are {', '.join(allowed)}")


def usable_device(device: str | None) -> torch.device:
    """The device named ``device``, by default the fastest of this machine; ``ValueError`` if it cannot be used."""
    try:
        chosen = default_device() if device is None else torch.device(device)
    except Exception as error:  # of a text that names none, of another type
        raise ValueError(f"device: found {device!r}, allowed are cpu, cuda, cuda:1, …") from error
    try:
        probe = torch.zeros(1, dtype=torch.float64).to(chosen)  # log-SNRs are float64, which Apple's GPUs have not
        probe.cpu()  # fails on "meta", whose tensors have no values
    except Exception as error:  # torch raises many kinds for this
        reason = shorten(str(error).strip().partition("\n")[0], 160, placeholder=" …")
        raise ValueError(f"device: {device!r} cannot be used: {reason}") from error
    return probe.device  # with its number: another thread may have another current GPU


@contextmanager
def undisturbed() -> Iterator[None]:
    """A context in which results do not depend on the caller's torch modes.

    Autocast, inference mode, gradients and the default device are off inside, for this thread only. In a process that
    was forked after dpid was imported, torch is set to one thread: its thread pool does not survive a fork, and waiting
    for it would never end.
    """
    with ExitStack() as modes:
        modes.enter_context(torch.inference_mode(False))
        modes.enter_context(torch.no_grad())
        modes.enter_context(without_autocast())
        if torch.get_default_device().type != "cpu":
            modes.enter_context(torch.device("cpu"))
        if os.getpid() != _IMPORTED_IN and torch.get_num_threads() > 1:
            torch.set_num_threads(1)
        yield


@contextmanager
def hooks_kept(*modules: nn.Module) -> Iterator[None]:
    """A context after which ``modules`` have no other forward hooks than before.

    The first call of a text encoder that asks for all hidden states installs hooks on its layers, which stay, and which
    cannot be pickled; a flag says that they are there. The first run of a pipeline that can cache what its network
    computes leaves a registry of diffusers' own hooks.
    """
    parts = [m for module in modules for m in module.modules()]
    before = [(m, set(m._forward_hooks), set(vars(m))) for m in parts]
    try:
        yield
    finally:
        for m, hooks, attributes in before:
            for hook in set(m._forward_hooks) - hooks:
                del m._forward_hooks[hook]
            for name in {"_output_capturing_hooks_installed", "_diffusers_hook"} - attributes:
                vars(m).pop(name, None)


@contextmanager
def types_kept(*modules: nn.Module) -> Iterator[None]:
    """A context after which the weights of ``modules`` have the types of before.

    Some pipelines (AuraFlow) leave a VAE that overflows in float16 in float32, which holds all numbers that it had.
    """
    before = {place: tensor.dtype for place, tensor in _tensors(modules)}
    try:
        yield
    finally:
        for place, tensor in _tensors(modules):
            if tensor.dtype != before.get(place, tensor.dtype):
                tensor.data = tensor.data.to(before[place])


def _tensors(modules: Iterable[nn.Module]) -> Iterator[tuple[tuple[nn.Module, str], Tensor]]:
    """The parameters and buffers of ``modules`` by their place, since accelerate puts others there."""
    for part in (part for module in modules for part in module.modules()):
        for name, tensor in {**part._parameters, **part._buffers}.items():
            if tensor is not None:
                yield (part, name), tensor


def _hooks(module: nn.Module) -> Iterator[Any]:
    """The hooks of accelerate on ``module`` and its parts, and those of diffusers' own group offloading."""
    for part in module.modules():
        if hasattr(part, "_hf_hook"):
            yield from getattr(part._hf_hook, "hooks", (part._hf_hook,))
        kept = getattr(getattr(part, "_diffusers_hook", None), "hooks", {})
        yield from (kept[name] for name in kept if "group_offloading" in name)


def is_offloaded(module: nn.Module) -> bool:
    """Whether hooks bring the weights of ``module``, or of its parts, or its inputs to the device that computes."""
    return any(True for _ in _hooks(module))


def moves_weights(module: nn.Module) -> bool:
    """Whether the weights of ``module`` are brought: those of a device map may stay, and inputs come to them."""
    return any(getattr(hook, "offload", True) for hook in _hooks(module))


@contextmanager
def taking_turns(parts: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which no other thread is in that of one of ``parts``, which are not thread-safe."""
    with ExitStack() as held:
        for part in sorted(parts, key=id):  # in one order everywhere, so that no two wait for each other
            held.enter_context(_LOCKS.setdefault(part, threading.RLock()))
        yield


@contextmanager
def as_written() -> Iterator[None]:
    """A context in which networks that the user has compiled run as they are written.

    Compiling them for the small inputs of a check would take minutes.
    """
    stance = getattr(torch.compiler, "set_stance", None)  # since torch 2.6
    if stance is None or "torch._dynamo" not in sys.modules:  # a second to import, and without it nothing is compiled
        yield
        return
    with shared("stance of torch.compile", partial(stance, "force_eager")):
        yield


@contextmanager
def evaluating(*modules: nn.Module) -> Iterator[None]:
    """A context with ``modules`` in evaluation mode and inference mode on; training flags are restored at its end."""
    flags = [(m, m.training) for module in modules for m in module.modules() if m.training]
    for module, _ in flags:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, flag in flags:
            module.training = flag
