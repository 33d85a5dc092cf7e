"""Many pictures at a call: the numbers that each has alone, what fails is told apart, and the progress of all."""

from copy import copy
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dpid
from dpid import PicturesError
from dpid.denoisers import GaussianDenoiser, NetworkDenoiser
from dpid.many import width
from dpid.options import Options
from dpid.prompts.plan import plan, subsets_of
from dpid.run import may_stop

DATA = Path(__file__).parent / "data" / "heldout"
SHAPE = (4, 4, 4)
NAMES = ("0", "a", "b", "ab")
CONDITIONS = {(): "0", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
OTHERS = {(): "0", ("a",): "b", ("b",): "ab", ("a", "b"): "a"}


class Joined(GaussianDenoiser):
    """An exact model whose pictures are evaluated together; it may round, or give NaN for latents that are large."""

    joins = True
    step = 0.0
    precisions = ("float32", "bfloat16")
    images = None  # how many in the calls so far

    def at(self, precision):
        other = copy(self)
        other.precision = precision
        return other

    def eps_hat_each(self, z, logsnr, conditions):
        if self.images is not None:
            self.images.append(z.shape[1])
        return super().eps_hat_each(z, logsnr, conditions)

    def eps_hat(self, z, logsnr, conditions):
        out = super().eps_hat(z, logsnr, conditions)
        if self.precision != "float32" and self.step:
            out = (out / self.step).round() * self.step
        return out.where(z[:, None].abs().amax((-3, -2, -1), keepdim=True) < 1e4, torch.nan)


def model(kind=Joined):
    generator = torch.Generator().manual_seed(1)
    means = {name: torch.randn(SHAPE, generator=generator) for name in NAMES}
    variances = {name: 0.5 + torch.rand(SHAPE, generator=generator) for name in NAMES}
    return kind({name: (means[name], variances[name]) for name in NAMES}, (-5.0, 7.0), 300)


def pictures(count):
    return list(torch.randn(count, *SHAPE, generator=torch.Generator().manual_seed(2)))


def tensors(result):
    return [*result.replicates.values(), *result.profiles.values(), result.products]


def check_same(one, other):
    assert one.metadata == other.metadata
    assert one.information == other.information
    assert one.redundancy == other.redundancy
    assert all(torch.equal(a, b) for a, b in zip(tensors(one), tensors(other), strict=True))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("options", [{"rule": "shifted-grid"}, {"rule": "learning"}, {"samples": 8, "level": "pixel"}])
def test_a_picture_among_many_has_the_numbers_that_it_has_alone(options, precision):
    """Bit for bit, each with conditions of its own, also where pictures need different corrections of rounding."""
    denoiser, latents = model(), pictures(6)
    denoiser.step, denoiser.images = 0.3, []
    conditions = [CONDITIONS, OTHERS, CONDITIONS, OTHERS, OTHERS, CONDITIONS]
    explainer = dpid.Explainer(denoiser, precision=precision)
    start, options = explainer.learnt, options | {"context": False}
    found = dict(explainer.explain_many(latents=latents, conditions=conditions, **options))
    assert list(found) == list(range(6))
    assert max(explainer.denoiser.images) == 6
    for i, result in found.items():
        explainer.learnt = start
        check_same(result, explainer.explain(latents=latents[i], conditions=conditions[i], **options))


@pytest.fixture(params=[False, True], ids=["cpu", "as on a GPU"])
def joining(request, emoji, monkeypatch):
    """Whether pictures share calls of the embedded model, and what compares a picture's numbers with those alone."""
    if not request.param:
        return False, torch.equal
    monkeypatch.setattr(type(emoji.denoiser), "joins", True)
    # As of another micro-batch: sums within the UNet's products are taken in another order, nothing else.
    return True, lambda one, other: torch.allclose(one, other, rtol=1e-3, atol=1e-3)


def test_only_pictures_of_one_shape_share_calls(emoji, two_things, joining):
    _, same = joining
    path, prompt, concepts = two_things
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    images = [image, image.resize((80, 56)), image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)]
    found = dict(emoji.explain_many(images, prompt, concepts, samples=8, rule="shifted-grid"))
    for i, one in enumerate(images):
        alone = emoji.explain(one, prompt, concepts, samples=8, rule="shifted-grid")
        assert found[i].maps.synergy.shape == alone.maps.synergy.shape
        assert all(same(found[i].replicates[name], f) for name, f in alone.replicates.items())


