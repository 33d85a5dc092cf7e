"""The second embedded model: what its files hold, that its ε̂ is its pipeline's, and that it knows the world."""

import inspect

import numpy as np
import pytest
import torch
from bench_model import nearest
from uniqueness import own_against_other

import dpid
from dpid.denoisers.loading import embedded_path, load_pipeline
from dpid.quiet import quiet
from dpid.zoo import generate
from dpid.zoo.emoji import scenes

LENGTH = 16  # tokens of every text


@pytest.fixture(scope="module")
def pipe():
    with quiet():
        from diffusers import DiffusionPipeline

        pipe = DiffusionPipeline.from_pretrained(embedded_path("emoji-flow"), local_files_only=True)
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(scope="module")
def flow():
    return dpid.Explainer.from_pretrained("emoji-flow", device="cpu", precision="float32")


def test_it_is_small_and_knows_exactly_the_words_of_the_world(pipe):
    files = [f for f in embedded_path("emoji-flow").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 14e6
    assert not [f for f in files if f.suffix in (".bin", ".pt", ".ckpt", ".pth")]
    for tokenizer in (pipe.tokenizer, pipe.tokenizer_2, pipe.tokenizer_3):
        assert {w for w in tokenizer.get_vocab() if w.isalpha()} == set(scenes.vocabulary())
        assert tokenizer("An elephant, and a Cow.").input_ids == tokenizer("a elephant and a cow").input_ids


def test_eps_hat_is_what_the_pipelines_last_step_makes_of_it(pipe, flow):
    step, seen = pipe.scheduler.step, []

    def recorded(out, t, x, *args, **kwargs):
        result = step(out, t, x, *args, **kwargs)
        seen.append((x, result[0]))
        return result

    recorded.__signature__ = inspect.signature(step)
    pipe.scheduler.step = recorded
    try:
        pipe(
            "a cow and a giraffe", sigmas=[1.0, 0.6], num_inference_steps=2, guidance_scale=1.0, output_type="latent",
            max_sequence_length=LENGTH, generator=torch.Generator().manual_seed(0),
        )  # fmt: skip
    finally:
        del pipe.scheduler.step
    x, clean = (part.double() for part in seen[-1])
    sigma = torch.tensor([0.6], dtype=torch.float64)  # 0.6 in float32, to 2e-8
    logsnr = 2 * (torch.log1p(-sigma) - sigma.log())
    z = (x / (0.4**2 + 0.6**2) ** 0.5).float()
    denoiser = flow.denoiser
    found = denoiser.eps_hat(z[None], logsnr, denoiser.encode_conditions(["a cow and a giraffe"]))[0, 0]
    expected = (x - 0.4 * clean) / 0.6
    assert float((found - expected).norm() / expected.norm()) < 1e-5  # rounding of fp32


@pytest.mark.parametrize("text", ["a unicorn and a cow", "cow " * LENGTH])
def test_refuses_what_it_would_not_read(flow, text):
    with pytest.raises(ValueError, match=r"does not know 'unicorn'; it knows a, and, apple|18 tokens, but"):
        flow.denoiser.encode_conditions([text])


def test_draws_a_thing_and_changes_nothing():
    pipe = load_pipeline("emoji-flow", "cpu")
    before = pipe.scheduler, dict(pipe.scheduler.config)
    told = []
    (image,) = generate(pipe, ["a apple"], steps=10, progress=lambda *steps: told.append(steps))
    assert told == [(step, 10) for step in range(1, 11)]
    assert nearest([image]) == ["apple"]  # of 148 drawings
    assert (pipe.scheduler, dict(pipe.scheduler.config)) == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"prompts": ["a cow", "a unicorn"]}, ValueError, "prompts: this model does not know 'unicorn'"),
        ({"prompts": ["cow " * LENGTH]}, ValueError, "prompts: 18 tokens, but text_encoder takes 16"),
        ({"prompts": "a cow"}, TypeError, "prompts: found 'a cow', expected a list of texts"),
        ({"prompts": []}, ValueError, "prompts: found none, expected at least one text"),
        ({"prompts": [5]}, TypeError, "prompts: found int, expected one text"),
        ({"steps": 0}, ValueError, "steps: found 0, expected a whole number from 1"),
        ({"steps": 2.5}, ValueError, "steps: found 2.5, expected a whole number"),
        ({"seed": -1}, ValueError, "seed: found -1, expected a whole number from 0"),
        ({"guidance": "a"}, ValueError, "guidance: found 'a', expected a finite number"),
        ({"guidance": float("nan")}, ValueError, "guidance: found nan, expected a finite number"),
        ({"progress": 5}, TypeError, "progress: found int, expected a function"),
    ],
)
def test_no_picture_is_drawn_of_what_is_refused(flow, arguments, error, message):
    with pytest.raises(error, match=f"^{message}"):
        generate(flow.denoiser.family.pipe, **{"prompts": ["a cow"], "steps": 1} | arguments)


def test_uniqueness_maps_find_their_things(flow, heldout, request):
    scores = own_against_other(flow, heldout, request.path.parents[1] / "data" / "heldout", 3)
    # A thing has some 5 independent values of a smoothed map. One that knew nothing of which thing is meant scores 0.5
    # with a standard deviation of √(11 / (12·5·5)) = 0.19, and so 0.08 for the mean of 6.
    assert np.mean(scores) > 0.85
