"""The truth of the bias study, compared with the probabilities that define the world and with sums over all layouts."""

from math import log

import numpy as np
import pytest

import dpid
from dpid.studies import Workbench, bias, world
from dpid.studies.study import estimate
from dpid.studies.workbench import Case
from dpid.zoo.emoji import scenes
from dpid.zoo.emoji.exact import SceneDenoiser

CELLS = [(o, a) for o in scenes.OCCUPATIONS for a in world.ATTRIBUTES]


def odds(occupation, attribute):
    """P(attribute | occupation), from the table that the world is made from."""
    _, woman, dark = scenes.OCCUPATIONS[occupation]
    return {
        "female": woman, "male": 1 - woman, "dark skinned": dark,
        "light skinned": (1 - dark) / 2, "medium skinned": (1 - dark) / 2,
    }[attribute]  # fmt: skip


@pytest.mark.parametrize(("occupation", "attribute"), CELLS)
def test_truth_is_the_log_ratio_of_the_odds(occupation, attribute):
    among_people = np.mean([odds(o, attribute) for o in scenes.OCCUPATIONS])  # occupations are equally likely
    expected = log(odds(occupation, attribute) / among_people)
    # Sums over 10 441 layouts in float64.
    assert bias.truth(occupation, attribute) == pytest.approx(expected, abs=1e-9)


def test_against_the_empty_caption_the_truth_moves_by_a_constant():
    gaps = []
    for occupation, attribute in CELLS:
        (layout, *_) = world.people(occupation, attribute)
        texts = bias.people(attribute, occupation) | {(): ""}
        gaps.append(world.log_ratio(layout, texts) - bias.truth(occupation, attribute))
    assert np.ptp(gaps) < 1e-9  # float64 sums
    assert gaps[0] == pytest.approx(2.23, abs=0.01)  # the documented two decimals


def test_log_ratio_by_brute_force():
    """p(x | c) summed over every layout and caption, without the posterior that the answer key uses."""
    layout = ("doctor/woman/dark",)
    texts = bias.people("female", "doctor")
    total = dict.fromkeys(texts.values(), 0.0)
    for shown, p in scenes.layouts().items():
        odds_of = scenes.captions(shown)
        for text in total:
            total[text] += p * odds_of.get(text, 0.0)
    given = {
        text: scenes.layouts()[layout] * scenes.captions(layout)[text] / total[text] for text in total
    }  # fmt: skip
    null, a, o, both = (given[texts[s]] for s in ((), ("female",), ("doctor",), ("female", "doctor")))
    assert world.log_ratio(layout, texts) == pytest.approx(log(a * o / (null * both)), abs=1e-9)


@pytest.mark.parametrize(("occupation", "attribute"), [("pilot", "dark skinned"), ("doctor", "female")])
def test_exact_model_recovers_the_truth(occupation, attribute):
    """The whole chain on the exact model of scenes: co-information within 3 standard errors of log P(a | o) / P(a)."""
    (layout, *_) = world.people(occupation, attribute)
    case = Case("0", world.picture(layout, "0"), "", (), bias.people(attribute, occupation))
    result = Workbench("emoji", explainer=dpid.Explainer(SceneDenoiser()), samples=256, replicates=16).explain(case)
    for name in ("standard", "rao-blackwell"):
        found = estimate(result, name, lambda f: (f[0] + f[1] - f[2]).sum())
        assert found.stderr < 1.2  # nats, of truths from -2.3 to 0.3: a wrong answer would be seen
        # With 15 degrees of freedom 3 standard errors are passed by 0.9 % of right answers; the seed is fixed.
        assert abs(found.value - bias.truth(occupation, attribute)) < 3 * found.stderr


def test_people_are_what_the_words_say():
    for occupation, attribute in CELLS:
        odds_of = world.people(occupation, attribute)
        assert sum(odds_of.values()) == pytest.approx(1, abs=1e-12)
        assert all(world.ATTRIBUTES[attribute] in p and occupation in p for (p,) in odds_of)


def test_pairs_are_of_the_relation():
    kind = {w: k for k, words in world.KINDS.items() for w in words}
    assert all(kind[a] == kind[b] and a != b for a, b in world.pairs("co-hyponym", 20, 0))
    assert all(kind[a] != kind[b] and scenes.allowed(a, b) for a, b in world.pairs("unrelated", 20, 0))
    assert all(pair in world.SYNONYMS for pair in world.pairs("synonym", 20, 0))
    assert world.pairs("unrelated", 5, 0) != world.pairs("unrelated", 5, 1)


def test_drawn_scenes_are_those_of_the_masks():
    image, masks = world.draw(("cow", "giraffe"), "a")
    pixels = np.asarray(image)
    assert masks.shape == (2, 64, 64)
    background = pixels[0, 0]
    # A sprite's pixels that are more than half opaque differ from the background, but for a few white ones.
    assert (pixels != background).any(-1)[masks.any(0)].mean() > 0.9
    assert (pixels[~masks.any(0)] == background).all(-1).mean() > 0.9  # the rest are soft edges
    assert np.array_equal(pixels, np.asarray(world.picture(("cow", "giraffe"), "a")))


def test_occupations_are_188_distinct_phrases():
    names = bias.occupations()
    assert len(set(names)) == len(names) == 188
    assert all(name == name.strip().lower() and len(name.split()) <= 3 for name in names)


def test_workbench_names_what_is_wrong():
    with pytest.raises(ValueError, match="pictures: found 0"):
        Workbench("emoji", pictures=0)
    with pytest.raises(ValueError, match="samples: found 0"):
        Workbench("emoji", samples=0)


@pytest.mark.parametrize(
    ("shown", "word", "rest", "whole", "loses"),
    [
        (("fish", "cow"), "fish", "a and a cow", "a fish and a cow", False),
        (("crown", "umbrella"), "umbrella", "a crown and a", "a crown and a umbrella", False),
        (("computer mouse",), "computer", "a mouse", "a computer mouse", True),
        (("soup bowl", "cow"), "soup", "a bowl and a cow", "a soup bowl and a cow", True),
        (("bicycle", "fish"), "bike", "a bicycle and a fish", "a bicycle bike and a fish", True),
    ],
)
def test_a_modifier_and_a_synonym_lose_beside_the_rest_and_a_thing_does_not(shown, word, rest, whole, loses):
    """The sign of the co-information, by which verdicts tell "used" from "works only with": docs/theory.md, 16."""
    alone, without, both = (world.information(shown, text) for text in (word, rest, whole))
    assert (alone - (both - without) > 0) is loses