def test_prompts_of_their_own_on_the_network(emoji, heldout, joining):
    """Pictures of one call attend to their own texts alone; on a CPU each is called alone, and equal bit for bit."""
    joins, same = joining
    scenes = [s for s in heldout if len(s["pictures"]) == 2][:3]
    images = [DATA / s["file"] for s in scenes]
    prompts, concepts = [s["prompt"] for s in scenes], [s["concepts"] for s in scenes]
    assert width(emoji.denoiser, [plan(prompts[0], concepts[0])], Options(samples=8)) == (2 if joins else 1)
    found = dict(emoji.explain_many(images, prompts, concepts, samples=8))
    for i, image in enumerate(images):
        alone = emoji.explain(image, prompts[i], concepts[i], samples=8)
        assert found[i].metadata.conditions == alone.metadata.conditions
        assert all(same(found[i].replicates[name], f) for name, f in alone.replicates.items())
        assert joins or found[i] == alone


def test_a_call_that_a_picture_fills_alone_is_not_shared():
    denoiser = model()
    asked = [plan("a cow and a giraffe", ("cow", "giraffe"))]
    # 4×4 latents: 1024 evaluations a call, of which 32 samples under 4 conditions are 128.
    assert width(denoiser, asked, Options()) == 8
    assert width(denoiser, asked, Options(samples=256)) == 1
    assert width(denoiser, asked, Options(max_batch_size=256)) == 2
    assert width(denoiser, asked, Options(tolerance=0.1)) == 1
    denoiser.joins = False
    assert width(denoiser, asked, Options()) == 1


def test_all_start_from_what_was_learnt_before_the_call():
    """Whatever their order; afterwards the mean of what each taught is known."""
    latents, options = pictures(4), {"conditions": CONDITIONS, "rule": "learning"}
    explainers = [dpid.Explainer(model()) for _ in range(2)]
    orders = ([0, 1, 2, 3], [3, 1, 0, 2])
    for explainer, order in zip(explainers, orders, strict=True):
        dict(explainer.explain_many(latents=[latents[i] for i in order], **options))
    one, other = (explainer.learnt for explainer in explainers)
    assert one.samples == other.samples == 32
    torch.testing.assert_close(one.power, other.power, rtol=1e-12, atol=0)  # a sum in another order


def test_a_model_that_changes_between_two_calls_is_an_error():
    """Of pictures that are encoded together, whose numbers of concepts need calls of their own."""

    class Changing(Joined):
        token = "first"
        state = property(lambda self: self.token)

    explainer = dpid.Explainer(model(Changing))

    def change(done, planned):
        explainer.denoiser.token = "second" if done == planned else explainer.denoiser.token

    three = {subset: NAMES[len(subset)] for subset in subsets_of("xyz")}
    asked = {"latents": pictures(2), "conditions": [CONDITIONS, three], "rule": "uniform"}
    assert [i for i, _ in explainer.explain_many(**asked)] == [0, 1]
    with pytest.raises(RuntimeError, match=r"^model: was changed meanwhile"):
        list(explainer.explain_many(**asked, progress=change))


def test_each_stops_at_its_own_tolerance():
    explainer, latents = dpid.Explainer(model()), pictures(4)
    asked = {"conditions": CONDITIONS, "rule": "uniform", "tolerance": 0.5, "max_samples": 4096}
    found = dict(explainer.explain_many(latents=latents, **asked))
    assert len({result.metadata.samples for result in found.values()}) > 1
    for i, result in found.items():
        check_same(result, explainer.explain(latents=latents[i], **asked))
        rounds = list(explainer.stream(latents=latents[i], **asked))
        check_same(rounds[-1], result)
        errors = {n: relative_error(one) for n, one in enumerate(rounds, 1)}
        assert errors[len(rounds)] <= 0.5
        begun = [n for n, error in errors.items() if may_stop(n) and error <= 0.5 * 2**0.5]
        # As many rounds again as when it seemed that these would do, at the first time or, where they did not, later.
        ends = []
        while not ends or errors[ends[-1]] > 0.5:
            ends.append(2 * next(n for n in begun if n >= (ends or [0])[-1]))
        assert ends[-1] == len(rounds)


