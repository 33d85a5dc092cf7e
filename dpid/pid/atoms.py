"""The result of a decomposition: the atoms, and from them redundancy, uniqueness and synergy."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from dpid.equality import Comparable
from dpid.pid.lattice import Sets, mask_of, members, ordered
from dpid.prompts.plan import Subset

Antichain = tuple[Subset, ...]

_SHOWN = 20  # most atoms that ``repr`` lists


@dataclass(frozen=True, eq=False, repr=False)
class Atoms(Comparable, Mapping[Antichain, Tensor]):
    """The atoms of i(x; y_1, …, y_n): a mapping from antichain to value [*], ``atoms[("cow",), ("giraffe",)]``.

    ``KeyError`` for what is no antichain of the concepts, or one that ``nodes`` does not list.

    Attributes
    ----------
    concepts : names of the n concepts
    nodes : the A antichains as tuples of bit masks, bottom of the lattice first. n ≤ 4: all; n > 4: those whose atom is
        not zero everywhere; none with ``coarse=True``
    flat : the atoms [A, P], P the number of values in [*]; for n > 4 a sparse tensor, coalesced
    coarse : redundancy, uniqueness of every concept, synergy [n+2, *] (docs/theory.md, eq. (33))
    information : {S: f(S) [*]}, which the atoms add up to; averaged where the measure averages
    residual : {S: sum of the atoms below {S}, less f(S)}, for n > 4 and an f that is not monotone (docs/theory.md,
        eq. (35)); empty for n ≤ 4, where it is zero
    unit : "nats" or "bits"
    """

    concepts: tuple[str, ...]
    nodes: Sequence[Sets]
    flat: Tensor
    coarse: Tensor
    information: Mapping[Subset, Tensor]
    residual: Mapping[Subset, Tensor]
    unit: str = "nats"

    @property
    def redundancy(self) -> Tensor:
        """Redundancy [*]: information that two or more concepts carry, each of them alone."""
        return self.coarse[0]

    @property
    def unique(self) -> dict[str, Tensor]:
        """Uniqueness {concept: [*]}: information that the concept carries alone and no other carries alone."""
        return dict(zip(self.concepts, self.coarse[1:-1], strict=True))

    @property
    def synergy(self) -> Tensor:
        """Synergy [*]: information that no concept carries alone."""
        return self.coarse[-1]

    @cached_property
    def _at(self) -> dict[Sets, int]:
        """{antichain: its row of ``flat``}."""
        return {node: i for i, node in enumerate(self.nodes)}

    @cached_property
    def _rows(self) -> Tensor:
        """[A + 1]: where the entries of every row of a sparse ``flat`` begin, and where the last ones end."""
        rows = torch.arange(len(self.flat) + 1, device=self.flat.device)
        return torch.searchsorted(self.flat.indices()[0].contiguous(), rows)

    def _name(self, node: Sets) -> Antichain:
        """The antichain of masks as one of names."""
        return tuple(tuple(self.concepts[k] for k in members(mask)) for mask in node)

    def __getitem__(self, antichain: Antichain) -> Tensor:
        try:
            row = self._at[ordered(mask_of(subset, self.concepts) for subset in antichain)]
        except (KeyError, ValueError, TypeError):
            raise KeyError(antichain) from None
        if not self.flat.is_sparse:
            return self.flat[row].reshape(self.coarse.shape[1:])
        start, end = self._rows[row : row + 2].tolist()
        value = self.flat.new_zeros(self.flat.shape[1], layout=torch.strided)
        value[self.flat.indices()[1, start:end]] = self.flat.values()[start:end]
        return value.reshape(self.coarse.shape[1:])

    def __iter__(self) -> Iterator[Antichain]:
        return map(self._name, self.nodes)

    def __len__(self) -> int:
        return len(self.nodes)

    def average(self, weight: Tensor, scale: float, unit: str) -> Atoms:
        """The weighted mean of atoms of shape [P] over P with ``weight`` [P], times ``scale``; its unit is ``unit``."""

        def mean(value: Tensor) -> Tensor:
            return (value @ weight) * scale

        return replace(
            self,
            flat=mean(self.flat).unsqueeze(1),
            coarse=mean(self.coarse),
            information={s: mean(f) for s, f in self.information.items()},
            residual={s: mean(f) for s, f in self.residual.items()},
            unit=unit,
        )

    def __repr__(self) -> str:
        shape = tuple(self.coarse.shape[1:])
        over = f", sums over {'×'.join(map(str, shape))} values" if shape else ""
        total = float(self.information[self.concepts].sum())
        lines = [f"i(x; {', '.join(self.concepts)}) = {total:.4f} {self.unit}{over}"]
        coarse = self.coarse.reshape(len(self.coarse), -1).sum(1).tolist()
        names = ["redundancy", *(f"unique {c}" for c in self.concepts), "synergy"]
        width = max(map(len, names))
        lines += [f"  {name:{width}} {value:10.4f}" for name, value in zip(names, coarse, strict=True)]
        if len(self.concepts) == 2:
            return "\n".join(lines)  # the four atoms
        sums = self.flat.sum(1).to_dense() if self.nodes else self.flat.new_zeros(0)
        shown = sorted(sums.abs().topk(min(_SHOWN, len(sums))).indices.tolist())
        labels = ["".join("{" + ", ".join(subset) + "}" for subset in self._name(self.nodes[i])) for i in shown]
        width = max(map(len, labels), default=0)
        lines += [f"  {label:{width}} {float(sums[i]):10.4f}" for label, i in zip(labels, shown, strict=True)]
        if len(sums) > len(shown):
            lines.append(f"  and {len(sums) - len(shown)} smaller atoms")
        return "\n".join(lines)
