"""The exact denoiser of the embedded model's training distribution, with log p(x | caption) in closed form.

x is a scene as :func:`sprites.draw` draws it, in [-1, 1], averaged down by two, plus Gaussian noise (the corners of
sprites are even, so that every pixel of x lies inside or outside a sprite). So x is a mixture of isotropic Gaussians,
one for every choice of pictures, corners and background (docs/theory.md, eq. (59)). For "" there are 14 million,
but given the background and the pictures the two halves of a scene are independent, and only the weights of the
pictures depend on the caption.
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
_ROWS = 64  # most pictures computed at a time, each of which takes about 4 MB
# The corners (x, y) that a sprite may have, averaged down by two: alone, in the left half, in the right half.
_PLACES = tuple(
    [((middle + dx) // 2 - _PATCH // 2, (scenes.SIZE // 2 + dy) // 2 - _PATCH // 2) for dx, dy in jitter]
    for middle, jitter in (
        (scenes.SIZE // 2, scenes.JITTER_ONE), (scenes.SIZE // 4, scenes.JITTER_TWO),
        (3 * scenes.SIZE // 4, scenes.JITTER_TWO),
    )
)  # fmt: skip


def given(holds: Callable[[Layout], bool]) -> dict[Layout, float]:
    """{pictures from left to right: probability} of scenes for which ``holds(pictures)``, where no caption says that.

    ``given(lambda pictures: "cow" in pictures)``: there is a cow. ``ValueError`` if it holds for no scene.
    """
    chosen = {pictures: p for pictures, p in scenes.layouts().items() if holds(pictures)}
    if not chosen:
        raise ValueError("holds: is true of no layout of the training world")
    total = sum(chosen.values())
    return {pictures: p / total for pictures, p in chosen.items()}


class SceneDenoiser(ExactDenoiser):
    """The exact denoiser of scenes with noise: x = scene [3,32,32] in [-1,1] + scale · N(0, I).

    A condition is a caption of the training distribution ("" is all of it), a name of ``conditions``, or a mapping
    {pictures from left to right: probability} such as :func:`given` returns; the explainer takes texts and names only.

    Parameters
    ----------
    scale : standard deviation of the noise. At 0.25 the two most similar pictures (the firefighters of medium skin,
        at distance 2.55) are confused with probability Φ(-2.55 / 2·0.25) = 2e-7. So x determines its pictures, as an
        image does, while the log-density of a wrong word is no lower than that requires.
    conditions : {name: {pictures: probability}}, further conditions
    device : device of all computations
    logsnr_range : ends of the integral; beyond them i(x; y) of a picture has less than 1e-3 nats
    levels : number of grid points

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
        # G backgrounds, P pictures, L places, D values of x, E values of a sprite's patch.
        self._plain = plain.to(self.device)  # [G,D]
        self._changes = changes.flatten(0, 1).to(self.device)  # [G·P,E], patch with sprite less without
        self._pixels = _pixels().to(self.device)  # [L,E], indices of a patch in x
        # |plain + change|² / 2 in two parts. A background has one colour, so that the place does not matter.
        patch = plain[:, _pixels()[0]]  # [G,E]
        self._norms = ((changes @ patch[..., None]).squeeze(-1) + changes.square().sum(-1) / 2).to(self.device)  # [G,P]
        self._plain_norms = self._plain.square().sum(1) / 2

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,64,64] in [-1,1] averaged down by two, float32 [B,3,32,32]; ``ValueError`` for other shapes.

        No noise is added.
        """
        if image.shape[1:] != (3, scenes.SIZE, scenes.SIZE):
            raise ValueError(f"image: found shape {tuple(image.shape)}, expected [B, 3, {scenes.SIZE}, {scenes.SIZE}]")
        return torch.nn.functional.avg_pool2d(image.to(self.device).float(), 2)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The size (64, 64) of a scene, to which every picture is resized."""
        return scenes.SIZE, scenes.SIZE

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """K conditions encoded as log-probabilities of one picture [K,P] and of two [K,P,P].

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
        """The exact noise E[ε | z, condition], [N,K,B,3,32,32], of z [N,B,3,32,32] at logsnr [N].

        Computed in float64 except for E[x | z, condition], which is in the dtype of z.
        """
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
        """log p(x | condition) float64 [B] in nats of x [B,3,32,32].

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
        """``count`` random scenes of ``condition``, not rendered; raises as :meth:`encode_conditions`."""
        weights = self._weights(condition)
        rng = random.Random(int(torch.randint(2**62, (), generator=generator, device=generator.device)))
        caption = condition if isinstance(condition, str) else ""
        chosen = rng.choices(list(weights), list(weights.values()), k=count)
        return [scenes.place(rng, pictures, caption) for pictures in chosen]

    def render(self, drawn: Sequence[scenes.Scene]) -> Tensor:
        """The pixels of scenes without noise, E[x | scene], float32 [count,3,32,32]."""
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
        """Scenes with noise, x ~ p(x | scene), float32 [count,3,32,32]."""
        noise = self._noise(len(drawn), generator).view(-1, *self.shape)
        return (self.render(drawn) + self.scale * noise).float()

    def sample(self, condition: Any, count: int, generator: torch.Generator) -> Tensor:
        """Random x ~ p(x | condition), float32 [count,3,32,32]; raises as :meth:`encode_conditions`."""
        return self.observe(self.draw(condition, count, generator), generator)

    def _weights(self, condition: Any) -> Mapping[Layout, float]:
        """{pictures: probability} of a condition; raises as :meth:`encode_conditions`."""
        if isinstance(condition, str):
            return self.conditions[condition] if condition in self.conditions else scenes.posterior(condition)
        if not isinstance(condition, Mapping):
            raise TypeError(f"conditions: found {type(condition).__name__}, expected a caption or {{pictures: weight}}")
        return self._checked("a mapping", condition)

    def _checked(self, name: str, weights: Mapping[Layout, float]) -> dict[Layout, float]:
        """``weights`` as probabilities; ``ValueError``, naming ``name``, unless they are those of known layouts."""
        for pictures in weights:
            if not isinstance(pictures, tuple) or len(pictures) not in (1, 2) or not {*pictures} <= {*self._pictures}:
                raise ValueError(f"conditions: {name!r} has {pictures!r}, expected one or two of scenes.PICTURES")
        values = check_weights(name, torch.tensor(list(weights.values()), dtype=torch.float64))
        return dict(zip(weights, values.tolist(), strict=True))

    def _scores(self, flat: Tensor, a: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Log-probabilities of z [R,D] and its scene, without the term -|z|²/2v that is common to all.

        Those of the background [R,G], and what a sprite adds to them, [R,places,G,P] for a sprite alone, left and
        right. The probabilities of backgrounds and places are included, those of pictures are not.
        """
        background = (a * (flat @ self._plain.mT) - a.square() * self._plain_norms) / v - log(len(self._plain))
        scores = (flat[:, self._pixels] @ self._changes.mT).unflatten(-1, self._norms.shape)  # [R,L,G,P]
        scores.mul_((a / v)[..., None, None]).sub_((a.square() / v)[..., None, None] * self._norms)
        sizes = [len(places) for places in _PLACES]
        return background, [s - log(n) for s, n in zip(scores.split(sizes, 1), sizes, strict=True)]

    def _means(self, flat: Tensor, a: Tensor, v: Tensor, encoded: tuple[Tensor, Tensor], dtype: torch.dtype) -> Tensor:
        """E[scene | z, condition] [K,R,D] of z [R,D]; in ``dtype``, since probabilities and pixels are of order one."""
        background, scores = self._scores(flat, a, v)
        sums = [s.logsumexp(1) for s in scores]
        where = torch.cat([s.softmax(1) for s in scores], 1).to(dtype)  # [R,L,G,P], P(place | picture, background, z)
        counts = torch.tensor([len(places) for places in _PLACES], device=flat.device)
        changes, plain, out = self._changes.to(dtype), self._plain.to(dtype), []
        for one, two in zip(*encoded, strict=True):
            terms, p, left, right = _joint(background, sums, one, two)
            joint = terms.flatten(1).softmax(1).view_as(terms).to(dtype)
            what = joint.new_zeros(len(_PLACES), *sums[0].shape)  # [3,R,G,P], P(picture, background | z)
            for marginal, index, part in ((0, p, joint[..., : len(p)]), (1, left, joint[..., len(p) :]),
                                          (2, right, joint[..., len(p) :])):  # fmt: skip
                what[marginal].index_add_(2, index, part)
            both = where * what.repeat_interleave(counts, 0).transpose(0, 1)
            mean = joint.sum(2) @ plain
            out.append(mean.index_add_(1, self._pixels.flatten(), (both.flatten(2) @ changes).flatten(1)))
        return torch.stack(out)


def _joint(background: Tensor, sums: list[Tensor], one: Tensor, two: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Unnormalised log-probabilities [R,G,n] of background and layout, and the indices of the pictures in n layouts.

    The layouts of one picture come first; the indices are those alone, left and right. ``sums`` are log-likelihoods
    [R,G,P] of a picture alone, left and right; ``one`` [P] and ``two`` [P,P] log-probabilities of layouts.
    """
    alone, (left, right) = one.isfinite().nonzero()[:, 0], two.isfinite().nonzero(as_tuple=True)
    middle = sums[0][..., alone] + one[alone]
    pairs = sums[1][..., left] + sums[2][..., right] + two[left, right]
    return background[..., None] + torch.cat((middle, pairs), -1), alone, left, right


def _drawings() -> tuple[Tensor, Tensor]:
    """Backgrounds [G,D] and the change of a patch by every sprite [G,P,E], float64, in [-1,1], averaged down by two."""
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
    """A picture averaged down by two, float64 [3,h/2,w/2] in [-1,1]."""
    pixels = torch.from_numpy(np.asarray(image, dtype=np.float64)).permute(2, 0, 1)
    return torch.nn.functional.avg_pool2d(pixels[None], 2)[0] / 127.5 - 1


def _pixels() -> Tensor:
    """Indices [L,E] into x.flatten() of the patch at every place: those alone, left, right."""
    index = torch.arange(3 * _SIDE * _SIDE).view(3, _SIDE, _SIDE)
    corners = [corner for places in _PLACES for corner in places]
    return torch.stack([index[:, y : y + _PATCH, x : x + _PATCH].flatten() for x, y in corners])
