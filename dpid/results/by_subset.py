"""Dictionaries of what is known of concepts and of their subsets, whose errors name the keys that there are."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from dpid.prompts.plan import Subset

Value = TypeVar("Value")
_LISTED = 15  # keys that an error names: those of four concepts


def _unknown(kind: str, name: object, keys: list[str]) -> KeyError:
    told = ", ".join(keys[:_LISTED]) + (", …" if len(keys) > _LISTED else "")
    return KeyError(f"{kind}: found {name!r}, allowed are {told}")


class ByName(dict[str, Value]):
    """{concept or word: value}; ``KeyError`` for anything else names the keys."""

    def __missing__(self, name: object) -> Value:
        raise _unknown("name", name, list(self))


class BySubset(dict[Subset, Value]):
    """{subset: value}, where "cow", "cow+giraffe", and a subset in another order find the value, too.

    ``KeyError`` for anything else names the keys. ``in`` and ``get`` know the subsets alone, as those of every dict.
    """

    def __missing__(self, name: object) -> Value:
        for subset, value in self.items():
            if _names(name, subset):
                return value
        raise _unknown("subset", name, ["+".join(subset) for subset in self])

    if TYPE_CHECKING:  # that a text may be asked for

        def __getitem__(self, name: Subset | str, /) -> Value: ...


def _names(name: object, subset: Subset) -> bool:
    """Whether ``name`` means ``subset``: "giraffe+cow" or ("giraffe", "cow") for ("cow", "giraffe")."""
    if isinstance(name, str):  # a concept may itself have a "+"
        return _parts(name) == _parts("+".join(subset))
    return isinstance(name, (tuple, frozenset)) and len(name) == len(subset) and set(name) == set(subset)


def _parts(name: str) -> list[str]:
    return sorted(part.strip() for part in name.split("+"))
