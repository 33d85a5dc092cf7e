"""Stable Diffusion 1.x, 2.x and XL pipelines of diffusers; nothing of a pipeline changes."""

from __future__ import annotations

import logging
import zlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from dpid.denoisers.latent import PRECISIONS, LatentDenoiser, check_precision, evaluating, exact_float32, refuse_text
from dpid.denoisers.protocol import Conditions
from dpid.denoisers.unet import unsupported

_LOG = logging.getLogger("dpid")
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
# Relative difference between the fused path and the pipeline's own UNet above which the fused path is not taken: the
# contract in float32; in half precisions a few roundings (2⁻¹¹, 2⁻⁸) of a network of a hundred layers.
_TOLERANCE = {"float32": 1e-5, "float16": 2e-2, "bfloat16": 1e-1}
# What a UNet that the fused path computes is made of. LoRA, IP-Adapter and their like bring modules of their own.
_MODULES = {
    "Attention", "BasicTransformerBlock", "Conv2d", "CrossAttnDownBlock2D", "CrossAttnUpBlock2D", "DownBlock2D",
    "Downsample2D", "Dropout", "FeedForward", "GEGLU", "GroupNorm", "LayerNorm", "Linear", "ModuleList",
    "ResnetBlock2D", "SiLU", "TimestepEmbedding", "Timesteps", "Transformer2DModel", "UNet2DConditionModel",
    "UNetMidBlock2DCrossAttn", "UpBlock2D", "Upsample2D",
}  # fmt: skip
_LOOKED_AT = 16  # numbers of each weight
_PROCESSORS = {"AttnProcessor", "AttnProcessor2_0"}


def from_pipeline(pipe: Any, *, fused: bool = True, precision: str = "auto") -> DiffusersDenoiser:
    """The denoiser of a diffusers pipeline (see :class:`DiffusersDenoiser`)."""
    return DiffusersDenoiser(pipe, fused=fused, precision=precision)


def not_plain(unet: nn.Module) -> str | None:
    """What makes ``unet`` compute something else than a plain Stable Diffusion UNet, or None."""
    for name, module in unet.named_modules():
        kind = type(module)
        if kind.__name__ not in _MODULES or not kind.__module__.startswith(("diffusers.models.", "torch.nn.modules.")):
            return f"{name or 'the UNet'} is a {kind.__module__.split('.')[0]} {kind.__name__}"
        if module._forward_hooks or module._forward_pre_hooks or "forward" in vars(module):
            return f"{name or 'the UNet'} has a forward hook"
        processor = getattr(module, "processor", None)
        if processor is not None and type(processor).__name__ not in _PROCESSORS:
            return f"{name} has a {type(processor).__name__}"
        if any(getattr(module, factor, None) is not None for factor in ("s1", "s2", "b1", "b2")):
            return "FreeU is on"
    return unsupported(unet.config)  # type: ignore[arg-type]


def _signature(unet: nn.Module) -> tuple[object, ...]:
    """Changes whenever a weight or a processor of ``unet`` is replaced, moved or written to.

    Writing through ``.data``, as diffusers' EMAModel does, counts no version: a few numbers of each weight tell.
    """
    weights = [(id(p), p.data_ptr(), 0 if p.is_inference() else p._version) for p in unet.parameters()]
    processors = [id(m.processor) for m in unet.modules() if hasattr(m, "processor")]
    reason, numbers = not_plain(unet), b""
    if reason is None:  # any other UNet runs with the weights that it has, which may lie on no device yet
        with torch.inference_mode():
            # Of the first row: in any order of memory no weight is copied.
            some = torch.cat([p[(0,) * (p.ndim - 1)][:_LOOKED_AT].float() for p in unet.parameters()])
        numbers = some.cpu().numpy().tobytes()
    return (*weights, zlib.crc32(numbers), *processors, reason)


