"""Training batches of the embedded model's UNet: noisy scenes under two captions, and the targets of their ε̂.

A batch is called a lesson, since the target is not the noise itself but its posterior mean, which the ``teacher`` (see
:mod:`dpid.zoo.emoji.teacher`) computes exactly.
"""

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

CLEAR = 0.0  # log-SNR above which z determines the scene, so that the captions' targets are equal
VAGUE = -1.0  # log-SNR up to which the second caption may be wrong; above, it would contradict what z shows
NOISE = -7.0  # log-SNR below which nothing is left of a picture
LARGE = 0.02  # mean square difference of two captions' targets above which its weight falls as its inverse
# Probabilities: that a scene gets one more person; that a second caption is empty; that it is wrong (half of that for
# scenes with people, of whom true captions have most information); that a wrong one has just one picture replaced.
PERSON, NULL, WRONG, SWAPPED = 0.4, 0.2, 0.45, 0.4


def scene(rng: random.Random) -> scenes.Scene:
    """A random training scene, with people more often than in the world, and all kinds of people equally often.

    So rare people are learnt as well as others. The meaning of captions does not change, since the targets come from
    the teacher, which knows the true probabilities.
    """
    pictures = list(scenes.sample(rng).pictures)
    if rng.random() < PERSON:
        pictures[rng.randrange(len(pictures))] = _person(rng)
        if len({scenes.PICTURES[p].family for p in pictures}) < len(pictures):
            pictures = pictures[:1]
    return scenes.place(rng, tuple(pictures), "")


def _person(rng: random.Random) -> str:
    """The name of a random person's picture, all equally likely."""
    return "/".join(rng.choice(list(words)) for words in (scenes.OCCUPATIONS, scenes.GENDERS, scenes.TONES))


def swapped(rng: random.Random, pictures: tuple[str, ...]) -> tuple[str, ...]:
    """``pictures`` with one replaced: of a person one property changes, of a homonym often the sense."""
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
    """Draws captions of scenes; the distribution of every layout is computed once."""

    def __init__(self) -> None:
        self._odds: dict[tuple[str, ...], tuple[list[str], list[float]]] = {}

    def draw(self, rng: random.Random, pictures: tuple[str, ...]) -> str:
        """A random caption of ``pictures``, from its exact distribution."""
        if pictures not in self._odds:
            captions = scenes.captions(pictures)
            self._odds[pictures] = list(captions), list(accumulate(captions.values()))
        names, cumulative = self._odds[pictures]
        return rng.choices(names, cum_weights=cumulative)[0]

    def second(self, rng: random.Random, pictures: tuple[str, ...], wrong: bool) -> str:
        """A caption to compare with: true, or sometimes empty or, if ``wrong`` is allowed, of another scene."""
        chance, people = rng.random(), any("/" in p for p in pictures)
        if chance < NULL:
            return ""
        if not wrong or chance >= NULL + (WRONG / 2 if people else WRONG):
            return self.draw(rng, pictures)
        one = people or rng.random() < SWAPPED
        return self.draw(rng, swapped(rng, pictures) if one else scenes.sample(rng).pictures)


def timesteps(alphas: Tensor, count: int) -> Tensor:
    """``count`` random timesteps, stratified over the mean of two densities.

    One is uniform in t, as suits the generation of pictures; the other uniform in log-SNR, so that the loss is
    -log p(x) (docs/theory.md, eq. (5)), but a fifth as dense above ``CLEAR``, where captions have no influence, and
    zero below ``NOISE``.
    """
    logsnr = torch.logit(alphas.double())
    second = torch.where(logsnr < CLEAR, 1.0, 0.2) * -torch.gradient(logsnr.clamp(min=NOISE))[0]
    density = (1 / len(alphas) + second / second.sum()) / 2
    cumulative = density.cumsum(0) / density.sum()
    levels = (torch.arange(count) + torch.rand(count)) / count
    return torch.searchsorted(cumulative, levels.to(cumulative)).clamp(max=len(alphas) - 1)


def importance(logsnr: Tensor) -> Tensor:
    """Weights of the squared error at log-SNRs, with which all of them have about the same loss.

    With equal weights two thirds of the loss, and of the gradient's noise, would come from log-SNRs above 1, at which
    the autoencoder's artefacts are predicted.
    """
    return (-logsnr / 2).exp().clamp(max=1)


def tame(target: Tensor) -> Tensor:
    """Weights [N] of the second captions relative to the first, from the targets under both [2,N,C,H,W].

    The target of a wrong caption at a high log-SNR is so far from that of the true one that its squares would dominate
    the loss. The weight reduces their difference to about ``LARGE``.
    """
    return 1 / (1 + (target[0] - target[1]).square().mean((1, 2, 3)) / LARGE)


@dataclass
class Lesson:
    """The batch of one training step: N scenes with noise, each under two captions. Other processes can prepare it.

    rows : indices of the scenes among all training scenes
    known : indices [M] of those of the N scenes that z does not determine, so that the teacher computes the target
    shown : these M scenes
    said : for the first and the second captions, the log-probabilities that these M scenes have under them, see
        :func:`dpid.zoo.emoji.teacher.say`
    t, noise : timesteps [N] and ε [N,C,H,W]
    tokens : tokens of the first and then the second captions [2N,L]
    """

    rows: list[int]
    shown: list[scenes.Scene]
    t: Tensor
    noise: Tensor
    tokens: Tensor
    known: Tensor
    said: list[tuple[Tensor, Tensor]]

    def map(self, change: Callable[[Tensor], Tensor]) -> Lesson:
        """The lesson with ``change`` applied to every tensor."""
        tensors: dict[str, Any] = {name: change(getattr(self, name)) for name in ("t", "noise", "tokens", "known")}
        return replace(self, **tensors, said=[(change(one), change(two)) for one, two in self.said])

    def pin_memory(self) -> Lesson:
        """The lesson in pinned memory; a DataLoader calls this, so that copies to the GPU are asynchronous."""
        return self.map(Tensor.pin_memory)

    def taught(self, latents: Tensor, teacher: Teacher, alphas: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """z [N,C,H,W], targets of ε̂ under either caption [2,N,C,H,W] and weights [N], on the device of ``latents``."""
        x, a, shape = latents[self.rows].float(), alphas[self.t], (-1, 1, 1, 1)
        logsnr = torch.logit(a)
        z = a.sqrt().view(shape) * x + (1 - a).sqrt().view(shape) * self.noise
        target = self.noise.repeat(2, 1, 1, 1, 1)
        target[:, self.known] += teacher.unsaid(z[self.known], logsnr[self.known], self.shown, self.said)
        return z, target, importance(logsnr)


@dataclass
class Lessons(Dataset[Lesson]):
    """The lesson of every step: ``count`` scenes of ``world``, drawn by a generator that depends on the step alone."""

    world: list[scenes.Scene]
    alphas: Tensor
    count: int
    shape: tuple[int, int, int]
    tokenize: Callable[[list[str]], Tensor]
    rng_of: Callable[[int], random.Random]

    def __post_init__(self) -> None:
        self._captions = Captions()
        say([""])  # fills the cache of captions before processes are forked

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
