"""Draws the held-out pictures: ``python benchmarks/make_heldout.py tests/data/heldout``.

200 scenes with prompt, concepts and a mask for every concept, from a seed that training does not use: 160 scenes of two
pictures (16 of them pairs that training never shows together), 40 of one picture that is named by two words.
"""

import json
import random
import sys
from pathlib import Path

import numpy as np
from PIL import Image

from dpid.zoo.emoji import scenes, sprites

SEED = "held-out"
GENDERS = {adjective for _, adjective in scenes.GENDERS.values()}
PEOPLE_PAIRS, NOVEL_PAIRS, PAIRS, SINGLES = 24, 16, 160, 40


def name_of(rng: random.Random, picture: str) -> str:
    """A phrase that names the picture, and could mean no other."""
    if "/" in picture:
        occupation, gender, _ = picture.split("/")
        return f"{scenes.GENDERS[gender][1]} {occupation}"
    if picture in scenes.THINGS:
        return rng.choice(scenes.THINGS[picture][1])
    return picture


def pictures(rng: random.Random) -> list[tuple[str, ...]]:
    """The layouts of all scenes, uniform over objects and senses, so that every word is tested."""
    people = [p for p in scenes.PICTURES if "/" in p]
    things = [p for p in scenes.PICTURES if "/" not in p and p not in _modifiers()]
    chosen: list[tuple[str, ...]] = []
    novel = sorted(tuple(sorted(pair)) for pair in scenes.HELD_OUT)
    chosen += [tuple(rng.sample(novel[i % len(novel)], 2)) for i in range(NOVEL_PAIRS)]
    while len(chosen) < NOVEL_PAIRS + PEOPLE_PAIRS:
        chosen.append(tuple(rng.sample([rng.choice(people), rng.choice(things)], 2)))
    while len(chosen) < PAIRS:
        pair = tuple(rng.sample(things, 2))
        if scenes.allowed(*pair):
            chosen.append(pair)
    senses = [p for p in things if p not in scenes.THINGS]
    chosen += [(rng.choice(people),) for _ in range(SINGLES // 2)]
    chosen += [(senses[i % len(senses)],) for i in range(SINGLES - SINGLES // 2)]
    return chosen


def _modifiers() -> set[str]:
    """The names of all modifiers of homonyms."""
    return {modifier for senses in scenes.HOMONYMS.values() for modifier, _, _ in senses}


def main(out: Path) -> None:
    """Write NNN.png, NNN_masks.png (pixel value: number of the concept's picture, 0 background) and index.json."""
    out.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)
    index = []
    for i, shown in enumerate(pictures(rng)):
        names = [name_of(rng, p) for p in shown]
        prompt = " and ".join(f"a {n}" for n in names)
        # Of one picture both words are concepts, with the same mask. A gender has none: its nat or so is about hair and
        # face, of which there is no mask.
        concepts = names if len(shown) == 2 else names[0].split()
        image, masks = sprites.draw(scenes.place(rng, shown, prompt))
        labels = sum((n + 1) * m.astype(np.uint8) for n, m in enumerate(masks))
        Image.fromarray(image).save(out / f"{i:03d}.png", optimize=True)
        mask = Image.fromarray(labels)
        mask.putpalette([255, 255, 255, 200, 30, 30, 30, 30, 200])
        mask.save(out / f"{i:03d}_masks.png", optimize=True)
        index.append(
            {
                "file": f"{i:03d}.png", "masks": f"{i:03d}_masks.png", "prompt": prompt, "concepts": concepts,
                "labels": [1, 2] if len(shown) == 2 else [None if c in GENDERS else 1 for c in concepts],
                "pictures": list(shown),
                "novel": frozenset(shown) in scenes.HELD_OUT,
            }
        )  # fmt: skip
    (out / "index.json").write_text("[\n" + ",\n".join(json.dumps(row) for row in index) + "\n]\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