def relative_error(result):
    """Half of the 95 % interval of what all concepts tell, relative to it."""
    estimate = result.information[("a", "b")]
    low, high = estimate.interval()
    return (high - low) / 2 / abs(estimate.value)


def test_the_others_are_explained_and_the_broken_ones_named():
    """Latents of a wrong shape, with NaN, and such that the model returns NaN for, beside two that are sound."""
    explainer, (first, second, *_) = dpid.Explainer(model()), pictures(2)
    latents = [first, torch.zeros(3, 4, 4), torch.full(SHAPE, torch.nan), torch.full(SHAPE, 1e6), second]
    many = explainer.explain_many(latents=latents, conditions=CONDITIONS, rule="uniform")
    found = dict(islice(many, 2))
    with pytest.raises(PicturesError, match=r"3 of 5 failed; number 1: latents: found 3 channels") as raised:
        next(many)
    assert list(raised.value.errors) == [1, 2, 3]
    assert isinstance(raised.value.errors[3], FloatingPointError)
    assert list(found) == [0, 4]
    check_same(found[0], explainer.explain(latents=first, conditions=CONDITIONS, rule="uniform"))


def test_a_wrong_prompt_is_the_error_of_its_picture(emoji, two_things):
    path, prompt, concepts = two_things
    found = emoji.explain_many([path, path, "none.png"], [prompt, "a cow", prompt], concepts, samples=8)
    assert next(found)[0] == 0
    with pytest.raises(PicturesError, match=r"2 of 3 failed; number 1: .*; 2: image: none\.png"):
        next(found)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"prompts": ["a cow and a giraffe"] * 3}, ValueError, "prompts: found 3 for 2 pictures"),
        ({"concepts": [("cow", "giraffe")] * 3}, ValueError, "concepts: found 3 for 2 pictures"),
        ({"conditions": [CONDITIONS]}, ValueError, "conditions: found 1 for 2 pictures"),
        ({"prompts": 5}, TypeError, "prompts: found int, expected one for all pictures or a list of one for each"),
        ({"concepts": 3}, TypeError, "concepts: found int, expected one for all pictures"),
        ({"conditions": 3}, TypeError, "conditions: found int, expected one for all pictures"),
        ({"images": "cow.png"}, TypeError, "images: found str, expected a list"),
        ({"images": Image.new("RGB", (64, 64))}, TypeError, "images: found Image, expected a list"),
        ({"images": torch.zeros(3, 64, 64)}, TypeError, "images: found Tensor, expected a list"),
        ({"images": None}, ValueError, "give either images or latents"),
        ({"stop": 3}, TypeError, "stop: found int"),
        ({"samples": 0}, ValueError, "samples: found 0"),
    ],
)
def test_refusals(emoji, change, error, message):
    good = {"images": ["0.png", "1.png"], "prompts": "a cow and a giraffe", "concepts": ("cow", "giraffe")}
    with pytest.raises(error, match=message):
        emoji.explain_many(**good | change)


def test_no_pictures_give_no_results(emoji):
    assert list(emoji.explain_many([], "a cow and a giraffe", ("cow", "giraffe"))) == []


def test_progress_is_that_of_all_pictures():
    told = []
    many = dpid.Explainer(model()).explain_many(
        latents=pictures(10), conditions=CONDITIONS, progress=lambda *numbers: told.append(numbers)
    )
    assert len(list(many)) == 10
    assert told[-1] == (10 * 32 * 4, 10 * 32 * 4)
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_progress_of_pictures_of_several_sizes_of_which_one_fails(emoji, two_things):
    path, prompt, concepts = two_things
    small, told = np.zeros((56, 80, 3), np.uint8), []
    many = emoji.explain_many(
        [path, small, "missing.png", path], prompt, concepts, samples=8,
        progress=lambda *numbers: told.append(numbers),
    )  # fmt: skip
    with pytest.raises(dpid.PicturesError, match=r"number 2: image: missing\.png"):
        list(many)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert told[-1] == (3 * 8 * 4, 3 * 8 * 4)


