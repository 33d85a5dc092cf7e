"""Levels, smoothing, profile over log-SNR and many concepts, on the embedded model and compared with closed forms."""

import math

import numpy as np
import pytest
import torch

import dpid
from dpid import ConvergenceWarning
from dpid.denoisers import GaussianDenoiser
from dpid.results.intervals import interval
from dpid.results.maps import smoothed
from dpid.results.shrinkage import shrunk_layout

SHAPE = (1, 2, 3)


def gaussian(mean, variance):
    return torch.full(SHAPE, mean), torch.full(SHAPE, variance)


@pytest.fixture
def toy():
    """x | y ~ N(y, 1), y ~ N(0, 1), at y = 0, 1, 2."""
    return dpid.Explainer(
        GaussianDenoiser(
            {"": gaussian(0.0, 2.0), "0": gaussian(0.0, 1.0), "1": gaussian(1.0, 1.0), "2": gaussian(2.0, 1.0)}
        )
    )


CONDITIONS = {(): "", ("a",): "1", ("b",): "2", ("a", "b"): "2"}


@pytest.mark.parametrize(("shape", "size"), [((5, 6), 3), ((4, 9), 7), ((1, 5), 3), ((3, 2), 99)])
def test_smoothing_keeps_sums_and_maps_of_one_value(shape, size):
    """Also at the border, which would stand out as a frame of the map otherwise."""
    f = torch.rand(4, 3, *shape, dtype=torch.float64)
    torch.testing.assert_close(smoothed(f, size).sum((-2, -1)), f.sum((-2, -1)))
    torch.testing.assert_close(smoothed(torch.ones_like(f), size), torch.ones_like(f))
    assert torch.equal(smoothed(f, 1), f)


def test_smoothing_is_the_mean_of_the_pixels_around():
    f = torch.rand(5, 6, dtype=torch.float64)
    torch.testing.assert_close(smoothed(f, 3)[1, 2], f[0:3, 1:4].mean())
    mirrored = torch.from_numpy(np.pad(f.numpy(), 1, "symmetric"))
    torch.testing.assert_close(smoothed(f, 3)[0, 5], mirrored[0:3, 5:8].mean())


def quiet_and_noisy(bias):
    """A map [3,16,16], 8 quiet replicates with a ``bias`` of its layout, and 8 noisy ones whose mean errs by 0.5."""
    generator = torch.Generator().manual_seed(0)
    truth, wrong = torch.randn(2, 3, 16, 16, generator=generator, dtype=torch.float64)
    noise = torch.randn(8, 3, 16, 16, generator=generator, dtype=torch.float64) * 0.5 * 8**0.5
    return truth, (truth + bias * wrong).expand(8, -1, -1, -1), truth + noise


def test_a_layout_is_nearer_the_truth_than_either_of_two():
    truth, quiet, noisy = quiet_and_noisy(0.5)
    both = shrunk_layout(quiet, noisy)
    torch.testing.assert_close(both.sum((-2, -1)), quiet.sum((-2, -1)))
    errors = [float((f.mean(0) - truth).square().mean()) for f in (both, quiet, noisy)]
    # Bias and noise of 0.25 each, weighed evenly: 0.125, half of either; 768 numbers leave 5 % of that to chance.
    assert errors[0] < 0.65 * min(errors[1:])


def test_a_layout_that_is_right_is_left_alone():
    _, quiet, noisy = quiet_and_noisy(0.0)
    # w is 1 - noise / square, whose standard deviation is that of a χ² of 768 by its mean: 0.05; three of them.
    assert (shrunk_layout(quiet, noisy) - quiet).norm() < 0.15 * (noisy - quiet).norm()
    assert torch.equal(shrunk_layout(quiet, quiet), quiet)


@pytest.mark.parametrize("rule", ["shifted-grid", "learning", "logistic"])
def test_profile_sums_to_the_image(toy, rule):
    result = toy.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=512, rule=rule)
    width = float(result.edges.diff()[0])
    for d in result.estimates.values():
        for subset, estimate in d.information.items():
            total = float(d.profile.information[subset].double().sum()) * width
            # fp32 sums of 6 × 512 squares of up to 1e2.
            assert total == pytest.approx(estimate.value, rel=1e-4, abs=1e-3)


