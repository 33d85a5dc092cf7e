"""Fixtures of all tests. Without a GPU Triton's interpreter runs the kernels; it is set before the import."""

import json
import os
import socket
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import settings

settings.register_profile("dpid", deadline=None)  # a busy machine is no fault of the code
settings.load_profile("dpid")
CUDA = torch.cuda.is_available()
os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
if not CUDA:
    os.environ.setdefault("TRITON_INTERPRET", "1")

DEVICES = {"cpu": "cpu", "triton": "cuda" if CUDA else "cpu", "cuda": "cuda"}


def pytest_generate_tests(metafunc):
    """Tests that take ``backend`` run on every backend that this machine has."""
    if "backend" in metafunc.fixturenames:
        metafunc.parametrize("backend", [b for b in DEVICES if b != "cuda" or CUDA])


@pytest.fixture
def put(backend):
    """Moves a tensor, or every tensor of a dict, to the device of the backend under test."""

    def move(value):
        if isinstance(value, dict):
            return {k: move(v) for k, v in value.items()}
        return value.to(DEVICES[backend]) if isinstance(value, torch.Tensor) else value

    return move


@pytest.fixture(scope="session")
def free_port():
    """Finds a port at which nothing listens."""

    def find():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return free.getsockname()[1]

    return find


@pytest.fixture
def command(monkeypatch, capsys, tmp_path):
    """Runs ``dpid`` in this process and in a folder of its own: (exit code, output, errors).

    It saves the seconds that a process takes to import torch.
    """
    from dpid import cli

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")

    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["dpid", *map(str, arguments)])
        return cli.run(), *capsys.readouterr()

    return call


DATA = Path(__file__).parent / "data" / "heldout"


@pytest.fixture(scope="session")
def heldout():
    """The held-out scenes: a list of {file, prompt, concepts, masks, pictures}."""
    return json.loads((DATA / "index.json").read_text())


@pytest.fixture(scope="session")
def emoji():
    """One explainer of the embedded model for all tests."""
    import dpid

    return dpid.Explainer.from_pretrained("emoji", device="cpu")


@pytest.fixture(scope="session")
def two_things(heldout):
    """Path of a held-out two-thing scene, its prompt and its concepts."""
    scene = next(s for s in heldout if len(s["pictures"]) == 2)
    return DATA / scene["file"], scene["prompt"], tuple(scene["concepts"])


@pytest.fixture
def broken_later(monkeypatch):
    """Lets every network return NaN from the second round of samples on; a list of the rounds, to begin anew."""
    from dpid import run

    integrate, rounds = run.integrate, []

    def broken(denoiser, x, *arguments, **options):
        rounds.append(x)
        return integrate(denoiser, x if len(rounds) == 1 else x * torch.nan, *arguments, **options)

    monkeypatch.setattr(run, "integrate", broken)
    return rounds


UNETS = {
    "sd1": {
        "block_out_channels": (8, 16), "layers_per_block": 1, "attention_head_dim": 2, "cross_attention_dim": 16,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "norm_num_groups": 4,
    },
    # As Stable Diffusion 2: linear projections, heads by level, attention everywhere but at the coarsest level; 12 + 8
    # channels in 4 groups, so that a group of the last block spans both what is and what is not shared.
    "sd2": {
        "block_out_channels": (8, 12, 16), "layers_per_block": 2, "attention_head_dim": (1, 2, 4),
        "cross_attention_dim": 16, "use_linear_projection": True, "upcast_attention": True, "norm_num_groups": 4,
        "down_block_types": ("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        "up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
    },
    "xl": {
        "block_out_channels": (8, 16), "layers_per_block": 2, "attention_head_dim": (1, 2), "cross_attention_dim": 32,
        "use_linear_projection": True, "transformer_layers_per_block": (1, 2), "norm_num_groups": 4,
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"), "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 16 + 6 * 8,
    },
}  # fmt: skip


@pytest.fixture
def tiny():
    """Makes a pipeline of a few thousand random weights: SD 1.x, SD 2.x or XL in kind, eps or v prediction."""

    def make(prediction="epsilon", dropout=0.0, scheduler=None, family="sd1"):
        from diffusers import (
            AutoencoderKL,
            DDIMScheduler,
            StableDiffusionPipeline,
            StableDiffusionXLPipeline,
            UNet2DConditionModel,
        )
        from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, PreTrainedTokenizerFast

        from dpid.denoisers.loading import embedded_path
        from dpid.quiet import quiet

        torch.manual_seed(0)
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(embedded_path("emoji") / "tokenizer")
            text = CLIPTextConfig(
                vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=2,
                num_attention_heads=2, max_position_embeddings=16, bos_token_id=1, eos_token_id=2, projection_dim=16,
            )  # fmt: skip
            unet = UNet2DConditionModel(sample_size=8, in_channels=4, out_channels=4, dropout=dropout, **UNETS[family])
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
            )  # fmt: skip
            schedule = scheduler or DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction,
                clip_sample=False, steps_offset=1, set_alpha_to_one=False,
            )  # fmt: skip
            shared = {"vae": vae, "text_encoder": CLIPTextModel(text), "tokenizer": tokenizer, "unet": unet,
                      "scheduler": schedule, "feature_extractor": None}  # fmt: skip
            if family == "xl":
                second = CLIPTextModelWithProjection(text)
                return StableDiffusionXLPipeline(**shared, text_encoder_2=second, tokenizer_2=tokenizer)
            return StableDiffusionPipeline(**shared, safety_checker=None, requires_safety_checker=False)

    return make
