"""Checks at load: a family against its pipeline, and the fused network against the pipeline's own."""

from dpid.denoisers.checks.fused import difference, small_input
from dpid.denoisers.checks.pipeline import check_family

__all__ = ["check_family", "difference", "small_input"]