@pytest.mark.parametrize(("replicates", "groups"), [(2, 2), (4, 4), (6, 6), (8, 4), (12, 4)])
def test_profile_has_the_levels_of_a_quarter_of_the_replicates_in_its_bins(toy, replicates, groups):
    """Every bin holds one log-SNR of every group; with none in some, a profile would be noise around zero."""
    samples = 2 * 5 * replicates
    result = toy.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=samples, replicates=replicates,
                         rule="shifted-grid")  # fmt: skip
    profile = result.profiles["orthogonal"]
    assert profile.shape == (groups, 3, samples // 2 // groups)
    assert (profile[:, -1] > 0).all()
    torch.testing.assert_close(profile.mean(0).sum(-1), result.replicates["orthogonal"].mean(0).sum((-2, -1)))


def test_degrees_of_freedom_are_those_of_what_the_measure_acts_on(toy):
    dof = {
        level: toy.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, level=level).redundancy.dof
        for level in ("image", "pixel", "logsnr")
    }
    assert dof == {"image": 7, "pixel": 7, "logsnr": 3}


@pytest.mark.parametrize("rule", ["shifted-grid", "stratified", "uniform", "logistic", "learning"])
def test_known_answers_under_every_rule(toy, rule):
    result = toy.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=8192, replicates=16, rule=rule)
    # In closed form i^s(x = 1; y = 1) = .596574 and i^o = .289721 for each of 6 pixels
    for name, truth in (("standard", 0.596574), ("orthogonal", 0.289721)):
        estimate = result.estimates[name].information[("a",)]
        # 4 standard errors with 15 degrees of freedom (one in 850), 1e-3 for the grid of 4001 levels and its ends
        assert abs(estimate.value - 6 * truth) < 4 * estimate.stderr + 1e-3
    cross = result.cross_term[("a",)]
    assert abs(cross.value - 6 * (0.596574 - 0.289721)) < 4 * cross.stderr + 1e-3


def test_estimators_disagree_only_where_the_reference_does_not_describe_the_picture(toy):
    """A perfect network: of one picture iʳ and iˢ differ, the more surely the more samples; that is no disagreement."""
    generator = torch.Generator().manual_seed(0)
    flagged, sure = [], 0
    for i in range(100):
        x = 2 + torch.randn(SHAPE, generator=generator)  # what y = 2 says
        result = toy.explain(latents=x, conditions=CONDITIONS, samples=128, seed=i)
        flagged.append(any("disagree" in line for line in result.remarks()))
        gap = result.estimates["rao-blackwell"].information[("b",)].value
        gap -= result.estimates["standard"].information[("b",)].value
        sure += abs(gap) > 3 * result.estimates["standard"].information[("b",)].stderr
    # Most gaps are real, and yet 5 % of pictures at most are remarked upon, and three standard errors of 100.
    assert sure > 50
    assert sum(flagged) <= 5 + 3 * 2.2
    far = toy.explain(latents=torch.full(SHAPE, -4.0), conditions=CONDITIONS, samples=128)
    (remark,) = (line for line in far.remarks() if "disagree" in line)
    # log p(-4 | y = 2) / p(-4) = ½ ln 2 - 18 + 4 a coordinate: F is wrong, i°(F) > 0, and only iˢ tells.
    assert far.estimates["rao-blackwell"].information[("a", "b")].value > 0
    assert far.information[("a", "b")].interval()[1] < 0
    assert "'a + b' misleads: -8" in remark
    assert "trust that" in remark
    same = {subset: "2" if subset else "" for subset in CONDITIONS}
    above = toy.explain(latents=torch.full(SHAPE, 5.0), conditions=same, samples=128)
    (remark,) = (line for line in above.remarks() if "disagree" in line)
    assert "misleads" not in remark
    assert "trust the maps" in remark


def test_what_ended_a_run_early_is_remarked(toy, monkeypatch):
    whole, calls = toy.denoiser.eps_hat, []

    def breaks(*arguments):
        calls.append(arguments)
        return whole(*arguments) if len(calls) < 3 else torch.full_like(whole(*arguments), torch.nan)

    monkeypatch.setattr(toy.denoiser, "eps_hat", breaks)
    asked = {"latents": torch.ones(SHAPE), "conditions": CONDITIONS, "samples": 8, "tolerance": 1e-6}
    with pytest.warns(ConvergenceWarning, match="returned NaN or infinity"):
        result = toy.explain(**asked)
    assert result.metadata.samples == 16
    assert any("the result is that of the rounds before" in line for line in result.remarks())
    assert not any("allow more samples" in line for line in result.remarks())


