"""The training targets of the embedded model, compared with an enumeration of scenes, and its captions."""

import random
from itertools import product
from math import log

import numpy as np
import pytest
import torch

from dpid.zoo.emoji import lessons, scenes, sprites, teacher

FEW = {("cow",): 0.25, ("dog",): 0.05, ("cow", "giraffe"): 0.4, ("bus", "cow"): 0.3}


def weights(layouts):
    """log P of one picture [P] and of two [P,P]."""
    names = list(scenes.PICTURES)
    one, two = torch.zeros(len(names)), torch.zeros(len(names), len(names))
    for pictures, p in layouts.items():
        at = tuple(map(names.index, pictures))
        (one if len(at) == 1 else two)[at] = p
    return one.log(), two.log()


@pytest.fixture
def small(monkeypatch):
    """A world of two backgrounds and few places, whose latents are pixels averaged down by four: halves are exact."""
    for name, value in (("BACKGROUNDS", scenes.BACKGROUNDS[:2]), ("JITTER_ONE", scenes.JITTER_ONE[:3]),
                        ("JITTER_TWO", scenes.JITTER_TWO[:2])):  # fmt: skip
        monkeypatch.setattr(scenes, name, value)
    monkeypatch.setattr(teacher, "weights", lambda caption: weights({"few": FEW, "cow": {("cow",): 1.0}}[caption]))
    return teacher.Teacher.of(encode)


def encode(drawn):
    pixels = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 127.5 - 1
    return torch.nn.functional.avg_pool2d(pixels, 4)


def enumerated(layouts):
    """Every scene of ``layouts`` with its latent [M,D] and log weight [M]."""
    shown, logs = [], []
    for pictures, p in layouts.items():
        jitter = scenes.JITTER_ONE if len(pictures) == 1 else scenes.JITTER_TWO
        middles = (32,) if len(pictures) == 1 else (16, 48)
        for offsets, background in product(product(jitter, repeat=len(pictures)), scenes.BACKGROUNDS):
            corners = tuple((m - 14 + dx, 18 + dy) for m, (dx, dy) in zip(middles, offsets, strict=True))
            shown.append(scenes.Scene(pictures, corners, background, ""))
            logs.append(log(p / len(jitter) ** len(pictures) / len(scenes.BACKGROUNDS)))
    return shown, encode([sprites.draw(s)[0] for s in shown]).double(), torch.tensor(logs).double()


def test_halves_of_a_local_encoder_know_nothing_of_each_other(small):
    assert small.scale < 1e-6  # fp32 rounding of means of numbers of order one


@pytest.mark.parametrize("logsnr", [-5.0, -2.0, 0.0])
@pytest.mark.parametrize("scale", [0.0, 0.1])
def test_what_a_caption_leaves_open_is_that_of_all_its_scenes(small, logsnr, scale):
    small.scale = scale
    shown, latents, logs = enumerated(FEW)
    a, noise = (torch.tensor(s * logsnr).double().sigmoid().sqrt() for s in (1, -1))
    v = a**2 * scale**2 + noise**2
    torch.manual_seed(0)
    at = [3, len(shown) - 1]  # a cow alone, a bus and a cow
    z = a * latents[at] + noise * torch.randn(2, *latents.shape[1:]).double()
    found = small.unsaid(z.float(), torch.full((2,), logsnr), [shown[i] for i in at], [teacher.say(["few"] * 2)])[0]
    score = logs - (z[:, None] - a * latents).flatten(2).square().sum(2) / (2 * v)
    mean = torch.einsum("nm,mchw->nchw", score.softmax(1), latents)
    expected = -a * noise / v * (mean - latents[at])
    # Scores of some hundreds in fp32 err by 1e-5 of themselves, 3e-3, which moves odds and so the mean by as much.
    torch.testing.assert_close(found.double(), expected, atol=5e-3, rtol=0)


def test_nothing_is_left_open_where_the_picture_is_clear(small):
    shown, latents, _ = enumerated({("cow",): 1.0})
    found = small.unsaid(
        latents[:1].float() * 0.99, torch.full((1,), 4.0), shown[:1], [teacher.say(["few"]), teacher.say(["cow"])]
    )
    # Of the scenes of FEW none is within 10 standard deviations of the noise, so that their odds vanish in fp32.
    assert found.abs().max() < 1e-4


