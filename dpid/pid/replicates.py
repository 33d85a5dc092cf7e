"""Atoms with standard errors, from replicates of the set function."""

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

_MOST = 2**28  # numbers in memory at once


def perturbed(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """What the mean of ``replicates`` [G, *] might as well have been, [2 (G-1), *], and the mean [*].

    mean ± (1/G) Σ_r c_kr replicate_r, the contrasts c_kr = √2 cos(π k (r + ½) / G) orthogonal to each other and to one:
    each is off by one standard error in the root mean square, and all together have the covariance of the mean. They
    are balanced half-samples (McCarthy, 1969) with cosines in place of signs, which exist for every G. The jackknife's
    leave-one-out means are √(G-1) times closer to the mean: of a minimum of two numbers within their errors of each
    other they see one side only, where the error of what is zero on that side is zero; leaving out more mends that for
    statistics that are not smooth (Shao & Wu, 1989). Of such, the error depends a little on the replicates' order.
    """
    g = len(replicates)
    r = torch.arange(g, dtype=torch.float64, device="cpu")
    contrasts = (torch.pi / g * r[1:, None] * (r + 0.5)).cos().to(replicates) * 2**0.5 / g
    mean = replicates.mean(0)
    off = torch.tensordot(contrasts, replicates - mean, 1)
    return torch.cat((mean + off, mean - off)), mean


def stderr(points: Tensor, value: Tensor) -> Tensor:
    """Standard error [*] of a statistic, from its ``value`` [*] at the mean and those at the ``perturbed`` [M, *]."""
    return (points - value).square().mean(0).sqrt()


def mean_stderr(replicates: Tensor) -> tuple[Tensor, Tensor]:
    """Mean [*] of ``replicates`` [G, *] and its standard error [*]."""
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
    """The atoms of G replicates of f(S), and their standard errors in the same form.

    Parameters
    ----------
    information : {S: [G, *]}, G ≥ 2; each replicate is what :func:`dpid.pid.decompose` takes. The measure acts on the
        mean over replicates
    corrected : atoms T are corrected for the bias that a nonlinear measure has on noisy inputs, 2 T less the mean of T
        at the :func:`perturbed` means. They sum to f([n]) either way
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
    if isinstance(priors, str) and priors.startswith("mlm:"):  # asked once, not of every mean
        priors = resolve(priors, concepts, find(measure).priors or "", prompt)

    parts = {s: perturbed(f) for s, f in information.items()}

    def at(point: int | None) -> Atoms:
        f = {s: mean if point is None else points[point] for s, (points, mean) in parts.items()}
        atoms = decompose(f, measure, priors, pixels=pixels, coarse=coarse)
        return _summed(atoms) if total else atoms

    whole, points = at(None), [at(point) for point in range(2 * (counts[0] - 1))]
    nodes = whole.nodes if len(concepts) <= 4 else _union([whole, *points])
    return _with_errors(whole, points, nodes, corrected)


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


def _with_errors(whole: Atoms, points: list[Atoms], nodes: Sequence[Sets], corrected: bool) -> tuple[Atoms, Atoms]:
    """``whole`` at ``nodes``, corrected or not, and the errors that its values at perturbed means tell."""

    def both(value: Tensor, others: list[Tensor]) -> tuple[Tensor, Tensor]:
        stacked = torch.stack(others)
        return (2 * value - stacked.mean(0) if corrected else value), stderr(stacked, value)

    values = both(_dense(whole, nodes), [_dense(a, nodes) for a in points])
    coarse = both(whole.coarse, [a.coarse for a in points])
    information = {s: both(f, [a.information[s] for a in points]) for s, f in whole.information.items()}
    residual = {s: both(f, [a.residual[s] for a in points]) for s, f in whole.residual.items()}
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
