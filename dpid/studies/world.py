"""Pictures from the embedded model's training distribution, and the exact information of captions about them.

:mod:`dpid.zoo.emoji.scenes` defines this distribution, the "world" of the model, and what a picture and a layout are.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from functools import partial
from math import log

import numpy as np
from PIL import Image

from dpid.prompts.plan import Subset
from dpid.studies import words
from dpid.studies.data import Masks
from dpid.studies.workbench import Case
from dpid.zoo.emoji import scenes, sprites

# Kinds of objects: words of one kind are co-hyponyms and no synonyms, words of different kinds unrelated.
KINDS: dict[str, tuple[str, ...]] = {
    "animal": ("cow", "giraffe", "cat", "elephant", "dog", "horse", "bear", "sheep", "zebra", "pig", "frog", "rabbit"),
    "food": ("pizza", "sandwich", "apple", "banana", "lemon", "cake"),
    "furniture": ("bed", "chair", "sofa"),
    "vehicle": ("car", "bus", "bicycle", "rocket"),
}
SYNONYMS = tuple(words for _, words in scenes.THINGS.values() if len(words) == 2)
# {attribute: the part of the name of a person's picture that it determines}.
ATTRIBUTES = {adjective: gender for gender, (_, adjective) in scenes.GENDERS.items()} | {
    f"{tone} skinned": tone for tone in scenes.TONES
}


def draw(pictures: Sequence[str], seed: str) -> tuple[Image.Image, np.ndarray]:
    """A scene of ``pictures``, left to right, and their masks bool [pictures,64,64]; ``seed`` gives their positions."""
    scene = scenes.place(random.Random(seed), tuple(pictures), "")
    pixels, masks = sprites.draw(scene)
    return Image.fromarray(pixels), masks


def picture(shown: Sequence[str], seed: str) -> Image.Image:
    """The image of a scene that shows ``shown``, left to right, at positions drawn from ``seed``."""
    return draw(shown, seed)[0]


def natural(a: str, b: str) -> dict[Subset, str]:
    """Conditions {subset: caption} of a scene of two objects: "", "a cow", "a giraffe", "a cow and a giraffe".

    Always with "a", as the captions of the embedded models have it: :func:`dpid.studies.words.natural` is for others.
    """
    return words.natural(a, b, "a {}".format)


def case(a: str, b: str, name: str) -> Case:
    """The case of a drawn picture of two objects, ``a`` on the left, with the masks of both; ``name`` is its seed."""

    def masks() -> Masks:
        return dict(zip((a, b), draw((a, b), name)[1], strict=True))

    texts = natural(a, b)
    return Case(name, partial(picture, (a, b), name), texts[a, b], (a, b), texts, masks)


def people(occupation: str, attribute: str) -> dict[tuple[str, ...], float]:
    """{layout: probability} of scenes that show one person, of this occupation and attribute, and nothing else."""
    part = ATTRIBUTES[attribute]
    shown = {
        layout: p for layout, p in scenes.layouts().items()
        if len(layout) == 1 and layout[0].startswith(f"{occupation}/") and part in layout[0].split("/")
    }  # fmt: skip
    total = sum(shown.values())
    return {layout: p / total for layout, p in shown.items()}


def information(layout: tuple[str, ...], caption: str, null: str = "") -> float:
    """The exact log p(x | caption) / p(x | null) in nats, for a picture x from which the layout is certain.

    Given its layout, a picture is independent of the caption, so that the ratio is that of P(layout | ·).
    """
    return log(scenes.posterior(caption)[layout]) - log(scenes.posterior(null)[layout])


def log_ratio(layout: tuple[str, ...], conditions: Mapping[Subset, str]) -> float:
    """The exact co-information i(x; a) + i(x; o) - i(x; a, o) in nats of the four captions ``conditions``.

    x is a picture from which the layout l is certain, so that it equals log P(l | a) P(l | o) / P(l | ∅) P(l | a, o).
    Captions are true, and which properties they name has the same probability for all people, so that by Bayes' rule it
    is log P(a | o) / P(a) (docs/theory.md, eq. (60)), with P(a) that among people if the null condition is "person". If
    it is "", P(a) is that of all scenes, which subtracts log P(person), the same 2.23 nats for every occupation and
    attribute (a person beside another object counts with the probability that a caption names the person alone).
    """
    null, first, second, both = (conditions[s] for s in sorted(conditions, key=len))
    return information(layout, first, null) + information(layout, second, null) - information(layout, both, null)


def pairs(relation: str, count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` pairs of words of a ``relation``: "synonym", "co-hyponym" (of one kind), "unrelated" (of two kinds)."""
    if relation == "synonym":
        return [SYNONYMS[i % len(SYNONYMS)] for i in range(count)]
    rng = random.Random(f"{relation} {seed}")
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        kinds = [rng.choice(list(KINDS))] * 2 if relation == "co-hyponym" else rng.sample(list(KINDS), 2)
        a, b = (rng.choice(KINDS[kind]) for kind in kinds)
        if a != b and scenes.allowed(a, b):
            chosen.append((a, b))
    return chosen


def things(count: int, seed: int) -> list[tuple[str, str]]:
    """``count`` random pairs of objects, senses of homonyms included, that a training scene may show together."""
    rng = random.Random(f"things {seed}")
    modifiers = {modifier for senses in scenes.HOMONYMS.values() for modifier, _, _ in senses}
    names = [p for p in scenes.PICTURES if "/" not in p and p not in modifiers]
    chosen: list[tuple[str, str]] = []
    while len(chosen) < count:
        a, b = rng.sample(names, 2)
        if scenes.allowed(a, b):
            chosen.append((a, b))
    return chosen
