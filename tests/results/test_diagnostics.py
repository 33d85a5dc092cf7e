"""Diagnostics on an exact model of 256 dimensions, and on what distillation at guidance or to few steps makes of it."""

import json
from dataclasses import replace

import pytest
import torch

import dpid
from dpid.cli.tables import show_pairs, show_result
from dpid.denoisers import Denoiser, GaussianDenoiser
from dpid.denoisers.guidance import bend, undone
from dpid.results.diagnostics import diagnose
from dpid.results.result import PIDResult

PICTURES, SHAPE = 24, (1, 16, 16)
TEXTS = {(): "", ("a",): "a", ("b",): "b", ("a", "b"): "a+b"}


def world():
    """Smooth pictures of 16×16 pixels, x = c_a y_a + c_b y_b + noise, with y_a = 1.5 and y_b = -1 observed."""
    place = torch.cartesian_prod(torch.arange(16.0), torch.arange(16.0)).double()
    smooth = (-torch.cdist(place, place).square() / 8).exp() + 0.05 * torch.eye(256)
    blobs = 3 * torch.stack([(-(place - centre).square().sum(1) / 18).exp() for centre in (5.0, 11.0)], 1)
    whole = torch.block_diag(smooth + blobs @ blobs.mT, torch.eye(2).double())
    whole[:256, 256:], whole[256:, :256] = blobs, blobs.mT
    return GaussianDenoiser.joint(whole, SHAPE, {"a": 1.5, "b": -1.0}, (-9.0, 9.0), 901)


class Guided(Denoiser):
    """What a network distilled at guidance ``w`` computes if it has learned it exactly."""

    name = "guided"

    def __init__(self, exact, w):
        self.exact, self.w = exact, w
        self.none = exact.encode_conditions([""])

    @property
    def logsnr_grid(self):
        return self.exact.logsnr_grid

    def encode_conditions(self, conditions):
        return self.exact.encode_conditions(conditions)

    def eps_hat(self, z, logsnr, conditions):
        null = self.exact.eps_hat(z, logsnr, self.none)
        return null + self.w * (self.exact.eps_hat(z, logsnr, conditions) - null)


class Undone(Guided):
    name = "undone"

    def eps_hat(self, z, logsnr, conditions):
        return undone(super().eps_hat(z, logsnr, conditions), super().eps_hat(z, logsnr, self.none), self.w)


class Drawn(Guided):
    """A network that answers with a picture drawn from the posterior p(x | z, y), by the same noise under every y."""

    name = "drawn"

    def __init__(self, exact):
        super().__init__(exact, 1.0)
        self.generator = torch.Generator().manual_seed(1)

    def eps_hat(self, z, logsnr, conditions):
        """(z - a x') / b with x' = E[x | z] + noise of variance v b² / (a² v + b²) along the eigenvectors of x."""
        level = logsnr.double().view(-1, 1, 1)
        a, b = level.sigmoid().sqrt(), (-level).sigmoid().sqrt()
        noise = torch.randn(*z.shape[:2], 256, generator=self.generator, dtype=torch.float64)
        found = super().eps_hat(z, logsnr, conditions)
        for k, name in enumerate(conditions.names):
            variance, axes = self.exact._spectra[name]
            away = a * (variance / (a.square() * variance + b.square())).sqrt()
            found[:, k] -= ((noise @ axes * away) @ axes.mT).view(z.shape)
        return found


@pytest.fixture(scope="module")
def results():
    """{model: one result a picture of p(x | a, b)}; four of the undone guidance, which repeat those of the exact."""
    exact = world()
    pictures = exact.sample("a+b", PICTURES, torch.Generator().manual_seed(0))
    models = (exact, Guided(exact, 3.5), Undone(exact, 3.5), Drawn(exact))
    return {
        model.name: [
            dpid.Explainer(model).explain(latents=x, conditions=TEXTS, samples=16, seed=i)
            for i, x in enumerate(pictures[:4] if isinstance(model, Undone) else pictures)
        ]
        for model in models
    }


