"""Studies of many pictures: what DiffusionPID and ITD found, on the embedded model, where the truth is known, or any.

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
    if name == "daam":
        return import_module("dpid.studies.daam")
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