def test_a_level_is_a_probability():
    with pytest.raises(ValueError, match="level: found 95, expected a probability"):
        interval(torch.ones(1), torch.ones(1), 3, level=95)


def test_an_exact_model_has_one_size(toy):
    with pytest.raises(ValueError, match=r"latents: found \(1, 2, 4\), the model has \(1, 2, 3\)"):
        toy.explain(latents=torch.ones(1, 2, 4), conditions=CONDITIONS)


def test_learnt_density_is_drawn_from_and_changes_no_answer(toy):
    explainer = dpid.Explainer(toy.denoiser)
    with pytest.raises(ValueError, match=r"rule: 'adaptive' needs Explainer\.density"):
        explainer.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, rule="adaptive")
    asked = {"conditions": CONDITIONS, "samples": 64, "rule": "shifted-grid"}
    seen = [explainer.explain(latents=torch.full(SHAPE, v), **asked) for v in (0.5, 1.5)]
    explainer.learn(seen)
    result = explainer.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=4096, replicates=8)
    assert result.metadata.rule == "adaptive"
    estimate = result.estimates["standard"].information[("a",)]
    # As above; 5 standard errors with 7 degrees of freedom, one in 600
    assert abs(estimate.value - 6 * 0.596574) < 5 * estimate.stderr + 1e-3
    other = toy.explain(latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=16, rule="shifted-grid")
    with pytest.raises(ValueError, match="results: found profiles of"):
        explainer.learn([*seen, other])
    with pytest.raises(ValueError, match="results: found none, expected those of"):
        explainer.learn([])
    with pytest.raises(TypeError, match=r"^results: found PIDResult, expected a list of results"):
        explainer.learn(seen[0])
    with pytest.raises(TypeError, match=r"^results: found 3, expected what explain returns"):
        explainer.learn([seen[0], 3])
    with pytest.raises(ValueError, match="results: found rule adaptive; explain with rule='shifted-grid'"):
        explainer.learn([result])


def test_what_was_found_before_a_nan_is_returned(toy):
    class Failing(GaussianDenoiser):
        calls = 0

        def eps_hat(self, z, logsnr, conditions):
            self.calls += 1
            out = super().eps_hat(z, logsnr, conditions)
            return out if self.calls < 3 else out * torch.nan

    def asked(latest):
        model = Failing(toy.denoiser.conditions)
        model.calls = 2 - latest
        return dpid.Explainer(model).explain(
            latents=torch.ones(SHAPE), conditions=CONDITIONS, samples=16, max_batch_size=64, tolerance=1e-6
        )

    with pytest.warns(ConvergenceWarning, match="NaN or infinity for condition"):
        result = asked(2)
    assert result.metadata.samples == 32
    assert result.metadata.converged is False
    with pytest.raises(FloatingPointError, match="NaN or infinity for condition"):
        asked(0)


def test_log_likelihood_is_the_closed_form(toy):
    found = toy.log_likelihood(latents=torch.ones(SHAPE), condition="", samples=8192, replicates=16)
    exact = -6 * 1.515512  # -ln p(x = 1) = 1.515512
    assert abs(found.nats.value - exact) < 4 * found.nats.stderr + 1e-3  # as above
    assert found.bits_per_dimension.value == pytest.approx(-found.nats.value / 6 / math.log(2))
    for name, value in {"tolerance": 0.1, "estimator": "orthogonal", "context": True}.items():
        with pytest.raises(TypeError, match=f"{name}: is not taken where log-densities are estimated"):
            toy.log_likelihood(latents=torch.ones(SHAPE), **{name: value})


