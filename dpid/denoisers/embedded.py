"""An embedded model straight from its files: no pipeline library is imported, so that it loads in a moment.

Text encoder (CLIP) and image encoder (the VAE's) are written as functions of their weights, like the UNet.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.denoisers.latent import LatentDenoiser, exact_float32, refuse_text
from dpid.denoisers.layers import Layers
from dpid.denoisers.protocol import Conditions


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights, fp32, of a part of a pipeline."""
    from safetensors.torch import load_file

    weights = load_file(next(folder.glob("*.safetensors")))
    return json.loads((folder / "config.json").read_text()), {name: w.float() for name, w in weights.items()}


def clip_text(w: Layers, config: dict[str, Any], ids: Tensor) -> Tensor:
    """Token ids [K,L] -> hidden states [K,L,D] of a CLIP text encoder (Radford et al., 2021)."""
    x = w.weights["text_model.embeddings.token_embedding.weight"][ids]
    x = x + w.weights["text_model.embeddings.position_embedding.weight"][: ids.shape[1]]
    heads = config["num_attention_heads"]
    for i in range(config["num_hidden_layers"]):
        layer = f"text_model.encoder.layers.{i}"
        n = w.layer_norm(f"{layer}.layer_norm1", x)
        q, k, v = (w.linear(f"{layer}.self_attn.{p}_proj", n).unflatten(-1, (heads, -1)).transpose(1, 2) for p in "qkv")
        y = functional.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)
        x = x + w.linear(f"{layer}.self_attn.out_proj", y)
        y = w.linear(f"{layer}.mlp.fc1", w.layer_norm(f"{layer}.layer_norm2", x))
        x = x + w.linear(f"{layer}.mlp.fc2", y * (1.702 * y).sigmoid())  # quick GELU
    return w.layer_norm("text_model.final_layer_norm", x)


def vae_mode(w: Layers, config: dict[str, Any], x: Tensor) -> Tensor:
    """Pixels [B,3,H,W] in [-1,1] -> the mode [B,4,h,w] of a VAE encoder's posterior, without attention blocks."""

    def norm_silu(name: str, x: Tensor) -> Tensor:
        return w.group_norm(name, x, config["norm_num_groups"], 1e-6, silu=True)

    def resnet(name: str, x: Tensor) -> Tensor:
        y = w.conv(f"{name}.conv1", norm_silu(f"{name}.norm1", x))
        y = w.conv(f"{name}.conv2", norm_silu(f"{name}.norm2", y))
        return y + (w.conv(f"{name}.conv_shortcut", x) if w.has(f"{name}.conv_shortcut") else x)

    x = w.conv("encoder.conv_in", x)
    for i in range(len(config["block_out_channels"])):
        for j in range(config["layers_per_block"]):
            x = resnet(f"encoder.down_blocks.{i}.resnets.{j}", x)
        if w.has(f"encoder.down_blocks.{i}.downsamplers.0.conv"):
            padded = functional.pad(x, (0, 1, 0, 1))
            x = w.conv(f"encoder.down_blocks.{i}.downsamplers.0.conv", padded, stride=2, padding=0)
    x = resnet("encoder.mid_block.resnets.1", resnet("encoder.mid_block.resnets.0", x))
    x = w.conv("encoder.conv_out", norm_silu("encoder.conv_norm_out", x))
    return w.conv("quant_conv", x).chunk(2, 1)[0]


class EmbeddedDenoiser(LatentDenoiser):
    """A model of :mod:`dpid.zoo`, from its folder; ``ValueError`` if ``device`` cannot be used."""

    own_precision = precision = "float32"

    def __init__(self, folder: Path, device: str | None = None) -> None:
        from tokenizers import Tokenizer

        unet_config, self._unet_weights = _read(folder / "unet")
        vae_config, vae = _read(folder / "vae")
        self._text_config, text = _read(folder / "text_encoder")
        schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
        ends = (schedule["beta_start"] ** 0.5, schedule["beta_end"] ** 0.5)  # "scaled_linear"
        betas = torch.linspace(*ends, schedule["num_train_timesteps"], dtype=torch.float32) ** 2
        super().__init__(
            unet_config=unet_config, vae_config=vae_config, alphas_cumprod=(1 - betas).cumprod(0),
            prediction=schedule["prediction_type"],
        )  # fmt: skip
        self.name = folder.parent.name
        try:
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            for weights in (self._unet_weights, vae, text):
                weights.update({name: w.to(self.device) for name, w in weights.items()})
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device: {device!r} cannot be used: {str(error).splitlines()[0]}") from error
        self._vae, self._text = Layers(vae), Layers(text)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self.fuse()

    def _weights(self) -> dict[str, Tensor]:
        return self._unet_weights

    def _ids(self, text: str) -> list[int]:
        if not isinstance(text, str):
            raise TypeError(f"conditions: found {type(text).__name__}, expected texts")
        ids: list[int] = self._tokenizer.encode(text).ids
        limit = self._text_config["max_position_embeddings"]
        unknown = self._tokenizer.token_to_id("<unk>")
        words = [w for w in text.split() if unknown in self._tokenizer.encode(w).ids] if unknown in ids else []
        known = list(self._tokenizer.get_vocab(with_added_tokens=False)) if words else ()
        refuse_text(len(ids), limit, self._tokenizer.decode(ids[limit - 1 : -1]), words, known)
        return ids + [self._text_config["pad_token_id"]] * (limit - len(ids))

    @exact_float32()
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Texts to hidden states and keys and values; ``ValueError`` for one too long or with unknown words."""
        ids = torch.tensor([self._ids(text) for text in conditions], device=self.device)
        with torch.inference_mode():
            hidden = clip_text(self._text, self._text_config, ids)
        return self._prepared(tuple(conditions), hidden)

    @exact_float32()
    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [-1,1] -> the mode of the VAE's posterior, scaled, fp32 [B,4,h,w]."""
        with torch.inference_mode():
            mode = vae_mode(self._vae, dict(self.vae_config), image.to(self.device))
        return mode * float(self.vae_config["scaling_factor"])
