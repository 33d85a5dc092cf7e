"""Partial information decomposition of f(S) = i(x; y_S), the information of every subset S of the concepts about x.

i(x; y1) = r + u1, i(x; y2) = r + u2, i(x; y1, y2) = r + u1 + u2 + s: a redundancy measure gives r, and r all atoms
(docs/theory.md, eq. (29)). The measures are in :mod:`dpid.pid.measures`, one in each file.

>>> atoms = decompose({("cow",): 2.0, ("giraffe",): 3.0, ("cow", "giraffe"): 6.0})
>>> atoms.redundancy, atoms.unique["giraffe"], atoms.synergy, atoms[("cow",), ("giraffe",)]
"""

from dpid.pid.atoms import Antichain, Atoms
from dpid.pid.decomposition import decompose, picture_measures
from dpid.pid.distribution import discrete
from dpid.pid.interaction import co_information, o_information_gradient
from dpid.pid.measures import MEASURES, Given, Minima, register
from dpid.pid.priors import PriorWarning
from dpid.pid.replicates import decompose_replicates, mean_stderr, perturbed, stderr

__all__ = [
    "MEASURES", "Antichain", "Atoms", "Given", "Minima", "PriorWarning", "co_information", "decompose",
    "decompose_replicates", "discrete", "mean_stderr", "o_information_gradient", "perturbed", "picture_measures",
    "register", "stderr",
]  # fmt: skip
