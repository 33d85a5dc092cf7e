"""What all families have in common: batches, lengths of texts, refusals; and a pipeline stays as it was."""

import functools
import itertools
import pickle
import sys
from types import SimpleNamespace

import diffusers
import pytest
import torch
from pipeline_state import state
from tiny_pipelines import TINY, build

import dpid
from dpid.denoisers import from_pipeline
from dpid.denoisers.families import FAMILIES
from dpid.denoisers.families.control_net import Controlled
from dpid.denoisers.texts import LENGTHS

TEXTS = ("", "a cow", "a cow and a giraffe")
shared = functools.cache(build)  # for tests that do not change the pipeline


@pytest.mark.parametrize("name", TINY)
def test_a_batch_is_what_its_parts_are(name):
    denoiser = from_pipeline(shared(name))
    grid = denoiser.logsnr_grid
    z = torch.randn(2, 2, denoiser.latent_shape[0], 8, 12, generator=torch.Generator().manual_seed(0))
    logsnr = grid[[len(grid) // 4, 3 * len(grid) // 4]]
    conditions = denoiser.encode_conditions(TEXTS)
    found = denoiser.eps_hat(z, logsnr, conditions)
    assert found.shape == (2, 3, 2, *z.shape[2:])
    alone = torch.empty_like(found)
    for n, k, b in torch.cartesian_prod(*map(torch.arange, found.shape[:3])).tolist():
        one = denoiser.eps_hat(z[n : n + 1, b : b + 1], logsnr[n : n + 1], conditions[k : k + 1])
        alone[n, k, b] = one[0, 0, 0]
    # The same float32 operations in batches of another shape.
    assert float((found - alone).norm() / alone.norm()) < 1e-6
    text = denoiser.eps_hat(z[:1], logsnr[:1], denoiser.encode_conditions(TEXTS[1:2]))  # encoded by itself
    assert float((found[:1, 1:2] - text).norm() / text.norm()) < 1e-6


# Tokens of TEXTS, of 0, 5 and 19 characters, which are tokens here: those that the network attends.
LENGTH = {
    "z_image": (19, 24, 38),  # 19 of the template
    "pixart_alpha": (1, 7, 21),  # a space in front and an end; the empty text is an end
    "pixart_sigma": (1, 7, 21),
    "sana": (1, 7, 21),  # a beginning and the last of the instruction; before the empty text a beginning
    "lumina2": (1, 170, 184),  # a beginning, 149 of the system prompt and 15 of "<Prompt Start>"
    "qwen_image": (128, 133, 147),  # 128 of the template, without the 34 that are dropped
    "ltx": (1, 7, 21),
    "cogview4": (16, 16, 32),  # a beginning, and padding up to a multiple of 16
}


@pytest.mark.parametrize("name", LENGTH)
def test_texts_are_cut_to_their_own_length(name):
    encoded = from_pipeline(shared(name)).encode_conditions(TEXTS).encoded
    assert tuple(encoded[LENGTHS].tolist()) == LENGTH[name]
    assert set(encoded) - {LENGTHS} == set(from_pipeline(shared(name)).family.text)


# Characters that fit: the limit without special tokens, template, and the instruction or prompt in front.
FIT = {
    "sd3": 75, "flux": 510, "chroma": 510, "flux2_klein": 512 - 19, "flux2": 512 - 186, "z_image": 512 - 19,
    "sana": 298, "pixart_alpha": 118, "pixart_sigma": 298, "lumina2": 256 - 165, "aura_flow": 254,
    "qwen_image": 512 - 128, "hunyuan_dit": 75, "hidream": 126, "cogview4": 1023, "kolors": 256,
    "wan": 510, "ltx": 126,
}  # fmt: skip


@pytest.mark.parametrize("name", TINY)
def test_texts_that_would_be_cut_are_refused(name):
    family = from_pipeline(shared(name)).family
    fits = FIT[name]
    family.check_texts(["a" * fits])
    with pytest.raises(
        ValueError, match=r"^prompt: \d+ tokens, but (the text encoder|text_encoder(_\d)?) takes \d+; .* cut"
    ):
        family.check_texts(["a" * (fits + 1)])


@pytest.mark.parametrize("name", ["sd3", "hunyuan_dit"])
def test_characters_that_an_encoder_does_not_know_are_taken(name):
    """By T5 and BERT, whose pipelines take them."""
    pipe, text = shared(name), "a ♥ cow"
    tokenizer = pipe.tokenizer_3 if name == "sd3" else pipe.tokenizer
    assert tokenizer.unk_token_id in tokenizer(text).input_ids
    found = from_pipeline(pipe).encode_conditions([text]).encoded
    theirs = pipe.encode_prompt(text, **({"prompt_2": None, "prompt_3": None} if name == "sd3" else {}))
    argument = next(iter(found))
    torch.testing.assert_close(found[argument], theirs[0], rtol=1e-6, atol=1e-6)  # the same float32 operations


@pytest.mark.parametrize("name", ["pixart_alpha", "pixart_sigma"])
def test_captions_are_cleaned_as_the_pipelines_call_does(name, monkeypatch, caplog):
    """With stand-ins for the packages that it takes, which leave a text as it is; it drops names and web addresses."""
    pipe, seen = build(name), []
    module = sys.modules[type(pipe).__module__]
    for place, part in itertools.product((module, diffusers.utils), ("bs4", "ftfy")):
        monkeypatch.setattr(place, f"is_{part}_available", lambda: True)
    monkeypatch.setattr(module, "BeautifulSoup", lambda text, **_: SimpleNamespace(text=text), raising=False)
    monkeypatch.setattr(module, "ftfy", SimpleNamespace(fix_text=lambda text: text), raising=False)
    text = "A cow by @someone, www.example.com"
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["encoder_hidden_states"]), with_kwargs=True
    )
    pipe(text, num_inference_steps=1, guidance_scale=1.0, height=64, width=64, use_resolution_binning=False)
    family = from_pipeline(pipe).family
    assert "not compared" not in caplog.text
    found = family.encode_texts([text])["encoder_hidden_states"]
    torch.testing.assert_close(found, seen[0][:, : found.shape[1]], rtol=1e-6, atol=1e-6)  # the same operations
    raw = family.encode_prompt([text], clean_caption=False)[0]
    assert not torch.allclose(raw[:, : found.shape[1]], found, rtol=1e-3)
    family.check_texts([text + " www.example.com" * 100])  # none of which is left


