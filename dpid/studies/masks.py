"""Agreement between a map and a mask: area under the ROC curve, and intersection over union."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.stats import rankdata
from torch import Tensor
from torch.nn import functional

THRESHOLDS = np.linspace(0.025, 0.975, 39)


def cover(mask: Tensor, size: Sequence[int]) -> Tensor:
    """The latent pixels, bool [h,w], of which a mask bool [H,W] covers more than half; ``size`` is (h, w)."""
    covered: Tensor = functional.adaptive_avg_pool2d(mask[None].float(), (size[0], size[1]))[0] > 0.5
    return covered


def auc(values: Tensor, labels: Tensor) -> float | None:
    """Area under the ROC curve of ``values`` [*] for ``labels`` bool [*]; None if all labels are equal.

    It is the probability that a labelled pixel has the larger value of two, ties counting half (Mann & Whitney, 1947).
    """
    labelled = labels.flatten().numpy()
    inside, outside = int(labelled.sum()), int((~labelled).sum())
    if not inside or not outside:
        return None
    ranks = rankdata(values.flatten().numpy())
    return float((ranks[labelled].sum() - inside * (inside + 1) / 2) / (inside * outside))


def overlaps(values: Tensor, labels: Tensor) -> list[float] | None:
    """Intersection over union of mask and map, scaled to [0, 1], above every one of ``THRESHOLDS``.

    None if the mask is empty, as that of a thing that covers no latent pixel by more than half: all maps would have 0.
    """
    if not labels.any():
        return None
    v, mask = values.numpy(), labels.numpy()
    span = np.ptp(v)
    scaled = (v - v.min()) / span if span > 0 else np.zeros_like(v)
    cut = scaled[None] > THRESHOLDS[:, None, None]
    found: list[float] = ((cut & mask).sum((1, 2)) / (cut | mask).sum((1, 2))).tolist()
    return found
