"""The exact denoiser of the emoji world: every caption's density over noisy scenes, in closed form.

x is a scene as :func:`sprites.draw` draws it, in [-1, 1], averaged down by two (sprites sit at even corners, so that
their pixels stay whole), plus Gaussian noise: a mixture of round Gaussians, one for every choice of pictures, corners
and background. There are 14 million of them for "", but given the background a scene of two pictures falls into a left
and a right half that know nothing of each other, and the pictures' weights are all that a caption changes.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from math import log, pi
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from dpid.denoisers.exact.base import ExactDenoiser, channel
from dpid.denoisers.exact.mixture import check_weights
from dpid.denoisers.protocol import Conditions
from dpid.zoo.emoji import scenes, sprites

Layout = tuple[str, ...]
_SIDE, _PATCH = scenes.SIZE // 2, scenes.SPRITE // 2  # of a picture and of a sprite, averaged down by two
_ROWS = 64  # pictures at a time: about 4 MB each
# Where a sprite may be: alone, in the left half, in the right half; as corners, averaged down by two.
_PLACES = tuple(
    [((middle + dx) // 2 - _PATCH // 2, (scenes.SIZE // 2 + dy) // 2 - _PATCH // 2) for dx, dy in jitter]
    for middle, jitter in (
        (scenes.SIZE // 2, scenes.JITTER_ONE), (scenes.SIZE // 4, scenes.JITTER_TWO),
        (3 * scenes.SIZE // 4, scenes.JITTER_TWO),
    )
)  # fmt: skip


def given(holds: Callable[[Layout], bool]) -> dict[Layout, float]:
    """P(pictures | holds(pictures)) over tuples of pictures from left to right, for what no caption says.

    ``given(lambda pictures: "cow" in pictures)``: a cow is somewhere. ``ValueError`` if it holds for no layout.
    """
    chosen = {pictures: p for pictures, p in scenes.layouts().items() if holds(pictures)}
    if not chosen:
        raise ValueError("holds: is true of no layout of the training world")
    total = sum(chosen.values())
    return {pictures: p / total for pictures, p in chosen.items()}


class SceneDenoiser(ExactDenoiser):
    """x | condition = a scene of the emoji world, [3,32,32] in [-1,1], + scale · N(0, I).

    A condition is a caption of the training world ("" is all of it), a name of ``conditions``, or, but for explaining,
    where it needs a name, a mapping {pictures from left to right: probability}, for example of :func:`given`.

    Parameters
    ----------
    scale : standard deviation of the noise. At 0.25 the two pictures nearest to each other (the firefighters of medium
        skin, 2.55 apart) are taken for one another with probability Φ(-2.55 / 2·0.25) = 2e-7: what x tells of a caption
        is what its pictures tell, while a wrong word costs no more than it must.
    conditions : {name: {pictures: probability}}, further conditions that have a name
    device : of everything that is computed
    logsnr_range : ends of the integral; what lies beyond these is below 1e-3 nats of a whole picture
    levels : grid points over it

    Raises
    ------
    ValueError
        ``scale`` is not positive; a mapping has unknown pictures or weights that are not probabilities; a name of
        ``conditions`` is a caption already.
    """

    name = "emoji-scenes"

    def __init__(
        self,
        scale: float = 0.25,
        conditions: Mapping[str, Mapping[Layout, float]] | None = None,
        device: str | torch.device = "cpu",
        logsnr_range: tuple[float, float] = (-12.0, 18.0),
        levels: int = 4001,
    ) -> None:
        if not 0 < scale < float("inf"):
            raise ValueError(f"scale: found {scale}, expected a positive number")
        super().__init__((3, _SIDE, _SIDE), {}, torch.device(device), logsnr_range, levels)
        self.scale = float(scale)
        self._pictures = {picture: i for i, picture in enumerate(scenes.PICTURES)}
        for name, weights in (conditions or {}).items():
            if scenes.log_probability(name) > -float("inf"):
                raise ValueError(f"conditions: {name!r} is a caption of the training world; choose another name")
            self.conditions[name] = self._checked(name, weights)
        plain, changes = _drawings()
        self._plain = plain.to(self.device)  # [G,D], the backgrounds
        self._changes = changes.flatten(0, 1).to(self.device)  # [G·P,E], what a sprite adds to its patch
        self._pixels = _pixels().to(self.device)  # [L,E], where a patch lies in x
        # |plain + change|² / 2 in its two parts; the background is even, so that the place does not matter.
        patch = plain[:, _pixels()[0]]  # [G,E]
        self._norms = ((changes @ patch[..., None]).squeeze(-1) + changes.square().sum(-1) / 2).to(self.device)  # [G,P]
        self._plain_norms = self._plain.square().sum(1) / 2

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,64,64] in [-1,1] -> [B,3,32,32] fp32, averaged down by two; no noise is added."""
        if image.shape[1:] != (3, scenes.SIZE, scenes.SIZE):
            raise ValueError(f"image: found shape {tuple(image.shape)}, expected [B, 3, {scenes.SIZE}, {scenes.SIZE}]")
        return torch.nn.functional.avg_pool2d(image.to(self.device).float(), 2)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """All pictures are brought to the size of a scene."""
        return scenes.SIZE, scenes.SIZE

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Log weights of one picture [K,P] and of two [K,P,P].

        ``ValueError`` for a caption that never occurs or weights that are not probabilities, ``TypeError`` for what is
        neither text nor mapping.
        """
        size = len(self._pictures)
        one = torch.zeros(len(conditions), size, dtype=torch.float64)
        two = one.new_zeros(len(conditions), size, size)
        for k, condition in enumerate(conditions):
            for pictures, weight in self._weights(condition).items():
                at = tuple(self._pictures[picture] for picture in pictures)
                (one if len(at) == 1 else two)[(k, *at)] = weight
        encoded = (one.log().to(self.device), two.log().to(self.device))
        return Conditions(tuple(c if isinstance(c, str) else f"{len(c)} layouts" for c in conditions), encoded)

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,3,32,32], logsnr [N] -> ε̂ [N,K,B,3,32,32], exact; float64 but for the mean, in the dtype of z."""
        n, b = z.shape[:2]
        a, noise = (c.repeat_interleave(b, 0) for c in channel(logsnr, 1))  # [N·B,1]
        v = a.square() * self.scale**2 + noise.square()
        flat = z.double().flatten(2).flatten(0, 1)
        parts = [slice(i, i + _ROWS) for i in range(0, len(flat), _ROWS)]
        means = [self._means(flat[i], a[i], v[i], conditions.encoded, z.dtype) for i in parts]
        mean = torch.cat(means, 1)  # [K,N·B,D]
        eps: Tensor = noise / v * (flat - a * mean)
        return eps.view(-1, n, b, *self.shape).transpose(0, 1).to(z.dtype)

    def log_density(self, x: Tensor, condition: Any) -> Tensor:
        """x [B,3,32,32] -> log p(x | condition) [B], float64, nats.

        Raises as :meth:`encode_conditions`, and ``ValueError`` for an x of another shape or not finite.
        """
        (one,), (two,) = self.encode_conditions((condition,)).encoded
        flat, v = self._flat(x), x.new_full((), self.scale**2, dtype=torch.float64, device=self.device)
        ones = torch.ones_like(flat[:, :1])
        evidence = []
        for part, a in zip(flat.split(_ROWS), ones.split(_ROWS), strict=True):
            background, scores = self._scores(part, a, v)
            terms, *_ = _joint(background, [s.logsumexp(1) for s in scores], one, two)
            evidence.append(terms.flatten(1).logsumexp(1))
        density: Tensor = torch.cat(evidence) - flat.square().sum(1) / (2 * v)
        return density - flat.shape[1] / 2 * log(2 * pi * self.scale**2)

    def draw(self, condition: Any, count: int, generator: torch.Generator) -> list[scenes.Scene]:
        """Scenes of ``condition``, noise and pixels not yet; raises as :meth:`encode_conditions`."""
        weights = self._weights(condition)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        caption = condition if isinstance(condition, str) else ""
        chosen = rng.choices(list(weights), list(weights.values()), k=count)
        return [scenes.place(rng, pictures, caption) for pictures in chosen]

    def render(self, drawn: Sequence[scenes.Scene]) -> Tensor:
        """Scenes -> the means of x given each, float32 [count,3,32,32]."""
        changes = self._changes.view(len(self._plain), -1, 3, _PATCH, _PATCH)
        out = []
        for scene in drawn:
            g = scenes.BACKGROUNDS.index(scene.background)
            image = self._plain[g].clone().view(self.shape)
            for picture, (x, y) in zip(scene.pictures, scene.corners, strict=True):
                patch = changes[g, self._pictures[picture]]
                image[:, y // 2 : y // 2 + _PATCH, x // 2 : x // 2 + _PATCH] += patch
            out.append(image)
        return torch.stack(out).float()

    def observe(self, drawn: Sequence[scenes.Scene], generator: torch.Generator) -> Tensor:
        """Scenes -> x given each, with noise, float32 [count,3,32,32]."""
        noise = self._noise(len(drawn), generator).view(-1, *self.shape)
        return (self.render(drawn) + self.scale * noise).float()

    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """x ~ p(x | condition), float32 [count,3,32,32]; raises as :meth:`encode_conditions`."""
        return self.observe(self.draw(condition, count, generator), generator)

    def _weights(self, condition: Any) -> Mapping[Layout, float]:
        if isinstance(condition, str):
            return self.conditions[condition] if condition in self.conditions else scenes.posterior(condition)
        if not isinstance(condition, Mapping):
            raise TypeError(f"conditions: found {type(condition).__name__}, expected a caption or {{pictures: weight}}")
        return self._checked("a mapping", condition)

    def _checked(self, name: str, weights: Mapping[Layout, float]) -> dict[Layout, float]:
        for pictures in weights:
            if not isinstance(pictures, tuple) or len(pictures) not in (1, 2) or not {*pictures} <= {*self._pictures}:
                raise ValueError(f"conditions: {name!r} has {pictures!r}, expected one or two of scenes.PICTURES")
        values = check_weights(name, torch.tensor(list(weights.values()), dtype=torch.float64))
        return dict(zip(weights, values.tolist(), strict=True))

    def _scores(self, flat: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Log-likelihoods of z [R,D] less -|z|²/2v.

        Of a background alone [R,G], and what a sprite adds, [R,places,G,P]: alone, left and right. The odds of
        backgrounds and places are in them.
        """
        background = (a * (flat @ self._plain.mT) - a.square() * self._plain_norms) / v - log(len(self._plain))
        scores = (flat[:, self._pixels] @ self._changes.mT).unflatten(-1, self._norms.shape)  # [R,L,G,P]
        scores.mul_((a / v)[..., None, None]).sub_((a.square() / v)[..., None, None] * self._norms)
        sizes = [len(places) for places in _PLACES]
        return background, [s - log(n) for s, n in zip(scores.split(sizes, 1), sizes, strict=True)]

    def _means(self, flat: Tensor, a: Tensor, v: Tensor, encoded: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
        """z [R,D] -> E[mean | z, condition] [K,R,D] in ``dtype``: probabilities and pixels are of order one."""
        background, scores = self._scores(flat, a, v)
        sums = [s.logsumexp(1) for s in scores]
        where = torch.cat([s.softmax(1) for s in scores], 1).to(dtype)  # [R,L,G,P], place given picture and background
        counts = torch.tensor([len(places) for places in _PLACES], device=flat.device)
        changes, plain, out = self._changes.to(dtype), self._plain.to(dtype), []
        for one, two in zip(*encoded, strict=True):
            terms, p, left, right = _joint(background, sums, one, two)
            odds = terms.flatten(1).softmax(1).view_as(terms).to(dtype)
            what = odds.new_zeros(len(_PLACES), *sums[0].shape)  # [3,R,G,P], picture and background
            for marginal, index, part in ((0, p, odds[..., : len(p)]), (1, left, odds[..., len(p) :]),
                                          (2, right, odds[..., len(p) :])):  # fmt: skip
                what[marginal].index_add_(2, index, part)
            both = where * what.repeat_interleave(counts, 0).transpose(0, 1)
            mean = odds.sum(2) @ plain
            out.append(mean.index_add_(1, self._pixels.flatten(), (both.flatten(2) @ changes).flatten(1)))
        return torch.stack(out)


def _joint(background: Tensor, sums: list[Tensor], one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log odds [R,G,n] of background and layout, one picture's first, and the n layouts' pictures: alone, left, right.

    ``sums`` are log-likelihoods [R,G,P] of a picture alone, left and right; ``one`` [P], ``two`` [P,P] log weights.
    """
    alone, (left, right) = one.isfinite().nonzero()[:, 0], two.isfinite().nonzero(as_tuple=True)
    middle = sums[0][..., alone] + one[alone]
    pairs = sums[1][..., left] + sums[2][..., right] + two[left, right]
    return background[..., None] + torch.cat((middle, pairs), -1), alone, left, right


def _drawings() -> tuple[Tensor, Tensor]:
    """Backgrounds [G, D] and what every sprite changes on them [G, P, E], in [-1,1], averaged down by two, float64."""
    drawn = sprites.read()
    plain, changes = [], []
    for background in scenes.BACKGROUNDS:
        empty = Image.new("RGB", (scenes.SIZE, scenes.SIZE), background)
        plain.append(_shrunk(empty).flatten())
        base = _shrunk(empty.crop((0, 0, scenes.SPRITE, scenes.SPRITE)))
        for drawing in drawn.values():
            patch = Image.new("RGB", drawing.size, background)
            patch.paste(drawing, (0, 0), drawing)
            changes.append((_shrunk(patch) - base).flatten())
    return torch.stack(plain), torch.stack(changes).unflatten(0, (len(plain), -1))


def _shrunk(image: Image.Image) -> Tensor:
    """A picture as float64 [3,h/2,w/2] in [-1,1], averaged down by two."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float64)).permute(2, 0, 1)
    return torch.nn.functional.avg_pool2d(pixels[None], 2)[0] / 127.5 - 1


def _pixels() -> Tensor:
    """Indices [L, E] into x.flatten() of the patch at every place: alone, left, right."""
    index = torch.arange(3 * _SIDE * _SIDE).view(3, _SIDE, _SIDE)
    corners = [corner for places in _PLACES for corner in places]
    return torch.stack([index[:, y : y + _PATCH, x : x + _PATCH].flatten() for x, y in corners])
