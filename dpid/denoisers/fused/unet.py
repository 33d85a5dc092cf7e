"""Stable Diffusion's UNet (SD 1.x, SD 2.x, SDXL) for K conditions at once, without repeated computations.

It is a function of the weights of a diffusers ``UNet2DConditionModel``. Everything before the first cross-attention, up
to its queries, does not depend on the condition and is computed once a sample; skip connections from that part are
convolved once for all conditions. Keys and values of the cross-attentions depend only on the condition and are computed
once by :meth:`FusedUNet.encode`.

Activations are [k·M, C, H, W], condition-major, with M = N·B (samples times images), k = 1 before the first
cross-attention and k = K after it. A cross-attention treats all samples of a condition as one long sequence of queries,
since they share keys and values. Where each of B images has K conditions of its own, M is image-major, and a sequence
has the samples of one image.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from dpid import ops
from dpid.denoisers.fused.layers import Layers
from dpid.device import is_gpu

KeysValues = Mapping[str, tuple[Tensor, Tensor]]  # {cross-attention: (keys, values)}, [K, heads, L, D]
DOWN = ("DownBlock2D", "CrossAttnDownBlock2D")
UP = ("UpBlock2D", "CrossAttnUpBlock2D")
# {bias of a ResNet block: another one that is added to the same map}
_SAME_SUM = {".conv1.bias": ".time_emb_proj.bias", ".conv_shortcut.bias": ".conv2.bias"}
_FEED_FORWARD = ".ff.net.2.bias"  # of a transformer's block
_PROJECTIONS = (".proj_in.weight", ".proj_out.weight")  # of the transformers
# Values of the configuration that the code below assumes.
_PLAIN: dict[str, Any] = {
    "act_fn": "silu", "addition_embed_type_num_heads": 64, "attention_type": "default", "center_input_sample": False,
    "class_embed_type": None, "class_embeddings_concat": False, "conv_in_kernel": 3, "conv_out_kernel": 3,
    "cross_attention_norm": None, "downsample_padding": 1, "dual_cross_attention": False, "encoder_hid_dim": None,
    "encoder_hid_dim_type": None, "mid_block_only_cross_attention": None, "mid_block_scale_factor": 1,
    "mid_block_type": "UNetMidBlock2DCrossAttn", "num_class_embeds": None, "only_cross_attention": False,
    "resnet_out_scale_factor": 1.0, "resnet_skip_time_act": False, "resnet_time_scale_shift": "default",
    "time_cond_proj_dim": None, "time_embedding_act_fn": None, "time_embedding_type": "positional",
    "timestep_post_act": None,
}  # fmt: skip


def unsupported(config: Mapping[str, Any]) -> str | None:
    """The first field of a ``UNet2DConditionModel`` configuration that :class:`FusedUNet` does not support, or None."""
    for name, value in _PLAIN.items():
        if config.get(name, value) != value:
            return f"{name} = {config[name]!r}"
    for name, known in (("down_block_types", DOWN), ("up_block_types", UP)):
        for kind in config[name]:
            if kind not in known:
                return f"{name} has {kind}"
    if config.get("addition_embed_type") not in (None, "text_time"):
        return f"addition_embed_type = {config['addition_embed_type']!r}"
    return None


def _folded(weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """``weights`` without the biases that are in others now, so that no call has to add them."""
    folded = dict(weights)
    for name in weights:
        for end, other in _SAME_SUM.items():
            if name.endswith(end):
                total = name.removesuffix(end) + other
                folded[total] = weights[total].detach() + folded.pop(name).detach()
        blocks, middle, block = name.removesuffix(_FEED_FORWARD).partition(".transformer_blocks.")
        if name.endswith(_FEED_FORWARD) and f"{blocks}{middle}{int(block) + 1}.norm1.weight" not in weights:
            # What follows the last block is linear, too.
            matrix, total = weights[f"{blocks}.proj_out.weight"].detach().flatten(1), f"{blocks}.proj_out.bias"
            through = matrix.double() @ folded.pop(name).detach().double()
            folded[total] = (weights[total].detach() + through).to(matrix.dtype)
    return folded


def sinusoids(t: Tensor, width: int, flip_sin_to_cos: bool, freq_shift: float) -> Tensor:
    """Sinusoidal embedding [*, width] fp32 of ``t`` [*] (Vaswani et al., 2017)."""
    half = width // 2
    rate = -math.log(10000) * torch.arange(half, dtype=torch.float32, device=t.device) / (half - freq_shift)
    angle = t.float()[..., None] * rate.exp()
    parts = (angle.cos(), angle.sin()) if flip_sin_to_cos else (angle.sin(), angle.cos())
    return torch.cat(parts, -1)


@dataclass(frozen=True)
class _Call:
    """What every block needs of one call of the UNet: how its samples are grouped, their times, and the texts."""

    samples: int  # M, or M / B where every image has conditions of its own
    emb: Tensor  # time embedding, [M, E] or [K·M, E]
    keys_values: KeysValues


class FusedUNet(Layers):
    """Stable Diffusion's UNet as a function of its weights; a call returns its prediction (ε or v) of all conditions.

    Parameters
    ----------
    config : of the ``UNet2DConditionModel``; see :func:`unsupported`
    weights : its parameters {name: tensor}, shared, not copied, but for sums of biases

    Raises
    ------
    ValueError
        The configuration is not supported.
    """

    def __init__(self, config: Mapping[str, Any], weights: Mapping[str, Tensor]) -> None:
        reason = unsupported(config)
        if reason:
            raise ValueError(f"unet: {reason} is not supported by the fused path")
        layers = [name.removesuffix(".weight") for name in weights if name.endswith(".weight")]
        # SD 1.x has convolutions 1×1 there; a product adds its bias as it writes, and is faster on a CPU, too.
        flat = {name: w.flatten(1) for name, w in weights.items() if name.endswith(_PROJECTIONS)}
        super().__init__(_folded(weights) | flat, [name for name in layers if name.endswith(".upsamplers.0.conv")])
        self.config = config
        depth = len(config["block_out_channels"])
        heads = config.get("num_attention_heads") or config["attention_head_dim"]
        per_level = [heads] * depth if isinstance(heads, int) else list(heads)
        self._heads = {f"down_blocks.{i}": h for i, h in enumerate(per_level)}
        self._heads |= {f"up_blocks.{i}": h for i, h in enumerate(reversed(per_level))}
        self._heads["mid_block"] = per_level[-1]
        own = [name for name in layers if name.endswith(".attn1.to_q")]
        self.join({f"{name}kv": [name, f"{name[:-1]}k", f"{name[:-1]}v"] for name in own})
        self._cross = [name.removesuffix(".to_k") for name in layers if name.endswith(".attn2.to_k")]

    def encode(self, hidden: Tensor) -> dict[str, tuple[Tensor, Tensor]]:
        """Keys and values [K, heads, L, D] of every cross-attention from hidden states [K, L, E]."""
        return {
            name: (self._split(self.linear(f"{name}.to_k", hidden), name),
                   self._split(self.linear(f"{name}.to_v", hidden), name))
            for name in self._cross
        }  # fmt: skip

    def __call__(
        self, z: Tensor, t: Tensor, keys_values: KeysValues, added: Tensor | None = None, images: int = 1
    ) -> Tensor:
        """The UNet's output [K,M,C,H,W] for z [M,C,H,W], timesteps t [M] and ``keys_values`` of K conditions.

        ``keys_values`` come from :meth:`encode`; ``added`` [K, E] is SDXL's pooled text and sizes, embedded by
        :meth:`embed_added`. With ``images``, z has those of one image after the other, and conditions are K·B: the
        first of every image, then the second of every image, …
        """
        call = _Call(len(z) // images, self._time(t, added, images), keys_values)
        h = self.conv("conv_in", z)
        skips = [h]
        for i in range(len(self.config["down_block_types"])):
            h = self._down(f"down_blocks.{i}", h, call, skips)
        h = self._resnet("mid_block.resnets.0", h, call)
        h = self._transformer("mid_block.attentions.0", h, call)
        h = self._resnet("mid_block.resnets.1", h, call)
        for i in range(len(self.config["up_block_types"])):
            h = self._up(f"up_blocks.{i}", h, call, skips)
        h = self.conv_to_few("conv_out", self._norm_silu("conv_norm_out", h))  # these two may be kept in fp32
        return h.view(-1, *z.shape[:1], *h.shape[1:])

    def embed_added(self, pooled: Tensor, sizes: Tensor) -> Tensor:
        """SDXL's embedding [K, E] of the pooled text [K, D] and the sizes [K, 6] (original, crop, target)."""
        c = self.config
        waves = sinusoids(sizes, c["addition_time_embed_dim"], c["flip_sin_to_cos"], c["freq_shift"]).flatten(1)
        x = torch.cat((pooled, waves.to(pooled.dtype)), -1)
        return self.linear("add_embedding.linear_2", functional.silu(self.linear("add_embedding.linear_1", x)))

    def _time(self, t: Tensor, added: Tensor | None, images: int) -> Tensor:
        """SiLU of the time embedding: [M, E], or [K·M, E] with ``added``. Every ResNet block projects it."""
        c = self.config
        waves = sinusoids(t, c["block_out_channels"][0], c["flip_sin_to_cos"], c["freq_shift"])
        waves = waves.to(self.weights["conv_in.weight"].dtype)
        emb = functional.silu(self.linear("time_embedding.linear_1", waves))
        emb = self.linear("time_embedding.linear_2", emb)
        if added is not None:
            emb = (added.view(-1, images, 1, emb.shape[-1]) + emb.view(images, -1, emb.shape[-1])).flatten(0, 2)
        return functional.silu(emb)

    def _norm_silu(
        self, name: str, x: Tensor, channels: slice = slice(None), groups: int | None = None,
        added: Tensor | None = None, skip: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        groups = groups or self.config["norm_num_groups"]
        return self.group_norm(name, x, groups, self.config["norm_eps"], channels, True, added, skip)

    def _down(self, name: str, h: Tensor, call: _Call, skips: list[Tensor]) -> Tensor:
        i = 0
        while self.has(f"{name}.resnets.{i}.conv1"):
            h = self._resnet(f"{name}.resnets.{i}", h, call)
            if self.has(f"{name}.attentions.{i}.norm"):
                h = self._transformer(f"{name}.attentions.{i}", h, call)
            skips.append(h)
            i += 1
        if self.has(f"{name}.downsamplers.0.conv"):
            h = self.conv(f"{name}.downsamplers.0.conv", h, stride=2)
            skips.append(h)
        return h

    def _up(self, name: str, h: Tensor, call: _Call, skips: list[Tensor]) -> Tensor:
        i = 0
        while self.has(f"{name}.resnets.{i}.conv1"):
            h = self._resnet(f"{name}.resnets.{i}", h, call, skips.pop())
            if self.has(f"{name}.attentions.{i}.norm"):
                h = self._transformer(f"{name}.attentions.{i}", h, call)
            i += 1
        conv = f"{name}.upsamplers.0.conv"
        if not self.has(conv):
            return h
        size = skips[-1].shape[-2:]
        if size == (2 * h.shape[-2], 2 * h.shape[-1]):
            return self.doubled(conv, h)
        return self.conv(conv, functional.interpolate(h, size, mode="nearest"))  # a map of the way down has an odd side

    def _resnet(self, name: str, h: Tensor, call: _Call, skip: Tensor | None = None) -> Tensor:
        """The ResNet block ``name`` of h [k·M,C,H,W]; on the way up with a ``skip`` connection [k·M,…] or [M,…]."""
        first, second, shortcut = (f"{name}.{conv}" for conv in ("conv1", "conv2", "conv_shortcut"))
        shared = skip is not None and len(skip) != len(h)
        in_place = is_gpu(h.device) and self.has(shortcut)  # where a kernel reads both as they are
        if skip is not None and not shared and not in_place:
            h, skip = torch.cat((h, skip), 1), None
        if skip is not None and shared:
            x = self._joined(name, h, skip)
        else:
            x = self.conv(first, self._norm_silu(f"{name}.norm1", h, skip=skip))
        time = self.linear(f"{name}.time_emb_proj", call.emb)  # with the bias of the first convolution
        x = self.conv(second, self._norm_silu(f"{name}.norm2", x, added=time), later=True)
        if not self.has(shortcut):
            return self.add(x, h, second)
        if skip is None:
            return self.add(x, self.conv(shortcut, h), second)
        if not shared:
            return self.add(x, self.mixed(shortcut, h, skip), second)
        x = self.add(x, self.conv(shortcut, h, channels=slice(h.shape[1])), second)
        return self.add(x, functional.conv2d(skip, self.weights[f"{shortcut}.weight"][:, h.shape[1] :]))

    def _joined(self, name: str, h: Tensor, skip: Tensor) -> Tensor:
        """conv1(SiLU(norm1(concat(h, skip)))) [K·M,…] for h [K·M,…] and ``skip`` [M,…] that all conditions share.

        Groups of the norm without channels of h are normalised and convolved once, not K times.
        """
        groups = self.config["norm_num_groups"]
        size = (h.shape[1] + skip.shape[1]) // groups
        own = -(-h.shape[1] // size)  # groups that hold a channel of h
        cut, taken = own * size, own * size - h.shape[1]
        if taken:
            border = skip[:, :taken].repeat(len(h) // len(skip), 1, 1, 1)
            h = torch.cat((h, border), 1)
        x = self._norm_silu(f"{name}.norm1", h, slice(cut), own)
        x = self.conv(f"{name}.conv1", x, channels=slice(cut))
        if taken == skip.shape[1]:
            return x
        shared = self._norm_silu(f"{name}.norm1", skip[:, taken:], slice(cut, None), groups - own)
        return self.add(x, functional.conv2d(shared, self.weights[f"{name}.conv1.weight"][:, cut:], padding=1))

    def _transformer(self, name: str, h: Tensor, call: _Call) -> Tensor:
        """The transformer ``name`` of h [k·M,C,H,W]: [K·M,C,H,W]."""
        height, width = h.shape[-2:]
        x = self.group_norm(f"{name}.norm", h, self.config["norm_num_groups"], 1e-6)
        x = self.linear(f"{name}.proj_in", x.flatten(2).transpose(1, 2).contiguous())  # [k·M, H·W, C]
        i, y = 0, None
        while self.has(f"{name}.transformer_blocks.{i}.norm1"):
            x, y = self._block(f"{name}.transformer_blocks.{i}", x, y, call)
            i += 1
        x = self.linear(f"{name}.proj_out", x)
        return self.add(x.transpose(1, 2).unflatten(2, (height, width)), h)

    def _block(self, name: str, x: Tensor, y: Tensor | None, call: _Call) -> tuple[Tensor, Tensor | None]:
        """Self-attention, cross-attention and feed-forward layer of x + y [k·M, T, C]: two terms of [K·M, T, C].

        The second is not yet added, since that takes no pass of its own where the next block begins with a norm. After
        the last block there is none, and the first lacks a bias, which that of ``proj_out`` makes up for.
        """
        norm = f"{name}.norm1"
        x, n = (x, self.layer_norm(norm, x)) if y is None else self.add_layer_norm(norm, y, x)
        q, k, v = (self._split(part, name) for part in self._queries_keys_values(f"{name}.attn1", n))
        y = self._merge(functional.scaled_dot_product_attention(q, k, v))
        x, n = self.add_layer_norm(f"{name}.norm2", self.linear(f"{name}.attn1.to_out.0", y), x)
        k, v = call.keys_values[f"{name}.attn2"]  # [K, heads, L, D]
        q = self.linear(f"{name}.attn2.to_q", n)
        q = q.view(len(x) // call.samples, -1, q.shape[-1])  # all samples of a condition are one sequence
        q = self._split(q, name)
        q = q.expand(len(k), -1, -1, -1) if len(q) in (1, len(k)) else q.repeat(len(k) // len(q), 1, 1, 1)
        y = self._merge(functional.scaled_dot_product_attention(q, k, v)).view(-1, *x.shape[1:])
        x, n = self.add_layer_norm(f"{name}.norm3", self.linear(f"{name}.attn2.to_out.0", y), x)
        y, last = ops.geglu(self.linear(f"{name}.ff.net.0.proj", n)), f"{name}.ff.net.2"
        if f"{last}.bias" in self.weights:
            return x, self.linear(last, y)
        return self.linear_onto(x, last, y), None

    def _queries_keys_values(self, name: str, x: Tensor) -> Sequence[Tensor]:
        """Queries, keys and values [B, T, C] of the self-attention ``name`` of x [B, T, C]."""
        if self.has(f"{name}.to_qkv"):
            return self.linear(f"{name}.to_qkv", x).chunk(3, -1)
        return [self.linear(f"{name}.to_{part}", x) for part in "qkv"]

    def _split(self, x: Tensor, name: str) -> Tensor:
        """x [B, T, heads·D] split into heads: [B, heads, T, D]."""
        heads = next(h for prefix, h in self._heads.items() if name.startswith(prefix))
        return x.view(*x.shape[:2], heads, -1).transpose(1, 2)

    @staticmethod
    def _merge(x: Tensor) -> Tensor:
        return x.transpose(1, 2).flatten(2)
