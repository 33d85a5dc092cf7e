"""What is done to a network block by block while it computes; afterwards the network is as it was."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

_UNSET = object()  # of an attribute that the class has, and the object not
_HALF = (torch.float16, torch.bfloat16)
# Packages whose modules compute in the type of their parameters; quantised layers, for example, do not.
_KNOWN = ("torch.nn.modules.", "diffusers.", "peft.")
ROUNDS = (
    "quantised layers round what they are given, and what that adds is not known; of a pipeline in a half type "
    "(torch_dtype=torch.bfloat16) it is corrected"
)


def blocks_of(net: nn.Module) -> list[nn.Module]:
    """The blocks of a network, in which nearly all of its weights lie: what is in lists among its parts."""
    return [block for part in net.children() if isinstance(part, nn.ModuleList) for block in part]


@contextmanager
def in_float32(*nets: nn.Module) -> Iterator[None]:
    """A context in which ``nets`` compute in float32 with weights of half as many bits, which float32 holds exactly.

    Layers that are quantised compute with the weights that they stand for. Blocks are converted one by one, each while
    it runs, so that a network of 24 GB needs a few hundred MB more. The user's tensors themselves are put back. Not
    thread-safe.
    """
    modules, blocks = ([part for net in nets for part in parts(net)] for parts in (nn.Module.modules, blocks_of))
    inside = {module for block in blocks for module in block.modules()}
    with ExitStack() as stack:
        # A compiled block would not notice that something is to be done before it runs.
        stack.enter_context(not_compiled(modules))
        stack.enter_context(_attending_natively(modules))
        stack.enter_context(_converted([module for module in modules if module not in inside]))
        for block in blocks:
            stack.enter_context(_converted_while_running(block))
        yield


@contextmanager
def _attending_natively(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A context in which ``modules`` attend by torch's own function; many backends of diffusers take no float32."""
    name = "_attention_backend"  # None stands for the backend that was set last, on any network
    processors = [getattr(module, "processor", None) for module in modules]
    before = [(vars(p), vars(p).get(name, _UNSET)) for p in processors if hasattr(p, name)]
    try:
        for own, _ in before:
            own[name] = "native"
        yield
    finally:
        for own, backend in before:
            if backend is _UNSET:
                del own[name]
            else:
                own[name] = backend


def is_quantised_linear(module: nn.Module) -> bool:
    """Whether ``module`` is a linear layer quantised by bitsandbytes, which :func:`in_float32` knows."""
    return type(module).__module__.startswith("bitsandbytes.") and hasattr(module, "in_features")


def unconvertible(net: nn.Module) -> Iterator[tuple[nn.Module, str]]:
    """The modules of ``net`` that compute in other types than those of their parameters, each with how."""
    for name, module in net.named_modules():
        kind = type(module)
        if not kind.__module__.startswith(_KNOWN):
            yield module, f"{name or 'it'} is a {kind.__module__.split('.')[0]} {kind.__name__}"
        for part, p in module.named_parameters(name, recurse=False):
            if not p.is_floating_point() or p.element_size() < 2 or type(p.data) is not Tensor or p.is_meta:
                plain = type(p.data) is Tensor
                yield module, f"{part} is stored as {p.dtype}" if plain else f"{part} is quantised"


def _dequantised(layer: nn.Module) -> Callable[[Tensor], Tensor]:
    """What a quantised linear ``layer`` would compute in float32, without rounding what it is given.

    Its weights are its answer to the rows of the identity, which bitsandbytes rounds to themselves; how they are stored
    depends on the release and the device.
    """
    bias, weight = layer.bias, layer.weight
    # Eight bits are multiplied in float16 whatever they are given, four bits in the type that the layer names.
    kind = torch.float32 if hasattr(layer, "compute_dtype") else torch.float16
    layer._parameters["bias"] = None
    try:
        rows = layer(torch.eye(int(layer.in_features), dtype=kind, device=weight.device))  # type: ignore[arg-type]
    finally:
        layer._parameters["bias"] = bias  # type: ignore[assignment]
    return partial(nn.functional.linear, weight=rows.float().T, bias=bias)  # type: ignore[arg-type]


def compiled(net: nn.Module) -> dict[nn.Module, Any]:
    """{block: its call, compiled by torch at first use} of a network's blocks, but for those that are compiled already.

    Blocks of one class share what is compiled, so that it takes seconds; for :func:`calling`.
    """
    return {block: torch.compile(block._call_impl) for block in blocks_of(net) if block._compiled_call_impl is None}


@contextmanager
def calling(what: Mapping[nn.Module, Any]) -> Iterator[None]:
    """A context in which a module is called by ``what``, {module: compiled function}, None for its Python code."""
    before = {module: module._compiled_call_impl for module in what}
    try:
        for module, function in what.items():
            module._compiled_call_impl = function
        yield
    finally:
        for module, function in before.items():
            module._compiled_call_impl = function


def not_compiled(modules: Iterable[nn.Module]) -> AbstractContextManager[None]:
    """A context in which those of ``modules`` that are compiled run their Python code."""
    return calling({module: None for module in modules if module._compiled_call_impl is not None})


@contextmanager
def _converted(modules: list[nn.Module]) -> Iterator[None]:
    """A context in which the parameters and buffers of ``modules`` themselves, not of their parts, are in float32."""
    before: list[tuple[dict[str, Any], str, Tensor]] = []
    try:
        for module in modules:
            tensors: tuple[dict[str, Any], ...] = (module._parameters, module._buffers)
            for held in tensors:
                for name, tensor in held.items():
                    if tensor is not None and tensor.dtype in _HALF:
                        before.append((held, name, tensor))
                        held[name] = tensor.detach().float()
        with calling({module: _dequantised(module) for module in modules if is_quantised_linear(module)}):
            yield
    finally:
        for held, name, tensor in before:
            held[name] = tensor


@contextmanager
def _converted_while_running(block: nn.Module) -> Iterator[None]:
    """A context in which ``block`` is in float32 whenever it runs."""
    running = ExitStack()

    def start(*_: Any) -> None:
        running.enter_context(_converted(list(block.modules())))

    def stop(*_: Any) -> None:
        running.close()

    hooks = (block.register_forward_pre_hook(start), block.register_forward_hook(stop, always_call=True))
    try:
        yield
    finally:
        running.close()
        for hook in hooks:
            hook.remove()
