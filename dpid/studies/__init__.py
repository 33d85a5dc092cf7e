"""Experiments on many pictures, those of DiffusionPID and ITD among them, with any model or with the user's pictures.

The embedded model's training distribution is known exactly, so that there the findings are compared with the truth.

>>> from dpid.studies import Workbench, run, STUDIES
>>> study = run("bias", Workbench("emoji", pictures=2))
>>> study.tables["bias"][0]["co_information"], study.summary
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = ["STUDIES", "Study", "Workbench", "run", "write"]

if TYPE_CHECKING:
    from dpid.studies.runner import STUDIES, run, write
    from dpid.studies.study import Study
    from dpid.studies.workbench import Workbench

_HOMES = {"STUDIES": "runner", "Study": "study", "Workbench": "workbench", "run": "runner", "write": "runner"}
_MODULES = {"concept_attention", "daam", "ovam"}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"dpid.studies.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"dpid.studies.{name}")
    raise AttributeError(f"module 'dpid.studies' has no attribute {name!r}")
