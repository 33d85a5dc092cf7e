"""Values that hold tensors, compared and hashed as a whole."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def key(value: Any) -> Hashable:
    """What two values share if and only if they are equal; tensors bit by bit, wherever they are."""
    if isinstance(value, Tensor):
        dense = value.detach().to_dense() if value.layout != torch.strided else value.detach()
        return (
            str(value.dtype),
            tuple(value.shape),
            dense.cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, Comparable):
        return value
    if isinstance(value, Mapping):
        return frozenset((key(k), key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(key(v) for v in value)
    return value  # type: ignore[no-any-return]


class Comparable:
    """Equality, hash and pickling of a dataclass (``eq=False``) whose fields hold tensors.

    Equal are those of one class with equal fields, but for fields of ``compare=False``; tensors with the same bits, of
    which NaN is one. What is computed from the fields and kept is not pickled.
    """

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        return type(self) is type(other) and all(
            key(getattr(self, name)) == key(getattr(other, name)) for name in self._compared()
        )

    def __hash__(self) -> int:
        return hash(tuple(key(getattr(self, name)) for name in self._compared()))

    def _compared(self) -> list[str]:
        return [f.name for f in fields(self) if f.compare]  # type: ignore[arg-type]

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # type: ignore[arg-type]
