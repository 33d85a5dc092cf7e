"""The training distribution of the embedded model, called its world: emoji on plain backgrounds, with captions.

All training data are drawn from it, so that the truth of every study on the model is known: ``posterior("mouse")`` is
the exact distribution of what a caption describes, ``log_probability`` the exact prior of a caption. A *picture* is one
drawing (``"cow"``, ``"computer mouse"``, ``"doctor/woman/dark"``), a *phrase* a name of it (``"sofa"``, ``"couch"``), a
*layout* the tuple of a scene's pictures from left to right.

A scene shows one picture in the middle, or two different ones in the left and right halves. Two pictures of one family
(the senses of a homonym and the other meanings of its modifiers; people) never occur together, nor do the pairs of
``HELD_OUT``, so that every caption that is not empty has a single reading.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import permutations, product
from math import log

import numpy as np

SIZE = 64  # pixels a side of a scene
SPRITE = 28  # pixels a side of an emoji
BACKGROUNDS = ((255, 255, 255), (205, 226, 247), (207, 238, 210), (250, 226, 200), (233, 214, 244), (250, 240, 190))
# Offsets of a sprite from the middle of its place, all equally likely.
JITTER_ONE = tuple(product((-6, -4, -2, 0, 2, 4, 6), (-4, -2, 0, 2, 4)))
JITTER_TWO = tuple(product((-2, 0, 2), (-4, -2, 0, 2, 4)))
P_ONE = 0.5  # probability that a scene shows one picture; else it shows two

# Objects: {picture: (emoji, words that name it)}; every one is a family of its own and has weight 1.
THINGS: dict[str, tuple[str, tuple[str, ...]]] = {
    "cow": ("🐮", ("cow",)),
    "giraffe": ("🦒", ("giraffe",)),
    "cat": ("🐱", ("cat",)),
    "elephant": ("🐘", ("elephant",)),
    "dog": ("🐶", ("dog",)),
    "horse": ("🐴", ("horse",)),
    "bear": ("🐻", ("bear",)),
    "sheep": ("🐑", ("sheep",)),
    "zebra": ("🦓", ("zebra",)),
    "pig": ("🐷", ("pig", "hog")),
    "frog": ("🐸", ("frog",)),
    "rabbit": ("🐰", ("rabbit", "bunny")),
    "fish": ("🐟", ("fish",)),
    "laptop": ("💻", ("laptop",)),
    "pizza": ("🍕", ("pizza",)),
    "sandwich": ("🥪", ("sandwich",)),
    "apple": ("🍎", ("apple",)),
    "banana": ("🍌", ("banana",)),
    "lemon": ("🍋", ("lemon",)),
    "cake": ("🍰", ("cake",)),
    "bed": ("🛏", ("bed", "mattress")),
    "chair": ("🪑", ("chair",)),
    "sofa": ("🛋", ("sofa", "couch")),
    "umbrella": ("☂", ("umbrella",)),
    "clock": ("⏰", ("clock",)),
    "key": ("🔑", ("key",)),
    "hammer": ("🔨", ("hammer",)),
    "toothbrush": ("🪥", ("toothbrush",)),
    "crown": ("👑", ("crown",)),
    "queen": ("👸", ("queen",)),
    "baseball": ("⚾", ("baseball",)),
    "tennis": ("🎾", ("tennis",)),
    "car": ("🚗", ("car", "automobile")),
    "bus": ("🚌", ("bus",)),
    "bicycle": ("🚲", ("bicycle", "bike")),
    "rocket": ("🚀", ("rocket",)),
    "tree": ("🌳", ("tree",)),
}

# Homonyms: the word alone means either sense with equal probability; a modifier selects one. A modifier also occurs
# without the homonym, for that sense and for a picture of its own.
# {word: ((modifier, emoji of the sense, emoji of the modifier's own picture), …)}
HOMONYMS: dict[str, tuple[tuple[str, str, str], ...]] = {
    "mouse": (("field", "🐭", "🌾"), ("computer", "🖱", "🖥")),
    "cricket": (("insect", "🦗", "🐞"), ("game", "🏏", "🎮")),
    "bow": (("archery", "🏹", "🎯"), ("ribbon", "🎀", "🎗")),
    "bowl": (("soup", "🥣", "🍲"), ("rose", "🏟", "🌹")),
}
BEFORE = {"cricket": False}  # whether the modifier comes first: "computer mouse", but "cricket game"
W_MODIFIER = 0.5  # weight of a modifier's own picture; that of a sense of a homonym is 1

# People: 12 occupations × woman/man × three skin tones, of total weight W_PEOPLE; occupations are equally likely.
W_PEOPLE = 10.0
OCCUPATIONS: dict[str, tuple[str, float, float]] = {  # occupation: (sign, P(woman | occupation), P(dark | occupation))
    "mechanic": ("🔧", 0.05, 0.50),
    "pilot": ("✈️", 0.13, 0.05),
    "firefighter": ("🚒", 0.21, 0.77),
    "judge": ("⚖️", 0.30, 0.13),
    "farmer": ("🌾", 0.38, 0.95),
    "scientist": ("🔬", 0.46, 0.21),
    "astronaut": ("🚀", 0.54, 0.62),
    "cook": ("🍳", 0.62, 0.87),
    "doctor": ("⚕️", 0.70, 0.30),
    "artist": ("🎨", 0.79, 0.38),
    "singer": ("🎤", 0.87, 0.70),
    "teacher": ("🏫", 0.95, 0.46),
}
GENDERS = {"woman": ("👩", "female"), "man": ("👨", "male")}
TONES = {"light": "🏻", "medium": "🏽", "dark": "🏿"}  # light and medium are equally likely
P_NAME_GENDER, P_NAME_TONE, P_NAME_OCCUPATION = 0.5, 0.5, 0.75

# Pairs that training never shows together, for tests of how the model generalises.
HELD_OUT = frozenset(
    map(
        frozenset,
        (
            ("dog", "bus"), ("cow", "pizza"), ("giraffe", "chair"), ("cat", "laptop"), ("elephant", "crown"),
            ("horse", "apple"), ("bear", "umbrella"), ("rabbit", "car"), ("sheep", "bed"), ("pig", "rocket"),
            ("zebra", "sofa"), ("frog", "key"),
        ),
    )
)  # fmt: skip

# Forms of captions and their probabilities, for one and for two pictures; two are named in random order.
FORMS_ONE = (("", 0.12), ("a {0}", 0.48), ("{0}", 0.32), ("a", 0.08))
FORMS_TWO = (
    ("", 0.12), ("a {0} and a {1}", 0.28), ("{0} {1}", 0.14), ("a {0}", 0.12), ("{0}", 0.10),
    ("a {0} and a", 0.08), ("a and a {0}", 0.08), ("a and a", 0.08),
)  # fmt: skip


@dataclass(frozen=True)
class Picture:
    """A drawing: its emoji, its weight, its family, and the phrases that name it with their probabilities."""

    emoji: str
    weight: float
    family: str
    phrases: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Scene:
    """A scene: names of its pictures, corners (x, y) of their sprites in pixels, colour of the background, caption."""

    pictures: tuple[str, ...]
    corners: tuple[tuple[int, int], ...]
    background: tuple[int, int, int]
    caption: str


def _thing_phrases(words: tuple[str, ...]) -> tuple[tuple[str, float], ...]:
    """The phrases of an object with their probabilities."""
    if len(words) == 1:
        return ((words[0], 1.0),)
    # Synonyms also occur side by side ("sofa couch"), since a study of their redundancy conditions on both.
    return ((words[0], 0.4), (words[1], 0.4), (" ".join(words), 0.2))


def _person_phrases(occupation: str, gender: str, tone: str) -> tuple[tuple[str, float], ...]:
    """The phrases of a person with their probabilities: tone, gender and occupation are named independently."""
    odds: dict[str, float] = defaultdict(float)
    for name_gender, name_tone, name_occupation in product((True, False), repeat=3):
        p = (P_NAME_GENDER if name_gender else 1 - P_NAME_GENDER) * (P_NAME_TONE if name_tone else 1 - P_NAME_TONE)
        p *= P_NAME_OCCUPATION if name_occupation else 1 - P_NAME_OCCUPATION
        start = f"{tone} skinned " if name_tone else ""
        if name_occupation:
            ends = [f"{GENDERS[gender][1]} {occupation}" if name_gender else occupation]
        elif name_gender:
            ends = [gender, GENDERS[gender][1]]
        else:
            ends = ["person", ""] if name_tone else ["person"]
        for end in ends:
            odds[(start + end).strip()] += p / len(ends)
    return tuple(odds.items())


def _pictures() -> Iterator[tuple[str, Picture]]:
    """Name and definition of every picture."""
    for name, (emoji, words) in THINGS.items():
        yield name, Picture(emoji, 1.0, name, _thing_phrases(words))
    for word, senses in HOMONYMS.items():
        for modifier, sense, other in senses:
            full = f"{modifier} {word}" if BEFORE.get(word, True) else f"{word} {modifier}"
            yield full, Picture(sense, 1.0, word, ((word, 0.4), (full, 0.4), (modifier, 0.2)))
            yield modifier, Picture(other, W_MODIFIER, word, ((modifier, 1.0),))
    for occupation, (sign, woman, dark) in OCCUPATIONS.items():
        for (gender, (body, _)), (tone, skin) in product(GENDERS.items(), TONES.items()):
            p = (woman if gender == "woman" else 1 - woman) * (dark if tone == "dark" else (1 - dark) / 2)
            phrases = _person_phrases(occupation, gender, tone)
            weight = W_PEOPLE * p / len(OCCUPATIONS)
            yield f"{occupation}/{gender}/{tone}", Picture(f"{body}{skin}\u200d{sign}", weight, "person", phrases)


PICTURES: dict[str, Picture] = dict(_pictures())


def allowed(a: str, b: str) -> bool:
    """Whether a training scene may show the pictures ``a`` and ``b`` together."""
    return PICTURES[a].family != PICTURES[b].family and frozenset((a, b)) not in HELD_OUT


@cache
def layouts() -> dict[tuple[str, ...], float]:
    """{layout: probability} of all layouts, tuples of pictures from left to right; it sums to one."""
    one = {(a,): p.weight for a, p in PICTURES.items()}
    two = {
        (a, b): PICTURES[a].weight * PICTURES[b].weight for a, b in permutations(PICTURES, 2) if allowed(a, b)
    }  # fmt: skip
    z_one, z_two = sum(one.values()), sum(two.values())
    return {k: P_ONE * w / z_one for k, w in one.items()} | {k: (1 - P_ONE) * w / z_two for k, w in two.items()}


def captions(pictures: tuple[str, ...]) -> dict[str, float]:
    """{caption: probability} of a scene that shows ``pictures``; it sums to one."""
    odds: dict[str, float] = defaultdict(float)
    forms, orders = (FORMS_ONE, [pictures]) if len(pictures) == 1 else (FORMS_TWO, list(permutations(pictures)))
    for order in orders:
        for named in product(*(PICTURES[a].phrases for a in order)):
            p = 1.0 / len(orders)
            for _, q in named:
                p *= q
            for form, q in forms:
                odds[form.format(*(phrase for phrase, _ in named))] += p * q
    return dict(odds)


@cache
def _joint() -> dict[str, dict[tuple[str, ...], float]]:
    """{caption: {layout: probability of both}}."""
    joint: dict[str, dict[tuple[str, ...], float]] = defaultdict(dict)
    for pictures, p in layouts().items():
        for caption, q in captions(pictures).items():
            joint[caption][pictures] = p * q
    return joint


def posterior(caption: str) -> dict[tuple[str, ...], float]:
    """{layout: P(layout | caption)}, exact.

    Raises
    ------
    ValueError
        ``caption`` never occurs in training.
    """
    if caption not in _joint():
        raise ValueError(f"caption {caption!r} never occurs in training; see dpid.zoo.emoji.scenes for those that do")
    total = sum(_joint()[caption].values())
    return {pictures: p / total for pictures, p in _joint()[caption].items()}


def log_probability(caption: str) -> float:
    """log P(caption) in nats under the training distribution; ``-inf`` for a caption that never occurs."""
    p = sum(_joint().get(caption, {}).values())
    return log(p) if p > 0 else -float("inf")


def vocabulary() -> list[str]:
    """All words that occur in captions, sorted."""
    words = {w for p in PICTURES.values() for phrase, _ in p.phrases for w in phrase.split()}
    return sorted(words | {"a", "and"})


def absent(rng: random.Random, pictures: Collection[str]) -> str:
    """A word for a random object that is not among ``pictures``."""
    return THINGS[rng.choice([name for name in THINGS if name not in pictures])][1][0]


def place(rng: random.Random, pictures: tuple[str, ...], caption: str) -> Scene:
    """A scene that shows ``pictures`` at random positions on a random background."""
    jitter = JITTER_ONE if len(pictures) == 1 else JITTER_TWO
    middles = (SIZE // 2,) if len(pictures) == 1 else (SIZE // 4, 3 * SIZE // 4)
    corners = []
    for middle in middles:
        dx, dy = rng.choice(jitter)
        corners.append((middle - SPRITE // 2 + dx, SIZE // 2 - SPRITE // 2 + dy))
    return Scene(pictures, tuple(corners), rng.choice(BACKGROUNDS), caption)


@cache
def _cumulative() -> tuple[list[tuple[str, ...]], list[float]]:
    """All layouts and the cumulative sums of their probabilities."""
    return list(layouts()), list(np.cumsum(list(layouts().values())))


def sample(rng: random.Random) -> Scene:
    """A random scene, with its caption, from the training distribution."""
    keys, cumulative = _cumulative()
    pictures = rng.choices(keys, cum_weights=cumulative)[0]
    odds = captions(pictures)
    return place(rng, pictures, rng.choices(list(odds), weights=list(odds.values()))[0])
