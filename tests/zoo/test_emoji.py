"""The embedded model and its world: probabilities sum to one, and the model agrees with them."""

from itertools import product

import numpy as np
import pytest
from PIL import Image
from scipy import ndimage
from transformers import PreTrainedTokenizerFast
from uniqueness import own_against_other

from dpid.denoisers.loading import embedded_path
from dpid.prompts.plan import plan
from dpid.quiet import quiet
from dpid.zoo.emoji import scenes


def test_probabilities_sum_to_one():
    assert sum(scenes.layouts().values()) == pytest.approx(1, abs=1e-9)
    for pictures in (("cow",), ("cow", "giraffe"), ("doctor/woman/dark", "sofa"), ("computer mouse",)):
        assert sum(scenes.captions(pictures).values()) == pytest.approx(1, abs=1e-12)
    assert sum(scenes.posterior("a cow").values()) == pytest.approx(1, abs=1e-12)


def test_empty_captions_are_twelve_percent():
    assert np.exp(scenes.log_probability("")) == pytest.approx(0.12, abs=1e-9)


def test_the_world_is_as_large_as_promised():
    assert len(scenes.THINGS) >= 36
    assert len(scenes.OCCUPATIONS) >= 12
    for values in ([w for _, w, _ in scenes.OCCUPATIONS.values()], [d for _, _, d in scenes.OCCUPATIONS.values()]):
        assert min(values) == 0.05
        assert max(values) == 0.95
        assert len(set(values)) == len(values)


@pytest.mark.parametrize("word", scenes.HOMONYMS)
def test_a_homonym_alone_is_even_and_its_modifier_decides(word):
    (first, _, _), (second, _, _) = scenes.HOMONYMS[word]
    names = [f"{m} {word}" if scenes.BEFORE.get(word, True) else f"{word} {m}" for m in (first, second)]
    odds = {n: sum(p for k, p in scenes.posterior(word).items() if n in k) for n in names}
    assert odds[names[0]] == pytest.approx(odds[names[1]], rel=1e-9)
    for name in names:
        assert sum(p for k, p in scenes.posterior(name).items() if name in k) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("occupation", scenes.OCCUPATIONS)
def test_ladders_of_gender_and_tone(occupation):
    _, woman, dark = scenes.OCCUPATIONS[occupation]
    posterior = scenes.posterior(occupation)
    assert sum(p for k, p in posterior.items() if f"{occupation}/woman" in str(k)) == pytest.approx(woman, abs=1e-9)
    assert sum(p for k, p in posterior.items() if "/dark" in str(k)) == pytest.approx(dark, abs=1e-9)


def test_held_out_pairs_never_meet():
    for pair in scenes.HELD_OUT:
        assert tuple(pair) not in scenes.layouts()
        assert tuple(pair)[::-1] not in scenes.layouts()


def test_every_condition_of_a_study_occurs_as_a_caption(heldout):
    prompts = [(s["prompt"], s["concepts"]) for s in heldout if not s["novel"]]
    prompts += [("a dark skinned doctor", ["dark skinned", "doctor"]), ("a sofa couch", ["sofa", "couch"]),
                ("a dark skinned woman", ["dark skinned", "woman"]), ("a rose bowl", ["rose", "bowl"])]  # fmt: skip
    missing = {
        text
        for (prompt, concepts), context in product(prompts, (False, True))
        for text in plan(prompt, concepts, context).texts
        if scenes.log_probability(text) == -np.inf
    }
    assert not missing


def test_an_unknown_caption_is_refused():
    with pytest.raises(ValueError, match="never occurs in training"):
        scenes.posterior("a unicorn")


def test_heldout_masks_are_exact(heldout, request):
    folder = request.path.parents[1] / "data" / "heldout"
    assert len(heldout) == 200
    assert sum(f.stat().st_size for f in folder.iterdir()) <= 1_000_000
    for scene in heldout:
        with Image.open(folder / scene["file"]) as image, Image.open(folder / scene["masks"]) as masks:
            pixels, labels = np.asarray(image), np.asarray(masks)
        assert pixels.shape == (64, 64, 3)
        assert set(np.unique(labels)) == {0, *range(1, len(scene["pictures"]) + 1)}
        # Faint parts of a drawing (alpha under one half) reach up to 8 pixels beyond its mask; all else is plain.
        outside = ~ndimage.binary_dilation(labels > 0, iterations=8)
        assert len(np.unique(pixels[outside], axis=0)) == 1


def test_model_loads_with_plain_diffusers_and_is_small():
    with quiet():
        from diffusers import StableDiffusionPipeline

        pipe = StableDiffusionPipeline.from_pretrained(embedded_path("emoji"), safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    image = pipe("a cow", num_inference_steps=2, output_type="np").images
    assert image.shape == (1, 64, 64, 3)
    assert 9e6 < sum(p.numel() for p in pipe.unet.parameters()) < 12e6
    files = [f for f in embedded_path("emoji").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 24e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pth")]


@pytest.fixture(scope="module")
def tokenizer():
    return PreTrainedTokenizerFast.from_pretrained(embedded_path("emoji") / "tokenizer")


def test_model_knows_exactly_the_words_of_the_world(tokenizer):
    vocabulary = tokenizer.get_vocab()
    assert {w for w in vocabulary if w.isalpha()} == set(scenes.vocabulary())


def test_an_reads_as_a_and_case_does_not_matter(tokenizer):
    assert tokenizer("An elephant, and a Cow.").input_ids == tokenizer("a elephant and a cow").input_ids


def test_uniqueness_maps_tell_the_two_things_apart(emoji, heldout, request):
    """Ten held-out scenes; the whole set is measured by benchmarks/bench_model.py."""
    scores = own_against_other(emoji, heldout, request.path.parents[1] / "data" / "heldout", 10)
    # The ledger has 0.998 for the mean of 320, which spread by 0.011: seven standard errors of a mean of 20.
    assert np.mean(scores) > 0.98
