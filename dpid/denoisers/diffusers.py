"""Stable Diffusion 1.x and 2.x pipelines of diffusers (eps and v prediction); nothing of a pipeline changes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.protocol import Conditions

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")


def from_pipeline(pipe: Any, *, precision: str = "auto") -> DiffusersDenoiser:
    """The denoiser of a diffusers StableDiffusionPipeline (see :class:`DiffusersDenoiser`)."""
    return DiffusersDenoiser(pipe, precision=precision)


@contextmanager
def _evaluating(*modules: torch.nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every training flag is put back."""
    flags = [(m, m.training) for module in modules for m in module.modules() if m.training]
    for module, _ in flags:
        module.training = False
    try:
        with torch.inference_mode():
            yield
    finally:
        for module, flag in flags:
            module.training = flag


class DiffusersDenoiser:
    """All conditions in one UNet call.

    Parameters
    ----------
    pipe : a StableDiffusionPipeline (SD 1.x or 2.x), on whatever device and in whatever dtype it is
    precision : "float32", "bfloat16", "float16" (by autocast: the weights stay as they are), or "auto", the
        pipeline's own

    Raises
    ------
    ValueError
        A part is missing, or the pipeline's kind, prediction or precision is not supported.
    """

    def __init__(self, pipe: Any, *, precision: str = "auto") -> None:
        missing = [part for part in _PARTS if getattr(pipe, part, None) is None]
        if missing:
            raise ValueError(
                f"pipe: {type(pipe).__name__} has no {', '.join(missing)}; expected a StableDiffusionPipeline"
            )
        if getattr(pipe.unet.config, "addition_embed_type", None) is not None or pipe.unet.config.in_channels != 4:
            raise ValueError(f"pipe: the UNet of {type(pipe).__name__} is not that of Stable Diffusion 1.x or 2.x")
        if precision not in ("auto", *PRECISIONS):
            raise ValueError(f"precision: found {precision!r}, allowed are auto, {', '.join(PRECISIONS)}")
        self.prediction = str(pipe.scheduler.config.prediction_type)
        if self.prediction not in ("epsilon", "v_prediction"):
            raise ValueError(
                f"pipe: prediction_type {self.prediction!r} is not supported; epsilon and v_prediction are"
            )
        self.pipe, self.unet, self.vae = pipe, pipe.unet, pipe.vae
        self.device: torch.device = pipe.unet.device
        own = next(iter(k for k, v in PRECISIONS.items() if v == pipe.unet.dtype), "float32")
        self.precision = own if precision == "auto" else precision
        self._autocast = None if self.precision == own else PRECISIONS[self.precision]
        self.name = str(
            getattr(pipe, "name_or_path", "") or pipe.config.get("_name_or_path", "") or type(pipe).__name__
        )
        alphas = pipe.scheduler.alphas_cumprod.double()
        alphas = alphas[alphas > 0]  # a schedule rescaled to zero terminal SNR ends at -infinity
        self._grid: Tensor = (alphas.log() - (-alphas).log1p()).flip(0).cpu()

    @property
    def logsnr_grid(self) -> Tensor:
        """Log-SNRs of the scheduler's training timesteps, ascending [T] (timestep T-1 first)."""
        return self._grid

    def _timestep(self, logsnr: Tensor) -> Tensor:
        grid = self._grid.to(logsnr.device)
        level = (logsnr[:, None] - grid).abs().argmin(1)
        # 1e-4 of log-SNR is a hundredth of the finest step of Stable Diffusion's grid.
        if logsnr.device.type == "cpu" and (logsnr - grid[level]).abs().max() > 1e-4:
            raise ValueError(f"logsnr: found values off the trained grid, {self._grid[0]:.3f}…{self._grid[-1]:.3f}")
        timestep: Tensor = len(grid) - 1 - level
        return timestep

    def _check_text(self, text: str) -> None:
        tokenizer = self.pipe.tokenizer
        ids = tokenizer(text, verbose=False).input_ids  # a prompt too long is an error below, not a warning
        limit = min(tokenizer.model_max_length, self.pipe.text_encoder.config.max_position_embeddings)
        if len(ids) > limit:
            cut = tokenizer.decode(ids[limit - 1 : -1]).strip()
            raise ValueError(
                f"prompt: {len(ids)} tokens, but the text encoder takes {limit}; {cut!r} would be cut: shorten it"
            )
        unknown = tokenizer.unk_token_id
        if unknown is None or unknown in (tokenizer.eos_token_id, tokenizer.pad_token_id) or unknown not in ids:
            return
        words = [w for w in text.split() if unknown in tokenizer(w, add_special_tokens=False).input_ids]
        known = sorted(w for w in tokenizer.get_vocab() if w.isalpha())
        listed = ", ".join(known) if len(known) <= 200 else f"{len(known)} words"
        raise ValueError(f"prompt: this model does not know {', '.join(map(repr, words))}; it knows {listed}")

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Texts to hidden states [K, L, D]; ``ValueError`` for one too long or with unknown words."""
        for text in conditions:
            if not isinstance(text, str):
                raise TypeError(f"conditions: found {type(text).__name__}, expected texts")
            self._check_text(text)
        with _evaluating(self.pipe.text_encoder):
            hidden = self.pipe.encode_prompt(list(conditions), self.device, 1, False)[0]
        return Conditions(tuple(conditions), hidden)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The model's native area at the picture's aspect ratio, in steps that the UNet can halve."""
        factor = 2 ** (len(self.vae.config.block_out_channels) - 1)
        native = self.unet.config.sample_size * factor
        step = factor * 2 ** (len(self.unet.config.block_out_channels) - 1)
        scale = native / (width * height) ** 0.5
        return max(step, round(width * scale / step) * step), max(step, round(height * scale / step) * step)

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [-1,1] -> the mode of the VAE's posterior, scaled, fp32 [B,4,h,w]."""
        with _evaluating(self.vae):
            latents = self.vae.encode(image.to(self.device, self.vae.dtype)).latent_dist.mode()
        scaled: Tensor = latents * self.vae.config.scaling_factor
        return scaled.float()

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,C,H,W], logsnr [N] -> ε̂ [N,K,B,C,H,W]; v prediction by ε̂ = √σ(λ) v + √σ(-λ) z."""
        n, b, *shape = z.shape
        hidden = conditions.encoded  # [K,L,D]
        k = len(hidden)
        batch = z[:, None].expand(n, k, b, *shape).reshape(-1, *shape)
        text = hidden[None, :, None].expand(n, k, b, *hidden.shape[1:]).reshape(-1, *hidden.shape[1:])
        t = self._timestep(logsnr).repeat_interleave(k * b)
        with (
            _evaluating(self.unet),
            torch.autocast(self.device.type, self._autocast, enabled=self._autocast is not None),
        ):
            out = self.unet(batch.to(self.unet.dtype), t, encoder_hidden_states=text, return_dict=False)[0]
        out = out.view(n, k, b, *shape)
        if self.prediction == "epsilon":
            return out  # type: ignore[no-any-return]
        level = logsnr.double().view(-1, 1, 1, 1, 1, 1)
        eps: Tensor = level.sigmoid().sqrt() * out + (-level).sigmoid().sqrt() * z[:, None]
        return eps.float()
