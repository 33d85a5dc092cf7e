"""The parts of the embedded model: tokenizer, autoencoder, UNet, text encoder and noise schedule, untrained."""

from __future__ import annotations

from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from tokenizers import Regex, Tokenizer, models, normalizers, pre_tokenizers, processors
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, PreTrainedTokenizerFast

from dpid.zoo.emoji import scenes

MAX_LENGTH = 16  # tokens, <bos> and <eos> included; the longest caption has 9 words
WIDTH = 128  # of the text encoder


class UNetModel(nn.ModuleDict):
    """The UNet and its text encoder as one module to be trained."""

    kind = "unet"
    text_encoders = ("text_encoder",)
    pipeline = StableDiffusionPipeline

    def __init__(self, parts: StableDiffusionPipeline | None = None) -> None:
        if parts is None:
            super().__init__({"unet": make_unet(), "text": make_text_encoder(len(make_tokenizer()))})
        else:
            super().__init__({"unet": parts.unet, "text": parts.text_encoder})

    @staticmethod
    def alphas() -> Tensor:
        """σ(λ) of the training levels [T], from clean to noisy."""
        alphas: Tensor = make_scheduler().alphas_cumprod
        return alphas

    @staticmethod
    def tokenizer() -> PreTrainedTokenizerFast:
        """The tokenizer of the text encoder."""
        return make_tokenizer()

    def eps_hat(self, z: Tensor, t: Tensor, tokens: Tensor) -> Tensor:
        """ε̂ [2N,C,H,W] of z [N,C,H,W] at levels t [N] under the first and then the second captions [2N,L]."""
        text = self["text"](tokens).last_hidden_state
        out: Tensor = self["unet"](z.repeat(2, 1, 1, 1), t.repeat(2), text).sample
        return out

    def assembled(self, vae: AutoencoderKL) -> StableDiffusionPipeline:
        """The pipeline of the trained parts."""
        return StableDiffusionPipeline(
            vae=vae, text_encoder=self["text"], tokenizer=make_tokenizer(), unet=self["unet"],
            scheduler=make_scheduler(), safety_checker=None, feature_extractor=None, requires_safety_checker=False,
        )  # fmt: skip


def make_tokenizer(end_last: bool = False) -> PreTrainedTokenizerFast:
    """A tokenizer with a token for every word of the captions; reads "an" as "a", ignores case and punctuation.

    ``end_last``: "<eos>" has the highest number. Where it has number 2, transformers takes what a CLIP model computes
    at the highest number for that of the whole text.
    """
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *scenes.vocabulary()]
    if end_last:
        words.append(words.pop(2))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Sequence(
        [
            normalizers.Lowercase(),
            normalizers.Replace(Regex(r"[.,;:!?\"'()-]"), " "),
            normalizers.Replace(Regex(r"\ban\b"), "a"),
        ]
    )
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<bos> $A <eos>", special_tokens=[(w, words.index(w)) for w in ("<bos>", "<eos>")]
    )
    names = {"pad_token": "<pad>", "bos_token": "<bos>", "eos_token": "<eos>", "unk_token": "<unk>"}
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, model_max_length=MAX_LENGTH, **names)


def make_vae() -> AutoencoderKL:
    """The autoencoder between pixels [B,3,64,64] and latents [B,4,16,16]."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(24, 48, 64), layers_per_block=1, latent_channels=4, norm_num_groups=8,
        sample_size=scenes.SIZE, mid_block_add_attention=False,
    )  # fmt: skip


def make_unet() -> UNet2DConditionModel:
    """The denoising UNet, with most parameters at 4×4 and 8×8, where they cost least on a CPU."""
    return UNet2DConditionModel(
        sample_size=scenes.SIZE // 4, in_channels=4, out_channels=4, block_out_channels=(64, 128, 192),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1, attention_head_dim=4, cross_attention_dim=WIDTH, norm_num_groups=16,
    )  # fmt: skip


def make_text_encoder(vocab_size: int) -> CLIPTextModel:
    """A small CLIP text encoder for ``vocab_size`` tokens, trained together with the UNet."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=vocab_size, hidden_size=WIDTH, intermediate_size=2 * WIDTH, num_hidden_layers=2,
            num_attention_heads=4, projection_dim=WIDTH, max_position_embeddings=MAX_LENGTH,
            pad_token_id=0, bos_token_id=1, eos_token_id=2,
        )
    )  # fmt: skip


def make_scheduler() -> DDPMScheduler:
    """The noise schedule of Stable Diffusion, for a network that predicts ε."""
    return DDPMScheduler(beta_schedule="scaled_linear", beta_start=0.00085, beta_end=0.012, clip_sample=False)
