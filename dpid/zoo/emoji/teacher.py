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
        self, z: Tensor, logsnr: Tensor, shown: Sequence[scenes.Scene], said: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """E[ε | z, caption] - E[ε | z, scene], [K,N,C,16,16].

        z [N,C,16,16] at logsnr [N] shows ``shown``; K captions of each say ``said`` (:func:`say`). ε plus this is the
        target of training.
        """
        a, noise = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()  # [N]
        v = a.square() * self.scale**2 + noise.square()
        own = self._own(shown)
        change = torch.stack([mean - own for mean in self._means(z, a, v, said)])
        eps: Tensor = (-(a * noise / v)[:, None] * change).unflatten(-1, z.shape[1:])
        return eps

    def _means(self, z: Tensor, a: Tensor, v: Tensor, said: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """Mean of the templates given z and what each of K captions says, [N,D] each."""
        scores = self._scores(z, a, v)
        sums = [s.logsumexp(2) - log(s.shape[2]) for s in scores]  # [N,G,P], alone, left, right
        where = [s.softmax(2) for s in scores]
        out = []
        for one, two in said:
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

    def _own(self, shown: Sequence[scenes.Scene]) -> Tensor:
        """The templates [N,D] of scenes."""
        own = self.alone.new_empty(len(shown), self.alone.shape[-1])
        for count, templates in ((1, self._templates[:1]), (2, self._templates[1:])):
            rows = [n for n, scene in enumerate(shown) if len(scene.pictures) == count]
            at = torch.tensor([_places(shown[n]) for n in rows], dtype=torch.int64).reshape(len(rows), count, 3)
            parts = [template[at[:, i].unbind(1)] for i, template in enumerate(templates)]
            own[rows] = parts[0] if count == 1 else _beside(*parts)
        return own


def _places(scene: scenes.Scene) -> list[tuple[int, int, int]]:
    """Background, place and picture of every picture of a scene, as the templates number them."""
    single = len(scene.pictures) == 1
    jitter = scenes.JITTER_ONE if single else scenes.JITTER_TWO
    return [
        (scenes.BACKGROUNDS.index(scene.background), jitter.index((x - middle + scenes.SPRITE // 2, y - _TOP)),
         _INDEX[picture])
        for middle, (x, y), picture in zip(_MIDDLES[not single], scene.corners, scene.pictures, strict=True)
    ]  # fmt: skip


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


def say(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """:func:`weights` of N captions: [N,P] and [N,P,P]."""
    one, two = zip(*map(weights, captions), strict=True)
    return torch.stack(one), torch.stack(two)


@lru_cache(maxsize=4096)
def weights(caption: str) -> tuple[Tensor, Tensor]:
    """log P(picture alone | caption) [P] and of two from left to right [P,P], ``-inf`` for what it does not say."""
    tables = torch.zeros(len(_NAMES)), torch.zeros(len(_NAMES), len(_NAMES))
    layouts = scenes.posterior(caption)
    for count, table in zip((1, 2), tables, strict=True):
        pictures = [p for p in layouts if len(p) == count]
        at = torch.tensor([[_INDEX[name] for name in p] for p in pictures], dtype=torch.int64).view(-1, count)
        table[at.unbind(1)] = torch.tensor([layouts[p] for p in pictures])
    return tables[0].log(), tables[1].log()
