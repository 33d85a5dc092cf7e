"""What the UNet of the embedded model is taught: noisy scenes, captions, and the noise that follows from both."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from dpid.zoo.emoji import scenes
from dpid.zoo.emoji.teacher import Teacher, say

CLEAR = 0.0  # log-SNR from which z itself says which scene it is: a caption has nothing to add
VAGUE = -1.0  # up to which a caption may be wrong; beyond, a wrong one would have to be drawn over what is seen
LARGE = 0.02  # square of a gap between two captions, per latent number, from which on it counts by its ratio
# Of scenes with one more person; of second captions that are empty; that are wrong (half as many where people are
# shown: of whom right ones have most to tell); of wrong ones that have one picture swapped, else they are of any scene.
PERSON, NULL, WRONG, SWAPPED = 0.4, 0.2, 0.45, 0.4


def scene(rng: random.Random) -> scenes.Scene:
    """A scene to learn from: more people than the world has, those added of any occupation, gender and tone alike.

    Who is rare there is learnt no worse, and what a caption means stays what it is: the teacher, not the number of
    scenes, says how rare they are.
    """
    pictures = list(scenes.sample(rng).pictures)
    if rng.random() < PERSON:
        pictures[rng.randrange(len(pictures))] = _person(rng)
        if len({scenes.PICTURES[p].family for p in pictures}) < len(pictures):
            pictures = pictures[:1]
    return scenes.place(rng, tuple(pictures), "")


def _person(rng: random.Random) -> str:
    return "/".join(rng.choice(list(words)) for words in (scenes.OCCUPATIONS, scenes.GENDERS, scenes.TONES))


def swapped(rng: random.Random, pictures: tuple[str, ...]) -> tuple[str, ...]:
    """``pictures`` with one of them another: of a person one property, of a homonym often the other sense."""
    at = rng.randrange(len(pictures))
    old = pictures[at]
    while True:
        if "/" in old:
            parts, other = old.split("/"), _person(rng).split("/")
            i = rng.randrange(len(parts))
            new = "/".join((*parts[:i], other[i], *parts[i + 1 :]))
        else:
            family = [p for p, picture in scenes.PICTURES.items() if picture.family == scenes.PICTURES[old].family]
            new = rng.choice(family if len(family) > 1 and rng.random() < 0.5 else list(scenes.PICTURES))
        rest = (*pictures[:at], *pictures[at + 1 :])
        if new != old and all(scenes.allowed(new, p) for p in rest):
            return (*pictures[:at], new, *pictures[at + 1 :])


class Captions:
    """Draws captions of pictures from their exact distribution."""

    def __init__(self) -> None:
        self._odds: dict[tuple[str, ...], tuple[list[str], list[float]]] = {}

    def draw(self, rng: random.Random, pictures: tuple[str, ...]) -> str:
        if pictures not in self._odds:
            captions = scenes.captions(pictures)
            self._odds[pictures] = list(captions), list(accumulate(captions.values()))
        names, cumulative = self._odds[pictures]
        return rng.choices(names, cum_weights=cumulative)[0]

    def second(self, rng: random.Random, pictures: tuple[str, ...], wrong: bool) -> str:
        """To compare with: now and then empty or, where ``wrong`` is allowed, of what the scene does not show."""
        chance, people = rng.random(), any("/" in p for p in pictures)
        if chance < NULL:
            return ""
        if not wrong or chance >= NULL + (WRONG / 2 if people else WRONG):
            return self.draw(rng, pictures)
        one = people or rng.random() < SWAPPED
        return self.draw(rng, swapped(rng, pictures) if one else scenes.sample(rng).pictures)


def timesteps(alphas: Tensor, count: int) -> Tensor:
    """``count`` timesteps, stratified, from the mean of two densities: uniform in t, with which samples are drawn, and
    uniform in log-SNR, a fifth as dense beyond ``CLEAR``.

    The eps loss that is uniform in log-SNR is -log p(x) (theory: ITD, eq. 8), but what captions say is below ``CLEAR``.
    """
    logsnr = torch.logit(alphas.double())
    second = torch.where(logsnr < CLEAR, 1.0, 0.2) * -torch.gradient(logsnr)[0]
    density = (1 / len(alphas) + second / second.sum()) / 2
    cumulative = density.cumsum(0) / density.sum()
    levels = (torch.arange(count) + torch.rand(count)) / count
    return torch.searchsorted(cumulative, levels.to(cumulative)).clamp(max=len(alphas) - 1)


def importance(logsnr: Tensor) -> Tensor:
    """Weight of the squared error at these log-SNRs: all make about the same loss.

    With equal ones two thirds of it would lie above log-SNR 1, in the grain of the autoencoder, and so would the noise
    of the gradient.
    """
    return (-logsnr / 2).exp().clamp(max=1)


def tame(target: Tensor) -> Tensor:
    """Weight [N] of second captions, beside that of first ones, of what is to be predicted under both [2,N,C,H,W].

    Where a caption is wrong and z nearly clear, what it asks for is so far from what is seen that the square of it
    would drown all else: it is weighed down to about ``LARGE``.
    """
    return 1 / (1 + (target[0] - target[1]).square().mean((1, 2, 3)) / LARGE)


@dataclass
class Lesson:
    """Of one step: N scenes, each noised and under two captions. Other processes can prepare it.

    rows : of the scenes among those of training
    shown : the scenes that ``known`` names
    t, noise : timesteps [N] and ε [N,C,H,W]
    tokens : of the captions, [2N,L]
    known : rows [M] where z leaves open what it shows
    said : what either caption says of those, see :func:`dpid.zoo.emoji.teacher.say`
    """

    rows: list[int]
    shown: list[scenes.Scene]
    t: Tensor
    noise: Tensor
    tokens: Tensor
    known: Tensor
    said: list[tuple[Tensor, Tensor]]

    def map(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """The same with every tensor changed."""
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in ("t", "noise", "tokens", "known")}
        return replace(self, **tensors, said=[(change(one), change(two)) for one, two in self.said])

    def pin_memory(self) -> Lesson:
        """What a DataLoader asks for, so that a copy to the GPU keeps nobody waiting."""
        return self.map(Tensor.pin_memory)

    def taught(self, latents: Tensor, teacher: Teacher, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [N,C,H,W], the ε to predict under either caption [2,N,C,H,W], weights [N], where ``latents`` lie."""
        x, a, shape = latents[self.rows].float(), alphas[self.t], (-1, 1, 1, 1)
        logsnr = torch.logit(a)
        z = a.sqrt().view(shape) * x + (1 - a).sqrt().view(shape) * self.noise
        target = self.noise.repeat(2, 1, 1, 1, 1)
        target[:, self.known] += teacher.unsaid(z[self.known], logsnr[self.known], self.shown, self.said)
        return z, target, importance(logsnr)


