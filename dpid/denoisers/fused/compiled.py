"""The fused UNet compiled by ``torch.compile`` as one graph; its first answer is compared with the UNet's own."""

from __future__ import annotations

from collections.abc import Callable
from types import FunctionType
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from dpid.denoisers.modes import TOLERANCE, relative_difference

_OF_COMPILER = ("torch._dynamo.exc", "torch._inductor.exc")  # where torch keeps what its compiler raises
_MOST = 8  # shapes, as many as torch compiles of one piece of code


class Compiled:
    """A callable that computes ``function(*args)``, compiled where a batch is of a size that is worth it.

    That is the first batch, and later ones of other shapes if they are at least half as large as the largest before;
    others, such as the last batch of a run, are computed by ``function`` itself. Shapes as variables would take the
    compiler many times as long. What inductor makes of a graph is in its cache on disk, for other processes too.

    Parameters
    ----------
    function : takes trees of tensors, the first of them latents [M,C,h,w], and returns a tensor [K,M,C,h,w]
    same : a function that computes the same and is compiled in its place
    precision : the type that it computes in

    Raises
    ------
    RuntimeError, ValueError
        In a call: it could not be compiled; the first answer for a shape is not that of ``function``.
    """

    def __init__(self, function: Callable[..., Tensor], same: Callable[..., Tensor], precision: str) -> None:
        self._function, self._tolerance = function, TOLERANCE[precision]
        self._compiled = torch.compile(_with_own_code(same), fullgraph=True, dynamic=False)
        self._shapes: set[tuple[Any, ...]] = set()
        self._largest = 0

    def __call__(self, *args: Any) -> Tensor:
        """The result of ``function``."""
        shapes = tuple(leaf.shape if isinstance(leaf, Tensor) else leaf for leaf in tree_leaves(args))
        if shapes in self._shapes:
            out: Tensor = self._compiled(*args)
            return out
        expected = self._function(*args)
        if len(self._shapes) < _MOST and 2 * expected.numel() >= self._largest:
            self._check(self._first(args), expected)
            self._shapes.add(shapes)
            self._largest = max(self._largest, expected.numel())
        return expected

    def _first(self, args: tuple[Any, ...]) -> Tensor:
        """The compiled answer to ``args``, of a new shape."""
        try:
            out: Tensor = self._compiled(*args)
        except Exception as error:
            if type(error).__module__ not in _OF_COMPILER:
                raise
            reason = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
            raise RuntimeError(f"compile: torch.compile failed, go on without it: {reason[:300]}") from error
        return out

    def _check(self, out: Tensor, expected: Tensor) -> None:
        found = relative_difference(out, expected)
        if not found <= self._tolerance and expected.isfinite().all():
            raise ValueError(f"compile: what was compiled differs by {found:.1e} from the network; go on without")


def _with_own_code(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """``function`` as one whose code is an object of its own.

    torch counts what it has compiled by code, and refuses after eight: those of other networks would count too.
    """

    def call(*args: Any) -> Tensor:
        return function(*args)

    return FunctionType(call.__code__.replace(), call.__globals__, closure=call.__closure__)
