"""The estimator "shrinkage": iˢ shrunk towards iʳ as far as noise explains that the two differ.

D = iˢ - iʳ is what iʳ misses of this picture, plus noise. Of the square of D's mean the spread of replicates says how
much is noise; what is left is real, and w = 1 - noise / square weighs one against the other in

    f(S) = iʳ + w D,        w in 0…1,

James and Stein's shrinkage of iˢ towards iʳ, its positive part: a few samples lean on iʳ, many on iˢ, and no constant
is fitted to any model. One w for all subsets keeps f a set function, and with it the chain rule.

Errors are those of iˢ, whose spread the replicates keep: w is estimated too, and (1 - w) D may be missing. Intervals of
the width of iˢ's around the shrunk value hold the truth at least as often as iˢ's around iˢ (Hwang & Casella, 1982: of
spheres, in four dimensions and more; measured for these three by benchmarks/bench_truth.py).
"""

from torch import Tensor

from dpid.pid import mean_stderr


def shrinkage_weight(difference: Tensor) -> float:
    """w, how much of iˢ - iʳ is real, 0…1: of its replicates [G, *], one for all that they hold."""
    mean, error = mean_stderr(difference)
    square, noise = float(mean.square().mean()), float(error.square().mean())
    return 0.0 if square <= noise else 1 - noise / square


def shrunk_sums(quiet: Tensor, noisy: Tensor, w: float) -> Tensor:
    """Replicates of maps laid out like ``quiet`` [G, S, h, w], with the sums of ``noisy`` shrunk by ``w`` towards its.

    What the sums differ by is spread evenly: it tells nothing of where.
    """
    difference = (noisy - quiet).mean((-2, -1), keepdim=True)
    return quiet + difference - (1 - w) * difference.mean(0)


def shrunk_profile(quiet: Tensor, noisy: Tensor, w: float) -> Tensor:
    """Replicates ``noisy`` [A, S, L] shrunk by ``w`` towards ``quiet`` in every bin of log-SNR."""
    return noisy - (1 - w) * (noisy - quiet).mean(0)
