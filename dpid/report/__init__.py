"""Pages of results and studies: one HTML file each, which needs nothing else, not even a script."""

from importlib import import_module
from typing import Any


def __getattr__(name: str) -> Any:
    if name == "results":  # not loaded by those who make pages of something else
        return import_module("dpid.report.results")
    raise AttributeError(f"module 'dpid.report' has no attribute {name!r}")
