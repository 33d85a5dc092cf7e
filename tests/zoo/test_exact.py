"""The exact denoiser of the emoji world, compared with an enumeration of scenes and the probabilities of words."""

from itertools import product
from math import log, pi

import numpy as np
import pytest
import torch
from PIL import Image
from scipy import stats

import dpid
from dpid.zoo.emoji import scenes, sprites
from dpid.zoo.emoji.exact import SceneDenoiser, given

D = 3 * 32 * 32
# One picture and two, what training knows and what it does not ("dog" with "bus", "cow" with itself).
FEW = {("cow",): 0.3, ("doctor/woman/dark",): 0.1, ("cow", "giraffe"): 0.35, ("dog", "bus"): 0.15, ("cow", "cow"): 0.1}
COW = {("cow",): 1.0}


@pytest.fixture(scope="module")
def model():
    somewhere = given(lambda pictures: "cow" in pictures)
    return SceneDenoiser(conditions={"few": FEW, "only a cow": COW, "a cow is there": somewhere})


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(0)


def clean(scene):
    pixels = sprites.draw(scene)[0].astype(np.float64).reshape(32, 2, 32, 2, 3).mean((1, 3))
    return torch.from_numpy(pixels / 127.5 - 1).permute(2, 0, 1)


@pytest.fixture(scope="module")
def enumerated():
    """Every scene of FEW: means [M,D] and log weights [M], from sprites.draw alone."""
    means, weights = [], []
    for pictures, weight in FEW.items():
        jitter = scenes.JITTER_ONE if len(pictures) == 1 else scenes.JITTER_TWO
        middles = [32] if len(pictures) == 1 else [16, 48]
        for offsets in product(jitter, repeat=len(pictures)):
            corners = tuple((m - 14 + dx, 32 - 14 + dy) for m, (dx, dy) in zip(middles, offsets, strict=True))
            for background in scenes.BACKGROUNDS:
                means.append(clean(scenes.Scene(pictures, corners, background, "")).flatten())
                weights.append(log(weight / len(jitter) ** len(pictures) / len(scenes.BACKGROUNDS)))
    return torch.stack(means), torch.tensor(weights, dtype=torch.float64)


def brute_force(flat, enumerated, a, v):
    """log Σ_m w_m N(z; a mean_m, v I) of z [B,D], |z - a mean|² one by one."""
    means, weights = enumerated
    squares = torch.cdist(flat, a * means, compute_mode="donot_use_mm_for_euclid_dist").square()
    return (weights - squares / (2 * v)).logsumexp(1) - D / 2 * log(2 * pi * v)


@pytest.mark.parametrize("level", [-10.0, -3.0, 0.5, 4.0, 15.0])
def test_eps_hat_is_minus_b_times_the_score(model, enumerated, level):
    """ε̂ = -√σ(-λ) ∇ log p_λ(z), at likely z and at one that no scene explains."""
    generator = torch.Generator().manual_seed(1)
    a, b = (torch.tensor(s * level, dtype=torch.float64).sigmoid().sqrt() for s in (1, -1))
    x = torch.cat((model.sample("few", 2, generator), torch.zeros(1, *model.shape))).double()
    z = a * x + b * torch.randn(3, *model.shape, generator=generator, dtype=torch.float64)
    got = model.eps_hat(z[None], torch.tensor([level]), model.encode_conditions(("few",)))
    flat = z.flatten(1).requires_grad_()
    density = brute_force(flat, enumerated, a, float(a**2 * model.scale**2 + b**2))
    (score,) = torch.autograd.grad(density.sum(), flat)
    # Float64; exponents up to 1e5 lose five of sixteen digits.
    torch.testing.assert_close(got[0, 0].flatten(1), -b * score, rtol=1e-8, atol=1e-8)


def test_log_density(model, enumerated, generator):
    x = torch.cat((model.sample("few", 3, generator), model.sample("", 2, generator))).double()
    exact = brute_force(x.flatten(1), enumerated, 1.0, model.scale**2)
    # Float64, as above.
    torch.testing.assert_close(model.log_density(x, "few"), exact, rtol=1e-10, atol=1e-7)
    torch.testing.assert_close(model.log_density(x, FEW), exact, rtol=1e-10, atol=1e-7)


