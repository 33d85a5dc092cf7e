"""Denoiser of a model that ships with dpid, read from its files without diffusers or transformers, which load slowly.

The CLIP text encoder and the encoder of the VAE are functions of their weights here, like the fused UNet.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid.denoisers.encoding import Texts
from dpid.denoisers.families.stable_diffusion import StableDiffusion
from dpid.denoisers.fused.graphs import Graphed
from dpid.denoisers.fused.layers import Layers
from dpid.denoisers.levels import Discrete
from dpid.denoisers.modes import usable_device
from dpid.denoisers.network import NetworkDenoiser
from dpid.denoisers.protocol import Conditions
from dpid.denoisers.texts import refuse_text


def _read(folder: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The configuration and the weights {name: float32 tensor} of one component of a pipeline, from its ``folder``."""
    from safetensors.torch import load_file

    weights = load_file(next(folder.glob("*.safetensors")))
    return json.loads((folder / "config.json").read_text(encoding="utf-8")), {
        name: w.float() for name, w in weights.items()
    }


def clip_text(w: Layers, config: dict[str, Any], ids: Tensor) -> Tensor:
    """Hidden states [K,L,D] of a CLIP text encoder (Radford et al., 2021) for token ids [K,L]."""
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
    """The mode [B,4,h,w] of a VAE's posterior for pixels ``x`` [B,3,H,W] in [-1,1].

    Attention blocks of the encoder are not written: the embedded models have none.
    """

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
    """A Stable Diffusion model read from its files, without a pipeline object; its weights never change."""

    pipe = None
    pipelines = ()
    only_fused = True

    def __init__(self, folder: Path, device: str | None) -> None:
        from tokenizers import Tokenizer

        self._asked, self.texts = (folder, device), Texts(self)
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
        # At these sizes launching the kernels takes a GPU's host longer than computing them takes the GPU.
        self._states = Graphed(lambda ids, _: clip_text(self._text, self._text_config, ids))
        self._mode = Graphed(lambda pixels, _: vae_mode(self._vae, self._vae_config, pixels))

    def __reduce__(self) -> tuple[Any, ...]:
        return _Files, self._asked

    @property
    def name(self) -> str:
        """The name of the embedded model, that of the folder above ``model/``."""
        return self._asked[0].parent.name

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return self._device

    @property
    def lock(self) -> AbstractContextManager[Any]:
        """The lock that a thread holds while it uses the model."""
        return self._lock

    @property
    def net(self) -> None:
        """None: the UNet exists only as weights, not as a module."""
        return None

    @property
    def weights(self) -> dict[str, Tensor]:
        """The parameters of the UNet {name: float32 tensor}."""
        return self._weights

    @property
    def precision(self) -> str:
        """The type of the weights, "float32"."""
        return "float32"

    def check(self) -> None:
        """Accept the model: its files are part of the package."""

    def check_weights(self) -> None:
        """Accept the model: its weights have been read."""

    def fixed_precision(self) -> None:
        """None: the weights are plain tensors, so the UNet can compute in any type."""
        return

    def not_fused(self) -> None:
        """None: the fused UNet always stands in."""
        return

    def levels(self) -> Discrete:
        """The noise levels of the scheduler's training timesteps."""
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

    def check_texts(self, texts: Sequence[str]) -> None:
        """``ValueError`` for a text that is too long or has unknown words."""
        limit, unknown = self._text_config["max_position_embeddings"], self._tokenizer.token_to_id("<unk>")
        for text in texts:
            ids = self._tokenizer.encode(text).ids
            words = [w for w in text.split() if unknown in self._tokenizer.encode(w).ids] if unknown in ids else []
            known = list(self._tokenizer.get_vocab(with_added_tokens=False)) if words else ()
            refuse_text(len(ids), limit, self._tokenizer.decode(ids[limit - 1 : -1]), words, known)

    def encode_texts(self, texts: Sequence[str]) -> dict[str, Tensor]:
        """{"encoder_hidden_states": [K,L,E]} of K texts."""
        ids = torch.tensor([self._ids(text) for text in texts], device=self.device)
        with torch.inference_mode():
            return {"encoder_hidden_states": self._states(ids, None)}

    def encode_image(self, image: Tensor) -> Tensor:
        """Latents fp32 [B,4,h,w] of pixels [B,3,H,W] in [-1,1]: the scaled mode of the VAE's posterior."""
        with torch.inference_mode():
            mode = self._mode(image.to(self.device, torch.float32), None)
        return mode * float(self.vae_config["scaling_factor"])


class EmbeddedDenoiser(NetworkDenoiser):
    """The embedded model (:mod:`dpid.zoo`) in ``folder`` as a denoiser; ``ValueError`` if ``device`` cannot be used.

    ``options`` as of :class:`NetworkDenoiser`.
    """

    def __init__(self, folder: Path, device: str | None = None, **options: Any) -> None:
        super().__init__(_Files(folder, device), **options)
        # {precision: the last conditions and their encodings}, shared by the copies in other precisions
        self._last: dict[str, tuple[tuple[Any, ...], Conditions]] = {}

    def encode_again(self, conditions: Sequence[Any]) -> Conditions:
        """The encoded texts ``conditions``; those of the last call are kept, since the model never changes."""
        asked = tuple(conditions)
        last, encoded = self._last.get(self.precision, (None, None))
        if encoded is None or last != asked:
            encoded = super().encode_again(conditions)
            self._last[self.precision] = asked, encoded
        return encoded