def test_tails_of_a_log_likelihood_are_what_is_missing():
    """x ~ N(0, 2) in six dimensions, at x = 3."""
    ends = (-4.0, 5.0)
    explainer = dpid.Explainer(GaussianDenoiser({"": gaussian(0.0, 2.0)}, ends, 901))
    found = explainer.log_likelihood(latents=torch.full(SHAPE, 3.0), samples=8192, replicates=16)

    def missing(low, high):
        """-½∫ (E‖ε - ε̂‖² - 6 σ(λ)) dλ with ε̂ = b z / (2 a² + b²), by the trapezoid rule."""
        level = torch.linspace(low, high, 20001, dtype=torch.float64)
        a2, b2 = level.sigmoid(), (-level).sigmoid()
        gain = 1 / (2 * a2 + b2)
        error = a2 * b2 * gain**2 * 9 + (1 - b2 * gain) ** 2
        return -6 * float(torch.trapezoid((error - a2) / 2, level))

    exact = -6 * (0.5 * math.log(2 * math.pi * 2) + 9 / 4)
    # 4 standard errors (15 degrees of freedom); what lies beyond ±40 is nothing in float64.
    truth = (missing(-40, ends[0]), missing(ends[1], 40))
    assert abs(found.nats.value + sum(truth) - exact) < 4 * found.nats.stderr
    for tail, outside in zip(found.tails, truth, strict=True):
        # At log-SNR -4 and 5 the integrand still bends: e^±λ is off by a tenth (what the next order is there).
        assert abs(tail.value - outside) < 0.1 * abs(outside) + 4 * tail.stderr
    # Of which the lower one is known well; the upper one is lost in the noise of ‖ε‖².
    assert abs(found.tails[0].value) > 4 * found.tails[0].stderr


def test_profile_and_tails_where_levels_are_sparse():
    """Stable Diffusion's highest levels are 0.7 apart: no bin is empty for it, and no tail comes of where they fall."""
    beta = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2

    class Sparse(GaussianDenoiser):
        logsnr_grid = torch.logit((1 - beta).cumprod(0)).flip(0)

    wide, shape = 2 * torch.ones(4, 8, 8), (4, 8, 8)
    mean = {name: torch.full(shape, value) for name, value in {"": 0.0, "one": 0.5, "two": 0.4, "both": 0.9}.items()}
    explainer = dpid.Explainer(Sparse({name: (m, wide) for name, m in mean.items()}))
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    asked = {(): "", ("one",): "one", ("two",): "two", ("one", "two"): "both"}
    result = explainer.explain(latents=x, conditions=asked, samples=1024, estimator="orthogonal")
    assert len(result.profile.edges) == 65  # eight levels of a group in every one of 64 bins
    assert (result.profile.information["one", "two"] > 0).all()
    found = explainer.log_likelihood(latents=x, samples=1024)
    # A white Gaussian of variance 2 differs by next to nothing from one of variance 1 above log-SNR 7: ±½ e⁻⁷ a
    # dimension, 0.1 nats in all. Three degrees of freedom: 4 standard errors are exceeded in 3 % of seeds.
    assert abs(found.tails[1].value) < 4 * found.tails[1].stderr + 0.1
    assert found.tails[1].stderr < 5


def test_levels_are_ordered(emoji, two_things):
    """A minimum is concave: the finer the level, the smaller the redundancy of the very same samples."""
    path, prompt, concepts = two_things
    by = {
        level: emoji.explain(path, prompt, concepts, samples=16, level=level, estimator="orthogonal", smooth=1)
        for level in ("image", "pixel", "logsnr")
    }
    assert by["pixel"].redundancy.value <= by["image"].redundancy.value
    assert by["logsnr"].redundancy.value <= by["image"].redundancy.value
    pixel = by["pixel"]
    # The sums of fp32 maps of 256 pixels.
    assert float(pixel.maps.redundancy.double().sum()) == pytest.approx(pixel.redundancy.value, abs=1e-3)
    for result in by.values():
        total = result.redundancy.value + sum(u.value for u in result.unique.values()) + result.synergy.value
        assert total == pytest.approx(result.information[tuple(result.metadata.concepts)].value, abs=1e-6)


def test_two_concepts_on_two_pixels():
    """Of concepts about different pixels the redundancy of the image is positive, that of every pixel zero."""

    def condition(first, second):
        return torch.tensor([[[first, second]]]), torch.ones(1, 1, 2)

    model = GaussianDenoiser(
        {"": condition(0.0, 0.0), "a": condition(1.0, 0.0), "b": condition(0.0, 1.0), "ab": condition(1.0, 1.0)}
    )
    conditions = {(): "", ("a",): "a", ("b",): "b", ("a", "b"): "ab"}
    x = torch.ones(1, 1, 2)
    by = {
        level: dpid.Explainer(model).explain(
            latents=x, conditions=conditions, samples=1024, level=level, estimator="orthogonal", smooth=1
        )
        for level in ("image", "pixel")
    }
    assert by["image"].redundancy.value > 0.1
    assert abs(by["pixel"].redundancy.value) < 1e-6  # zero times zero, to fp32 rounding


