"""The models that people use at their true size: configurations of networks, and shapes of encoded texts.

Configurations were written by hand, as what differs from the defaults of the class in diffusers, which are those of the
model for Flux.1 and Flux.2 dev, Chroma, Sana 1.6B, Z-Image, Qwen-Image, Wan 2.1 14B and LTX-Video 2B; the others are
those of the authors' papers and code. No weights were read: ``tests/test_model_costs.py`` compares the numbers of
parameters with what authors say.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

TEXT = -1  # stands for the number of tokens of a text in a shape
UNETS = {
    "sd1.5": {"attention_head_dim": 8, "cross_attention_dim": 768},
    "sd2.1": {"attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True},
    "sdxl": {
        "attention_head_dim": (5, 10, 20), "cross_attention_dim": 2048, "use_linear_projection": True,
        "block_out_channels": (320, 640, 1280), "transformer_layers_per_block": (1, 2, 10),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "addition_embed_type": "text_time", "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}  # fmt: skip


@dataclass(frozen=True)
class Model:
    """A model: the class of its pipeline and the size of its network.

    ``texts``: {argument of the network: shape of one text's encoding}, ``tokens``: the most that a text may have, or
    that each has where padding is attended, ``cut``: whether it is cut away. ``distilled``: to what, of this model or
    of others of its size. ``side``, ``factor``: pixels of the native size, and of a latent pixel. ``speed``: the case
    of the ledger's benchmark "unet" that has its evaluations a second.
    """

    name: str
    pipeline: str
    network: str
    config: Mapping[str, Any]
    texts: Mapping[str, tuple[int, ...]]
    tokens: int
    cut: bool = False
    distilled: str = "no"
    side: int = 1024
    factor: int = 8
    speed: str = ""
    scheduler: Mapping[str, Any] = field(default_factory=dict)


def _unet(name: str, case: str, width: int, side: int) -> Model:
    """One of Stable Diffusion's UNets."""
    pipeline = "StableDiffusionXLPipeline" if case == "sdxl" else "StableDiffusionPipeline"
    pooled = {"text_embeds": (1280,)} if case == "sdxl" else {}
    speed = f"{case} 4x64x64 K=4 float16"
    texts = {"encoder_hidden_states": (TEXT, width), **pooled}
    known = "fine-tunes and LoRA named Turbo, Lightning, Hyper, LCM, …: to a few steps"
    return Model(name, pipeline, "UNet2DConditionModel", UNETS[case], texts, 77, False, known, side, speed=speed)


def _sd3(name: str, blocks: int, distilled: str, **more: Any) -> Model:
    config = {  # as many heads of 64 features as blocks
        "num_layers": blocks, "num_attention_heads": blocks, "caption_projection_dim": 64 * blocks,
        "pos_embed_max_size": 192, **more,
    }  # fmt: skip
    texts = {"encoder_hidden_states": (TEXT, 4096), "pooled_projections": (2048,)}
    return Model(
        name, "StableDiffusion3Pipeline", "SD3Transformer2DModel", config, texts, 77 + 256, distilled=distilled
    )


def _flux(name: str, guidance: bool, distilled: str) -> Model:
    texts = {"encoder_hidden_states": (TEXT, 4096), "pooled_projections": (768,)}
    config = {"guidance_embeds": guidance}
    return Model(name, "FluxPipeline", "FluxTransformer2DModel", config, texts, 512, distilled=distilled)


def _flux_2(name: str, pipeline: str, width: int, distilled: str, **config: Any) -> Model:
    texts = {"encoder_hidden_states": (TEXT, width)}
    config |= {"joint_attention_dim": width, "guidance_embeds": pipeline == "Flux2Pipeline"}
    return Model(name, pipeline, "Flux2Transformer2DModel", config, texts, 512, distilled=distilled)


def _pixart(name: str, pipeline: str, tokens: int, sizes: bool) -> Model:
    config = {"caption_channels": 4096, "interpolation_scale": 2, "use_additional_conditions": sizes}
    texts = {"encoder_hidden_states": (TEXT, 4096)}
    distilled = "LCM and DMD: to a few steps" if sizes else "no"
    return Model(name, pipeline, "PixArtTransformer2DModel", config, texts, tokens, True, distilled)


def _sana(name: str, **config: Any) -> Model:
    texts = {"encoder_hidden_states": (TEXT, 2304)}
    return Model(name, "SanaPipeline", "SanaTransformer2DModel", config, texts, 300, True, "Sprint: refused", factor=32)


def _wan(name: str, **config: Any) -> Model:
    """A model of videos; a square of 624² has about the area of its 480 × 832 pixels."""
    distilled = "LoRA and names with a number of steps: to a few steps"
    texts = {"encoder_hidden_states": (TEXT, 4096)}
    return Model(name, "WanPipeline", "WanTransformer3DModel", config, texts, 512, distilled=distilled, side=624)


def _ltx(name: str, **config: Any) -> Model:
    """A model of videos; a square of 608² has about the area of its 512 × 704 pixels."""
    texts = {"encoder_hidden_states": (TEXT, 4096)}
    distilled = "named distilled: to a few steps"
    return Model(
        name, "LTXPipeline", "LTXVideoTransformer3DModel", config, texts, 128, True, distilled, side=608, factor=32,
        scheduler={"use_dynamic_shifting": True, "base_shift": 0.95, "max_shift": 2.05, "base_image_seq_len": 1024},
    )  # fmt: skip


MODELS = (
    _unet("Stable Diffusion 1.5", "sd1.5", 768, 512),
    _unet("Stable Diffusion 2.1", "sd2.1", 1024, 768),
    _unet("Stable Diffusion XL", "sdxl", 2048, 1024),
    Model(
        "Kolors", "KolorsPipeline", "UNet2DConditionModel",
        UNETS["sdxl"] | {
            "encoder_hid_dim": 4096, "encoder_hid_dim_type": "text_proj",
            "projection_class_embeddings_input_dim": 5632,
        },
        {"encoder_hidden_states": (TEXT, 4096), "text_embeds": (4096,)}, 256,
    ),
    _sd3("Stable Diffusion 3 medium", 24, "no"),
    _sd3(
        "Stable Diffusion 3.5 medium", 24, "no", pos_embed_max_size=384, qk_norm="rms_norm",
        dual_attention_layers=tuple(range(13)),
    ),
    _sd3("Stable Diffusion 3.5 large", 38, "large-turbo: to a few steps", qk_norm="rms_norm"),
    _flux("Flux.1 dev", True, "at guidance"),
    _flux("Flux.1 schnell", False, "to a few steps"),
    _flux_2("Flux.2 dev", "Flux2Pipeline", 15360, "at guidance"),
    _flux_2(
        "Flux.2 klein 9B", "Flux2KleinPipeline", 12288, "to a few steps, but for klein-base",
        num_layers=8, num_single_layers=24, num_attention_heads=32,
    ),
    _flux_2(
        "Flux.2 klein 4B", "Flux2KleinPipeline", 7680, "to a few steps, but for klein-base",
        num_layers=5, num_single_layers=20, num_attention_heads=24,
    ),
    Model(
        "Chroma", "ChromaPipeline", "ChromaTransformer2DModel", {},
        {"encoder_hidden_states": (TEXT, 4096), "attention_mask": (TEXT,)}, 512,
        distilled="Flash: to a few steps",
    ),
    _pixart("PixArt-α", "PixArtAlphaPipeline", 120, True),
    _pixart("PixArt-Σ", "PixArtSigmaPipeline", 300, False),
    _sana("Sana 1.6B"),
    _sana(
        "Sana 0.6B", num_attention_heads=36, num_layers=28, num_cross_attention_heads=16, cross_attention_head_dim=72,
        cross_attention_dim=1152,
    ),
    Model(
        "AuraFlow", "AuraFlowPipeline", "AuraFlowTransformer2DModel", {"pos_embed_max_size": 4096},
        {"encoder_hidden_states": (TEXT, 2048)}, 256,
    ),
    Model(
        "Lumina-Image 2.0", "Lumina2Pipeline", "Lumina2Transformer2DModel", {"cap_feat_dim": 2304},
        {"encoder_hidden_states": (TEXT, 2304)}, 256, True,
    ),
    Model(
        "Z-Image", "ZImagePipeline", "ZImageTransformer2DModel", {}, {"cap_feats": (TEXT, 2560)}, 512, True,
        "Turbo: to a few steps",
    ),
    Model(
        "HunyuanDiT 1.2", "HunyuanDiTPipeline", "HunyuanDiT2DModel",
        {
            "num_layers": 40, "in_channels": 4, "patch_size": 2, "hidden_size": 1408, "mlp_ratio": 4.3637,
            "sample_size": 128, "use_style_cond_and_image_meta_size": False,
        },
        {
            "encoder_hidden_states": (77, 1024), "text_embedding_mask": (77,),
            "encoder_hidden_states_t5": (256, 2048), "text_embedding_mask_t5": (256,),
        },
        77 + 256, distilled="Distilled: to fewer steps",
    ),
    Model(
        "Qwen-Image", "QwenImagePipeline", "QwenImageTransformer2DModel", {},
        {"encoder_hidden_states": (TEXT, 3584)}, 512, True, "LoRA named Lightning: to a few steps",
    ),
    Model(
        "HiDream-I1", "HiDreamImagePipeline", "HiDreamImageTransformer2DModel",
        {
            "patch_size": 2, "in_channels": 16, "out_channels": 16, "caption_channels": [4096, 4096],
            "axes_dims_rope": (64, 32, 32), "llama_layers": [*range(32), *[31] * 16],
        },
        {
            "encoder_hidden_states_t5": (128, 4096), "encoder_hidden_states_llama3": (32, 128, 4096),
            "pooled_embeds": (2048,),
        },
        128 + 128, distilled="Dev and Fast: to a few steps",
    ),
    Model(
        "CogView4", "CogView4Pipeline", "CogView4Transformer2DModel",
        {"num_layers": 28, "attention_head_dim": 128, "num_attention_heads": 32},
        {"encoder_hidden_states": (TEXT, 4096)}, 1024,
        scheduler={"use_dynamic_shifting": True, "base_shift": 0.25, "max_shift": 0.75, "time_shift_type": "linear"},
    ),
    _wan("Wan 2.1 1.3B, 81 frames", num_attention_heads=12, ffn_dim=8960, num_layers=30),
    _wan("Wan 2.1 14B, 81 frames"),
    _ltx("LTX-Video 2B, 161 frames"),
    _ltx("LTX-Video 13B, 161 frames", attention_head_dim=128, num_layers=48, cross_attention_dim=4096),
)  # fmt: skip
