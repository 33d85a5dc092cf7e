"""Atoms with standard errors, from replicates of the set function: the jackknife."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from dpid.conditions import Subset
from dpid.pid.atoms import Atoms
from dpid.pid.decomposition import concepts_of, decompose, find
from dpid.pid.lattice import Sets
from dpid.pid.priors import Priors, resolve

_MOST = 2**28  # numbers in memory at once


def jackknife(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Leave-one-out means [G, *] and the mean [*] of ``replicates`` [G, *]."""
    g = len(replicates)
    mean = replicates.mean(0)
    return (g * mean - replicates) / (g - 1), mean


def stderr(leave_one_out: Tensor) -> Tensor:
    """Jackknife standard error [*] of a statistic from its leave-one-out values [G, *] (Efron & Stein, 1981)."""
    g = len(leave_one_out)
    spread: Tensor = (leave_one_out - leave_one_out.mean(0)).square().sum(0)
    return (spread * (g - 1) / g).sqrt()


def mean_stderr(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [*] of ``replicates`` [G, *] and its standard error [*]."""
    left_out, mean = jackknife(replicates)
    return mean, stderr(left_out)


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
    """The atoms of G replicates of f(S), and their standard errors in the same form.

    Parameters
    ----------
    information : {S: [G, *]}, G ≥ 2; each replicate is what :func:`dpid.pid.decompose` takes. The measure acts on the
        mean over replicates
    corrected : atoms T are corrected for the bias that a nonlinear measure has on noisy inputs, by the jackknife:
        G T - (G-1) mean of leave-one-out T. They sum to f([n]) either way
    total : the measure acts on every value, and what is returned is their sum, with its error
    measure, priors, prompt, pixels, coarse : as for :func:`dpid.pid.decompose`

    Returns
    -------
    (atoms, errors). ``errors.redundancy``, ``errors.unique`` and ``errors.synergy`` are those of the sums of atoms.

    Raises
    ------
    ValueError
        Fewer than two replicates, numbers of them that differ; maps of more than 4 concepts with more atoms than memory
        holds; and all of :func:`dpid.pid.decompose`.
    """
    concepts = concepts_of(information, "information")
    counts = sorted({len(f) if isinstance(f, Tensor) and f.ndim else 0 for f in information.values()})
    if len(counts) > 1:
        raise ValueError(f"replicates: found {', '.join(map(str, counts))} of them; all subsets need the same number")
    if counts[0] < 2:
        raise ValueError(f"replicates: found {counts[0]}, an error bar needs at least 2")
    if isinstance(priors, str) and priors.startswith("mlm:"):  # asked once, not G times
        priors = resolve(priors, concepts, find(measure).priors or "", prompt)

    parts = {s: jackknife(f) for s, f in information.items()}

    def at(g: int | None) -> Atoms:
        f = {s: mean if g is None else left_out[g] for s, (left_out, mean) in parts.items()}
        atoms = decompose(f, measure, priors, pixels=pixels, coarse=coarse)
        return _summed(atoms) if total else atoms

    whole, left_out = at(None), [at(g) for g in range(counts[0])]
    nodes = whole.nodes if len(concepts) <= 4 else _union([whole, *left_out])
    return _with_errors(whole, left_out, nodes, corrected)


def _summed(atoms: Atoms) -> Atoms:
    """Every number of ``atoms`` summed over [*]."""
    return replace(
        atoms,
        flat=atoms.flat.to_dense().sum(1, keepdim=True),
        coarse=atoms.coarse.flatten(1).sum(1),
        information={s: f.sum() for s, f in atoms.information.items()},
        residual={s: f.sum() for s, f in atoms.residual.items()},
    )


def _union(atoms: list[Atoms]) -> list[Sets]:
    """Every node that occurs in ``atoms``; ``ValueError`` if their dense values would not fit."""
    nodes = list(dict.fromkeys(node for a in atoms for node in a.nodes))
    if len(atoms) * len(nodes) * atoms[0].flat.shape[1] > _MOST:
        raise ValueError(
            f"information: maps of {len(atoms[0].concepts)} concepts have {len(nodes)} atoms here, too many for "
            "errors of each; pass coarse=True, or totals"
        )
    return nodes


def _dense(atoms: Atoms, nodes: Sequence[Sets]) -> Tensor:
    """The values [A, P] of ``atoms`` at ``nodes``."""
    values = atoms.flat.to_dense()
    if atoms.nodes == nodes:
        return values
    dense = values.new_zeros(len(nodes), values.shape[1])
    at = {node: i for i, node in enumerate(nodes)}
    dense[[at[node] for node in atoms.nodes]] = values
    return dense


def _with_errors(whole: Atoms, left_out: list[Atoms], nodes: Sequence[Sets], corrected: bool) -> tuple[Atoms, Atoms]:
    """``whole`` at ``nodes``, corrected or not, and the errors that the spread of ``left_out`` tells."""
    g = len(left_out)

    def both(value: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack(others)
        return (g * value - (g - 1) * stacked.mean(0) if corrected else value), stderr(stacked)

    values = both(_dense(whole, nodes), [_dense(a, nodes) for a in left_out])
    coarse = both(whole.coarse, [a.coarse for a in left_out])
    information = {s: both(f, [a.information[s] for a in left_out]) for s, f in whole.information.items()}
    residual = {s: both(f, [a.residual[s] for a in left_out]) for s, f in whole.residual.items()}
    first, second = (
        replace(
            whole,
            nodes=nodes,
            flat=values[i],
            coarse=coarse[i],
            information={s: pair[i] for s, pair in information.items()},
            residual={s: pair[i] for s, pair in residual.items()},
        )
        for i in (0, 1)
    )
    return first, second
