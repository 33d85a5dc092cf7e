"""Pipelines of every family with a few thousand random weights: configurations and tokenizers are made here, offline.

``TINY`` has them by name, ``build(name)`` makes one. Tokenizers work on characters.
"""

from __future__ import annotations

import functools
import inspect
import warnings

import diffusers
import torch
import transformers
from tiny_parts import (
    FLUX_VAE,
    Processor,
    beginning_tokenizer,
    bert,
    bert_tokenizer,
    chatglm,
    chatglm_tokenizer,
    clip,
    clip_tokenizer,
    ddim,
    drawn,
    dynamic_flow,
    flow,
    gemma,
    gemma_tokenizer,
    glm,
    llama,
    mistral,
    qwen,
    qwen_tokenizer,
    qwen_vl,
    t5,
    t5_multilingual,
    t5_tokenizer,
    vae,
)

from dpid.quiet import quiet

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
    if int(transformers.__version__.partition(".")[0]) < 5:
        pytest.skip("older tokenizers are not made from a dictionary")
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of old names within diffusers
        if getattr(diffusers, pipeline, None) is None or hasattr(getattr(diffusers, pipeline), "_backends"):
            pytest.skip(f"this version of diffusers has no {pipeline}, or lacks a package for it")
        pipe = make(**options)
        pipe.set_progress_bar_config(disable=True)
        return pipe


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


@tiny("FluxPipeline")
def flux(guidance=True):
    transformer = diffusers.FluxTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, pooled_projection_dim=32, guidance_embeds=guidance, axes_dims_rope=(4, 6, 6),
    )  # fmt: skip
    return diffusers.FluxPipeline(
        transformer=drawn(transformer, 0), scheduler=dynamic_flow(), vae=vae(16, **FLUX_VAE), text_encoder=clip(),
        tokenizer=clip_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(),
    )  # fmt: skip


@tiny("ChromaPipeline")
def chroma():
    transformer = diffusers.ChromaTransformer2DModel(
        patch_size=1, in_channels=64, num_layers=2, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=32, axes_dims_rope=(4, 6, 6), approximator_num_channels=8, approximator_hidden_dim=32,
        approximator_layers=1,
    )  # fmt: skip
    return diffusers.ChromaPipeline(
        transformer=drawn(transformer, 0), scheduler=flow(), vae=vae(16, **FLUX_VAE), text_encoder=t5(),
        tokenizer=t5_tokenizer(),
    )  # fmt: skip


