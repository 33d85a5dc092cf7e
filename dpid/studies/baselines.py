"""Attention maps that our own are compared with, chosen by the kind of the model's network."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dpid.denoisers.families import family_of
from dpid.studies import concept_attention, daam, ovam

if TYPE_CHECKING:
    from dpid.studies.attention import AttentionMaps
    from dpid.studies.bench import Case, Workbench

BASELINES: dict[str, ModuleType] = {"daam": daam, "ovam": ovam, "concept_attention": concept_attention}


class NoBaselineError(ValueError):
    """Error: a study compares with maps of attention, and there are none for the model's network."""


def baselines(pipe: Any) -> dict[str, ModuleType]:
    """The modules {name: module} whose ``attention_maps`` take ``pipe``; the usual one for its network is first.

    Raises
    ------
    NoBaselineError
        There is none for its network.
    """
    own = family_of(pipe).networks
    found = {name: module for name, module in BASELINES.items() if set(own) & set(module.NETWORKS)}
    if not found:
        known = ", ".join(sorted({network for module in BASELINES.values() for network in module.NETWORKS}))
        raise NoBaselineError(
            f"model: its network is a {' or '.join(own)}; this study compares with maps of attention, of which it has "
            f"those of {known}"
        )
    return found


def attention_of(bench: Workbench, case: Case, concepts: Sequence[str], peer: ModuleType) -> AttentionMaps:
    """The maps of ``concepts`` that ``peer``, one of :func:`baselines`, makes of the picture of ``case``.

    At the noise levels at which its maps are better on the embedded models: those of our own estimates, or even ones.
    """
    found: AttentionMaps = peer.attention_maps(
        bench.pipe, case.prompt, concepts, image=case.open(), samples=bench.samples, seed=bench.seed_of(case.picture),
        density=bench.explainer.density if peer.BY_DENSITY else None,
    )  # fmt: skip
    return found
