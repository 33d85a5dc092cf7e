"""What the UNet of the embedded model is taught: noisy scenes, captions, and the noise that follows from both."""

from __future__ import annotations

import random
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor

from dpid.zoo.emoji import scenes
from dpid.zoo.emoji.teacher import Teacher

CLEAR = 2.0  # log-SNR up to which the teacher's halves are good enough; beyond it z says all of the noise itself
WRONG, VAGUE = 0.125, -1.5  # a caption is of another scene this often, where z has not yet shown which it is


def levelled(rng: random.Random, picture: str) -> str:
    """``picture``, every second person one of any gender and tone: the rare ones are learnt no worse.

    What a caption means stays what it is: the teacher, not the scenes, says how rare they are.
    """
    if "/" not in picture or rng.random() < 0.5:
        return picture
    return "/".join((picture.split("/")[0], rng.choice(list(scenes.GENDERS)), rng.choice(list(scenes.TONES))))


class Captions:
    """Draws a fresh caption of scene ``i`` at each visit, from its exact distribution."""

    def __init__(self, world: list[scenes.Scene]) -> None:
        self.world = world
        self.odds: dict[tuple[str, ...], tuple[list[str], list[float]]] = {}

    def draw(self, rng: random.Random, rows: list[int]) -> list[str]:
        texts = []
        for i in rows:
            pictures = self.world[i].pictures
            if pictures not in self.odds:
                captions = scenes.captions(pictures)
                self.odds[pictures] = list(captions), list(accumulate(captions.values()))
            names, cumulative = self.odds[pictures]
            texts.append(rng.choices(names, cum_weights=cumulative)[0])
        return texts


def timesteps(alphas: Tensor, count: int) -> Tensor:
    """``count`` timesteps, stratified, from the mean of two densities: uniform in t, and uniform in log-SNR.

    The first is what samples are drawn with; the eps loss under the second is -log p(x) (theory: ITD, eq. 8), and it
    looks four times as often at the little noise where an undertrained model reads its caption for no reason.
    """
    logsnr = torch.logit(alphas.double())
    density = (1 / len(alphas) + -torch.gradient(logsnr)[0] / (logsnr[0] - logsnr[-1])) / 2
    cumulative = density.cumsum(0) / density.sum()
    levels = (torch.arange(count) + torch.rand(count)) / count
    return torch.searchsorted(cumulative, levels.to(cumulative)).clamp(max=len(alphas) - 1)


@dataclass
class Lessons:
    """What a step of the UNet learns from: ``count`` noisy scenes, each under two captions."""

    latents: Tensor
    captions: Captions
    teacher: Teacher
    alphas: Tensor
    count: int

    def draw(self, rng: random.Random) -> tuple[Tensor, Tensor, list[list[str]], Tensor]:
        """z [N,C,H,W], timesteps [N], two captions of each, and ε̂ as it should be under either, [2,N,C,H,W].

        The second caption is now and then of another scene: p(x | y) is also asked for with words that x does not show.
        """
        total = len(self.captions.world)
        rows = [rng.randrange(total) for _ in range(self.count)]
        x, t = self.latents[rows].float(), timesteps(self.alphas, len(rows))
        a, noise = self.alphas[t].view(-1, 1, 1, 1), torch.randn_like(x)
        z, logsnr = a.sqrt() * x + (1 - a).sqrt() * noise, torch.logit(self.alphas[t])
        others = [rng.randrange(total) if rng.random() < WRONG and at < VAGUE else i
                  for i, at in zip(rows, logsnr.tolist(), strict=True)]  # fmt: skip
        texts = [self.captions.draw(rng, rows), self.captions.draw(rng, others)]
        known = (logsnr < CLEAR).nonzero()[:, 0]
        target = noise.repeat(2, 1, 1, 1, 1)
        named = [[column[i] for i in known.tolist()] for column in texts]
        target[:, known] = self.teacher.eps(z[known], logsnr[known], named)
        return z, t, texts, target
