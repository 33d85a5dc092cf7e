"""Shared by all tests. Without a GPU, Triton kernels run through Triton's interpreter, chosen before it is imported."""

import json
import os
from pathlib import Path

import pytest
import torch

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
def tiny():
    """Makes a StableDiffusionPipeline of a few thousand random weights, eps or v prediction."""

    def make(prediction="epsilon", dropout=0.0, scheduler=None):
        from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
        from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

        from dpid.loading import embedded_path, quiet

        torch.manual_seed(0)
        with quiet():
            tokenizer = PreTrainedTokenizerFast.from_pretrained(embedded_path("emoji") / "tokenizer")
            text = CLIPTextModel(
                CLIPTextConfig(
                    vocab_size=len(tokenizer), hidden_size=16, intermediate_size=32, num_hidden_layers=1,
                    num_attention_heads=2, max_position_embeddings=16, bos_token_id=1, eos_token_id=2,
                )
            )  # fmt: skip
            unet = UNet2DConditionModel(
                sample_size=8, in_channels=4, out_channels=4, block_out_channels=(8, 16), layers_per_block=1,
                down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), attention_head_dim=2,
                up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"), cross_attention_dim=16, norm_num_groups=4,
                dropout=dropout,
            )  # fmt: skip
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
                block_out_channels=(8, 8), latent_channels=4, norm_num_groups=4, sample_size=16,
            )  # fmt: skip
            schedule = scheduler or DDIMScheduler(
                beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, prediction_type=prediction,
                clip_sample=False, steps_offset=1, set_alpha_to_one=False,
            )  # fmt: skip
            return StableDiffusionPipeline(
                vae=vae, text_encoder=text, tokenizer=tokenizer, unet=unet, scheduler=schedule, safety_checker=None,
                feature_extractor=None, requires_safety_checker=False,
            )  # fmt: skip

    return make
