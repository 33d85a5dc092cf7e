"""How well uniqueness maps tell the two things of held-out scenes apart, for the tests of both embedded models."""

import numpy as np
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score


def own_against_other(explainer, heldout, folder, count):
    """The AUC of every word's map, its own thing against the other one, in the first ``count`` scenes of two things."""
    scores = []
    for scene in [s for s in heldout if len(s["pictures"]) == 2 and not s["novel"]][:count]:
        result = explainer.explain(folder / scene["file"], scene["prompt"], scene["concepts"], samples=16)
        with Image.open(folder / scene["masks"]) as masks:
            labels = torch.from_numpy(np.array(masks))
        own = [torch.nn.functional.avg_pool2d((labels == n).float()[None], 4)[0] > 0.5 for n in (1, 2)]
        either = own[0] | own[1]
        for concept, mine in zip(scene["concepts"], own, strict=True):
            scores.append(roc_auc_score(mine[either].numpy(), result.maps.unique[concept][either].numpy()))
    return scores
