"""Calls a network through CUDA graphs, one for every shape of its input, captured at the first use.

A UNet call launches a thousand kernels; at small batches the host takes longer to launch them than the device to run
them. Without CUDA, or if a capture fails, the network is called directly.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map

from dpid.device import current, is_gpu, recording, side_stream

_MOST = 3  # graphs kept, each with memory of its own: for full batches, for the last one of a run, for single samples
_LOG = logging.getLogger("dpid")


@dataclass
class _Captured:
    graph: Any
    changing: Any
    constant: Any
    out: Tensor
    source: Any  # the caller's object whose values ``constant`` holds


def _clone(tree: Any) -> Any:
    return tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


def _copy(into: Any, tree: Any) -> None:
    for old, new in zip(tree_leaves(into), tree_leaves(tree), strict=True):
        if isinstance(old, Tensor):
            old.copy_(new)


def _shapes(tree: Any) -> tuple[Any, ...]:
    return tuple((leaf.shape, leaf.dtype) if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(tree))


class Graphed:
    """A callable that computes ``function(changing, constant)`` by CUDA graphs; arguments are trees of tensors."""

    def __init__(self, function: Callable[[Any, Any], Tensor]) -> None:
        self.function = function
        self._captured: dict[Any, _Captured] = {}
        self._usable = True

    def __call__(self, changing: Any, constant: Any) -> Tensor:
        """The result of ``function``; ``constant`` is copied only if it is another object than in the last call."""
        device = next(leaf.device for leaf in tree_leaves(changing) if isinstance(leaf, Tensor))
        if not is_gpu(device) or not self._usable:
            return self.function(changing, constant)
        with current(device):
            captured = self._of(changing, constant)
            if captured is None:
                return self.function(changing, constant)
            _copy(captured.changing, changing)
            if captured.source is not constant:
                _copy(captured.constant, constant)
                captured.source = constant
            captured.graph.replay()
            return captured.out.clone(memory_format=torch.contiguous_format)  # of a transposed view, too

    def drop(self) -> None:
        """Forget all graphs, whose memory others can have then; they are captured again when they are needed."""
        self._captured.clear()

    def _of(self, changing: Any, constant: Any) -> _Captured | None:
        """The graph for arguments of these shapes, captured if there is none yet; None if the capture fails."""
        shape = (_shapes(changing), _shapes(constant))
        if captured := self._captured.pop(shape, None):
            self._captured[shape] = captured  # moved to the end: the first one is the least recently used
            return captured
        while len(self._captured) >= _MOST:
            del self._captured[next(iter(self._captured))]
        try:
            captured = self._capture(changing, constant)
        except torch.OutOfMemoryError:
            self.drop()
            raise
        if captured:
            self._captured[shape] = captured
        self._usable = captured is not None
        return captured

    def _capture(self, changing: Any, constant: Any) -> _Captured | None:
        """A new graph; None, with a logged warning, if it cannot be captured."""
        static = _clone(changing), _clone(constant)
        device = tree_leaves(static)[0].device
        # Warm-up: the first calls choose algorithms and allocate workspaces, which no capture may contain.
        with side_stream(device):
            for _ in range(2):
                self.function(*static)
        try:
            with recording(device) as graph:
                out = self.function(*static)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            _LOG.warning("CUDA graph capture failed, going on without: %s", str(error).splitlines()[0])
            return None
        return _Captured(graph, *static, out, constant)
