"""Atoms with standard errors, from independent replicates of the set function (docs/theory.md, eqs. (21) to (23))."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dpid.pid.atoms import Atoms
from dpid.pid.decomposition import concepts_of, decompose, find
from dpid.pid.lattice import Sets
from dpid.pid.priors import Priors, resolve
from dpid.prompts.plan import Subset

_MOST = 2**28  # most numbers in memory at once: 1 or 2 GiB


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
        Fewer than two replicates, or numbers of replicates that differ; maps of more than 4 concepts with more atoms
        than fit in memory; and as :func:`dpid.pid.decompose`.
    """
    concepts = concepts_of(information, "information")
    counts = sorted({len(f) if isinstance(f, Tensor) and f.ndim else 0 for f in information.values()})
    if len(counts) > 1:
        raise ValueError(f"replicates: found {', '.join(map(str, counts))} of them; all subsets need the same number")
    if counts[0] < 2:
        raise ValueError(f"replicates: found {counts[0]}, an error bar needs at least 2")
    if isinstance(priors, str) and priors.startswith("mlm:"):  # evaluated once, not for every mean
        priors = resolve(priors, concepts, find(measure).priors or "", prompt)

    parts = {s: perturbed(f) for s, f in information.items()}

    def at(point: int | None) -> Atoms:
        f = {s: mean if point is None else points[point] for s, (points, mean) in parts.items()}
        atoms = decompose(f, measure, priors, pixels=pixels, coarse=coarse)
        return _summed(atoms) if total else atoms

    atoms, points = at(None), [at(point) for point in range(2 * (counts[0] - 1))]
    nodes = atoms.nodes if len(concepts) <= 4 else _union([atoms, *points])
    return _with_errors(atoms, points, nodes, corrected)


def _summed(atoms: Atoms) -> Atoms:
    """``atoms`` with every tensor summed over [*]."""
    return replace(
        atoms,
        flat=atoms.flat.to_dense().sum(1, keepdim=True),
        coarse=atoms.coarse.flatten(1).sum(1),
        information={s: f.sum() for s, f in atoms.information.items()},
        residual={s: f.sum() for s, f in atoms.residual.items()},
    )


def _union(atoms: list[Atoms]) -> list[Sets]:
    """Every antichain that occurs in ``atoms``; ``ValueError`` if their dense values would not fit in memory."""
    nodes = list(dict.fromkeys(node for a in atoms for node in a.nodes))
    if len(atoms) * len(nodes) * atoms[0].flat.shape[1] > _MOST:
        raise ValueError(
            f"information: maps of {len(atoms[0].concepts)} concepts have {len(nodes)} atoms here, too many for "
            "errors of each; pass coarse=True, or totals"
        )
    return nodes


def _dense(atoms: Atoms, nodes: Sequence[Sets]) -> Tensor:
    """The values [A, P] of ``atoms`` at ``nodes``, zero where they have none."""
    values = atoms.flat.to_dense()
    if atoms.nodes == nodes:
        return values
    dense = values.new_zeros(len(nodes), values.shape[1])
    at = {node: i for i, node in enumerate(nodes)}
    dense[[at[node] for node in atoms.nodes]] = values
    return dense


def _with_errors(atoms: Atoms, points: list[Atoms], nodes: Sequence[Sets], corrected: bool) -> tuple[Atoms, Atoms]:
    """``atoms`` of the mean at ``nodes``, corrected or not, and their standard errors from those of perturbed means."""

    def both(value: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack(others)
        return (2 * value - stacked.mean(0) if corrected else value), stderr(stacked, value)

    values = both(_dense(atoms, nodes), [_dense(a, nodes) for a in points])
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