@pytest.mark.parametrize("level", ["pixel", "logsnr"])
def test_information_is_the_same_at_every_level(emoji, two_things, level):
    path, prompt, concepts = two_things
    one, other = (emoji.explain(path, prompt, concepts, samples=8, level=at).information for at in ("image", level))
    assert one == other  # value, error and degrees of freedom: what a tolerance is held against


def test_three_concepts(emoji, two_things):
    path, _, _ = two_things
    result = emoji.explain(path, "a cow and a giraffe", ("a", "cow", "giraffe"), samples=8)
    assert result.metadata.unet_evaluations == 8 * 8
    assert len(result.decomposition.atoms) == 18
    total = sum(e.value for e in result.decomposition.atoms.values())
    assert total == pytest.approx(result.information[("a", "cow", "giraffe")].value, abs=1e-6)
    assert "{a}{cow+giraffe}" in result.to_dict()["atoms"]
    assert (
        len([ax for ax in result.plot("strip").axes if ax.get_visible()]) == 7
    )  # picture, R, 3 U, S and the colour bar


def test_every_atom_of_three_concepts_has_a_map(emoji, two_things):
    path, three = two_things[0], ("a", "cow", "giraffe")
    result = emoji.explain(path, "a cow and a giraffe", three, samples=8, level="pixel")
    values, errors = result.atom_maps()
    assert len(values) == len(errors) == 18
    # float32 maps of what is in float64 here; the image's numbers are sums of the maps by level="pixel"
    torch.testing.assert_close(values.redundancy.float(), result.maps.redundancy)
    torch.testing.assert_close(errors.unique["a"].float(), result.maps.stderr.unique["a"])
    for antichain, estimate in result.decomposition.atoms.items():
        assert float(values[antichain].sum()) == pytest.approx(estimate.value, rel=1e-9, abs=1e-9)
    torch.testing.assert_close(sum(values.values()).float(), result.maps.information[three])


def test_reference(emoji, two_things):
    path, prompt, concepts = two_things
    result = emoji.explain(path, prompt, concepts, samples=8, reference="prompt")
    assert result.metadata.reference == prompt
    assert result.metadata.unet_evaluations == 8 * 5
    same = emoji.explain(path, prompt, concepts, samples=8, reference=" ".join(concepts))
    assert same.metadata.unet_evaluations == 8 * 4  # the concepts stand in the prompt's order


def test_a_reference_that_is_true_of_the_picture_shows_a_wrong_word_below_zero():
    """Of x = 1, that "cow" says: by default the reference has "dog" as well, which here is all that it says."""
    means = {"cow": 1.0, "dog": -1.0, "cow dog": -1.0}
    known = {"": gaussian(0.0, 2.0)} | {text: gaussian(mean, 1.0) for text, mean in means.items()}
    explainer = dpid.Explainer(GaussianDenoiser(known))
    asked = {"latents": torch.ones(SHAPE), "prompt": "a cow and a dog", "concepts": ("cow", "dog"), "samples": 256}
    wrong, right = (
        explainer.explain(**asked, estimator="rao-blackwell", reference=reference).information[("dog",)].interval()
        for reference in ("concepts", "cow")
    )
    assert wrong[0] > 0
    assert right[1] < 0


def test_priors_are_kept_and_judged(emoji, two_things, tmp_path):
    path, prompt, (a, b) = two_things
    tiny = {(a,): 0.01, (b,): 0.01, (a, b): 0.02}
    result = emoji.explain(path, prompt, (a, b), samples=8, measure="ppid", priors=tiny)
    assert result.metadata.priors[a] == 0.01
    result.save(tmp_path / "r.safetensors")
    assert dpid.PIDResult.load(tmp_path / "r.safetensors").redundancy == result.redundancy
    sure = emoji.explain(path, prompt, (a, b), samples=8, measure="ppid", priors="uniform")
    assert not any("exceeds the prior" in line for line in sure.remarks())


def test_a_model_in_training_is_refused():
    class Training(GaussianDenoiser):
        training = True

    with pytest.raises(ValueError, match="train\\(\\) mode"):
        dpid.Explainer(Training({"": gaussian(0.0, 1.0)}))
