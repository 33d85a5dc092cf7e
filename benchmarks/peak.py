"""The memory that is alive at once."""

from __future__ import annotations

import weakref
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.utils import _pytree
from torch.utils._python_dispatch import TorchDispatchMode


def _storages(values: object) -> dict[int, int]:
    """{key: bytes} of the storages of all tensors in ``values``."""
    storages = [t.untyped_storage() for t in _pytree.tree_leaves(values) if isinstance(t, torch.Tensor)]
    return {storage._cdata: storage.nbytes() for storage in storages}


class Peak(TorchDispatchMode):
    """The largest number of bytes that tensors made within the context hold at once, ``peak``.

    Views of what there was before, such as weights, hold none.
    """

    def __init__(self) -> None:
        super().__init__()
        self.users: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(
        self, function: Any, types: object, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = _storages((args, kwargs))
        out = function(*args, **(kwargs or {}))
        for tensor in _pytree.tree_leaves(out):
            if not isinstance(tensor, torch.Tensor):
                continue
            ((key, size),) = _storages(tensor).items()
            users = self.users.get(key, 0)
            if key in given and not users:
                continue
            self.users[key] = users + 1
            self.now += 0 if users else size
            self.peak = max(self.peak, self.now)
            weakref.finalize(tensor, self._freed, key, size)
        return out

    def _freed(self, key: int, size: int) -> None:
        self.users[key] -= 1
        self.now -= size if self.users[key] == 0 else 0
