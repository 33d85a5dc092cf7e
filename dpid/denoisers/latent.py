"""What every latent diffusion model here shares: trained levels, picture sizes, precision, and the fused call."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor

from dpid.denoisers.graph import Graphed
from dpid.denoisers.protocol import Conditions
from dpid.denoisers.unet import FusedUNet

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
# fp32 kept where rounding costs most for next to no time: the last layers, whose output is what gets squared.
LAST = ("conv_norm_out.", "conv_out.")
Self = TypeVar("Self", bound="LatentDenoiser")


def check_precision(precision: str, *allowed: str) -> None:
    """``ValueError`` for a precision that is not ``allowed``; by default "auto" is, and every type."""
    allowed = allowed or ("auto", *PRECISIONS)
    if precision not in allowed:
        raise ValueError(f"precision: found {precision!r}, allowed are {', '.join(allowed)}")


@contextmanager
def evaluating(*modules: torch.nn.Module) -> Iterator[None]:
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


@contextmanager
def exact_float32() -> Iterator[None]:
    """float32 that is float32: on CUDA torch's convolutions round it to TF32's 10 bits, and its products if asked to.

    What was set before is put back.
    """
    backends: Any = torch.backends
    new = hasattr(backends.cuda.matmul, "fp32_precision")  # since torch 2.9
    where = (backends.cudnn.conv if new else backends.cudnn, backends.cuda.matmul)
    name, exact = ("fp32_precision", "ieee") if new else ("allow_tf32", False)
    before = [getattr(w, name) for w in where]
    try:
        for w in where:
            setattr(w, name, exact)
        yield
    finally:
        for w, value in zip(where, before, strict=True):
            setattr(w, name, value)


def refuse_text(tokens: int, limit: int, cut: str, unknown: Sequence[str], known: Sequence[str]) -> None:
    """Raise ``ValueError`` for a text of more ``tokens`` than ``limit``, or one with ``unknown`` words."""
    if tokens > limit:
        raise ValueError(
            f"prompt: {tokens} tokens, but the text encoder takes {limit}; {cut!r} would be cut: shorten it"
        )
    if unknown:
        words = sorted(w for w in known if w.isalpha())
        listed = ", ".join(words) if len(words) <= 200 else f"{len(words)} words"
        raise ValueError(f"prompt: this model does not know {', '.join(map(repr, unknown))}; it knows {listed}")


@lru_cache(maxsize=16)  # made once: inside the loop a copy from the host would wait for the device
def _size_conditioning(height: int, width: int, device: torch.device) -> Tensor:
    """SDXL's sizes [6]: original (height, width), crop (top, left), target (height, width)."""
    return torch.tensor([height, width, 0, 0, height, width], device=device)


