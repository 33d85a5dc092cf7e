"""An embedded model straight from its files: no pipeline library is imported, so that it loads in a moment.

Text encoder (CLIP) and image encoder (the VAE's) are written as functions of their weights, like the UNet.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.fused.layers import Layers
from dpid.denoisers.levels import Discrete
from dpid.denoisers.modes import usable_device
from dpid.denoisers.network import NetworkDenoiser
from dpid.denoisers.texts import refuse_text


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights, fp32, of a part of a pipeline."""
    from safetensors.torch import load_file

    weights = load_file(next(folder.glob("*.safetensors")))
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), {
        name: w.float() for name, w in weights.items()
    }


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


class _Files(StableDiffusion):
    """The family of a model that is read from its files, without a pipeline; nobody else can change it."""

    pipelines = ()
    only_fused = True

    def __init__(self, folder: Path, device: str | None) -> None:
        from tokenizers import Tokenizer

        self._asked = (folder, device)
        self._net_config, unet = _read(folder / "unet")
        self._vae_config, vae = _read(folder / "vae")
        self._text_config, text = _read(folder / "text_encoder")
        self._schedule = json.loads((folder / "scheduler" / "scheduler_config.json").read_text(encoding="utf-8"))
        self._device = usable_device(device)
        for weights in (unet, vae, text):
            weights.update({name: w.to(self._device) for name, w in weights.items()})
        self._weights, self._vae, self._text = unet, Layers(vae), Layers(text)
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer" / "tokenizer.json"))
        self._lock = threading.RLock()

    def __reduce__(self) -> tuple[Any, ...]:
        return _Files, self._asked

    @property
    def name(self) -> str:
        """The name of the model's folder."""
        return self._asked[0].parent.name

    @property
    def device(self) -> torch.device:
        """Where the weights lie."""
        return self._device

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """Held by a thread while the model works for it."""
        return self._lock

    @property
    def net(self) -> None:
        """There is no module."""
        return None

    @property
    def weights(self) -> dict[str, Tensor]:
        """Of the UNet, fp32."""
        return self._weights

    @property
    def precision(self) -> str:
        """The type of the weights."""
        return "float32"

    def check(self) -> None:
        """The files are the package's own."""

    def fixed_precision(self) -> None:
        """The weights are plain numbers: any type will do."""
        return

    def not_fused(self) -> None:
        """The UNet is a plain one."""
        return

    def levels(self) -> Discrete:
        """The scheduler's training timesteps."""
        ends = (self._schedule["beta_start"] ** 0.5, self._schedule["beta_end"] ** 0.5)  # "scaled_linear"
        betas = torch.linspace(*ends, self._schedule["num_train_timesteps"], dtype=torch.float32) ** 2
        return Discrete((1 - betas).cumprod(0), self._schedule["prediction_type"])

    @property
    def net_config(self) -> dict[str, Any]:
        """The UNet's configuration."""
        return self._net_config

    @property
    def vae_config(self) -> dict[str, Any]:
        """The VAE's configuration."""
        return self._vae_config

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text).ids
        return ids + [self._text_config["pad_token_id"]] * (self._text_config["max_position_embeddings"] - len(ids))

    def check_texts(self, texts: Iterable[str]) -> None:
        """``ValueError`` for a text that is too long or has unknown words."""
        limit, unknown = self._text_config["max_position_embeddings"], self._tokenizer.token_to_id("<unk>")
        for text in texts:
            ids = self._tokenizer.encode(text).ids
            words = [w for w in text.split() if unknown in self._tokenizer.encode(w).ids] if unknown in ids else []
            known = list(self._tokenizer.get_vocab(with_added_tokens=False)) if words else ()
            refuse_text(len(ids), limit, self._tokenizer.decode(ids[limit - 1 : -1]), words, known)

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """Hidden states [K,L,E] of the text encoder."""
        ids = torch.tensor([self._ids(text) for text in texts], device=self.device)
        with torch.inference_mode():
            return {"encoder_hidden_states": clip_text(self._text, self._text_config, ids)}

    def encode_image(self, image: Tensor) -> Tensor:
        """The mode of the VAE's posterior, scaled, fp32 [B,4,h,w]."""
        with torch.inference_mode():
            mode = vae_mode(self._vae, self.vae_config, image.to(self.device, torch.float32))
        return mode * float(self.vae_config["scaling_factor"])


class EmbeddedDenoiser(NetworkDenoiser):
    """A model of :mod:`dpid.zoo`, from its folder; ``ValueError`` if ``device`` cannot be used."""

    def __init__(self, folder: Path, device: str | None = None) -> None:
        super().__init__(_Files(folder, device))
