"""How fast, how large and how exact explanations are with one model on one device: ``dpid bench``."""

from dpid.bench.measure import FULL, QUICK, Bench
from dpid.bench.report import Report, Row

__all__ = ["FULL", "QUICK", "Bench", "Report", "Row"]
