"""Qwen-Image (2025): a flow with joint attention to a text of Qwen2.5-VL, and the VAE of a video model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from dpid.denoisers.families.patches import PatchFamily


class QwenImage(PatchFamily):
    """A Qwen-Image pipeline. A text keeps up to 512 tokens after those of its template's head; padding is masked."""

    pipelines = ("QwenImagePipeline", "QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")
    networks = ("QwenImageTransformer2DModel",)
    text = {"encoder_hidden_states": (0, None)}
    mask = (1, None)

    def limit(self, tokenizer: str) -> int:
        """The tokens that the pipeline's call keeps by default, and those of the template that it drops."""
        return 512 + int(self.pipe.prompt_template_encode_start_idx)

    def written(self, tokenizer: str, text: str) -> str:
        """``text`` in its template."""
        return str(self.pipe.prompt_template_encode.format(text))

    def encode_prompt(self, texts: Sequence[str], **more: Any) -> tuple[Any, ...]:
        """The text encoder's last layer [K,L,E] and its mask [K,L], which the pipeline gives only where needed."""
        hidden, mask = super().encode_prompt(texts, **more)
        return hidden, hidden.new_ones(hidden.shape[:2]) if mask is None else mask

    def told(self, sigma: Tensor) -> Tensor:
        """σ after the network has rounded it to the type of its weights."""
        return sigma.to(self.net.dtype).float()

    def inputs(self, x: Tensor, t: Tensor, encoded: Mapping[str, Tensor]) -> dict[str, Any]:
        """The network's keyword arguments, with the picture's numbers of frames, rows and columns of patches."""
        shapes = [[(1, x.shape[-2] // 2, x.shape[-1] // 2)]] * len(x)
        return {**super().inputs(x, t, encoded), "img_shapes": shapes}

    @property
    def factor(self) -> int:
        """The side of a latent pixel in pixels."""
        return int(2 ** len(self.vae_config["temperal_downsample"]))

    def mode(self, image: Tensor) -> Tensor:
        """The mode [B,C,h,w] of the VAE's posterior for pixels [B,3,H,W], which are a video of one frame to it."""
        return super().mode(image[:, :, None])[:, :, 0]

    def normalise(self, mode: Tensor) -> Tensor:
        """The network's latents [B,C,h,w]: the VAE's latents ``mode``, standardised by channel."""
        return self.standardised(mode)
