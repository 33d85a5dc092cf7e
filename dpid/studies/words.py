"""The words and prompts of the studies for models other than the embedded one."""

from __future__ import annotations

import re
from collections.abc import Callable

from dpid.prompts.plan import Subset

# Sounds that the first letter does not tell: "a unicorn", "a European", "a one-eyed cat"; "an hour".
_AN = re.compile(r"(?!uni(?!n)|use|usu|eu|one\b|once)[aeiou]|hour|hono|heir", re.IGNORECASE)


def one(phrase: str) -> str:
    """A phrase with its article: "a cow", "an elephant"."""
    return f"{'an' if _AN.match(phrase) else 'a'} {phrase}"


def natural(a: str, b: str, one: Callable[[str], str] = one) -> dict[Subset, str]:
    """Conditions {subset: caption} of two things: "", "a cow", "an elephant", "a cow and an elephant".

    ``one`` puts the article before a thing.
    """
    return {(): "", (a,): one(a), (b,): one(b), (a, b): f"{one(a)} and {one(b)}"}


# A homonym, and the modifiers of two of its senses. The neutral word selects neither.
HOMONYMS = (
    ("bowl", "soup", "football"), ("bat", "baseball", "cave"), ("mouse", "computer", "field"),
    ("mole", "garden", "skin"), ("crane", "construction", "wading"), ("bow", "archery", "ribbon"),
    ("cricket", "insect", "stadium"), ("palm", "beach", "hand"), ("organ", "church", "human"),
    ("seal", "harbor", "wax"), ("trunk", "elephant", "car"), ("nail", "carpentry", "finger"),
)  # fmt: skip
NEUTRAL = "nice"
SYNONYMS = (
    ("bed", "mattress"), ("cube", "cuboid"), ("sofa", "couch"), ("car", "automobile"), ("bicycle", "bike"),
    ("rabbit", "bunny"), ("pig", "hog"), ("ship", "vessel"), ("rock", "stone"), ("street", "road"),
)  # fmt: skip
CO_HYPONYMS = (
    ("sandwich", "pizza"), ("elephant", "cat"), ("barrier", "railing"), ("chair", "sofa"), ("cow", "giraffe"),
    ("cat", "sheep"), ("horse", "zebra"), ("bus", "car"), ("apple", "lemon"), ("fork", "spoon"),
)  # fmt: skip
UNRELATED = (
    ("sandwich", "sofa"), ("elephant", "lemon"), ("barrier", "cat"), ("chair", "pizza"), ("cow", "bus"),
    ("cat", "spoon"), ("horse", "umbrella"), ("bicycle", "apple"), ("laptop", "sheep"), ("clock", "giraffe"),
)  # fmt: skip
FEATURES = (("toothbrush", "hairdryer"), ("bear", "horse"), ("cat", "dog"), ("horse", "zebra"), ("bus", "car"))
# A prompt, and the words of which all pairs are explained.
COMPLEX = (
    (
        "An old fisherman in a yellow coat sits on a wooden boat, holding a lantern, while a white dog sleeps beside "
        "him and a lighthouse shines behind them",
        ("fisherman", "yellow coat", "boat", "lantern", "dog", "lighthouse"),
    ),
    (
        "A kitchen table with a blue vase of sunflowers, a bowl of red apples and a loaf of bread, in front of a "
        "window through which snowy mountains are seen",
        ("table", "vase", "sunflowers", "apples", "bread", "mountains"),
    ),
)
INTERVENTIONS = (
    ("a cow and a giraffe", "giraffe"), ("a cat and a sheep", "sheep"), ("a laptop and a mouse", "mouse"),
    ("a sofa couch", "couch"), ("a bed mattress", "mattress"), ("a computer mouse", "computer"),
    ("a dog and a bicycle", "bicycle"), ("a horse and an umbrella", "umbrella"), ("a car automobile", "automobile"),
)  # fmt: skip