def test_batches_and_conditions_do_not_touch_each_other(model, generator):
    """70 rows (more than are computed at a time) of two log-SNRs, three conditions, against one by one; fp32 out."""
    names = ("", "a cow", "few")
    z = torch.randn(2, 35, *model.shape, generator=generator)
    levels = torch.tensor([-4.0, 3.0])
    got = model.eps_hat(z, levels, model.encode_conditions(names))
    assert got.shape == (2, 3, 35, *model.shape)
    assert got.dtype == torch.float32
    for n, k, b in ((0, 0, 0), (0, 2, 34), (1, 1, 28), (1, 2, 30)):
        alone = model.eps_hat(z[n : n + 1, b : b + 1].double(), levels[n : n + 1], model.encode_conditions((names[k],)))
        # fp32 products of sums of probabilities times pixels: 750 terms of order one, 6e-8 each.
        torch.testing.assert_close(got[n, k, b].double(), alone[0, 0, 0], rtol=0, atol=1e-5)


def test_render_is_what_is_drawn(model, generator):
    drawn = model.draw("", 20, generator)
    assert {len(s.pictures) for s in drawn} == {1, 2}
    means = torch.stack([clean(s) for s in drawn])
    torch.testing.assert_close(model.render(drawn).double(), means, rtol=0, atol=1e-7)  # fp32
    noise = (model.observe(drawn, generator).double() - means) / model.scale
    # Standard errors of the mean and the square of 20 · 3072 normal numbers, times five.
    assert abs(float(noise.mean())) < 5 / noise.numel() ** 0.5
    assert abs(float(noise.square().mean()) - 1) < 5 * (2 / noise.numel()) ** 0.5


def test_samples_follow_the_condition(model, generator):
    n = 2000
    drawn = model.draw("few", n, generator)
    for pictures, weight in FEW.items():
        count = sum(s.pictures == pictures for s in drawn)
        assert abs(count - n * weight) < 5 * (n * weight * (1 - weight)) ** 0.5, pictures  # 5 binomial deviations


def test_log_ratios_are_the_odds_of_the_words(model, generator):
    """A scene shows its pictures beyond doubt, so that log p(x|c)/p(x) = log P(o|c)/P(o), in the whole world."""
    rng = np.random.default_rng(0)
    drawn = model.draw("", 12, generator)
    x = model.observe(drawn, generator)
    for i, scene in enumerate(drawn):
        odds = scenes.captions(scene.pictures)
        caption = str(rng.choice(list(odds), p=list(odds.values())))
        exact = log(scenes.posterior(caption)[scene.pictures] / scenes.layouts()[scene.pictures])
        # Of another picture the log odds are below -52 ± 10 (2.55 apart): 1e-6 at three and a half deviations.
        assert float(model.log_ratio(x[i : i + 1], caption, "")) == pytest.approx(exact, abs=1e-6), caption


def test_a_wrong_word_costs_hundreds_of_nats(model, generator):
    x = model.sample(COW, 4, generator)
    assert (model.log_ratio(x, "a giraffe", "") < -100).all()
    assert (model.log_ratio(x, "a cow", "") > 0).all()


@pytest.mark.parametrize(
    ("null", "condition", "low", "high", "replicates"),
    # Log-SNRs outside add less than 0.01 nats, by the integrand at the ends: 3e-3 (right word), 1e-3 (wrong).
    [("", "a cow and a giraffe", -9, 7, 10), ("a cow and a giraffe", "a dog", -12, 18, 5)],
)
def test_the_standard_estimate_has_the_exact_log_ratio(model, null, condition, low, high, replicates):
    """½∫E[(ε-ε̂_∅)² - (ε-ε̂_c)²] dλ of one x is log p(x|c)/p(x), for a right and a wrong word (I-MMSE)."""
    generator, points = torch.Generator().manual_seed(2), 20
    x, conditions = model.sample("a cow and a giraffe", 1, generator), model.encode_conditions((null, condition))
    values = []
    for _ in range(replicates):
        levels = low + (high - low) * (torch.arange(points) + torch.rand((), generator=generator)) / points
        a, b = ((s * levels).sigmoid().sqrt().view(-1, 1, 1, 1, 1) for s in (1, -1))
        half = torch.randn(points, 1, *model.shape, generator=generator)
        squares = 0
        for eps in (half, -half):
            squares += (eps[:, None] - model.eps_hat(a * x + b * eps, levels, conditions)).double().square() / 2
        residual = squares.flatten(2).sum(-1).mean(0) * (high - low) / 2
        values.append(float(residual[0] - residual[1]))
    error = np.std(values, ddof=1) / replicates**0.5
    exact = float(model.log_ratio(x, condition, null))
    assert abs(np.mean(values) - exact) < stats.t.ppf(0.999, replicates - 1) * error + 0.01
    assert error < 0.15 * abs(exact)


