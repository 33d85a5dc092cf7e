"""The parts of the second embedded model, a rectified flow with the joint attention of Stable Diffusion 3, untrained.

World, tokenizer's words, autoencoder and captions are those of :mod:`dpid.zoo.emoji`.
"""

from __future__ import annotations

import torch
from diffusers import AutoencoderKL, FlowMatchEulerDiscreteScheduler, SD3Transformer2DModel, StableDiffusion3Pipeline
from torch import Tensor, nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    PreTrainedTokenizerFast,
    T5Config,
    T5EncoderModel,
)

from dpid.denoisers.levels import Flow
from dpid.zoo.emoji import scenes
from dpid.zoo.emoji.networks import MAX_LENGTH, make_tokenizer

WIDTH = 96  # of either CLIP text encoder; T5's is that of both
HEADS, HEAD = 5, 32
# Generation starts at σ = 1, beyond the trained range of log-SNRs: a few levels lead there.
BEYOND = 25


class FlowModel(nn.ModuleDict):
    """The transformer and its text encoders as one module to be trained."""

    kind = "flow"
    text_encoders = "text_encoder", "text_encoder_2", "text_encoder_3"
    pipeline = StableDiffusion3Pipeline
    sigma: Tensor  # of every level, as the network is told it
    scale: Tensor  # x_σ / z

    def __init__(self, parts: StableDiffusion3Pipeline | None = None) -> None:
        if parts is None:
            made = make_transformer(), make_clip(), make_clip(), make_t5()
        else:
            made = parts.transformer, parts.text_encoder, parts.text_encoder_2, parts.text_encoder_3
        super().__init__(dict(zip(("transformer", "clip", "clip_2", "t5"), made, strict=True)))
        logsnr = torch.logit(self.alphas().double())
        self.register_buffer("sigma", (-logsnr / 2).sigmoid().float(), persistent=False)
        self.register_buffer("scale", ((logsnr / 2).sigmoid() / logsnr.sigmoid().sqrt()).float(), persistent=False)

    @staticmethod
    def alphas() -> Tensor:
        """σ(λ) of the training levels [T], from clean to noisy."""
        grid = Flow.trained(1.0, lambda sigma: sigma).grid.flip(0)
        end = (-grid[-1] / 2).sigmoid()
        sigma = torch.linspace(float(end), 1, BEYOND + 2, dtype=torch.float64)[1:-1]
        return torch.cat((grid, 2 * (torch.log1p(-sigma) - sigma.log()))).sigmoid().float()

    @staticmethod
    def tokenizer() -> PreTrainedTokenizerFast:
        """The tokenizer of all text encoders."""
        return make_tokenizer(end_last=True)

    def eps_hat(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """ε̂ [2N,C,H,W] of z [N,C,H,W] at levels t [N] under the first and then the second captions [2N,L].

        The network predicts the velocity v = ε - x at x_σ = (1-σ) x + σ ε, so that ε̂ = x_σ + (1-σ) v.
        """
        shape, z, t = (-1, 1, 1, 1), z.repeat(2, 1, 1, 1), t.repeat(2)
        sigma, x = self.sigma[t], self.scale[t].view(shape) * z
        said = [self[name](tokens, output_hidden_states=True) for name in ("clip", "clip_2")]
        words = torch.cat([s.hidden_states[-2] for s in said], -1)
        words = torch.cat((words, self["t5"](tokens).last_hidden_state), 1)
        pooled = torch.cat([s.text_embeds for s in said], -1)
        v = self["transformer"](x, words, pooled, 1000 * sigma).sample
        eps_hat: Tensor = x + (1 - sigma).view(shape) * v.float()
        return eps_hat

    def assembled(self, vae: AutoencoderKL) -> StableDiffusion3Pipeline:
        """The pipeline of the trained parts."""
        vae.register_to_config(shift_factor=0.0)  # which its pipeline must find
        return StableDiffusion3Pipeline(
            vae=vae, transformer=self["transformer"], scheduler=FlowMatchEulerDiscreteScheduler(shift=1.0),
            text_encoder=self["clip"], tokenizer=self.tokenizer(), text_encoder_2=self["clip_2"],
            tokenizer_2=self.tokenizer(), text_encoder_3=self["t5"], tokenizer_3=self.tokenizer(),
        )  # fmt: skip


def make_transformer() -> SD3Transformer2DModel:
    """The transformer, which starts with every block as the identity and a velocity of zero."""
    width = HEADS * HEAD
    net = SD3Transformer2DModel(
        sample_size=scenes.SIZE // 4, patch_size=1, in_channels=4, out_channels=4, num_layers=6,
        attention_head_dim=HEAD, num_attention_heads=HEADS, joint_attention_dim=2 * WIDTH,
        caption_projection_dim=width, pooled_projection_dim=2 * WIDTH, pos_embed_max_size=scenes.SIZE // 4,
        qk_norm="rms_norm",
    )  # fmt: skip
    for name, layer in net.named_modules():
        if isinstance(layer, nn.Linear):
            nn.init.xavier_uniform_(layer.weight)
            nn.init.zeros_(layer.bias)
            if "norm" in name or name == "proj_out":
                nn.init.zeros_(layer.weight)
    nn.init.xavier_uniform_(net.pos_embed.proj.weight.data.view(width, -1))
    nn.init.normal_(net.time_text_embed.timestep_embedder.linear_1.weight, std=0.02)
    return net


def make_clip() -> CLIPTextModelWithProjection:
    """A small CLIP text encoder, trained together with the transformer."""
    tokenizer = FlowModel.tokenizer()
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=4, projection_dim=WIDTH, max_position_embeddings=MAX_LENGTH,
            pad_token_id=tokenizer.pad_token_id, bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip


def make_t5() -> T5EncoderModel:
    """A T5 text encoder of one layer, trained together with the transformer; padding is seen, as in the pipeline."""
    tokenizer = FlowModel.tokenizer()
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer), d_model=2 * WIDTH, d_kv=24, d_ff=WIDTH, num_layers=1, num_heads=4,
            feed_forward_proj="gated-gelu", relative_attention_num_buckets=MAX_LENGTH,
            relative_attention_max_distance=MAX_LENGTH, dropout_rate=0.0, pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    )  # fmt: skip
