"""dpid: Partial Information Decomposition of text-to-image diffusion models.

>>> import dpid
>>> explainer = dpid.Explainer.from_pretrained("emoji")
>>> result = explainer.explain("scene.png", "a cow and a giraffe", concepts=("cow", "giraffe"))
>>> result.redundancy, result.unique["cow"], result.synergy
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

__all__ = [
    "ConvergenceWarning", "Estimate", "Explainer", "ImageCondition", "PIDResult", "PicturesError", "Ranking", "Stopped",
    "WordsResult", "__version__",
]  # fmt: skip

if TYPE_CHECKING:
    from dpid.explainer import Explainer
    from dpid.images import ImageCondition
    from dpid.many import PicturesError, Stopped
    from dpid.ranking import Ranking
    from dpid.results.intervals import Estimate
    from dpid.results.result import PIDResult
    from dpid.results.words import WordsResult
    from dpid.runner import ConvergenceWarning

    __version__: str

_HOMES = {
    "ConvergenceWarning": "runner", "Estimate": "results.intervals", "Explainer": "explainer",
    "ImageCondition": "images", "PIDResult": "results.result", "PicturesError": "many", "Ranking": "ranking",
    "Stopped": "many", "WordsResult": "results.words",
}  # fmt: skip
_MODULES = {
    "denoisers", "estimation", "gaussian", "likelihood", "ops", "options", "pid", "prompts", "report", "results",
    "studies", "zoo",
}  # fmt: skip


def __getattr__(name: str) -> Any:
    if name == "__version__":
        # Imported above, it would take most of the time of ``import dpid``.
        from importlib.metadata import version

        return version("dpid")
    if name in _HOMES:
        return getattr(import_module(f"dpid.{_HOMES[name]}"), name)
    if name in _MODULES:
        return import_module(f"dpid.{name}")
    raise AttributeError(f"module 'dpid' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_MODULES})
