"""Pipelines of every family with a few thousand random weights: configurations and tokenizers are made here, offline.

``TINY`` has them by name, ``build(name)`` makes one. Tokenizers work on characters.
"""

from __future__ import annotations

import diffusers
import torch
import transformers

from dpid.quiet import quiet

CHARACTERS = [chr(code) for code in range(32, 127)]
FLUX_VAE = {"scaling_factor": 0.3611, "shift_factor": 0.1159, "use_quant_conv": False, "use_post_quant_conv": False}
TINY = {}


def tiny(pipeline):
    """Registers a builder, which is skipped where this version of diffusers has no such ``pipeline``."""

    def register(make):
        TINY[make.__name__] = (pipeline, make)
        return make

    return register


def build(name, **options):
    """The tiny pipeline ``name``, in evaluation mode, as far as this version of diffusers has it."""
    import pytest

    pipeline, make = TINY[name]
    if not hasattr(diffusers, pipeline):
        pytest.skip(f"this version of diffusers has no {pipeline}")
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("older tokenizers are not made from a dictionary")
    with quiet():
        pipe = make(**options)
        pipe.set_progress_bar_config(disable=True)
        return pipe


def drawn(module, seed):
    """``module`` with random weights, none of them zero or one, so that every path counts; in evaluation mode."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, p in module.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if p.ndim >= 2:
                p.copy_(noise * (0.6 / p[0].numel() ** 0.5))
            else:
                p.copy_(0.2 * noise + (1.0 if "norm" in name and name.endswith("weight") else 0.0))
    return module.eval().requires_grad_(False)


# -- tokenizers


def clip_tokenizer():
    vocabulary = {"<|startoftext|>": 0, "<|endoftext|>": 1}
    for character in CHARACTERS:
        vocabulary[character] = len(vocabulary)
        vocabulary[character + "</w>"] = len(vocabulary)
    return transformers.CLIPTokenizer(vocab=vocabulary, merges=[], model_max_length=77)


def t5_tokenizer(length=512):
    pieces = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    pieces += [(character, -3.0) for character in CHARACTERS if character != " "]
    return transformers.T5Tokenizer(vocab=pieces, extra_ids=0, model_max_length=length)


# -- text encoders


def clip(projection=False, width=32, positions=77):
    config = transformers.CLIPTextConfig(
        vocab_size=400, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2, num_attention_heads=4,
        max_position_embeddings=positions, projection_dim=width, bos_token_id=0, eos_token_id=1, pad_token_id=1,
    )  # fmt: skip
    kind = transformers.CLIPTextModelWithProjection if projection else transformers.CLIPTextModel
    return drawn(kind(config), 1)


def t5(width=32):
    config = transformers.T5Config(
        vocab_size=200, d_model=width, d_kv=8, d_ff=2 * width, num_layers=2, num_heads=4,
        feed_forward_proj="gated-gelu", relative_attention_num_buckets=8,
    )  # fmt: skip
    return drawn(transformers.T5EncoderModel(config), 2)


# -- VAEs and schedulers


def vae(channels, **config):
    made = diffusers.AutoencoderKL(
        block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=channels, sample_size=64, norm_num_groups=4,
        down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
        mid_block_add_attention=False, **config,
    )  # fmt: skip
    return drawn(made, 3)


def flow(**config):
    return diffusers.FlowMatchEulerDiscreteScheduler(**config)


def dynamic_flow():
    return flow(use_dynamic_shifting=True, base_shift=0.5, max_shift=1.15, shift=3.0)


# -- pipelines


@tiny("StableDiffusion3Pipeline")
def sd3(with_t5=True):
    transformer = diffusers.SD3Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, out_channels=16, num_layers=3, attention_head_dim=8,
        num_attention_heads=4, joint_attention_dim=80, caption_projection_dim=32, pooled_projection_dim=64,
        pos_embed_max_size=16, dual_attention_layers=(0,), qk_norm="rms_norm",
    )  # fmt: skip
    return diffusers.StableDiffusion3Pipeline(
        transformer=drawn(transformer, 0), scheduler=flow(shift=3.0),
        vae=vae(16, **FLUX_VAE | {"scaling_factor": 1.5305, "shift_factor": 0.0609}),
        text_encoder=clip(projection=True), tokenizer=clip_tokenizer(),
        text_encoder_2=clip(projection=True), tokenizer_2=clip_tokenizer(),
        text_encoder_3=t5(80) if with_t5 else None, tokenizer_3=t5_tokenizer() if with_t5 else None,
    )  # fmt: skip
