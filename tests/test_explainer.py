"""The explainer on the embedded model, and the results that it returns."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

import dpid
from dpid import ConvergenceWarning
from dpid.denoisers import Denoiser, GaussianDenoiser
from dpid.options import Options
from dpid.pid import mean_stderr
from dpid.results.intervals import interval
from dpid.run import may_stop


@pytest.fixture(scope="module")
def result(emoji, two_things):
    path, prompt, concepts = two_things
    return emoji.explain(path, prompt, concepts, samples=16)


def test_modules_are_found_after_import_dpid(tmp_path):
    names = "pid.decompose, gaussian.pid, gaussian.rate.pird, options.Options, denoisers.GaussianDenoiser, "
    names += "studies, studies.daam.attention_maps, studies.ovam.attention_maps, "
    names += "studies.concept_attention.attention_maps, estimation, results, zoo, report.results.page, ops.normal, "
    names += "likelihood.Likelihood, prompts"
    code = f"import dpid; {', '.join('dpid.' + name for name in names.split(', '))}"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=tmp_path)
    with pytest.raises(AttributeError, match="no attribute 'cow'"):
        _ = dpid.cow


def test_the_version_is_that_of_the_installed_package():
    from importlib.metadata import version

    from dpid import __version__

    assert dpid.__version__ == __version__ == version("dpid")
    assert {"__version__", "Explainer", "pid"} <= set(dir(dpid))


GRID = torch.linspace(-5, 5, 9, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "grid", "told"),
    [
        (None, GRID, "name: found None, expected a text"), (3, GRID, "name: found 3, expected a text"),
        ("x", GRID.tolist(), r"logsnr_grid: found list, expected a float64 tensor \[T\]"),
        ("x", GRID[None], r"logsnr_grid: found torch.float64 \[1, 9\], expected"),
        ("x", GRID.long(), r"logsnr_grid: found torch.int64 \[9\], expected"),
        ("x", GRID.flip(0), r"logsnr_grid: found \[5.0, .*, expected ascending finite log-SNRs"),
        ("x", GRID[:1], r"logsnr_grid: found \[-5.0\], expected ascending"),
        ("x", GRID.log(), r"logsnr_grid: found \[nan, .*, expected ascending"),
        ("x", GRID.half(), r"logsnr_grid: found torch.float16 \[9\], expected a float64 tensor"),
    ],
)  # fmt: skip
def test_a_denoiser_that_lacks_something_is_refused(name, grid, told):
    class Own(GaussianDenoiser):
        logsnr_grid = grid

    model = Own({"": (torch.zeros(1, 2, 2), torch.ones(1, 2, 2))})
    model.name = name
    with pytest.raises((TypeError, ValueError), match=f"^model.{told}"):
        dpid.Explainer(model)


@pytest.mark.parametrize(
    ("name", "value", "told"),
    [("device", "cpu", "'cpu', expected a torch.device"), ("lock", None, "None, expected a context")],
)
def test_a_device_and_a_lock_are_of_their_kinds(name, value, told):
    model = type("Own", (GaussianDenoiser,), {name: value})({"": (torch.zeros(1, 2, 2), torch.ones(1, 2, 2))})
    with pytest.raises(TypeError, match=f"^model.{name}: found {told}"):
        dpid.Explainer(model)


def test_a_denoiser_without_a_name_is_refused():
    class Own(Denoiser):
        logsnr_grid, encode_conditions, eps_hat = GRID, None, None

    with pytest.raises(TypeError, match=r"^model.name: found None, expected a text"):
        dpid.Explainer(Own())


def test_atoms_sum_to_the_whole_everywhere(result):
    for d in result.estimates.values():
        c1, c2 = result.metadata.concepts
        numbers = (d.redundancy.value, d.unique[c1].value, d.unique[c2].value, d.synergy.value)
        # float64 throughout at image level; one rounding to fp32 for each map.
        assert abs(sum(numbers) - d.information[(c1, c2)].value) < 1e-9 * sum(map(abs, numbers))
        maps = d.maps
        total = maps.redundancy + maps.unique[c1] + maps.unique[c2] + maps.synergy
        torch.testing.assert_close(total, maps.information[(c1, c2)], rtol=1e-5, atol=1e-6)


def test_maps_of_information_sum_to_the_image(result):
    for d in result.estimates.values():
        for subset, estimate in d.information.items():
            # 256 fp32 values are added.
            assert abs(float(d.maps.information[subset].double().sum()) - estimate.value) < 1e-4


def test_spends_what_it_says_and_repeats(emoji, two_things, result):
    path, prompt, concepts = two_things
    assert result.metadata.unet_evaluations == 16 * 4
    with Image.open(path) as image:
        again = emoji.explain(image, prompt, concepts, samples=16, max_batch_size=8)
    for name, f in result.replicates.items():
        # Another micro-batch size changes the order of sums in the UNet's convolutions, nothing else.
        torch.testing.assert_close(again.replicates[name], f, rtol=1e-3, atol=1e-3)
    other = emoji.explain(path, prompt, concepts, samples=16, seed=1)
    assert other.redundancy != result.redundancy


@pytest.mark.parametrize(
    ("options", "replicates", "spent"),
    [({"samples": 8}, 4, 8), ({"samples": 15}, 4, 16), ({"samples": 16}, 8, 16), ({}, 8, 32), ({"samples": 3}, 4, 8),
     ({"samples": 8, "antithetic": False}, 8, 8), ({"samples": 8, "replicates": 2}, 2, 8)],
)  # fmt: skip
def test_as_many_replicates_as_the_samples_are_for(options, replicates, spent):
    found = Options(**options)
    assert (found.repeats, found.per_round) == (replicates, spent)


def test_every_kind_of_image_gives_the_same(emoji, two_things, result):
    path, prompt, concepts = two_things
    with Image.open(path) as opened:
        image = opened.convert("RGB")
    array = np.asarray(image)
    tensor = torch.from_numpy(array.copy()).permute(2, 0, 1)
    for kind in (str(path), image, array, tensor, tensor / 255):
        assert emoji.explain(kind, prompt, concepts, samples=16).redundancy == result.redundancy


def test_context_conditions(emoji, two_things):
    path, prompt, (first, second) = two_things
    given = emoji.explain(path, prompt, (first, second), context=True, samples=8)
    assert given.metadata.conditions[""] == " ".join(prompt.replace(first, "").replace(second, "").split())


def test_tolerance(emoji, two_things):
    path, prompt, concepts = two_things
    loose = emoji.explain(path, prompt, concepts, samples=32, tolerance=0.99)
    assert loose.metadata.converged
    assert loose.metadata.samples == 64  # within it after 32, and looked at after as many again
    with pytest.warns(ConvergenceWarning, match="not reached"):
        tight = emoji.explain(path, prompt, concepts, samples=8, tolerance=1e-9, max_samples=24)
    assert tight.metadata.converged is False
    assert tight.metadata.samples == 24
    assert tight.metadata.unet_evaluations == 24 * 4
    assert any("tolerance" in line for line in tight.remarks())


def test_looks_at_the_tolerance_ever_more_seldom():
    """Whoever looks after every round stops when the error happens to look small."""
    assert [n for n in range(1, 50) if may_stop(n)] == [1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48]


def test_rounds_are_more_samples_of_the_same_replicates(emoji, two_things):
    """Rounds of their own noise and log-SNRs are averaged: the error falls, the mean stays."""
    path, prompt, concepts = two_things
    shared = {"samples": 16, "replicates": 8}
    with pytest.warns(ConvergenceWarning):
        long = emoji.explain(path, prompt, concepts, tolerance=1e-9, max_samples=192, **shared)
    short = emoji.explain(path, prompt, concepts, **shared)
    for subset, estimate in long.information.items():
        gap = abs(estimate.value - short.information[subset].value)
        # Student's t, 7 degrees of freedom: once in 1000
        assert gap < 5.4 * short.information[subset].stderr
    for name, estimates in long.estimates.items():
        variance = sum(e.stderr**2 for e in estimates.information.values())
        before = sum(e.stderr**2 for e in short.estimates[name].information.values())
        # Twelve rounds have a twelfth of the variance. Two estimates of it from eight replicates each differ by less
        # than the 99 % quantile of F(7, 7), 6.99; summed over subsets by less still.
        assert variance < before / 12 * 6.99, name


def test_save_and_load(result, tmp_path):
    result.save(tmp_path / "r.safetensors")
    loaded = dpid.PIDResult.load(tmp_path / "r.safetensors")
    assert loaded.metadata == result.metadata
    assert loaded.to_dict() == result.to_dict()
    assert torch.equal(loaded.picture, result.picture)
    assert torch.equal(loaded.maps.redundancy, result.maps.redundancy)
    assert [p.name for p in tmp_path.iterdir()] == ["r.safetensors"]


def test_a_saved_result_can_be_read_by_whom_other_files_can(result, tmp_path):
    result.save(tmp_path / "r.safetensors")
    (tmp_path / "plain").touch()
    assert (tmp_path / "r.safetensors").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_load_refusals(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        dpid.PIDResult.load(tmp_path / "none.safetensors")
    (tmp_path / "text.safetensors").write_text("cow")
    with pytest.raises(ValueError, match="not a safetensors file"):
        dpid.PIDResult.load(tmp_path / "text.safetensors")
    from safetensors.torch import save_file

    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="not a dpid result"):
        dpid.PIDResult.load(tmp_path / "other.safetensors")


def test_json_has_what_the_design_promises(result):
    d = json.loads(json.dumps(result.to_dict()))
    assert d["unit"] == "nats"
    c1, c2 = result.metadata.concepts
    assert set(d["information"]) == {c1, c2, f"{c1}+{c2}"}
    assert set(d["estimators"]) == {"shrinkage", "rao-blackwell", "standard", "orthogonal"}
    for name in ("redundancy", "synergy"):
        assert set(d[name]) == {"value", "stderr", "interval95"}
    for key in ("prompt", "concepts", "context", "estimator", "measure", "unique", "unet_evaluations", "logsnr_range",
                "seed", "model", "precision", "version"):  # fmt: skip
        assert key in d


def test_plot_has_a_panel_for_everything(result):
    figure = result.plot("strip")
    titles = " ".join(ax.get_title() for ax in figure.axes)
    for word in ("picture", "redundancy", "synergy", *result.metadata.concepts):
        assert word in titles
    assert any("nats per latent pixel" in ax.get_ylabel() for ax in figure.axes)


def test_estimate_interval_is_students_and_longer_away_from_zero():
    # t quantile at 0.975 with 3 degrees of freedom: 3.182446 (any table)
    for value, error in ((1.0, 2.0), (9.0, 2.0)):
        half = error * 3.182446
        far = min(value * math.expm1(half / value), 2 * half)  # of the logarithmic scale, at most twice as long
        assert dpid.Estimate(value, error, 3).interval() == pytest.approx((value - half, value + far), abs=1e-4)
        assert dpid.Estimate(-value, error, 3).interval() == pytest.approx((-value - far, -value + half), abs=1e-4)
    assert dpid.Estimate(1e6, 2.0, 3).interval()[1] == pytest.approx(1e6 + 2 * 3.182446, abs=1e-3)
    assert dpid.Estimate(0.0, 0.0, 3).interval() == (0, 0)
    assert dpid.Estimate(0.0, 1.0, 3).interval() == pytest.approx((-3.182446, 2 * 3.182446))


def test_interval_of_an_integral_of_squares_is_even_on_the_log_scale():
    low, high = dpid.Estimate(3.0, 1.0, 3, positive=True).interval()
    # the same quantile; delta method: the standard error of the logarithm is 1/3
    assert (low, high) == pytest.approx((3 * math.exp(-1.060815), 3 * math.exp(1.060815)), rel=1e-6)
    # A number within its noise: the exponential function would be of no use, as 1e14 for 0.1 ± 1.
    low, high = dpid.Estimate(0.1, 1.0, 3, positive=True).interval()
    assert 0 < low < 0.1
    assert high == pytest.approx(0.1 + 2 * 3.182446)
    assert dpid.Estimate(0.0, 0.0, 3, positive=True).interval() == (0, 0)


def test_log_intervals_hold_the_mean_of_rare_squares():
    """Means of four replicates, each a Poisson number (mean 2) of exponential contributions: compound, mean 2."""
    rng = torch.Generator().manual_seed(0)
    count = torch.poisson(torch.full((4, 20000), 2.0, dtype=torch.float64), generator=rng)
    # Gamma(n) as the sum of n exponentials, the first n of the 20 drawn: more than 20 have a chance of 1e-14
    drawn = torch.empty(20, 4, 20000, dtype=torch.float64).exponential_(generator=rng)
    total = (drawn * (torch.arange(20)[:, None, None] < count)).sum(0)
    value, error = mean_stderr(total)
    half = 3.182446 * error  # Student's t, as above
    intervals = {
        "students": (value - half, value + half), "squares": interval(value, error, 3, positive=True),
        "signed": interval(value, error, 3), "mirrored": [-end for end in interval(-value, error, 3)][::-1],
    }  # fmt: skip
    held = {name: float(((low <= 2) & (high >= 2)).double().mean()) for name, (low, high) in intervals.items()}
    # 20000 trials have a standard deviation of 0.2 %; what is left of the skewness on the log scale is under 1 %.
    assert held["squares"] == pytest.approx(0.95, abs=0.016)
    assert held["signed"] == held["mirrored"] == pytest.approx(0.95, abs=0.016)
    assert held["students"] < 0.92


def test_which_intervals_are_of_squares(result):
    for name, d in result.estimates.items():
        both = tuple(result.metadata.concepts)
        for subset, estimate in d.information.items():
            square = name == "orthogonal" or (name == "rao-blackwell" and subset == both)
            assert estimate.positive == square, (name, subset)


def test_repr_is_readable(result):
    assert repr(result).startswith(f"PIDResult({result.metadata.prompt!r}, shrinkage, nats: redundancy ")


_OF_UNICORNS = {
    "prompt": None, "concepts": None,
    "conditions": {(): "", ("cow",): "cow", ("unicorn",): "unicorn", ("cow", "unicorn"): "cow unicorn"},
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": 0}, "samples: found 0"),
        ({"samples": -3}, "samples: found -3"),
        ({"replicates": 1}, "replicates: found 1"),
        ({"seed": -1}, "seed: found -1"),
        ({"estimator": "daam"}, "estimator: found 'daam'"),
        ({"measure": "max"}, "measure: found 'max'"),
        ({"tolerance": 0}, "tolerance: found 0"),
        ({"tolerance": 0.1, "samples": 64, "max_samples": 32}, "max_samples: found 32, expected at least samples = 64"),
        ({"concepts": ("cow",)}, r"concepts: found 1 \('cow'\), allowed are 2…8"),
        ({"level": "word"}, "level: found 'word'"),
        ({"rule": "random"}, "rule: found 'random'"),
        ({"smooth": 2}, "smooth: found 2"),
        ({"measure": "ppid"}, "priors: 'ppid' needs them"),
        ({"priors": "uniform"}, "priors: the measure 'min' takes none"),
        ({"measure": "mmi"}, "allowed for one picture are"),
        ({"measure": "i_ccs"}, "allowed for one picture are i_ccs_plugin,"),
        ({"image": None}, "image: give either image or latents"),
        ({"latents": torch.zeros(4, 16, 16)}, "image: give either image or latents"),
        ({"image": None, "latents": torch.full((4, 16, 16), torch.nan)}, "latents: found NaN"),
        ({"image": None, "latents": torch.zeros(4, 16)}, "latents: found"),
        ({"image": None, "latents": torch.zeros(3, 16, 16)}, "latents: found 3 channels, the model has 4"),
        ({"measure": "i_sx", "priors": {("cow",): 3.0}}, r"priors: \('giraffe',\) is missing"),
        ({"measure": "ppid", "priors": {("cow",): 3.0, ("giraffe",): -1.0}}, "is negative or not finite"),
        ({"measure": "ppid", "priors": {("cow",): 3.0, ("giraffe",): 1.0, ("dog",): 1.0}}, r"found the key \('dog',\)"),
        ({"image": np.zeros((64, 64, 4), np.uint8)}, "image: found uint8"),
        ({"image": torch.full((3, 64, 64), 2.0)}, "outside"),
        ({"image": Image.new("RGB", (1, 1))}, "image: found 1×1 pixels"),
        ({"image": Image.new("RGBA", (64, 64))}, "transparent"),
        ({"prompt": "a cow and a unicorn", "concepts": ("cow", "unicorn")}, "^prompt: .* does not know 'unicorn'"),
        (
            {"prompt": "a cow and a dog, unicorn", "reference": "prompt", "concepts": ("cow", "dog")},
            "^prompt: .*'unicorn'",
        ),
        ({"reference": "a unicorn"}, "^reference: .* does not know 'unicorn'"),
        (
            {"prompt": "a cow, a unicorn", "concepts": ("cow", "unicorn"), "reference": "a unicorn"},
            "^prompt: .*'unicorn'",
        ),
        (_OF_UNICORNS, "^conditions: .* does not know 'unicorn'"),
        ({"prompt": None}, "prompt, concepts: both are needed"),
        ({"conditions": {(): ""}}, "leave out concepts"),
    ],
)
def test_refusals(emoji, change, message):
    arguments = {"image": Image.new("RGB", (64, 64)), "prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe")}
    with pytest.raises(ValueError, match=message):
        emoji.explain(**arguments | change)


def test_a_stream_of_fewer_samples_than_a_round_is_refused(emoji):
    with pytest.raises(ValueError, match="max_samples: found 8, expected at least samples = 32"):
        emoji.stream(Image.new("RGB", (64, 64)), "a cow and a giraffe", ("cow", "giraffe"), max_samples=8)


def test_bad_priors_are_refused_before_anything_is_evaluated(emoji):
    def never(done, planned):
        raise AssertionError("something was evaluated")

    with pytest.raises(ValueError, match="is missing"):
        emoji.explain(
            Image.new("RGB", (64, 64)), "a cow and a giraffe", ("cow", "giraffe"), measure="i_sx",
            priors={("cow",): 3.0}, progress=never,
        )  # fmt: skip


def test_a_name_is_loaded_by_another_call():
    with pytest.raises(TypeError, match=r"model: found 'emoji'; .* Explainer.from_pretrained\('emoji'\)"):
        dpid.Explainer("emoji")


def test_prompts_and_concepts_as_people_hand_them_over(emoji, two_things):
    path, prompt, concepts = two_things
    expected = emoji.explain(path, prompt, concepts, samples=8)
    assert emoji.explain(path, prompt, (c for c in concepts), samples=8).redundancy == expected.redundancy
    assert list(emoji.explain_pairs(path, prompt, iter(concepts), samples=8)) == [concepts]
    again = emoji.explain(path, conditions=expected.metadata.conditions, samples=8)
    assert again.redundancy == expected.redundancy
    assert again.metadata.conditions == expected.metadata.conditions
    with pytest.raises(TypeError, match="concepts: found the string"):
        emoji.explain_pairs(path, prompt, " ".join(concepts))
    with pytest.raises(ValueError, match="concepts: found 1, expected at least 2"):
        emoji.explain_pairs(path, prompt, iter(concepts[:1]))
    with pytest.raises(ValueError, match=r"condition: found U\+D800"):
        emoji.log_likelihood(path, "\ud800")


def test_opaque_alpha_is_fine(emoji):
    image = Image.new("RGBA", (64, 64), (255, 255, 255, 255))
    result = emoji.explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert result.picture.min() == 255


def test_import_is_light():
    import subprocess
    import sys

    heavy = {"diffusers", "importlib.metadata", "matplotlib", "torch", "transformers"}
    code = f"import sys; old = {{*sys.modules}}; import dpid; print(sorted({heavy} & ({{*sys.modules}} - old)))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd="/")
    assert out.stdout.strip() == "[]"
