"""Atoms with standard errors, from independent replicates of the set function (docs/theory.md, eqs. (21) to (23))."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from dpid.pid.atoms import Atoms
from dpid.pid.decomposition import concepts_of, decompose, find
from dpid.pid.priors import Priors, resolve
from dpid.prompts.plan import Subset


def perturbed(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """The means of ``replicates`` [G, *] perturbed by one standard error, [2 (G-1), *], and the mean itself [*].

    The perturbed means (docs/theory.md, eq. (21)) together have the covariance of the mean. Those of the jackknife are
    √(G-1) times closer to it: of a minimum of two numbers that are within their errors of each other they would show
    one side only, on which a part of the decomposition is zero and seems to have no error. Leaving out more at once
    mends that for statistics that are not smooth (Shao & Wu, 1989). The error of such a statistic depends a little on
    the order of the replicates.
    """
    g = len(replicates)
    r = torch.arange(g, dtype=torch.float64, device="cpu")
    contrasts = (torch.pi / g * r[1:, None] * (r + 0.5)).cos().to(replicates) * 2**0.5 / g
    mean = replicates.mean(0)
    off = torch.tensordot(contrasts, replicates - mean, 1)
    return torch.cat((mean + off, mean - off)), mean


def stderr(points: Tensor, value: Tensor) -> Tensor:
    """The standard error [*] of a statistic (docs/theory.md, eq. (22)).

    ``value`` [*] is the statistic of the mean, ``points`` [M, *] that of the :func:`perturbed` means.
    """
    return (points - value).square().mean(0).sqrt()


def mean_stderr(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [*] of ``replicates`` [G, *] and its standard error [*] (docs/theory.md, eq. (18))."""
    return replicates.mean(0), replicates.std(0) / len(replicates) ** 0.5


def decompose_replicates(
    information: Mapping[Subset, Tensor],
    measure: str = "min",
    priors: Priors | None = None,
    *,
    corrected: bool = True,
    prompt: str | None = None,
    pixels: int | None = None,
    coarse: bool = False,
    total: bool = False,
) -> tuple[Atoms, Atoms]:
    """The atoms of f(S), known by G replicates, and their standard errors in the same form.

    Parameters
    ----------
    information : {S: [G, *]}, G ≥ 2; each replicate is what :func:`dpid.pid.decompose` takes. The measure acts on the
        mean over replicates
    corrected : correct the atoms for the bias that a nonlinear measure has on noisy inputs (docs/theory.md, eq. (23)).
        They sum to f of all concepts either way
    total : apply the measure value by value, and return the sums over values with their errors
    measure, priors, prompt, pixels, coarse : as for :func:`dpid.pid.decompose`

    Returns
    -------
    (atoms, errors), two Atoms. ``errors.redundancy``, ``errors.unique`` and ``errors.synergy`` are the standard errors
    of these sums of atoms, not sums of errors.

    Raises
    ------
    ValueError
        Fewer than two replicates, or numbers of replicates that differ; and as :func:`dpid.pid.decompose`.
    """
    concepts, count = concepts_of(information, "information"), _count(information)
    if isinstance(priors, str) and priors.startswith("mlm:"):  # evaluated once, not for every mean
        priors = resolve(priors, concepts, find(measure).priors or "", prompt)

    parts = {s: perturbed(f) for s, f in information.items()}

    def at(point: int | None, far: float = 1.0) -> Atoms:
        f = {s: mean if point is None else mean.lerp(points[point], far) for s, (points, mean) in parts.items()}
        atoms = decompose(f, measure, priors, pixels=pixels, coarse=coarse)
        return _summed(atoms) if total else atoms

    atoms, points = at(None), []
    spread = _Spread(atoms) if atoms.flat.is_sparse else None
    for point in range(2 * (count - 1)):
        points.append(at(point))
        if spread:
            spread.add(points[-1])
            points[-1] = replace(points[-1], nodes=(), flat=atoms.flat)  # which are many, and in the sums
    value, error = _with_errors(atoms, points, spread, corrected)
    if spread is None and error.coarse.ndim == 1 and not all(t.all() for t in (error.flat, error.coarse)):
        _, wide = _with_errors(atoms, [at(point, 2.0) for point in range(len(points))], None, corrected)
        error = _or_half(error, wide)
    if measure == "min" and all(f.ndim == 1 for f in information.values()):
        error = reaching_leads(value, error, torch.stack([information[(c,)] for c in concepts], 1))
    return value, error


def _count(information: Mapping[Subset, Tensor]) -> int:
    """The number G of replicates [G,*] of every subset; ``ValueError`` if they differ or are fewer than two."""
    counts = sorted({len(f) if isinstance(f, Tensor) and f.ndim else 0 for f in information.values()})
    if len(counts) > 1:
        raise ValueError(f"replicates: found {', '.join(map(str, counts))} of them; all subsets need the same number")
    if counts[0] < 2:
        raise ValueError(f"replicates: found {counts[0]}, an error bar needs at least 2")
    return counts[0]