def flux_2_parts(guidance):
    transformer = diffusers.Flux2Transformer2DModel(
        patch_size=1, in_channels=64, num_layers=1, num_single_layers=2, attention_head_dim=16, num_attention_heads=2,
        joint_attention_dim=48, timestep_guidance_channels=32, axes_dims_rope=(4, 4, 4, 4), guidance_embeds=guidance,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLFlux2(
        block_out_channels=(8,) * 4, layers_per_block=1, latent_channels=16, norm_num_groups=4, sample_size=64
    )
    generator = torch.Generator().manual_seed(7)
    autoencoder.bn.running_mean.normal_(generator=generator)
    autoencoder.bn.running_var.uniform_(0.5, 2.0, generator=generator)
    return {"transformer": drawn(transformer, 0), "vae": drawn(autoencoder, 3), "scheduler": dynamic_flow()}


@tiny("Flux2KleinPipeline")
def flux2_klein():
    parts = flux_2_parts(guidance=False)
    encoder = qwen("Qwen3ForCausalLM", layers=28)
    return diffusers.Flux2KleinPipeline(**parts, text_encoder=encoder, tokenizer=qwen_tokenizer())


@tiny("Flux2Pipeline")
def flux2():
    return diffusers.Flux2Pipeline(**flux_2_parts(guidance=True), text_encoder=mistral(), tokenizer=Processor())


@tiny("ZImagePipeline")
def z_image():
    transformer = diffusers.ZImageTransformer2DModel(
        in_channels=16, dim=32, n_layers=2, n_refiner_layers=1, n_heads=2, n_kv_heads=2, cap_feat_dim=16,
        axes_dims=[8, 4, 4], axes_lens=[256, 32, 32],
    )  # fmt: skip
    return diffusers.ZImagePipeline(
        transformer=drawn(transformer, 0), scheduler=dynamic_flow(), vae=vae(16, **FLUX_VAE), text_encoder=qwen(),
        tokenizer=qwen_tokenizer(),
    )  # fmt: skip


@tiny("SanaPipeline")
def sana():
    transformer = diffusers.SanaTransformer2DModel(
        in_channels=4, out_channels=4, num_attention_heads=4, attention_head_dim=8, num_layers=2,
        num_cross_attention_heads=4, cross_attention_head_dim=8, cross_attention_dim=32, caption_channels=16,
        sample_size=8, patch_size=1,
    )  # fmt: skip
    blocks = {
        "block_types": ("ResBlock", "EfficientViTBlock"),
        "block_out_channels": (8, 8),
        "layers_per_block": (1, 1),
    }
    autoencoder = diffusers.AutoencoderDC(
        latent_channels=4, attention_head_dim=4, downsample_block_type="conv", upsample_block_type="interpolate",
        encoder_qkv_multiscales=((), (5,)), decoder_qkv_multiscales=((), (5,)), decoder_norm_types="rms_norm",
        decoder_act_fns="silu", scaling_factor=0.41407,
        **{f"{side}_{name}": value for side in ("encoder", "decoder") for name, value in blocks.items()},
    )  # fmt: skip
    return diffusers.SanaPipeline(
        transformer=drawn(transformer, 0), scheduler=flow(shift=3.0), vae=drawn(autoencoder, 3), text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
    )  # fmt: skip


def pixart(pipeline, length, sizes):
    transformer = diffusers.PixArtTransformer2DModel(
        num_attention_heads=6, attention_head_dim=8, in_channels=4, out_channels=8, num_layers=2,
        cross_attention_dim=48, sample_size=128 if sizes else 8, patch_size=2, caption_channels=32,
        interpolation_scale=1, use_additional_conditions=sizes,
    )  # fmt: skip
    return pipeline(
        transformer=drawn(transformer, 0), scheduler=ddim("linear", 1e-4, 0.02),
        vae=vae(4, scaling_factor=0.13025), text_encoder=t5(), tokenizer=t5_tokenizer(length),
    )  # fmt: skip


@tiny("PixArtAlphaPipeline")
def pixart_alpha():
    return pixart(diffusers.PixArtAlphaPipeline, 120, sizes=True)


@tiny("PixArtSigmaPipeline")
def pixart_sigma():
    return pixart(diffusers.PixArtSigmaPipeline, 300, sizes=False)


@tiny("Lumina2Pipeline")
def lumina2():
    transformer = diffusers.Lumina2Transformer2DModel(
        sample_size=8, patch_size=2, in_channels=16, hidden_size=48, num_layers=2, num_refiner_layers=1,
        num_attention_heads=2, num_kv_heads=1, multiple_of=16, axes_dim_rope=(8, 8, 8), axes_lens=(600, 64, 64),
        cap_feat_dim=16,
    )  # fmt: skip
    return diffusers.Lumina2Pipeline(
        transformer=drawn(transformer, 0), scheduler=flow(shift=6.0), vae=vae(16, **FLUX_VAE), text_encoder=gemma(),
        tokenizer=gemma_tokenizer(),
    )  # fmt: skip


@tiny("AuraFlowPipeline")
def aura_flow(places=256):
    transformer = diffusers.AuraFlowTransformer2DModel(
        sample_size=8, patch_size=2, in_channels=4, out_channels=4, num_mmdit_layers=1, num_single_dit_layers=2,
        attention_head_dim=8, num_attention_heads=4, joint_attention_dim=32, caption_projection_dim=32,
        pos_embed_max_size=places,
    )  # fmt: skip
    return diffusers.AuraFlowPipeline(
        transformer=drawn(transformer, 0), scheduler=flow(shift=1.73), vae=vae(4, scaling_factor=0.13025),
        text_encoder=t5_multilingual(), tokenizer=t5_tokenizer(),
    )  # fmt: skip


@tiny("QwenImagePipeline")
def qwen_image():
    transformer = diffusers.QwenImageTransformer2DModel(
        patch_size=2, in_channels=64, out_channels=16, num_layers=2, attention_head_dim=16, num_attention_heads=3,
        joint_attention_dim=16, axes_dims_rope=(8, 4, 4),
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLQwenImage(
        base_dim=24, z_dim=16, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[False, True]
    )
    return diffusers.QwenImagePipeline(
        transformer=drawn(transformer, 0), scheduler=dynamic_flow(), vae=drawn(autoencoder, 3),
        text_encoder=qwen_vl(), tokenizer=qwen_tokenizer(),
    )  # fmt: skip


@tiny("HunyuanDiTPipeline")
def hunyuan_dit():
    transformer = diffusers.HunyuanDiT2DModel(
        sample_size=8, num_layers=2, patch_size=2, attention_head_dim=8, num_attention_heads=4, in_channels=4,
        cross_attention_dim=32, cross_attention_dim_t5=32, pooled_projection_dim=16, hidden_size=32,
        activation_fn="gelu-approximate",
    )  # fmt: skip
    scheduler = ddim("scaled_linear", 0.00085, 0.018, prediction_type="v_prediction")
    return diffusers.HunyuanDiTPipeline(
        transformer=drawn(transformer, 0), scheduler=scheduler, vae=vae(4, scaling_factor=0.13025),
        text_encoder=bert(), tokenizer=bert_tokenizer(), text_encoder_2=t5(), tokenizer_2=t5_tokenizer(256),
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip


@tiny("HiDreamImagePipeline")
def hidream():
    transformer = diffusers.HiDreamImageTransformer2DModel(
        patch_size=2, in_channels=16, out_channels=16, num_layers=1, num_single_layers=1, attention_head_dim=16,
        num_attention_heads=2, caption_channels=[32, 16], text_emb_dim=64, num_routed_experts=4,
        num_activated_experts=2, axes_dims_rope=(8, 4, 4), max_resolution=(32, 32), llama_layers=[0, 1],
    )  # fmt: skip
    pipe = diffusers.HiDreamImagePipeline(
        transformer=drawn(transformer, 0), scheduler=flow(shift=3.0), vae=vae(16, **FLUX_VAE),
        text_encoder=clip(projection=True, positions=248), tokenizer=clip_tokenizer(248),
        text_encoder_2=clip(projection=True, positions=248), tokenizer_2=clip_tokenizer(248),
        text_encoder_3=t5(), tokenizer_3=t5_tokenizer(128), text_encoder_4=llama(),
        tokenizer_4=beginning_tokenizer(),
    )  # fmt: skip
    pipe.default_sample_size = 8  # it brings every picture to that area
    return pipe


@tiny("CogView4Pipeline")
def cogview4():
    transformer = diffusers.CogView4Transformer2DModel(
        patch_size=2, in_channels=16, out_channels=16, num_layers=2, attention_head_dim=8, num_attention_heads=4,
        text_embed_dim=16, time_embed_dim=16, condition_dim=8, pos_embed_max_size=16, sample_size=8,
        rope_axes_dim=(16, 16),
    )  # fmt: skip
    scheduler = flow(use_dynamic_shifting=True, base_shift=0.25, max_shift=0.75, time_shift_type="linear")
    return diffusers.CogView4Pipeline(
        transformer=drawn(transformer, 0), scheduler=scheduler, vae=vae(16, scaling_factor=1.0), text_encoder=glm(),
        tokenizer=beginning_tokenizer(padding_side="left"),
    )  # fmt: skip


@tiny("KolorsPipeline")
def kolors():
    unet = diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=4, out_channels=4, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"), up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=(2, 4), use_linear_projection=True, addition_embed_type="text_time",
        addition_time_embed_dim=8, transformer_layers_per_block=(1, 2), projection_class_embeddings_input_dim=80,
        cross_attention_dim=64, norm_num_groups=8, encoder_hid_dim=32, encoder_hid_dim_type="text_proj",
    )  # fmt: skip
    scheduler = ddim("scaled_linear", 0.00085, 0.014, num_train_timesteps=1100)
    return diffusers.KolorsPipeline(
        unet=drawn(unet, 0), scheduler=scheduler, vae=vae(4, scaling_factor=0.13025), text_encoder=chatglm(),
        tokenizer=chatglm_tokenizer(),
    )  # fmt: skip


@functools.cache
def small(pipeline, frames):
    class SmallPipeline(pipeline):
        """One that makes videos of few small frames by default, which have two frames of latents."""

        def __call__(self, prompt=None, height=64, width=64, num_frames=frames, **more):
            return super().__call__(prompt, height=height, width=width, num_frames=num_frames, **more)

    given = inspect.signature(pipeline.__call__).parameters
    own = inspect.signature(SmallPipeline.__call__).parameters
    SmallPipeline.__call__.__signature__ = inspect.Signature([own.get(name, given[name]) for name in given])
    return SmallPipeline


@tiny("WanPipeline")
def wan():
    transformer = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=16, out_channels=16, text_dim=32, freq_dim=16,
        ffn_dim=32, num_layers=2, rope_max_seq_len=64,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLWan(
        base_dim=8, z_dim=16, dim_mult=[1, 2, 2, 2], num_res_blocks=1, temperal_downsample=[False, True, True]
    )
    return small(diffusers.WanPipeline, 5)(
        transformer=drawn(transformer, 0), scheduler=flow(shift=3.0), vae=drawn(autoencoder, 3),
        text_encoder=t5_multilingual(), tokenizer=t5_tokenizer(),
    )  # fmt: skip


@tiny("LTXPipeline")
def ltx():
    transformer = diffusers.LTXVideoTransformer3DModel(
        in_channels=8, out_channels=8, num_attention_heads=4, attention_head_dim=8, cross_attention_dim=32,
        num_layers=2, caption_channels=32,
    )  # fmt: skip
    autoencoder = diffusers.AutoencoderKLLTXVideo(
        latent_channels=8, block_out_channels=(8, 8, 8, 8), decoder_block_out_channels=(8, 8, 8, 8),
        layers_per_block=(1,) * 5, decoder_layers_per_block=(1,) * 5,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(7)
    autoencoder.latents_mean.normal_(generator=generator)
    autoencoder.latents_std.uniform_(0.5, 2.0, generator=generator)
    return small(diffusers.LTXPipeline, 9)(
        transformer=drawn(transformer, 0), vae=drawn(autoencoder, 3), text_encoder=t5(), tokenizer=t5_tokenizer(128),
        scheduler=flow(use_dynamic_shifting=True, base_shift=0.95, max_shift=2.05, base_image_seq_len=1024),
    )  # fmt: skip
