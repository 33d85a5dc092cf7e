"""Attention maps that our own are compared with, chosen by the kind of the model's network."""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from dpid.denoisers.families import family_of
from dpid.studies import concept_attention, daam, ovam

if TYPE_CHECKING:
    from dpid.studies.attention import AttentionMaps
    from dpid.studies.workbench import Case, Workbench

BASELINES: dict[str, ModuleType] = {"daam": daam, "ovam": ovam, "concept_attention": concept_attention}


# What findings say of a network that none of these takes.
NO_PEER = "there are no attention maps of this network to compare with"


def baselines(pipe: Any) -> dict[str, ModuleType]:
    """The modules {name: module} whose ``attention_maps`` take ``pipe``; the usual one for its network is first."""
    own = set(family_of(pipe).networks)
    return {name: module for name, module in BASELINES.items() if own & set(module.NETWORKS)}


def attention_of(bench: Workbench, case: Case, concepts: Sequence[str], peer: ModuleType) -> AttentionMaps:
    """The maps of ``concepts`` that ``peer``, one of :func:`baselines`, makes of the picture of ``case``.

    At the noise levels at which its maps are better on the embedded models: those of our own estimates, or even ones.
    """
    found: AttentionMaps = peer.attention_maps(
        bench.pipe, case.prompt, concepts, image=case.open(), samples=bench.samples, seed=bench.seed_of(case.picture),
        density=bench.explainer.density if peer.BY_DENSITY else None,
    )  # fmt: skip
    return found