class LatentDenoiser:
    """A latent diffusion model of Stable Diffusion's kind; subclasses read texts and pictures.

    Attributes
    ----------
    name, device : of the model
    precision : "float32", "bfloat16" or "float16", the type that the UNet computes in
    own_precision : the type of the UNet's weights
    settled : whether ``precision`` was asked for
    fused : whether all conditions go through :class:`FusedUNet`
    """

    name: str
    device: torch.device
    precision: str
    own_precision: str
    settled = False

    def __init__(
        self, *, unet_config: Mapping[str, Any], vae_config: Mapping[str, Any], alphas_cumprod: Tensor, prediction: str
    ) -> None:
        if prediction not in ("epsilon", "v_prediction"):
            raise ValueError(f"pipe: prediction_type {prediction!r} is not supported; epsilon and v_prediction are")
        self.unet_config, self.vae_config, self.prediction = unet_config, vae_config, prediction
        alphas = alphas_cumprod.double()
        alphas = alphas[alphas > 0]  # a schedule rescaled to zero terminal SNR ends at -infinity
        self._grid: Tensor = (alphas.log() - (-alphas).log1p()).flip(0).cpu()
        self._levels = self._grid
        self._fused: Graphed | None = None

    # -- what subclasses answer

    def encode_conditions(self, conditions: Sequence[Any]) -> Conditions:
        """Encode K conditions; ``ValueError`` for one that the model cannot take."""
        raise NotImplementedError

    def encode_image(self, image: Tensor) -> Tensor:
        """Pixels [B,3,H,W] in [-1,1] -> latents [B,C,h,w] fp32."""
        raise NotImplementedError

    def _weights(self) -> Mapping[str, Tensor]:
        """Parameters of the UNet by name."""
        raise NotImplementedError

    def _plain(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The model's own UNet on a repeated batch: z [M,C,H,W], t [M] -> [K,M,C,H,W]."""
        raise NotImplementedError

    # -- what all share

    @property
    def fused(self) -> bool:
        """Whether the fused path is taken."""
        return self._fused is not None

    @property
    def logsnr_grid(self) -> Tensor:
        """Log-SNRs of the scheduler's training timesteps, ascending float64 [T] (timestep T-1 first)."""
        return self._grid

    @property
    def logsnr_range(self) -> tuple[float, float]:
        """The ends of :attr:`logsnr_grid`."""
        return float(self._grid[0]), float(self._grid[-1])

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of a square picture of the model's native size."""
        side = int(self.unet_config["sample_size"])
        return int(self.unet_config["in_channels"]), side, side

    @property
    def factor(self) -> int:
        """Pixels a side of a latent pixel."""
        return int(2 ** (len(self.vae_config["block_out_channels"]) - 1))

    def at(self: Self, precision: str) -> Self:
        """The same model computing in another precision; weights are shared where their type is already that."""
        check_precision(precision, *PRECISIONS)
        if precision == self.precision and self.settled:
            return self
        other = copy.copy(self)
        other.precision, other.settled = precision, True
        if self.fused and precision != self.precision:
            other.fuse()
        return other

    def fuse(self) -> None:
        """Take the fused path, in ``self.precision``."""
        dtype = PRECISIONS[self.precision]
        weights = {name: w.to(torch.float32 if name.startswith(LAST) else dtype) for name, w in self._weights().items()}
        unet = FusedUNet(self.unet_config, weights)
        unet.pack()
        self._fused = Graphed(unet)

    def size_for(self, width: int, height: int) -> tuple[int, int]:
        """The model's native area at the picture's aspect ratio, in steps that the UNet can halve."""
        step = self.factor * 2 ** (len(self.unet_config["block_out_channels"]) - 1)
        scale = self.unet_config["sample_size"] * self.factor / (width * height) ** 0.5
        return max(step, round(width * scale / step) * step), max(step, round(height * scale / step) * step)

    def evaluation_bytes(self, height: int, width: int) -> int:
        """About what the activations of one evaluation on latents [C, height, width] take, on the safe side.

        At the finest level, in maps of the first block's width: about 8 for skips and their concatenation, and 16 for
        the widest feed-forward layer with its input; coarser levels need less at a time.
        """
        return (
            24 * int(self.unet_config["block_out_channels"][0]) * height * width * PRECISIONS[self.precision].itemsize
        )

    def _timestep(self, logsnr: Tensor) -> Tensor:
        if self._levels.device != logsnr.device:
            self._levels = self._grid.to(logsnr.device)
        level = (logsnr.to(self._levels.dtype)[:, None] - self._levels).abs().argmin(1)
        # 1e-4 of log-SNR is a hundredth of the finest step of Stable Diffusion's grid.
        if logsnr.device.type == "cpu" and (logsnr - self._levels[level]).abs().max() > 1e-4:
            raise ValueError(f"logsnr: found values off the trained grid, {self._grid[0]:.3f}…{self._grid[-1]:.3f}")
        timestep: Tensor = len(self._grid) - 1 - level
        return timestep

    def _prepared(self, names: tuple[str, ...], hidden: Tensor, pooled: Tensor | None = None) -> Conditions:
        """Conditions from hidden states [K,L,E] and SDXL's pooled text [K,D], with every cross-attention's K and V."""
        encoded: dict[str, Any] = {"hidden": hidden}
        if pooled is not None:
            encoded["pooled"] = pooled
        if self._fused is not None:
            with torch.inference_mode():
                encoded["keys_values"] = self._fused.unet.encode(hidden.to(PRECISIONS[self.precision]))
        return Conditions(names, encoded)

    def _sizes(self, z: Tensor, count: int) -> Tensor:
        """SDXL's size conditioning [K, 6]."""
        height, width = z.shape[-2:]
        return _size_conditioning(height * self.factor, width * self.factor, z.device).expand(count, -1)

    @exact_float32()
    def _predict(self, z: Tensor, t: Tensor, conditions: Conditions) -> Tensor:
        """The UNet's output of all conditions: z [M,C,H,W], t [M] -> [K,M,C,H,W]."""
        if self._fused is None:
            return self._plain(z, t, conditions)
        dtype = PRECISIONS[self.precision]
        encoded = conditions.encoded
        with torch.inference_mode():
            added = None
            if "pooled" in encoded:
                pooled = encoded["pooled"].to(dtype)
                added = self._fused.unet.embed_added(pooled, self._sizes(z, len(pooled)))
            # channels_last: pixels become tokens without a copy, and convolutions take no longer.
            z = z.to(dtype, memory_format=torch.channels_last)
            out: Tensor = self._fused(z, t, encoded["keys_values"], added)
        return out

    def eps_hat(self, z: Tensor, logsnr: Tensor, conditions: Conditions) -> Tensor:
        """z [N,B,C,H,W], logsnr [N] -> ε̂ [N,K,B,C,H,W]; v prediction by ε̂ = √σ(λ) v + √σ(-λ) z."""
        n, b = z.shape[:2]
        t = self._timestep(logsnr).repeat_interleave(b)
        out = self._predict(z.flatten(0, 1), t, conditions)
        out = out.view(-1, n, b, *out.shape[2:]).transpose(0, 1)
        if self.prediction == "epsilon":
            return out
        level = logsnr.double().view(-1, 1, 1, 1, 1, 1)
        eps: Tensor = level.sigmoid().sqrt().float() * out.float() + (-level).sigmoid().sqrt().float() * z[:, None]
        return eps

    @exact_float32()
    def check(self) -> float:
        """Relative difference of the fused path and :meth:`_plain` on small random latents under two conditions."""
        generator = torch.Generator().manual_seed(0)
        side = 2 ** len(self.unet_config["block_out_channels"])
        c = self.unet_config
        z = torch.randn(2, c["in_channels"], side, side, generator=generator).to(self.device)
        t = torch.tensor([10, len(self._grid) // 2], device=self.device)
        hidden = torch.randn(2, 4, c["cross_attention_dim"], generator=generator).to(self.device)
        pooled = None
        if c.get("addition_embed_type"):
            width = c["projection_class_embeddings_input_dim"] - 6 * c["addition_time_embed_dim"]
            pooled = torch.randn(2, width, generator=generator).to(self.device)
        conditions = self._prepared(("", "a"), hidden, pooled)
        ours, theirs = self._predict(z, t, conditions).float(), self._plain(z, t, conditions).float()
        return float((ours - theirs).norm() / theirs.norm())