def joined(results):
    """One result whose replicates are the pictures: its errors are those of the mean over pictures."""
    first = results[0]
    return replace(
        first,
        metadata=replace(first.metadata, replicates=PICTURES),
        replicates={k: torch.stack([r.replicates[k].mean(0) for r in results]) for k in first.replicates},
        profiles={k: torch.stack([r.profiles[k].mean(0) for r in results]) for k in first.profiles},
        products=torch.stack([r.products.mean(0) for r in results]),
    )


# For a mean w = 1, and orthogonality 0; at guidance w, i° grows by w² and iˢ by 2w - w²; draws are off by as much as x
# is, so their product is -½ of their square.
@pytest.mark.parametrize(("model", "guidance"), [("gaussian", 1.0), ("guided", 3.5)])
def test_the_guidance_in_the_predictions_is_found(results, model, guidance):
    found = joined(results[model]).diagnostics.guidance
    # 3.5 standard errors, of 24 pictures.
    assert abs(found.value - guidance) < 3.5 * found.stderr
    assert found.stderr < 0.15 * guidance


@pytest.mark.parametrize(("model", "expected"), [("gaussian", 0.0), ("drawn", -0.5)])
def test_errors_of_means_are_orthogonal_to_them_and_those_of_draws_are_not(results, model, expected):
    found = joined(results[model]).diagnostics
    # 3.5 standard errors, of 24 pictures, also of the bins that make up nearly all of the whole; 4 of any of 8.
    assert abs(found.orthogonality.value - expected) < 3.5 * found.orthogonality.stderr
    assert found.orthogonality.stderr < 0.03
    value, error = found.profile
    assert ((value - expected).abs() < 4 * error).all()


def test_draws_tell_more_by_standard(results):
    """By half the integral of what they vary more without the words: the mutual information."""
    variances = world()._spectra
    expected = 0.5 * (variances[""][0].log() - variances["a+b"][0].log()).sum()
    drawn, exact = (joined(results[name]).replicates["standard"][:, -1].sum((-2, -1)) for name in ("drawn", "gaussian"))
    excess, error = (drawn - exact).mean(), (drawn - exact).std() / PICTURES**0.5
    # 3.5 standard errors, of the same 24 pictures.
    assert abs(excess - expected) < 3.5 * error
    assert error < expected / 3


def test_guided_predictions_are_no_means_where_noise_is_strong(results):
    value, error = joined(results["guided"]).diagnostics.profile
    assert value[0] + 3 * error[0] < -0.2
    assert abs(value[-1]) < 0.1


def test_the_undone_guidance_gives_the_numbers_of_the_exact_model(results):
    for exact, found in zip(results["gaussian"], results["undone"], strict=False):
        for name, f in exact.replicates.items():
            # The rounding of ε̂ in float32, in sums of 256 squares of size one over 18 units of log-SNR.
            torch.testing.assert_close(found.replicates[name], f, rtol=1e-3, atol=1e-4)


def test_a_student_that_is_linear_in_guidance_does_not_bend():
    exact = world()
    x = exact.sample("a", 1, torch.Generator().manual_seed(0))
    one = exact.encode_conditions(["a"])

    def straight(z, logsnr, guidance):
        return Guided(exact, guidance).eps_hat(z, logsnr, one)

    def curved(z, logsnr, guidance):
        return Guided(exact, guidance**2).eps_hat(z, logsnr, one)

    assert bend(straight, x, exact.logsnr_grid, 3.0) < 1e-5  # rounding of float32, over a line of a tenth of ε̂
    # w² at 2 is 4, half way from 1 to 9 is 5: 1 off, of 8.
    assert bend(curved, x, exact.logsnr_grid, 3.0) == pytest.approx(1 / 8, rel=1e-3)
    assert bend(lambda z, logsnr, guidance: z, x, exact.logsnr_grid, 3.0) == 0