@pytest.mark.parametrize("name", TINY)
def test_the_pipeline_stays_as_it_was(name, checked_again):
    pipe = build(name)
    pipe.set_progress_bar_config(desc="mine")
    pipe.vae.train()
    if hasattr(pipe.vae, "clear_cache"):  # makes the attributes in which a VAE of videos keeps what it is computing
        pipe.vae.clear_cache()
    before = state(pipe)
    explainer = dpid.Explainer(pipe, precision="float32")
    denoiser, one = explainer.denoiser, lambda frames: () if frames is None else (frames,)
    denoiser.encode_image(torch.zeros(1, 3, *one(denoiser.frames), 32, 64))
    shape = (denoiser.latent_shape[0], *one(denoiser.latent_frames), 4, 8)
    latents = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    result = explainer.explain(latents=latents, prompt=TEXTS[2], concepts=("cow", "giraffe"), samples=4)
    assert result.maps.redundancy.isfinite().all()
    after = state(pipe)
    assert {key for key in before if before[key] != after[key]} == set()


def test_a_picture_is_explained_by_stable_diffusion_3():
    picture = torch.rand(3, 64, 96, generator=torch.Generator().manual_seed(0))
    result = dpid.Explainer(shared("sd3"), precision="float32").explain(
        picture, TEXTS[2], ("cow", "giraffe"), samples=8
    )
    assert result.maps.redundancy.shape == (6, 10)  # about the native area of 8×8, in patches of 2×2
    both = result.redundancy.value + sum(part.value for part in result.unique.values()) + result.synergy.value
    assert both == pytest.approx(result.information[("cow", "giraffe")].value, abs=1e-9)  # float64


def test_pictures_are_no_longer_than_the_positions_of_stable_diffusion_3():
    family = from_pipeline(shared("sd3")).family
    assert family.size_for(1000, 250) == (128, 32)  # 8×8 latents of 8 pixels, a quarter as high as wide
    assert family.size_for(10_000, 250) == (256, 16)  # 16 patches of 16 pixels at most, one at least


