"""The atoms of a minimum, r(α) = min_{S ∈ α} g(S), of five to eight concepts, found without the redundancy lattice.

At most 2^n - 1 atoms are not zero, and they lie on one chain of the lattice (docs/theory.md, eq. (34)). A g that is not
monotone is first replaced by its monotone closure (docs/theory.md, eq. (35)). For n ≤ 4 the lattice itself is inverted.
An up-set is a family of subsets that contains with a set all that include it; here it is coded as bits of int64 words.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from dpid.pid.lattice import Sets, ordered

_BITS = 62  # of an int64 word that are used


def closure(g: Tensor) -> Tensor:
    """The monotone closure [2^n - 1, P] of ``g`` [2^n - 1, P], row S - 1 for mask S (docs/theory.md, eq. (35))."""
    n = len(g).bit_length()
    empty = torch.full_like(g[:1], -torch.inf)
    cube = torch.cat((empty, g)).reshape(*[2] * n, -1)
    for axis in range(n):
        without, with_it = cube.unbind(axis)
        cube = torch.stack((without, torch.maximum(without, with_it)), axis)
    return cube.reshape(2**n, -1)[1:]


@dataclass(frozen=True)
class Entries:
    """E non-zero values of atoms: ``value`` [E], the up-set ``code`` [E, words] of the atom, its ``pixel`` [E]."""

    code: Tensor
    pixel: Tensor
    value: Tensor


def _words(sets: Tensor, count: int) -> Tensor:
    """Codes int64 [*, words] in which the bit of the set with index ``sets`` [*] is one; ``count`` sets in all."""
    word = torch.arange(-(-count // _BITS), device=sets.device)
    bit = torch.ones_like(sets) << sets % _BITS
    return torch.where(sets.unsqueeze(-1) // _BITS == word, bit.unsqueeze(-1), 0)


def chain(g: Tensor) -> Entries:
    """The non-zero atoms of the closure of ``g`` [2^n - 1, P], the top one lowered so that all sum to g([n])."""
    count = len(g)
    closed = closure(g)
    values, order = closed.sort(0)
    steps = torch.diff(values, dim=0, prepend=torch.zeros_like(values[:1]))
    # {S: g̃(S) ≥ t_k} are the sets at positions k and above; distinct bits add without carry.
    codes = _words(order, count).flip(0).cumsum(0).flip(0)
    step, pixel = steps.nonzero(as_tuple=True)
    excess = closed[-1] - g[-1]
    top = excess.nonzero().squeeze(1)
    code = _words(torch.tensor([count - 1], device=g.device), count).expand(len(top), -1)
    return Entries(
        torch.cat((codes[step, pixel], code)),
        torch.cat((pixel, top)),
        torch.cat((steps[step, pixel], -excess[top])),
    )


def collect(entries: list[Entries], n: int, pixels: int) -> tuple[list[Sets], Tensor]:
    """The antichains that occur in ``entries``, A of them, and their values as a sparse tensor [A, P]."""
    codes, atom = torch.unique(torch.cat([e.code for e in entries]), dim=0, return_inverse=True)
    at = torch.stack((atom, torch.cat([e.pixel for e in entries])))
    values = torch.sparse_coo_tensor(
        at,
        torch.cat([e.value for e in entries]),
        (len(codes), pixels),
        check_invariants=False,
        device=at.device,
    ).coalesce()
    return _decode(codes, n), values


def _decode(codes: Tensor, n: int) -> list[Sets]:
    """The antichains of the minimal sets of the up-sets ``codes`` [A, words]."""
    sets = torch.arange(2**n, device=codes.device)
    at = (sets[1:] - 1) // _BITS, (sets[1:] - 1) % _BITS
    inside = torch.zeros(len(codes), 2**n, dtype=torch.bool, device=codes.device)
    inside[:, 1:] = (codes[:, at[0]] >> at[1] & 1).bool()
    smaller = torch.zeros_like(inside)
    for k in range(n):
        has = sets[(sets >> k & 1).bool()]
        smaller[:, has] |= inside[:, has ^ (1 << k)]
    nodes: list[list[int]] = [[] for _ in range(len(codes))]
    for row, mask in (inside & ~smaller).nonzero().tolist():
        nodes[row].append(mask)
    return [ordered(node) for node in nodes]
