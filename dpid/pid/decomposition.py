"""From the set function f(S) = i(x; y_S) to the atoms under a redundancy measure (docs/theory.md, eq. (31)).

Whatever the measure, all atoms sum to f of all concepts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from typing import Any

import torch
from torch import Tensor

from dpid.checks import count, found, text
from dpid.pid import chain, lattice
from dpid.pid.atoms import Atoms
from dpid.pid.lattice import mask_of
from dpid.pid.measures import MEASURES, Given, Measure, Minima
from dpid.pid.priors import Priors, check_joint, resolve, warn_beyond
from dpid.prompts.plan import MOST_CONCEPTS, Subset, subsets_of


def decompose(
    information: Mapping[Subset, Tensor | float],
    measure: str = "min",
    priors: Priors | None = None,
    *,
    prompt: str | None = None,
    pixels: int | None = None,
    coarse: bool = False,
) -> Atoms:
    """The atoms of i(x; y_1, …, y_n) under a redundancy measure, value by value: of numbers, of maps, of any shape [*].

    Parameters
    ----------
    information : {S: i(x; y_S)} in nats for every non-empty subset S of up to 8 concepts; float32 or float64 [*], or
        numbers. For "mmi" [B, *], of which the mean over the B images is taken (numbers are such means already). For
        "i_min" [V_S, *], one value for every candidate for y_S
    measure : a name of ``MEASURES``; "i_ccs" needs more than values, see :func:`dpid.pid.discrete`
    priors : for "ppid" and "i_sx", {S: h(y_S) = -log p(y_S)} of the image in nats, numbers or tensors that broadcast to
        [*]; "ppid" does not need the h of all concepts together. Or "uniform" ("uniform:V"), see
        :func:`dpid.pid.priors.uniform`, or "mlm:<model>", see :func:`dpid.pid.priors.masked_lm`. For "i_min",
        {S: h [V_S] of the candidates}, Σ e^-h = 1, or "uniform"
    prompt : for "mlm:<model>", the prompt that contains the concepts
    pixels : number by which h is divided, since a map shares the image's prior among its pixels. None: the product of
        the last two dimensions where the values have two or more, else 1
    coarse : return redundancy, uniqueness and synergy only, without atoms: for up to 8 concepts with every measure, and
        much faster for maps of more than 5 concepts, whose hundreds of thousands of atoms take a minute

    Returns
    -------
    Atoms, float64 for numbers, else of the values' dtype. Up to 4 concepts: all atoms (docs/theory.md, eq. (32)). 5 to
    8 concepts and a measure made of minima ("min", "mmi", "i_min", "ppid"): the non-zero atoms of the monotone closure
    of f (docs/theory.md, eq. (34)), whose ``residual`` is what the closure changed; redundancy, uniqueness, synergy and
    the sum of all atoms are exact.

    Raises
    ------
    ValueError, TypeError
        An unknown measure; a missing subset; shapes that differ; NaN or infinity; priors that are missing or are not
        probabilities; more than 8 concepts, or more than 4 with a measure that needs the lattice.
    """
    chosen = find(measure)
    if chosen.axis == "distribution":
        raise ValueError(f"measure: {measure!r} needs a distribution, dpid.pid.discrete; found values of i(x; y_S)")
    concepts, f = read(information, chosen.axis)
    h = _priors(priors, concepts, f, chosen, prompt, pixels)
    return solve(chosen, concepts, Given(f, h), coarse=coarse)


def find(measure: str) -> Measure:
    """The registered measure of that name; ``ValueError``, with the names that exist, if there is none."""
    if text("measure", measure) not in MEASURES:
        raise ValueError(f"measure: found {measure!r}, allowed are {', '.join(sorted(MEASURES))}")
    return MEASURES[measure]


def picture_measures() -> tuple[str, ...]:
    """Names of the measures that apply to a single picture, those that need priors included."""
    return tuple(sorted(name for name, m in MEASURES.items() if m.axis is None))


def check_count(n: int) -> None:
    """Raise ``ValueError`` unless 1 ≤ n ≤ 8, the numbers of concepts that can be decomposed."""
    if not 1 <= n <= MOST_CONCEPTS:
        raise ValueError(f"concepts: found {n}, allowed are 1…{MOST_CONCEPTS}")


def by_mask(values: Mapping[Subset, Any], concepts: tuple[str, ...], name: str, optional: int = 0) -> dict[int, Any]:
    """``values`` {subset: value} as {mask: value}.

    ``ValueError`` unless every non-empty subset of ``concepts`` occurs once; that of mask ``optional`` may be missing.
    """
    found: dict[int, Any] = {}
    for subset, value in values.items():
        if not isinstance(subset, tuple) or not subset or not set(subset) <= set(concepts):
            raise ValueError(f"{name}: found the key {subset!r}, expected a tuple of some of {concepts!r}")
        found[mask_of(subset, concepts)] = value
    missing = [s for s in subsets_of(concepts)[1:] if mask_of(s, concepts) not in {*found, optional}]
    if missing:
        raise ValueError(f"{name}: {missing[0]!r} is missing; all {2 ** len(concepts) - 1} subsets are needed")
    if len(found) != len(values):
        raise ValueError(f"{name}: found {len(values)} entries for {len(found)} subsets; each may be given once")
    return found


def concepts_of(values: Mapping[Subset, Any], name: str) -> tuple[str, ...]:
    """The concepts, in the order in which the one-element subsets occur in ``values``; ``ValueError`` unless 1 to 8."""
    if not isinstance(values, Mapping):
        raise TypeError(f"{name}: found {type(values).__name__}, expected a mapping of subsets to values")
    concepts = tuple(s[0] for s in values if isinstance(s, tuple) and len(s) == 1)
    if not concepts:
        raise ValueError(f"{name}: no single concept is named; expected keys such as ('cow',), ('cow', 'giraffe')")
    check_count(len(concepts))
    return concepts


def _tensor(name: str, value: Any) -> Tensor:
    """``value`` as a finite float32 or float64 tensor; ``TypeError`` or ``ValueError`` otherwise."""
    tensor = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if tensor.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{name}: found dtype {tensor.dtype}, expected torch.float32 or torch.float64")
    if not tensor.isfinite().all():
        raise ValueError(f"{name}: found NaN or infinity")
    return tensor


def read(information: Mapping[Subset, Any], axis: str | None = None) -> tuple[tuple[str, ...], dict[int, Tensor]]:
    """Names of the concepts and {mask: f(S)}, checked; raises as :func:`decompose`. ``axis`` is that of the measure."""
    concepts = concepts_of(information, "information")
    f = {s: _tensor("information", v) for s, v in by_mask(information, concepts, "information").items()}
    lead = 1 if axis == "candidates" else 0  # the subsets have different numbers of candidates
    if lead and any(not v.ndim for v in f.values()):
        raise ValueError("information: found a number, expected [V_S, *], one value for each candidate of y_S")
    kinds = dict.fromkeys(f"{v.dtype} {tuple(v.shape[lead:])} on {v.device}" for v in f.values())
    if len(kinds) > 1:
        raise ValueError(f"information: found {', '.join(kinds)}; all subsets need one shape, dtype and device")
    return concepts, f


def _priors(
    priors: Priors | None, concepts: tuple[str, ...], f: Mapping[int, Tensor], measure: Measure, prompt: str | None,
    pixels: int | None,
) -> dict[int, Tensor]:  # fmt: skip
    """{mask: h(y_S)} as the measure needs it, checked and divided by ``pixels``; empty where it needs none."""
    if measure.priors is None:
        return {}
    if measure.priors == "candidates":
        return _candidate_priors(priors, concepts, f)
    top = max(f)  # the mask of all concepts
    shape = f[top].shape
    if pixels is None:
        pixels = math.prod(shape[-2:]) if len(shape) > 1 else 1
    else:
        pixels = count(1, 2**63 - 1)("pixels", pixels)
    h = {}
    for s, value in _given(resolve(priors, concepts, measure.priors, prompt), concepts, measure).items():
        h[s] = value.to(f[top])
        if h[s].ndim > len(shape) or any(a not in (1, b) for a, b in zip(h[s].shape[::-1], shape[::-1], strict=False)):
            raise ValueError(f"priors: found shape {tuple(h[s].shape)}, expected one that fits {tuple(shape)}")
    check_joint(h, concepts)
    warn_beyond({s: f[s] for s in h}, {s: value / pixels for s, value in h.items()}, concepts)
    if top not in h:  # any value does: it cancels
        h[top] = sum((h[1 << k] for k in range(len(concepts))), h[1].new_zeros(()))
    return {s: value / pixels for s, value in h.items()}


def _given(priors: Mapping[Subset, Any], concepts: tuple[str, ...], measure: Measure) -> dict[int, Tensor]:
    """{mask: h(y_S)}; ``ValueError`` unless every subset that ``measure`` needs is there."""
    optional = 2 ** len(concepts) - 1 if measure.priors == "subsets" and len(concepts) > 1 else 0
    return {s: _tensor("priors", value) for s, value in by_mask(priors, concepts, "priors", optional).items()}


def image_priors(
    priors: Priors | None, concepts: tuple[str, ...], measure: str, prompt: str | None, others: Set[str] = frozenset()
) -> dict[Subset, float] | None:
    """{S: h(y_S)} of the subsets of ``concepts`` in nats, for the image; None where the measure needs no priors.

    A mapping may also hold subsets with concepts of ``others``, which other decompositions use; they are ignored here.
    Raises as :func:`decompose`, before the network is evaluated.
    """
    chosen = find(measure)
    if chosen.priors is None:
        return None
    given = dict(resolve(priors, concepts, chosen.priors, prompt))
    for s in [s for s in given if isinstance(s, tuple) and set(s) <= others and not set(s) <= set(concepts)]:
        del given[s]
    h = _given(given, concepts, chosen)
    check_joint(h, concepts)
    return {s: float(h[mask]) for s in subsets_of(concepts)[1:] if (mask := mask_of(s, concepts)) in h}


def _candidate_priors(priors: Priors | None, concepts: tuple[str, ...], f: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """{mask: h [V_S, 1, …]}, -log of a probability distribution over the candidates for y_S."""
    if priors == "uniform":
        return {
            s: torch.full_like(v[(slice(None), *[slice(1)] * (v.ndim - 1))], math.log(len(v))) for s, v in f.items()
        }
    h = {}
    for s, value in by_mask(resolve(priors, concepts, "candidates"), concepts, "priors").items():
        surprisal = _tensor("priors", value).to(f[s])
        if surprisal.shape != f[s].shape[:1]:
            raise ValueError(
                f"priors: found shape {tuple(surprisal.shape)}, expected {tuple(f[s].shape[:1])}, the candidates"
            )
        total = float((-surprisal).exp().sum())
        if abs(total - 1) > 1e-4:  # float32 sums over vocabularies of 10⁵ words stay below
            raise ValueError(f"priors: the probabilities of the candidates sum to {total:.6g}, expected 1")
        h[s] = surprisal.reshape(-1, *[1] * (f[s].ndim - 1))
    return h


def solve(measure: Measure, concepts: tuple[str, ...], given: Given, *, coarse: bool = False) -> Atoms:
    """The atoms of checked input in nats, as described at :func:`decompose`."""
    n = len(concepts)
    redundancy = measure.rule(given)
    if not callable(redundancy):
        raise TypeError(f"measure: {found(measure.rule)} gave {found(redundancy)}, expected a function of an antichain")
    averaged = {s: redundancy((s,)) for s in given.f}  # r({S}) = f(S), averaged where the measure averages
    for value in averaged.values():
        if not isinstance(value, Tensor):
            raise TypeError(f"measure: r of {found(measure.rule)} gave {found(value)}, expected a tensor")
    information = {s: averaged[mask_of(s, concepts)] for s in subsets_of(concepts)[1:]}
    shape = averaged[1].shape
    nodes: Sequence[lattice.Sets] = ()
    flat = averaged[1].new_zeros(0, averaged[1].numel())
    residual: dict[Subset, Tensor] = {}
    if not coarse and n <= lattice.FULL_LATTICE:
        nodes = lattice.antichains(n)
        flat = lattice.combine(lattice.mobius(n), [redundancy(a) for a in nodes]).reshape(len(nodes), -1)
    elif not coarse and isinstance(redundancy, Minima):
        nodes, flat, excess = _chains(n, redundancy)
        residual = {s: excess[mask_of(s, concepts) - 1].reshape(shape) for s in information}
    elif not coarse:
        raise ValueError(
            f"concepts: found {n}; this measure has all atoms of up to {lattice.FULL_LATTICE}, and with coarse=True "
            f"redundancy, unique and synergy of up to {MOST_CONCEPTS}"
        )
    sets, signs = lattice.singles(n)
    unique, union = lattice.combine(signs, [redundancy(a) for a in sets]).split((n, 1))
    grouped = torch.cat((union - unique.sum(0, keepdim=True), unique, information[concepts] - union))
    return Atoms(concepts, nodes, flat, grouped, information, residual)


def _chains(n: int, minima: Minima) -> tuple[list[lattice.Sets], Tensor, Tensor]:
    """Antichains, sparse atoms [A, P] and residuals [2^n - 1, P] of a signed sum of minima."""
    entries, excess = [], []
    for sign, g in minima.terms:
        rows = torch.stack([g[s] for s in range(1, 2**n)]).reshape(2**n - 1, -1)
        part = chain.chain(rows)
        entries.append(chain.Entries(part.code, part.pixel, sign * part.value))
        excess.append(sign * (chain.closure(rows) - rows))
    residual = torch.stack(excess).sum(0)
    residual[-1] = 0  # subtracted from the top atom already
    nodes, values = chain.collect(entries, n, residual.shape[1])
    return nodes, values, residual
