"""Everything that depends on the kind of device (CPU or CUDA): memory, streams, graphs, arithmetic settings."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Hashable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache, partial, wraps
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor

Launch = TypeVar("Launch", bound=Callable[..., Any])
_GRAPHS = threading.RLock()  # held while a graph is prepared, on a stream that all threads share
_SETTINGS = threading.Lock()  # of torch, which all threads share, too
_HELD: dict[Hashable, tuple[int, AbstractContextManager[Any]]] = {}  # {settings: (threads inside, what sets them)}


def is_gpu(device: torch.device) -> bool:
    """Whether ``device`` is a GPU that dpid has kernels for."""
    return device.type == "cuda"


def default_device() -> torch.device:
    """The default device: the current GPU if there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def gpu_names() -> list[str]:
    """The names of all GPUs of this machine."""
    return [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]


def has_bfloat16(device: torch.device) -> bool:
    """Whether ``device``, a GPU, computes bfloat16 in hardware."""
    with torch.cuda.device(device):
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))


def free_memory(device: torch.device) -> int:
    """Bytes available for new tensors on ``device``; on a GPU including memory that torch has reserved."""
    if not is_gpu(device):
        return int(psutil.virtual_memory().available)
    held = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
    return int(torch.cuda.mem_get_info(device)[0]) + held


def peak_memory(device: torch.device) -> int:
    """The most bytes in use so far: by this process's tensors on a GPU, else by the process."""
    if is_gpu(device):
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return int(psutil.Process().memory_info().peak_wset)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def out_of_memory(error: RuntimeError) -> bool:
    """Whether ``error`` says that a device has no memory left."""
    # On the CPU it is a plain RuntimeError: "[enforce fail at alloc_cpu.cpp] … can't allocate memory"; so is the
    # engine's own, "out of memory at one evaluation".
    said = any(words in str(error) for words in ("allocate memory", "out of memory"))
    return isinstance(error, torch.OutOfMemoryError) or said


def stream_of(device: torch.device) -> int:
    """The address of torch's current stream on ``device``, a GPU."""
    return torch.cuda.current_stream(device).cuda_stream


def wait_for(device: torch.device) -> None:
    """Return once ``device`` has done all that it was given; a CPU does it at once."""
    if is_gpu(device):
        torch.cuda.synchronize(device)


@contextmanager
def current(device: torch.device) -> Iterator[None]:
    """A context in which ``device``, a GPU, is the current one."""
    with torch.cuda.device(device):
        yield


def on_device(launch: Launch) -> Launch:
    """``launch`` as a function that makes the device of its first tensor the current one while it runs."""

    @wraps(launch)
    def launch_on_device(first: Tensor, *rest: Any) -> Any:
        if not is_gpu(first.device) or first.device.index == torch.cuda.current_device():
            return launch(first, *rest)  # a guard costs more than the launch
        with current(first.device):
            return launch(first, *rest)

    return launch_on_device  # type: ignore[return-value]


@cache
def _stream_for_graphs(device: torch.device) -> Any:
    """The stream of ``device`` on which graphs are prepared: cuBLAS keeps memory for every stream that it has seen."""
    return torch.cuda.Stream(device)


@contextmanager
def side_stream(device: torch.device) -> Iterator[None]:
    """A context with a stream of its own, ordered after all earlier and before all later kernels of the current one."""
    stream = _stream_for_graphs(device)
    with _GRAPHS:
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream(device).wait_stream(stream)


@contextmanager
def recording(device: torch.device) -> Iterator[Any]:
    """A context that captures kernels of ``device``, without running them, in a CUDA graph, which is its value.

    Other threads may allocate memory meanwhile. The stream torch would take is of the GPU that it captured on first.
    """
    graph, before = torch.cuda.CUDAGraph(), torch.cuda.current_stream(device)
    with _GRAPHS:
        try:
            with torch.cuda.graph(graph, stream=_stream_for_graphs(device), capture_error_mode="thread_local"):
                yield graph
        finally:
            torch.cuda.set_stream(before)  # which a capture that fails does not


@contextmanager
def without_autocast() -> Iterator[None]:
    """A context in which autocast is off on every kind of device."""
    with ExitStack() as stack:
        for kind in ("cpu", "cuda"):
            if torch.is_autocast_enabled(kind):
                stack.enter_context(torch.autocast(kind, enabled=False))
        yield


@contextmanager
def exact_float32() -> Iterator[None]:
    """A context in which float32 operations use full precision; the settings are restored at its end.

    By default torch's convolutions on a GPU round their input to TF32's 10 bits; matrix products do so if enabled, and
    on a CPU to bfloat16 by ``torch.set_float32_matmul_precision("medium")``.
    """
    backends: Any = torch.backends
    if hasattr(backends.cuda.matmul, "fp32_precision"):  # since torch 2.9
        where = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
        settings: list[tuple[Any, str, Any]] = [(owner, "fp32_precision", "ieee") for owner in where]
    else:  # where that of matrix products is the CPU's setting, too
        settings = [(owner, "allow_tf32", False) for owner in (backends.cudnn, backends.cuda.matmul)]
    with _set(settings):
        yield


@contextmanager
def repeatable() -> Iterator[None]:
    """A context in which cuDNN uses only algorithms that give the same bits in every call; restored at its end.

    Some of those for transposed convolutions add in an order that changes, and a search for the fastest may end
    otherwise in another thread.
    """
    cudnn = torch.backends.cudnn
    with _set([(cudnn, "deterministic", True), (cudnn, "benchmark", False)]):
        yield


def _set(settings: Sequence[tuple[Any, str, Any]]) -> AbstractContextManager[None]:
    """A context in which ``settings`` of torch, (owner, name, value), hold, in all threads."""
    return shared(tuple((id(owner), name) for owner, name, _ in settings), partial(_assigned, settings))


@contextmanager
def _assigned(settings: Sequence[tuple[Any, str, Any]]) -> Iterator[None]:
    before = [getattr(owner, name) for owner, name, _ in settings]
    for owner, name, value in settings:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for (owner, name, _), value in zip(settings, before, strict=True):
            setattr(owner, name, value)


@contextmanager
def shared(key: Hashable, make: Callable[[], AbstractContextManager[Any]]) -> Iterator[None]:
    """A context in which one that ``make`` returns is entered, of all threads with this ``key`` together.

    The first of them enters it and the last leaves it: a setting that all threads share is then as it was again.
    """
    with _SETTINGS:
        depth, held = _HELD.get(key) or (0, make())
        if not depth:
            held.__enter__()
        _HELD[key] = depth + 1, held
    try:
        yield
    finally:
        with _SETTINGS:
            depth, held = _HELD.pop(key)
            if depth > 1:
                _HELD[key] = depth - 1, held
            else:
                held.__exit__(None, None, None)