class DiffusersDenoiser(LatentDenoiser):
    """All conditions in one UNet call, by the fused path where it computes what the pipeline's own UNet computes.

    Parameters
    ----------
    pipe : a StableDiffusionPipeline (SD 1.x, 2.x) or StableDiffusionXLPipeline, on any device and in any dtype
    fused : False calls the pipeline's own UNet on a batch of repeated latents; so does, with one logged line, a UNet
        that the fused path does not know (LoRA, IP-Adapter, custom attention, FreeU, …) or does not reproduce to 1e-5
    precision : "float32", "bfloat16", "float16", or "auto": the pipeline's own, until an explainer settles it

    Raises
    ------
    ValueError
        A part is missing, or the pipeline's kind, prediction or precision is not supported.
    """

    def __init__(self, pipe: Any, *, fused: bool = True, precision: str = "auto") -> None:
        missing = [part for part in _PARTS if getattr(pipe, part, None) is None]
        if missing:
            raise ValueError(
                f"pipe: {type(pipe).__name__} has no {', '.join(missing)}; expected a StableDiffusionPipeline"
            )
        config = pipe.unet.config
        if config.in_channels != 4 or getattr(config, "addition_embed_type", None) not in (None, "text_time"):
            raise ValueError(f"pipe: the UNet of {type(pipe).__name__} is not that of Stable Diffusion 1.x, 2.x or XL")
        check_precision(precision)
        if not hasattr(pipe.scheduler, "alphas_cumprod"):
            raise ValueError(
                f"pipe: a {type(pipe.scheduler).__name__} has no trained noise levels (alphas_cumprod); give "
                "the pipeline the scheduler that its model was trained with, such as DDPMScheduler"
            )
        super().__init__(
            unet_config=dict(config), vae_config=dict(pipe.vae.config), alphas_cumprod=pipe.scheduler.alphas_cumprod,
            prediction=str(pipe.scheduler.config.prediction_type),
        )  # fmt: skip
        self.pipe, self.unet, self.vae = pipe, pipe.unet, pipe.vae
        self.device = pipe.unet.device
        self.own_precision = next((k for k, v in PRECISIONS.items() if v == pipe.unet.dtype), "float32")
        self.precision, self.settled = (self.own_precision, False) if precision == "auto" else (precision, True)
        self.name = str(
            getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path", "") or type(pipe).__name__
        )
        self._wanted = fused
        self._seen: tuple[object, ...] | None = None
        self._settle_path()

    def _weights(self) -> dict[str, Tensor]:
        return {name: p.detach() for name, p in self.unet.named_parameters()}

    def _settle_path(self) -> None:
        """Fused or plain, decided again whenever the user has changed the UNet."""
        if not self._wanted or (seen := _signature(self.unet)) == self._seen:
            return
        self._seen = seen
        self._fused = None
        reason = not_plain(self.unet)
        if reason is None:
            self.fuse()
            difference = self.at(self.own_precision).check()
            if difference <= _TOLERANCE[self.own_precision]:
                return
            self._fused = None
            reason = f"it differs from the pipeline's UNet by {difference:.1e}"
        _LOG.warning("the fused path is not taken, %s: conditions run as one plain batch", reason)

    def _check_text(self, tokenizer: Any, encoder: Any, text: str) -> None:
        ids = tokenizer(text, verbose=False).input_ids  # a prompt too long is an error below, not a warning
        limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        cut = tokenizer.decode(ids[limit - 1 : -1]).strip() if len(ids) > limit else ""
        unknown = tokenizer.unk_token_id
        words = []
        if unknown is not None and unknown not in (tokenizer.eos_token_id, tokenizer.pad_token_id) and unknown in ids:
            words = [w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False).input_ids]
        refuse_text(len(ids), limit, cut, words, list(tokenizer.get_vocab()) if words else ())

    @exact_float32()
    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Texts to hidden states and every cross-attention's keys and values.

        An empty one is what the pipeline's own guidance takes for none. ``ValueError`` for a text too long or with
        unknown words, ``TypeError`` for what is no text.
        """
        self._settle_path()
        encoders = [(self.pipe.tokenizer, self.pipe.text_encoder)]
        if getattr(self.pipe, "text_encoder_2", None) is not None:
            encoders.append((self.pipe.tokenizer_2, self.pipe.text_encoder_2))
        for text in conditions:
            if not isinstance(text, str):
                raise TypeError(f"conditions: found {type(text).__name__}, expected texts")
            for tokenizer, encoder in encoders:
                self._check_text(tokenizer, encoder, text)
        with evaluating(*(encoder for _, encoder in encoders)):
            parts = self.pipe.encode_prompt(
                list(conditions), device=self.device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
        hidden, pooled = parts[0], parts[2] if len(parts) > 2 else None
        if self.pipe.config.get("force_zeros_for_empty_prompt"):  # SDXL: no caption is zeros, as it was trained
            said = torch.tensor([bool(text.strip()) for text in conditions], device=hidden.device)
            hidden = hidden * said[:, None, None]
            pooled = None if pooled is None else pooled * said[:, None]
        return self._prepared(tuple(conditions), hidden, pooled)

    @exact_float32()
    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [-1,1] -> the mode of the VAE's posterior, scaled, fp32 [B,4,h,w].

        In fp32 where the VAE's configuration asks for it (``force_upcast``: SDXL's overflows in fp16).
        """
        weights = {}
        if self.vae.config.get("force_upcast") and self.vae.dtype == torch.float16:
            weights = {name: p.float() for name, p in self.vae.named_parameters()}
        image = image.to(self.device, torch.float32 if weights else self.vae.dtype)
        with evaluating(self.vae):
            moments = torch.func.functional_call(_Moments(self.vae), {f"vae.{k}": w for k, w in weights.items()}, image)
        scaled: Tensor = moments * self.vae.config.scaling_factor
        return scaled.float()

    def _plain(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        hidden, m = conditions.encoded["hidden"], len(z)
        k = len(hidden)
        extra = {}
        if "pooled" in conditions.encoded:
            pooled = conditions.encoded["pooled"].repeat_interleave(m, 0)
            extra = {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": self._sizes(z, k * m)}}
        dtype, weights = PRECISIONS[self.precision], {}
        if dtype == torch.float32 != self.unet.dtype:
            weights = {name: w.float() for name, w in self._weights().items()}
        work = torch.float32 if weights else self.unet.dtype
        lower = dtype not in (torch.float32, self.unet.dtype)
        arguments = {
            "sample": z.to(work).repeat(k, 1, 1, 1), "timestep": t.repeat(k),
            "encoder_hidden_states": hidden.to(work).repeat_interleave(m, 0), "return_dict": False, **extra,
        }  # fmt: skip
        with evaluating(self.unet), torch.autocast(self.device.type, dtype, enabled=lower):
            out: Tensor = torch.func.functional_call(self.unet, weights, (), arguments)[0]
        return out.view(k, m, *out.shape[1:])


class _Moments(nn.Module):
    """``vae`` as a function of its weights."""

    def __init__(self, vae: Any) -> None:
        super().__init__()
        self.vae = vae

    def forward(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] -> latents [B,4,h,w]."""
        mode: Tensor = self.vae.encode(image).latent_dist.mode()
        return mode