def test_progress_of_pictures_of_different_numbers_of_conditions():
    """Two, four and two of them, and a last picture that fails: 32 evaluations of each condition are done."""
    few, told = {(): "0", ("a",): "a", ("b",): "0", ("a", "b"): "a"}, []
    many = dpid.Explainer(model()).explain_many(
        latents=[*pictures(3), torch.full(SHAPE, torch.nan)], conditions=[few, CONDITIONS, few, few],
        progress=lambda *numbers: told.append(numbers), max_batch_size=32,
    )  # fmt: skip
    with pytest.raises(dpid.PicturesError, match="number 3: latents: found NaN"):
        list(many)
    assert [done for done, _ in told] == sorted(done for done, _ in told)
    assert all(done <= planned for done, planned in told)
    assert told[-1] == (8 * 32, 8 * 32)


def test_progress_of_a_stream_is_that_of_all_its_rounds(emoji, two_things):
    told = []
    list(emoji.stream(*two_things, samples=8, max_samples=24, progress=lambda *numbers: told.append(numbers)))
    assert told[-1] == (24 * 4, 24 * 4)
    with pytest.raises(TypeError, match="progress: found bool, expected a function"):
        emoji.stream(*two_things, progress=True)


def test_log_likelihoods_are_those_of_each_alone():
    explainer, latents = dpid.Explainer(model()), pictures(3)
    conditions = ["a", "b", "a"]
    found = dict(explainer.log_likelihoods(latents=latents, conditions=conditions))
    for i, condition in enumerate(conditions):
        assert found[i] == explainer.log_likelihood(latents=latents[i], condition=condition)
    with pytest.raises(ValueError, match="conditions: found 2 for 3 pictures"):
        explainer.log_likelihoods(latents=latents, conditions=["a", "b"])


def test_a_log_likelihood_tells_its_progress_and_stops():
    told, explainer, (latents,) = [], dpid.Explainer(model()), pictures(1)
    asked = {"latents": latents, "condition": "a", "samples": 32, "max_batch_size": 8}
    explainer.log_likelihood(progress=lambda *numbers: told.append(numbers), **asked)
    assert told == [(8, 32), (16, 32), (24, 32), (32, 32)]
    with pytest.raises(dpid.Stopped):
        explainer.log_likelihood(stop=lambda: True, **asked)


def test_log_likelihoods_name_their_conditions(emoji, two_things):
    path, _, _ = two_things
    for condition, error, message in (
        (5, TypeError, "found int, expected texts"),
        ("unicorn", ValueError, "this model does not know 'unicorn'"),
    ):
        with pytest.raises(error, match=f"^condition: {message}"):
            emoji.log_likelihood(path, condition, samples=8)
        with pytest.raises(dpid.PicturesError, match=f"number 0: conditions: {message}"):
            list(emoji.log_likelihoods([path], condition, samples=8))


def test_warming_up_learns_nothing_and_changes_no_number(emoji, two_things):
    path, prompt, concepts = two_things
    fresh = dpid.Explainer(emoji.denoiser)
    learnt = fresh.learnt
    fresh.warm_up([(64, 64), (80, 56)], samples=8)
    assert fresh.learnt is learnt
    with pytest.raises(ValueError, match="concepts: found 9, expected"):
        fresh.warm_up([(64, 64)], concepts=9)
    for sizes, error, message in (
        ([64], ValueError, r"found 64, expected a list of \(width, height\)"),
        ((64, 64), ValueError, "found 64, expected a list"),
        (64, TypeError, "found int, expected a list"),
        ([(64, 4)], ValueError, "found 4, expected a whole number from 8"),
        ([(64, 64.5)], ValueError, "found 64.5, expected a whole number"),
    ):
        with pytest.raises(error, match=f"^sizes: {message}"):
            fresh.warm_up(sizes)
    cold = dpid.Explainer(emoji.denoiser).explain(path, prompt, concepts, samples=8)
    assert fresh.explain(path, prompt, concepts, samples=8).redundancy == cold.redundancy


