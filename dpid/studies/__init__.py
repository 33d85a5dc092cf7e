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
    from dpid.studies.bench import Workbench
    from dpid.studies.runner import STUDIES, run, write
    from dpid.studies.study import Study


def __getattr__(name: str) -> Any:
    if name in ("concept_attention", "daam", "ovam"):
        return import_module(f"dpid.studies.{name}")
    if name in ("STUDIES", "run", "write"):
        from dpid.studies import runner

        return getattr(runner, name)
    if name == "Workbench":
        from dpid.studies.bench import Workbench

        return Workbench
    if name == "Study":
        from dpid.studies.study import Study

        return Study
    raise AttributeError(f"module 'dpid.studies' has no attribute {name!r}")
