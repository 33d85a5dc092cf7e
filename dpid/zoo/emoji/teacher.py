"""What a caption leaves open of a noisy scene: the posterior mean of the emoji world, in an autoencoder's latents.

The noise in z is the target of training plus all that z and the caption do not say of it, which is most of the variance
of a gradient at low log-SNR. Where every scene is known, so is that part, and it can be taken off: the target becomes
E[ε | z, caption], as in Xu, Tong, Jaakkola (Stable Target Field, ICLR 2023) with the whole world for a reference batch,
and two captions of the same z differ by what they should, all that a PID sees, with no noise at all.

A latent is the autoencoder's of a scene. Two pictures share it by halves; what one half knows of the other (through the
norms of the autoencoder, and at the border) is taken for round Gaussian noise, ``scale`` measured. The target keeps
that part of the latent as it is: it is a control variate, so that ``scale`` only enters the odds of scenes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from math import log

import numpy as np
import torch
from torch import Tensor

from dpid.zoo.emoji import scenes, sprites

Encode = Callable[[list[np.ndarray]], Tensor]
PARTNERS = 4  # scenes that a half is the mean of
_NAMES = list(scenes.PICTURES)
_INDEX = {picture: i for i, picture in enumerate(_NAMES)}
_SIDE = scenes.SIZE // 4  # of a latent
_MIDDLES = (scenes.SIZE // 2,), (scenes.SIZE // 4, 3 * scenes.SIZE // 4)  # of one picture, of two
_TOP = (scenes.SIZE - scenes.SPRITE) // 2


@dataclass
class Teacher:
    """E[x | z, caption] over all scenes of the world, by their latents: what, where and on which background.

    alone : [G,L,P,D], of background, place, picture; D = C·16·16
    left, right : [G,L,P,D/2], halves of scenes of two
    scale : standard deviation of what a half knows of the other
    """

    alone: Tensor
    left: Tensor
    right: Tensor
    scale: float

    def __post_init__(self) -> None:
        self._templates = self.alone, self.left, self.right
        self._norms = [t.square().sum(-1) / 2 for t in self._templates]

    @classmethod
    def of(cls, encode: Encode) -> Teacher:
        """``encode``: pixels uint8 [64,64,3] of scenes -> their latents [n,C,16,16], as training sees them."""
        return cls(_alone(encode), *_halves(encode))

    def unsaid(
        self, z: Tensor, logsnr: Tensor, shown: Sequence[scenes.Scene], captions: Sequence[Sequence[str]]
    ) -> Tensor:
        """E[ε | z, caption] - E[ε | z, scene], [K,N,C,16,16].

        z [N,C,16,16] at logsnr [N] shows ``shown``, under K captions of each; ε plus this is the target of training.
        """
        a, noise = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()  # [N]
        v = a.square() * self.scale**2 + noise.square()
        own = torch.stack([self._own(scene) for scene in shown])
        change = torch.stack([mean - own for mean in self._means(z, a, v, captions)])
        eps: Tensor = (-(a * noise / v)[:, None] * change).unflatten(-1, z.shape[1:])
        return eps

    def _means(self, z: Tensor, a: Tensor, v: Tensor, captions: Sequence[Sequence[str]]) -> list[Tensor]:
        """Mean of the templates given z and each of K captions, [N,D] each."""
        scores = self._scores(z, a, v)
        sums = [s.logsumexp(2) - log(s.shape[2]) for s in scores]  # [N,G,P], alone, left, right
        where = [s.softmax(2) for s in scores]
        out = []
        for texts in captions:
            one, two = (torch.stack(w) for w in zip(*map(weights, texts), strict=True))  # [N,P], [N,P,P]
            alone = sums[0] + one[:, None]
            pairs = sums[1][..., None] + sums[2][..., None, :] + two[:, None]  # [N,G,P,P]
            total = torch.cat((alone.flatten(1), pairs.flatten(1)), 1).logsumexp(1)[:, None, None]
            odds = (pairs - total[..., None]).exp()
            what = (alone - total).exp(), odds.sum(3), odds.sum(2)
            means = [
                (w * p[:, :, None]).flatten(1) @ t.flatten(0, 2)
                for w, p, t in zip(where, what, self._templates, strict=True)
            ]
            out.append(means[0] + _beside(*means[1:]))
        return out

    def _scores(self, z: Tensor, a: Tensor, v: Tensor) -> list[Tensor]:
        """Log-likelihoods less -|z|²/2v of z given what, where and background, [N,G,L,P]: alone, left, right."""
        parts = z.flatten(1), z[..., : _SIDE // 2].flatten(1), z[..., _SIDE // 2 :].flatten(1)
        scores = []
        for part, template, norm in zip(parts, self._templates, self._norms, strict=True):
            fit = (part @ template.flatten(0, 2).mT).unflatten(1, norm.shape)
            scores.append((a / v).view(-1, 1, 1, 1) * fit - (a.square() / v).view(-1, 1, 1, 1) * norm)
        return scores

    def _own(self, scene: scenes.Scene) -> Tensor:
        """The template [D] of a scene."""
        g = scenes.BACKGROUNDS.index(scene.background)
        single = len(scene.pictures) == 1
        jitter = list(scenes.JITTER_ONE if single else scenes.JITTER_TWO)
        halves = []
        for middle, (x, y), picture, template in zip(
            _MIDDLES[not single], scene.corners, scene.pictures, self._templates[:1] if single else self._templates[1:],
            strict=True,
        ):  # fmt: skip
            halves.append(template[g, jitter.index((x - middle + scenes.SPRITE // 2, y - _TOP)), _INDEX[picture]])
        return halves[0] if single else _beside(*halves)


def _beside(left: Tensor, right: Tensor) -> Tensor:
    """Two halves [..., D/2] -> a latent [..., D]."""
    halves = [half.unflatten(-1, (-1, _SIDE, _SIDE // 2)) for half in (left, right)]
    return torch.cat(halves, -1).flatten(-3)


def _alone(encode: Encode) -> Tensor:
    """Latents of every picture alone."""
    rows = []
    for background, jitter in product(scenes.BACKGROUNDS, scenes.JITTER_ONE):
        rows.append(encode(_draw([((p, jitter),) for p in _NAMES], background)).flatten(1))
    alone: Tensor = torch.stack(rows).unflatten(0, (len(scenes.BACKGROUNDS), -1))
    return alone


def _halves(encode: Encode) -> tuple[Tensor, Tensor, float]:
    """Means of both halves over ``PARTNERS`` other halves, and the standard deviation of what they differ by."""
    rng = random.Random(0)
    places = [(picture, jitter) for jitter in scenes.JITTER_TWO for picture in _NAMES]
    lefts, rights = [], []
    for background in scenes.BACKGROUNDS:
        for _ in range(PARTNERS):
            other = rng.sample(places, len(places))  # every right half once, too
            at = {place: i for i, place in enumerate(other)}
            left, right = encode(_draw(list(zip(places, other, strict=True)), background)).chunk(2, -1)
            lefts.append(left.flatten(1))
            rights.append(right[[at[place] for place in places]].flatten(1))
    both = [torch.stack(h).unflatten(0, (len(scenes.BACKGROUNDS), PARTNERS)) for h in (lefts, rights)]  # [G,M,L·P,D/2]
    scale = float(torch.stack([h.var(1).mean() for h in both]).mean().sqrt())
    left, right = (h.mean(1).unflatten(1, (-1, len(_NAMES))) for h in both)
    return left, right, scale


def _draw(shown: Sequence[Sequence[tuple[str, tuple[int, int]]]], background: tuple[int, int, int]) -> list[np.ndarray]:
    """Scenes of pictures at offsets from the middles of their places."""
    drawn = []
    for scene in shown:
        corners = tuple(
            (middle - scenes.SPRITE // 2 + dx, _TOP + dy)
            for middle, (_, (dx, dy)) in zip(_MIDDLES[len(scene) - 1], scene, strict=True)
        )
        drawn.append(sprites.draw(scenes.Scene(tuple(p for p, _ in scene), corners, background, ""))[0])
    return drawn


@lru_cache(maxsize=4096)
def weights(caption: str) -> tuple[Tensor, Tensor]:
    """log P(picture alone | caption) [P] and of two from left to right [P,P], ``-inf`` for what it does not say."""
    one = torch.zeros(len(_NAMES))
    two = torch.zeros(len(_NAMES), len(_NAMES))
    for pictures, weight in scenes.posterior(caption).items():
        at = tuple(_INDEX[picture] for picture in pictures)
        (one if len(at) == 1 else two)[at] = weight
    return one.log(), two.log()