def test_warming_up_by_a_prompt_calls_the_network_as_its_words_do(emoji, two_things, monkeypatch):
    path, prompt, _ = two_things
    calls, encode = [], NetworkDenoiser.encode_conditions
    monkeypatch.setattr(
        NetworkDenoiser, "encode_conditions", lambda self, texts: calls.append(len(texts)) or encode(self, texts)
    )
    emoji.warm_up([(64, 64)], prompt=prompt, samples=8)
    assert calls == [4, 6]  # of two concepts, and of two words: each, the rest without it, all and none
    next(emoji.stream_words(path, prompt, samples=8))
    assert calls[2:] == [6]
    with pytest.raises(ValueError, match=r"^prompt: "):
        emoji.warm_up([(64, 64)], prompt="of the")


def test_words_of_many_pictures_are_those_of_each(emoji, two_things):
    """Each has its own prompt; one that cannot be read is named after the others."""
    path, _, concepts = two_things
    first, second = (f"a {concept}" for concept in concepts)
    asked = {"samples": 8, "seed": 3}  # under four conditions half of what a call takes
    found, many = {}, emoji.words_many([path, path, "none.png"], [first, second, first], **asked)
    with pytest.raises(dpid.PicturesError, match=r"1 of 3 failed; number 2: image: .*none.png") as raised:
        found.update(many)
    assert list(raised.value.errors) == [2]
    assert found == {0: emoji.words(path, first, **asked), 1: emoji.words(path, second, **asked)}


def texts_model():
    """An exact model of two words, and its means; what "dog" does is little, and takes several rounds to tell."""
    cow, dog = torch.zeros(SHAPE), torch.zeros(SHAPE)
    cow[:, 0], dog[:, 3] = 2.0, 0.3
    texts = {
        "": 0 * cow,
        "a and a": 0 * cow,
        "cow": cow,
        "dog": dog,
        "a and a dog": dog,
        "a cow and a": cow,
        "a cow and a dog": cow + dog,
    }
    return Joined({text: (mean, torch.ones(SHAPE)) for text, mean in texts.items()}, (-5.0, 7.0), 300), texts


@pytest.mark.parametrize(("options", "most"), [({"rule": "uniform"}, 4), ({}, 1), ({"seconds": 1e4}, 1)])
def test_words_of_many_pictures_share_calls(options, most):
    """Round after round, and each has the words that it has alone: a cow, a little of a dog, both, neither."""
    denoiser, means = texts_model()
    denoiser.images = []
    noise = torch.randn(SHAPE, generator=torch.Generator().manual_seed(5))
    latents = [means[text] + noise for text in ("cow", "dog", "a cow and a dog", "")]
    explainer, prompt = dpid.Explainer(denoiser), "a cow and a dog"
    start, found = explainer.learnt, dict(explainer.words_many(latents=latents, prompts=prompt, **options))
    assert max(denoiser.images, default=1) == most
    assert len({one.unet_evaluations for one in found.values()}) > 1, "some take more rounds than others"
    explainer.learnt = start
    broken = explainer.words_many(latents=[latents[0], torch.full(SHAPE, 1e6)], prompts=prompt, **options)
    assert next(broken) == (0, found[0])
    with pytest.raises(dpid.PicturesError, match="1 of 2 failed; number 1: denoiser: returned NaN"):
        next(broken)
    for i, result in found.items():
        explainer.learnt = start
        assert result == explainer.words(latents=latents[i], prompt=prompt, **options)


def test_words_of_many_pictures_end_with_a_stop_and_refuse_what_is_wrong(emoji, two_things):
    path, prompt, _ = two_things
    with pytest.raises(dpid.Stopped):
        list(emoji.words_many([path, path], prompt, stop=lambda: True))
    with pytest.raises(ValueError, match="prompts: found 1 for 2 pictures"):
        emoji.words_many([path, path], [prompt])
    with pytest.raises(ValueError, match="margin"):
        emoji.words_many([path], prompt, margin=7)
    with pytest.raises(ZeroDivisionError):  # of the caller, and no picture's fault
        list(emoji.words_many([path], prompt, progress=lambda done, planned: 1 / 0))