@dataclass
class Lessons(Dataset[Lesson]):
    """The lesson of every step: ``count`` scenes of ``world``, from the random numbers of that step alone."""

    world: list[scenes.Scene]
    alphas: Tensor
    count: int
    shape: tuple[int, int, int]
    tokenize: Callable[[list[str]], Tensor]
    rng_of: Callable[[int], random.Random]

    def __post_init__(self) -> None:
        self._captions = Captions()
        say([""])  # makes what all captions need, once for all processes

    def __getitem__(self, step: int) -> Lesson:
        rng = self.rng_of(step)
        torch.manual_seed(rng.getrandbits(63))
        rows = [rng.randrange(len(self.world)) for _ in range(self.count)]
        shown, t = [self.world[i] for i in rows], timesteps(self.alphas, self.count)
        noise, logsnr = torch.randn(self.count, *self.shape), torch.logit(self.alphas[t])
        texts = [
            [self._captions.draw(rng, s.pictures) for s in shown],
            [self._captions.second(rng, s.pictures, at < VAGUE) for s, at in zip(shown, logsnr.tolist(), strict=True)],
        ]
        known = (logsnr < CLEAR).nonzero()[:, 0]
        at = known.tolist()
        said = [say([column[i] for i in at]) for column in texts]
        return Lesson(rows, [shown[i] for i in at], t, noise, self.tokenize(texts[0] + texts[1]), known, said)
