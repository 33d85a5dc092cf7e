"""The estimate of an evaluation's memory against the bytes that are alive at once, at true width, in fake tensors."""

import diffusers
import pytest
import torch
from peak import Peak
from torch._subclasses.fake_tensor import FakeTensorMode

from dpid.denoisers.families.flux import Flux
from dpid.denoisers.families.hunyuan_dit import HunyuanDiT
from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.families.stable_diffusion_3 import StableDiffusion3


def flux(side):
    network = diffusers.FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    tokens, text = side * side // 4, 512
    return network, {
        "hidden_states": torch.zeros(1, tokens, 64), "img_ids": torch.zeros(tokens, 3), "txt_ids": torch.zeros(text, 3),
        "encoder_hidden_states": torch.zeros(1, text, 4096), "pooled_projections": torch.zeros(1, 768),
        "timestep": torch.zeros(1), "guidance": torch.zeros(1),
    }  # fmt: skip


def sd3(side):
    network = diffusers.SD3Transformer2DModel(
        num_layers=2, attention_head_dim=64, num_attention_heads=24, joint_attention_dim=4096,
        caption_projection_dim=1536, pooled_projection_dim=2048, pos_embed_max_size=96, dual_attention_layers=(0,),
    )  # fmt: skip
    return network, {
        "hidden_states": torch.zeros(1, 16, side, side), "encoder_hidden_states": torch.zeros(1, 333, 4096),
        "pooled_projections": torch.zeros(1, 2048), "timestep": torch.zeros(1),
    }  # fmt: skip


def hunyuan_dit(side):
    network = diffusers.HunyuanDiT2DModel(
        num_layers=12, attention_head_dim=88, num_attention_heads=16, in_channels=4, patch_size=2, hidden_size=1408,
        text_len=77, text_len_t5=256, cross_attention_dim=1024, cross_attention_dim_t5=2048, pooled_projection_dim=1024,
        activation_fn="gelu-approximate", mlp_ratio=4.3637, use_style_cond_and_image_meta_size=False,
    )  # fmt: skip
    places = torch.zeros(side * side // 4, 88)
    return network, {
        "hidden_states": torch.zeros(1, 4, side, side), "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 77, 1024), "text_embedding_mask": torch.ones(1, 77),
        "encoder_hidden_states_t5": torch.zeros(1, 256, 2048), "text_embedding_mask_t5": torch.ones(1, 256),
        "image_rotary_emb": (places, places),
    }  # fmt: skip


def stable_diffusion(side):
    network = diffusers.UNet2DConditionModel(
        cross_attention_dim=1024, attention_head_dim=[5, 10, 20, 20], use_linear_projection=True
    )
    return network, {
        "sample": torch.zeros(1, 4, side, side), "timestep": torch.zeros(1),
        "encoder_hidden_states": torch.zeros(1, 77, 1024),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("make", "family", "side"),
    [
        (flux, Flux, 32), (flux, Flux, 128), (sd3, StableDiffusion3, 32), (sd3, StableDiffusion3, 128),
        (hunyuan_dit, HunyuanDiT, 64), (stable_diffusion, StableDiffusion, 32), (stable_diffusion, StableDiffusion, 64),
    ],
)  # fmt: skip
def test_an_evaluation_takes_no_more_than_is_estimated(make, family, side, monkeypatch):
    with FakeTensorMode(), torch.inference_mode():
        network, given = make(side)
        with Peak() as measured:
            network(**given, return_dict=False)
    monkeypatch.setattr(family, "net_config", network.config)  # all that the estimate reads
    estimate = object.__new__(family).evaluation_bytes(side, side, 4)
    assert 0.3 * estimate < measured.peak < estimate  # of use as a limit, too: not ten times as much