def test_weights_are_the_posterior_of_the_caption():
    one, two = teacher.weights("a doctor")
    assert float(one.exp().sum() + two.exp().sum()) == pytest.approx(1, abs=1e-5)  # fp32 sums of some hundred numbers
    names = list(scenes.PICTURES)
    assert one.isfinite().nonzero()[:, 0].tolist() == [i for i, n in enumerate(names) if n.startswith("doctor/")]


def test_swaps_keep_to_the_world():
    rng = random.Random(0)
    for _ in range(300):
        pictures = scenes.sample(rng).pictures
        other = lessons.swapped(rng, pictures)
        assert other in scenes.layouts()
        assert sum(a != b for a, b in zip(pictures, other, strict=True)) == 1


def test_a_person_is_swapped_for_one_who_differs_in_one_thing():
    rng = random.Random(0)
    for _ in range(50):
        (other,) = lessons.swapped(rng, ("doctor/woman/dark",))
        assert sum(a != b for a, b in zip(["doctor", "woman", "dark"], other.split("/"), strict=True)) == 1


def test_scenes_to_learn_from_have_layouts_of_the_world():
    rng = random.Random(0)
    drawn = [lessons.scene(rng) for _ in range(500)]
    assert all(s.pictures in scenes.layouts() for s in drawn)
    people = sum(any("/" in p for p in s.pictures) for s in drawn) / 500
    already = sum(p for pictures, p in scenes.layouts().items() if any("/" in name for name in pictures))
    expected = already + lessons.PERSON * (1 - already)
    assert people == pytest.approx(expected, abs=4 * (0.25 / 500) ** 0.5)  # four standard errors


def test_second_captions_are_wrong_only_where_that_is_allowed():
    rng, captions = random.Random(0), lessons.Captions()
    right = scenes.captions(("cow", "giraffe"))
    assert all(captions.second(rng, ("cow", "giraffe"), False) in right for _ in range(200))
    wrong = [captions.second(rng, ("cow", "giraffe"), True) for _ in range(400)]
    share = sum(text not in right for text in wrong) / 400
    assert 0 < share < lessons.WRONG + 4 * (0.25 / 400) ** 0.5  # at most all of them, within four standard errors


def test_squares_of_gaps_that_no_caption_could_close_do_not_drown_the_rest():
    class Told:
        """Teaches that every second caption asks for a thousand times what the noise is."""

        def unsaid(self, z, logsnr, shown, said):
            return torch.stack((torch.zeros_like(z), 1000 * torch.ones_like(z)))

    rng = random.Random(0)
    world = [lessons.scene(rng) for _ in range(4)]
    alphas = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)
    lesson = lessons.Lessons(world, alphas, 32, (4, 16, 16), lambda texts: texts, random.Random)[0]
    _, target, _ = lesson.taught(torch.randn(4, 4, 16, 16), Told(), alphas)
    gap, tamed = (target[0] - target[1]).square().mean((1, 2, 3)), lessons.tame(target)
    assert (gap * tamed).max() <= lessons.LARGE * 1.001  # fp32
    assert (tamed[gap == 0] == 1).all()
    assert (torch.logit(alphas[lesson.t]) < lessons.CLEAR).any()


def test_timesteps_are_in_range_and_look_more_where_captions_say_something():
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    alphas = (1 - betas).cumprod(0)
    torch.manual_seed(0)
    t = lessons.timesteps(alphas, 4000)
    assert 0 <= int(t.min()) <= int(t.max()) < 1000
    told = torch.logit(alphas) < lessons.CLEAR
    # Uniform timesteps would have the second share; stratified draws have no spread to speak of.
    assert told[t].float().mean() > told.float().mean() + 0.05


def test_no_log_snr_outweighs_those_where_captions_say_something():
    weight = lessons.importance(torch.tensor([-5.0, 0.0, 4.0]))
    torch.testing.assert_close(weight, torch.tensor([1.0, 1.0, 0.1353353]))  # e^-2