def test_given_is_the_prior_of_what_holds(model, generator):
    somewhere = given(lambda pictures: "cow" in pictures)
    total = sum(p for k, p in scenes.layouts().items() if "cow" in k)
    assert somewhere["cow", "giraffe"] == pytest.approx(scenes.layouts()["cow", "giraffe"] / total, rel=1e-12)
    x = model.sample("a cow is there", 1, generator)
    # The event holds of x beyond doubt: log P(x|E)/P(x) = -log P(E).
    assert float(model.log_ratio(x, "a cow is there", "")) == pytest.approx(-log(total), abs=1e-6)
    with pytest.raises(ValueError, match="no layout"):
        given(lambda pictures: len(pictures) == 3)


def test_heldout_pictures_are_scenes_of_this_world(model, heldout, request):
    """A clean picture is one of the means: log p = log P(place, background) - D/2 log 2πσ², nothing else is near."""
    folder = request.path.parents[1] / "data" / "heldout"
    for scene in heldout[::10]:
        with Image.open(folder / scene["file"]) as image:
            pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1
        pictures = tuple(scene["pictures"])
        places = len(scenes.JITTER_ONE) if len(pictures) == 1 else len(scenes.JITTER_TWO) ** 2
        expected = -log(places * len(scenes.BACKGROUNDS)) - D / 2 * log(2 * pi * model.scale**2)
        got = float(model.log_density(model.encode_image(pixels), {pictures: 1.0}))
        # fp32 pixels: D (6e-8)² / 2σ² is nothing, the products of 1e4 in float64 leave 1e-8.
        assert got == pytest.approx(expected, abs=1e-6), scene["file"]


def test_an_explainer_takes_it(model, heldout, request):
    scene = next(s for s in heldout if len(s["pictures"]) == 2 and not s["novel"])
    path = request.path.parents[1] / "data" / "heldout" / scene["file"]
    result = dpid.Explainer(model).explain(path, scene["prompt"], scene["concepts"], samples=64, replicates=4)
    with Image.open(path) as image:
        x = model.encode_image(torch.from_numpy(np.array(image)).permute(2, 0, 1)[None] / 127.5 - 1)
    for concept in scene["concepts"]:
        got = result.estimates["standard"].information[(concept,)]
        exact = float(model.log_ratio(x, concept, ""))
        assert abs(got.value - exact) < 12.9 * got.stderr  # t quantile of 3 degrees of freedom at 1 in 1000
        assert got.stderr < 5


def test_the_sheet_holds_the_drawings_of_the_font():
    if not sprites.FONT.exists():
        pytest.skip("needs fonts-noto-color-emoji")
    sheet = np.stack([np.asarray(d, dtype=float).ravel() for d in sprites.read().values()])
    font = np.stack([np.asarray(sprites.sprite(picture), dtype=float).ravel() for picture in scenes.PICTURES])
    # Versions of the font and of Pillow differ a little; none should take one picture for another.
    squares = ((sheet[:, None] - font) ** 2).sum(-1)
    np.testing.assert_array_equal(squares.argmin(1), np.arange(len(scenes.PICTURES)))


def test_no_sprite_crosses_the_middle():
    """What the factorisation into halves rests on."""
    places = {middle + dx for dx, _ in scenes.JITTER_TWO for middle in (scenes.SIZE // 4, 3 * scenes.SIZE // 4)}
    half = scenes.SPRITE // 2
    assert all(not p - half < scenes.SIZE // 2 < p + half for p in places)
    assert all((p - half) % 2 == 0 for p in places)


@pytest.mark.parametrize(
    ("condition", "error", "message"),
    [
        ("a unicorn", ValueError, "never occurs"),
        ({("cow",): 0.5}, ValueError, "sum to 0.5, expected 1"),
        ({("cow",): 1.5, ("dog",): -0.5}, ValueError, "negative weight"),
        ({("unicorn",): 1.0}, ValueError, "unicorn"),
        ({("cow", "dog", "cat"): 1.0}, ValueError, "expected one or two"),
        ({"cow": 1.0}, ValueError, "expected one or two"),
        ({}, ValueError, "sum to 0"),
        (3, TypeError, "found int"),
    ],
)
def test_bad_conditions(model, condition, error, message):
    with pytest.raises(error, match=message):
        model.encode_conditions((condition,))


def test_bad_input(model):
    with pytest.raises(ValueError, match="scale: found 0"):
        SceneDenoiser(0.0)
    with pytest.raises(ValueError, match="'a cow' is a caption"):
        SceneDenoiser(conditions={"a cow": COW})
    with pytest.raises(ValueError, match="image: found shape"):
        model.encode_image(torch.zeros(1, 3, 32, 32))
    with pytest.raises(ValueError, match="x: found shape"):
        model.log_density(torch.zeros(1, 3, 64, 64), "")
    with pytest.raises(ValueError, match="x: found NaN"):
        model.log_density(torch.full((1, *model.shape), float("nan")), "")