def reaching_leads(value: Atoms, error: Atoms, alone: Tensor) -> Atoms:
    """The standard errors ``error``, with which intervals of uniqueness reach as far as those of the concept's lead.

    The lead is f of the concept less the largest f of another, of replicates ``alone`` [G,n,*]. By the measure "min" it
    is what only this concept tells if it is above zero; where it seems below, perturbed means have zero and vary too
    little; docs/theory.md, eq. (22a).
    """
    from scipy.special import stdtrit

    g, n = alone.shape[:2]
    if n < 2:
        return error
    mean = alone.mean(0)
    own = torch.eye(n, dtype=torch.bool, device=mean.device).view(n, n, *[1] * (mean.ndim - 1))
    largest = mean.expand(n, *mean.shape).masked_fill(own, -torch.inf).argmax(1)  # of the others, [n,*]
    lead, off = mean_stderr(alone - alone.gather(1, largest.expand_as(alone)))
    width = float(stdtrit(g - 1, 0.975))  # of 95 % intervals, in standard errors
    coarse, flat = error.coarse.clone(), error.flat.clone()
    coarse[1:-1] = torch.maximum(coarse[1:-1], off + (lead - value.coarse[1:-1]) / width)
    if n == 2 and len(error.nodes):  # where uniqueness is an atom
        flat[[error.nodes.index((mask,)) for mask in (1, 2)]] = coarse[1:-1].reshape(2, -1)
    return replace(error, coarse=coarse, flat=flat)


def _or_half(error: Atoms, wide: Atoms) -> Atoms:
    """The standard errors ``error``, or half of those ``wide``, of means twice as far off, where they are zero.

    They are zero where one concept is the smaller one at every perturbed mean.
    """
    return replace(
        error,
        flat=torch.where(error.flat == 0, wide.flat / 2, error.flat),
        coarse=torch.where(error.coarse == 0, wide.coarse / 2, error.coarse),
    )


def _summed(atoms: Atoms) -> Atoms:
    """``atoms`` with every tensor summed over [*]."""
    flat = atoms.flat.sum(1, keepdim=True)
    return replace(
        atoms,
        flat=flat.coalesce() if flat.is_sparse else flat,
        coarse=atoms.coarse.reshape(len(atoms.coarse), -1).sum(1),
        information={s: f.sum() for s, f in atoms.information.items()},
        residual={s: f.sum() for s, f in atoms.residual.items()},
    )


class _Spread:
    """How far sparse atoms of perturbed means are from those of the mean, ``value``, summed up one by one.

    A few atoms of each value are not zero, others at every perturbation: dense, all that occur would not fit in memory.

    Attributes
    ----------
    nodes : {antichain: row} of all that occurred
    """

    def __init__(self, value: Atoms) -> None:
        self.nodes = {node: row for row, node in enumerate(value.nodes)}
        self._value, self._count = value.flat, 0
        self._sum = self._squares = torch.zeros_like(value.flat)

    def add(self, atoms: Atoms) -> None:
        """Count the atoms of one more perturbed mean."""
        rows = torch.tensor([self.nodes.setdefault(node, len(self.nodes)) for node in atoms.nodes], dtype=torch.long)
        row, column = atoms.flat.indices()
        at = torch.stack((rows.to(row.device)[row], column))
        off = (self._sparse(at, atoms.flat.values()) - self._grown(self._value)).coalesce()
        self._sum = self._grown(self._sum) + off
        self._squares = self._grown(self._squares) + self._sparse(off.indices(), off.values().square())
        self._count += 1

    def mean(self) -> Tensor:
        """The mean of the perturbed atoms less the atoms, sparse [A, P]."""
        return (self._sum / self._count).coalesce()

    def stderr(self) -> Tensor:
        """The standard errors of the atoms, sparse [A, P]; as of :func:`stderr`."""
        return (self._squares / self._count).coalesce().sqrt()

    def value(self) -> Tensor:
        """The atoms, sparse [A, P]."""
        return self._grown(self._value).coalesce()

    def _grown(self, flat: Tensor) -> Tensor:
        flat = flat.coalesce()
        return self._sparse(flat.indices(), flat.values())

    def _sparse(self, at: Tensor, values: Tensor) -> Tensor:
        size = (len(self.nodes), self._value.shape[1])
        return torch.sparse_coo_tensor(at, values, size, check_invariants=False, device=at.device)


def _with_errors(atoms: Atoms, points: list[Atoms], spread: _Spread | None, corrected: bool) -> tuple[Atoms, Atoms]:
    """``atoms`` of the mean, corrected or not, and their standard errors from those of perturbed means.

    Sparse atoms are those of ``spread``.
    """

    def both(value: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack(others)
        return (2 * value - stacked.mean(0) if corrected else value), stderr(stacked, value)

    if spread is None:
        nodes, values = atoms.nodes, both(atoms.flat, [a.flat for a in points])
    else:
        value = spread.value()
        nodes = list(spread.nodes)
        values = (value - spread.mean()).coalesce() if corrected else value, spread.stderr()
    coarse = both(atoms.coarse, [a.coarse for a in points])
    information = {s: both(f, [a.information[s] for a in points]) for s, f in atoms.information.items()}
    residual = {s: both(f, [a.residual[s] for a in points]) for s, f in atoms.residual.items()}
    first, second = (
        replace(
            atoms,
            nodes=nodes,
            flat=values[i],
            coarse=coarse[i],
            information={s: pair[i] for s, pair in information.items()},
            residual={s: pair[i] for s, pair in residual.items()},
        )
        for i in (0, 1)
    )
    return first, second