def test_pictures_have_no_more_tokens_than_hidream_takes():
    """As of the published network, whose native square has all the tokens that it takes."""
    pipe = build("hidream")
    pipe.transformer.max_seq = 16  # 8×8 latents
    denoiser = from_pipeline(pipe)
    conditions = denoiser.encode_conditions(["a cow"])
    for width, height in ((100, 100), (5, 4), (200, 100), (100, 200), (100, 33), (10_000, 1), (1, 10_000)):
        w, h = (side // 8 for side in denoiser.size_for(width, height))
        assert denoiser.eps_hat(torch.zeros(1, 1, 16, h, w), denoiser.logsnr_grid[300:301], conditions).isfinite().all()
    theirs = pipe("a cow", width=2000, height=1000, num_inference_steps=1, guidance_scale=1.0, output_type="latent")
    assert denoiser.size_for(2000, 1000) == tuple(8 * side for side in theirs.images.shape[:1:-1])
    with pytest.raises(ValueError, match=r"^latents: found 12×6 pixels, expected at most 16 tokens of 2×2$"):
        dpid.Explainer(pipe).explain(latents=torch.zeros(16, 12, 6), prompt=TEXTS[2], concepts=("cow", "giraffe"))


def test_the_native_size_of_aura_flow_is_that_of_its_call():
    """The published networks have a ``sample_size`` of 64 latent pixels, and 64×64 places or more of two a side."""
    pipe = build("aura_flow", places=4096)
    denoiser = from_pipeline(pipe, size=1024)
    made = pipe("a cow", num_inference_steps=1, guidance_scale=1.0, output_type="latent").images
    assert denoiser.latent_shape == made.shape[1:] == (4, 128, 128)
    assert from_pipeline(build("aura_flow", places=1024)).latent_shape == (4, 64, 64)  # it has no places for more
    places = pipe.transformer.pos_embed
    for width, height in ((100, 100), (200, 100), (100, 1000)):
        found = places.pe_selection_index_based_on_dim(*(side // 8 for side in denoiser.size_for(width, height)[::-1]))
        rows, columns = found // 64, found % 64
        assert len(rows.unique()) * len(columns.unique()) == len(found)  # a rectangle
        assert (rows >= 0).all()
    with pytest.raises(ValueError, match=r"^latents: found 64×130 pixels, expected at most 128 a side$"):
        denoiser.eps_hat(torch.zeros(1, 1, 4, 64, 130), denoiser.logsnr_grid[:1], denoiser.encode_conditions([""]))


def test_stable_diffusion_3_without_t5_and_with_a_short_one():
    """Without T5 the pipeline puts 256 zeros in its place; a model of short texts takes what its tokenizer does."""
    pipe = build("sd3", with_t5=False)
    hidden = from_pipeline(pipe).encode_conditions(TEXTS).encoded["encoder_hidden_states"]
    assert hidden.shape[1] == 77 + 256
    assert not hidden[:, 77:].any()
    pipe = build("sd3")
    pipe.tokenizer_3.model_max_length = 16
    hidden = from_pipeline(pipe).encode_conditions(TEXTS[:2]).encoded["encoder_hidden_states"]
    assert hidden.shape[1] == 77 + 16
    with pytest.raises(ValueError, match="prompt: 21 tokens, but text_encoder_3 takes 16"):
        from_pipeline(pipe).encode_conditions(TEXTS)


def test_parts_that_are_missing_are_named():
    pipe = build("sd3")
    pipe.tokenizer_3 = None
    with pytest.raises(ValueError, match="pipe: StableDiffusion3Pipeline has no tokenizer_3; expected a StableDiff"):
        from_pipeline(pipe)
    pipe = build("flux")
    pipe.text_encoder_2 = None
    with pytest.raises(ValueError, match="pipe: FluxPipeline has no text_encoder_2; expected a FluxPipeline"):
        from_pipeline(pipe)


def test_guidance_is_an_input_of_networks_that_were_distilled_at_it():
    x, encoded = torch.zeros(2, 16, 8, 8), {"encoder_hidden_states": torch.zeros(2, 512, 32)}
    for name, options, guidance in (("flux", {}, [1, 1]), ("flux", {"guidance": False}, None), ("flux2", {}, [1, 1])):
        found = from_pipeline(build(name, **options)).family.inputs(x, torch.tensor([0.5, 0.5]), encoded)
        assert (found["guidance"].tolist() if "guidance" in found else None) == guidance


def test_schedulers_of_another_kind_are_refused():
    pipe = build("sd3")
    pipe.scheduler = diffusers.DDIMScheduler()
    with pytest.raises(ValueError, match=r"StableDiffusion3Pipeline predicts the velocity .* DDIMScheduler is n"):
        from_pipeline(pipe)
    pipe.scheduler = diffusers.DPMSolverMultistepScheduler(use_flow_sigmas=True, prediction_type="flow_prediction")
    from_pipeline(pipe)
    pipe = build("pixart_sigma")
    pipe.scheduler = diffusers.FlowMatchEulerDiscreteScheduler()
    with pytest.raises(ValueError, match="pipe: a FlowMatchEulerDiscreteScheduler has no trained noise levels"):
        from_pipeline(pipe)


def test_latents_that_cannot_be_cut_into_patches_are_refused():
    explainer = dpid.Explainer(shared("flux"))
    with pytest.raises(ValueError, match="latents: found 8×9 pixels, expected multiples of 2"):
        explainer.explain(latents=torch.zeros(16, 8, 9), prompt=TEXTS[2], concepts=("cow", "giraffe"))


def test_known_networks_in_other_pipelines_name_the_family():
    class OtherPipeline:
        components = shared("sd3").components

    with pytest.raises(ValueError, match=r"found OtherPipeline, .* SD3Transformer2DModel is, in the family StableDiff"):
        from_pipeline(OtherPipeline())


def test_every_family_of_a_pipeline_has_a_tiny_one():
    unets = {"StableDiffusionPipeline", "StableDiffusionXLPipeline"}  # tests/denoisers/test_diffusers.py has these
    made = {pipeline for pipeline, _ in TINY.values()} | unets
    without = {family for family in FAMILIES.values() if not made & set(family.pipelines)}
    assert all(issubclass(family, Controlled) for family in without)  # tests/denoisers/test_extras.py has these


def test_a_smaller_picture():
    pipe = shared("sd3")
    explainer = dpid.Explainer(pipe, size=32)
    assert explainer.denoiser.size_for(64, 64) == (32, 32)
    assert explainer.denoiser.size_for(200, 50) == (64, 16)  # of the same area
    image = torch.rand(3, 64, 64, generator=torch.Generator().manual_seed(1))
    ask = {"prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe"), "samples": 8}
    small = explainer.explain(image, **ask)
    whole = dpid.Explainer(pipe, size=64).explain(image, **ask)
    assert [tuple(r.maps.redundancy.shape) for r in (small, whole)] == [(4, 4), (8, 8)]
    embedded = dpid.Explainer.from_pretrained("emoji", device="cpu", size=32)
    assert pickle.loads(pickle.dumps(embedded.denoiser)).size_for(64, 64) == (32, 32)


@pytest.mark.parametrize(("name", "size"), [("sd3", 40), ("sd3", 0), ("sd3", -16), ("sd3", 80), ("sd3", 72)])
def test_a_size_that_the_network_does_not_take(name, size):
    with pytest.raises(ValueError, match=rf"^size: found {size}, expected a multiple of 16 up to the model's 64$"):
        dpid.Explainer(shared(name), size=size)


def test_a_size_that_the_pipeline_does_not_make():
    with pytest.raises(ValueError, match=r"^size: found 16, HiDreamImagePipeline makes pictures of \d+² pixels alone"):
        dpid.Explainer(shared("hidream"), size=16)


def test_a_network_that_changes_between_results_is_an_error():
    pipe = build("z_image")
    explainer = dpid.Explainer(pipe, precision="float32")
    results = explainer.stream(latents=torch.zeros(16, 4, 4), prompt=TEXTS[2], concepts=("cow", "giraffe"), samples=64)
    next(results)
    with torch.no_grad():
        pipe.transformer.layers[0].attention.to_q.weight.mul_(1.5)
    with pytest.raises(RuntimeError, match="was changed while it was being explained"):
        list(results)