def test_diagnostics_are_in_files_and_json(results, tmp_path):
    result = joined(results["gaussian"])
    told = json.loads(json.dumps(result.to_dict(), allow_nan=False))["diagnostics"]
    assert told["orthogonality"]["value"] == result.diagnostics.orthogonality.value
    assert told["guidance"]["value"] == result.diagnostics.guidance.value
    assert len(told["orthogonality_profile"]["value"]) == len(result.edges) - 1
    result.save(tmp_path / "one.safetensors")
    again = PIDResult.load(tmp_path / "one.safetensors")
    assert again == result
    assert again.diagnostics == result.diagnostics


def test_guidance_is_not_told_where_words_are_wrong(results):
    """i° + iˢ is then about zero."""
    result = joined(results["gaussian"])
    wrong = {**result.replicates, "standard": -result.replicates["orthogonal"]}
    assert replace(result, replicates=wrong).diagnostics.guidance is None


@pytest.mark.parametrize(("errors", "told"), [(3.1, False), (3.3, True)])
def test_guidance_is_told_where_the_interval_of_its_denominator_is_above_zero(errors, told):
    """Of four replicates, whose quantile of Student's t is 3.18 by tables."""
    spread = torch.tensor([-1.0, -1.0, 1.0, 1.0]).double()
    sums = spread + errors * float(spread.std()) / 4**0.5
    assert (diagnose(sums / 2, sums / 2, torch.ones(4, 2, 3)).guidance is not None) == told


def looks_guided(result):
    """Whether the first remark says that predictions look guided."""
    return "look guided" in next(iter(result.remarks()), "")


def test_a_remark_says_that_predictions_are_guided_where_that_is_clear(results):
    assert not all(map(looks_guided, results["guided"]))  # with 16 samples that of single pictures hardly is
    model = Guided(world(), 3.5)
    (x,) = model.exact.sample("a+b", 1, torch.Generator().manual_seed(0))
    assert looks_guided(dpid.Explainer(model).explain(latents=x, conditions=TEXTS, samples=64))
    assert looks_guided(joined(results["guided"]))
    assert not any(map(looks_guided, (*results["gaussian"], joined(results["gaussian"]))))


def test_no_model_is_said_to_be_guided_that_is_known_to_be_distilled(results):
    result = joined(results["guided"])
    known = replace(result, metadata=replace(result.metadata, distilled="it jumps"))
    assert not any("look guided" in line for line in known.remarks())


class Few(GaussianDenoiser):
    distilled = "it was trained to end at a sharp picture"


def test_numbers_of_a_model_distilled_to_few_steps_have_no_unit(tmp_path, capsys):
    mean = torch.zeros(1, 4, 4)
    model = Few({name: (mean + i, 1 + mean) for i, name in enumerate(TEXTS.values())}, (-5.0, 7.0), 101)
    explainer = dpid.Explainer(model)
    result = explainer.explain(latents=mean, conditions=TEXTS, samples=8)
    unit = "arbitrary units of steering"
    told = result.to_dict()
    assert told["unit"] == result.metadata.unit == unit
    assert told["profile"]["unit"] == f"{unit} per unit of log-SNR"
    assert result.remarks()[0].endswith(f"in arbitrary units and not in nats, since {Few.distilled}")
    assert not any("misleads" in line or "disagree" in line for line in result.remarks())
    assert f"{unit} per latent pixel" in [ax.get_ylabel() for ax in result.plot("strip").axes]
    assert f"{unit} per unit of log-SNR" in [ax.get_ylabel() for ax in result.plot("profile").axes]
    show_result(result, tmp_path)
    show_pairs({("a", "b"): result}, "a b", tmp_path)
    out = " ".join(capsys.readouterr().out.split())
    assert out.count(f"{unit} ± standard error") == 2
    assert "nats ±" not in out
    result.save(tmp_path / "few.safetensors")
    assert PIDResult.load(tmp_path / "few.safetensors") == result
    for call in (explainer.explain, explainer.stream):
        with pytest.raises(ValueError, match=f"tolerance: found 0.1, but there are no nats .*: {Few.distilled}"):
            call(latents=mean, conditions=TEXTS, tolerance=0.1)
