"""Training targets of the embedded model: the posterior mean of the noise given z and caption, over all scenes.

The usual target, ε itself, is E[ε | z, caption] plus a remainder that causes most of the gradient's variance at low
log-SNR. Since all scenes of the world are known, the remainder is computed and subtracted, as in Xu, Tong and Jaakkola
(Stable Target Field, ICLR 2023) with the whole world as reference batch. The targets of two captions of the same z then
differ without noise, and that difference is what a PID depends on. The class that computes them is the teacher.

Scenes are represented by the autoencoder's latents. In those of two pictures the left and the right half are nearly
independent; what a half depends on the other (through the norms of the autoencoder, and at the border) is taken for
isotropic Gaussian noise of the measured standard deviation ``scale``. The target keeps that part of the latent (as in
a control variate), so that ``scale`` enters the probabilities of scenes only.
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
PARTNERS = 4  # scenes, with different other halves, over which the latent of a half is averaged
_NAMES = list(scenes.PICTURES)
_INDEX = {picture: i for i, picture in enumerate(_NAMES)}
_SIDE = scenes.SIZE // 4  # height and width of a latent
_MIDDLES = (scenes.SIZE // 2,), (scenes.SIZE // 4, 3 * scenes.SIZE // 4)  # centres, of one and of two pictures
_TOP = (scenes.SIZE - scenes.SPRITE) // 2


@dataclass
class Teacher:
    """Computes E[x | z, caption] over all scenes of the world, from the latents of all pictures in all places.

    alone : latents of scenes of one picture [G,L,P,D]: G backgrounds, L places, P pictures, D = C·16·16
    left, right : halves of latents of scenes of two pictures [G,L,P,D/2]
    scale : standard deviation of what a half depends on the other
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
        """The teacher for an autoencoder; ``encode`` turns n pictures uint8 [64,64,3] into latents [n,C,16,16]."""
        return cls(_alone(encode), *_halves(encode))

    def unsaid(
        self, z: Tensor, logsnr: Tensor, shown: Sequence[scenes.Scene], said: Sequence[tuple[Tensor, Tensor]]
    ) -> Tensor:
        """E[ε | z, caption] - E[ε | z, scene] [K,N,C,16,16]: added to ε, it gives the training target.

        z [N,C,16,16] at logsnr [N] are the scenes ``shown`` with noise, which have K captions each; ``said`` are the
        log-probabilities :func:`say` of these.
        """
        a, noise = logsnr.sigmoid().sqrt(), (-logsnr).sigmoid().sqrt()  # [N]
        v = a.square() * self.scale**2 + noise.square()
        own = self._own(shown)
        change = torch.stack([mean - own for mean in self._means(z, a, v, said)])
        eps: Tensor = (-(a * noise / v)[:, None] * change).unflatten(-1, z.shape[1:])
        return eps

    def _means(self, z: Tensor, a: Tensor, v: Tensor, said: Sequence[tuple[Tensor, Tensor]]) -> list[Tensor]:
        """E[latent | z, caption] for each of K captions, [N,D]."""
        scores = self._scores(z, a, v)
        sums = [s.logsumexp(2) - log(s.shape[2]) for s in scores]  # [N,G,P], alone, left, right
        where = [s.softmax(2) for s in scores]
        out = []
        for one, two in said:
            alone = sums[0] + one[:, None]
            pairs = sums[1][..., None] + sums[2][..., None, :] + two[:, None]  # [N,G,P,P]
            total = torch.cat((alone.flatten(1), pairs.flatten(1)), 1).logsumexp(1)[:, None, None]
            joint = (pairs - total[..., None]).exp()
            what = (alone - total).exp(), joint.sum(3), joint.sum(2)
            means = [
                (w * p[:, :, None]).flatten(1) @ t.flatten(0, 2)
                for w, p, t in zip(where, what, self._templates, strict=True)
            ]
            out.append(means[0] + _beside(*means[1:]))
        return out

    def _scores(self, z: Tensor, a: Tensor, v: Tensor) -> list[Tensor]:
        """Log-likelihoods [N,G,L,P] of z given background, place and picture, alone, left and right, plus |z|²/2v."""
        parts = z.flatten(1), z[..., : _SIDE // 2].flatten(1), z[..., _SIDE // 2 :].flatten(1)
        scores = []
        for part, template, norm in zip(parts, self._templates, self._norms, strict=True):
            fit = (part @ template.flatten(0, 2).mT).unflatten(1, norm.shape)
            scores.append((a / v).view(-1, 1, 1, 1) * fit - (a.square() / v).view(-1, 1, 1, 1) * norm)
        return scores

    def _own(self, shown: Sequence[scenes.Scene]) -> Tensor:
        """The latents [N,D] of N scenes, put together from the templates."""
        own = self.alone.new_empty(len(shown), self.alone.shape[-1])
        for count, templates in ((1, self._templates[:1]), (2, self._templates[1:])):
            rows = [n for n, scene in enumerate(shown) if len(scene.pictures) == count]
            at = torch.tensor([_places(shown[n]) for n in rows], dtype=torch.int64).reshape(len(rows), count, 3)
            parts = [template[at[:, i].unbind(1)] for i, template in enumerate(templates)]
            own[rows] = parts[0] if count == 1 else _beside(*parts)
        return own


def _places(scene: scenes.Scene) -> list[tuple[int, int, int]]:
    """Indices (background, place, picture) into the templates of every picture of a scene."""
    single = len(scene.pictures) == 1
    jitter = scenes.JITTER_ONE if single else scenes.JITTER_TWO
    return [
        (scenes.BACKGROUNDS.index(scene.background), jitter.index((x - middle + scenes.SPRITE // 2, y - _TOP)),
         _INDEX[picture])
        for middle, (x, y), picture in zip(_MIDDLES[not single], scene.corners, scene.pictures, strict=True)
    ]  # fmt: skip


def _beside(left: Tensor, right: Tensor) -> Tensor:
    """The latent [..., D] with the halves ``left`` and ``right`` [..., D/2]."""
    halves = [half.unflatten(-1, (-1, _SIDE, _SIDE // 2)) for half in (left, right)]
    return torch.cat(halves, -1).flatten(-3)


def _alone(encode: Encode) -> Tensor:
    """Latents [G,L,P,D] of every picture alone, at every place on every background."""
    rows = []
    for background, jitter in product(scenes.BACKGROUNDS, scenes.JITTER_ONE):
        rows.append(encode(_draw([((p, jitter),) for p in _NAMES], background)).flatten(1))
    alone: Tensor = torch.stack(rows).unflatten(0, (len(scenes.BACKGROUNDS), -1))
    return alone


def _halves(encode: Encode) -> tuple[Tensor, Tensor, float]:
    """Left and right halves [G,L,P,D/2], means over ``PARTNERS`` other halves, and the deviation from these."""
    rng = random.Random(0)
    places = [(picture, jitter) for jitter in scenes.JITTER_TWO for picture in _NAMES]
    lefts, rights = [], []
    for background in scenes.BACKGROUNDS:
        for _ in range(PARTNERS):
            other = rng.sample(places, len(places))  # a permutation, so that every right half occurs once
            at = {place: i for i, place in enumerate(other)}
            left, right = encode(_draw(list(zip(places, other, strict=True)), background)).chunk(2, -1)
            lefts.append(left.flatten(1))
            rights.append(right[[at[place] for place in places]].flatten(1))
    both = [torch.stack(h).unflatten(0, (len(scenes.BACKGROUNDS), PARTNERS)) for h in (lefts, rights)]  # [G,M,L·P,D/2]
    scale = float(torch.stack([h.var(1).mean() for h in both]).mean().sqrt())
    left, right = (h.mean(1).unflatten(1, (-1, len(_NAMES))) for h in both)
    return left, right, scale


def _draw(shown: Sequence[Sequence[tuple[str, tuple[int, int]]]], background: tuple[int, int, int]) -> list[np.ndarray]:
    """Pixels uint8 [64,64,3] of scenes, given by (picture, offset from the centre), left to right."""
    drawn = []
    for scene in shown:
        corners = tuple(
            (middle - scenes.SPRITE // 2 + dx, _TOP + dy)
            for middle, (_, (dx, dy)) in zip(_MIDDLES[len(scene) - 1], scene, strict=True)
        )
        drawn.append(sprites.draw(scenes.Scene(tuple(p for p, _ in scene), corners, background, ""))[0])
    return drawn


def say(captions: Sequence[str]) -> tuple[Tensor, Tensor]:
    """The log-probabilities :func:`weights` of N captions: [N,P] and [N,P,P]."""
    one, two = zip(*map(weights, captions), strict=True)
    return torch.stack(one), torch.stack(two)


@lru_cache(maxsize=4096)
def weights(caption: str) -> tuple[Tensor, Tensor]:
    """log P(layout | caption) of layouts of one picture [P] and of two [P,P]; ``-inf`` for impossible ones."""
    tables = torch.zeros(len(_NAMES)), torch.zeros(len(_NAMES), len(_NAMES))
    layouts = scenes.posterior(caption)
    for count, table in zip((1, 2), tables, strict=True):
        pictures = [p for p in layouts if len(p) == count]
        at = torch.tensor([[_INDEX[name] for name in p] for p in pictures], dtype=torch.int64).view(-1, count)
        table[at.unbind(1)] = torch.tensor([layouts[p] for p in pictures])
    return tables[0].log(), tables[1].log()
