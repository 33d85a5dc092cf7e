"""dpid: Partial Information Decomposition of text-to-image diffusion models.

>>> import dpid
>>> explainer = dpid.Explainer.from_pretrained("emoji")
>>> result = explainer.explain("scene.png", "a cow and a giraffe", concepts=("cow", "giraffe"))
>>> result.redundancy, result.unique["cow"], result.synergy
"""

from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

__version__ = _version("dpid")
__all__ = ["Estimate", "Explainer", "PIDResult", "__version__"]

if TYPE_CHECKING:
    from dpid.estimates import Estimate
    from dpid.explainer import Explainer
    from dpid.result import PIDResult


def __getattr__(name: str) -> Any:
    if name == "Explainer":
        from dpid.explainer import Explainer

        return Explainer
    if name == "Estimate":
        from dpid.estimates import Estimate

        return Estimate
    if name == "PIDResult":
        from dpid.result import PIDResult

        return PIDResult
    raise AttributeError(f"module 'dpid' has no attribute {name!r}")
