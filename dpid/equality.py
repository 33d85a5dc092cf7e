"""Equality and hash of dataclasses with tensors, which the dataclasses' own do not support."""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor


def key(value: Any) -> Hashable:
    """A hashable key that two values share if and only if they are equal; tensors bit by bit, on any device."""
    if isinstance(value, Tensor):
        if value.is_sparse:
            entries = value.detach().coalesce()
            return tuple(value.shape), key(entries.indices()), key(entries.values())
        return (
            str(value.dtype),
            tuple(value.shape),
            value.detach().cpu().contiguous().view(-1).view(torch.uint8).numpy().tobytes(),
        )
    if isinstance(value, Comparable):
        return value
    if isinstance(value, Mapping):
        return frozenset((key(k), key(v)) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return tuple(key(v) for v in value)
    return value  # type: ignore[no-any-return]


class Comparable:
    """A base class that gives dataclasses (``eq=False``) with tensors equality, a hash, and pickling.

    Two objects are equal if they have the same class and equal fields, except those with ``compare=False``. Tensors are
    equal if all bits are, so that NaN equals NaN. Cached properties are not pickled.
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
