"""Reads pictures of the kinds that a user may pass, checks them, and resizes them for a model."""

from __future__ import annotations

import os
import warnings
from contextlib import suppress
from dataclasses import InitVar, dataclass, field
from hashlib import sha256
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from dpid.checks import text
from dpid.files import as_path

SMALLEST = 8  # pixels a side
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP")  # Pillow reads others by large libraries, or by Ghostscript
_VIDEOS = (".mp4", ".m4v", ".mov", ".avi", ".mkv", ".webm", ".mpg", ".mpeg", ".wmv")
ImageLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor


def _from_array(array: Any) -> Image.Image:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8 or not array.size:
        raise ValueError(
            f"image: found {array.dtype} {tuple(array.shape)}, expected uint8 [H, W, 3] of 0…255; a "
            "tensor may be [3, H, W] and float in [0, 1]"
        )
    return Image.fromarray(np.ascontiguousarray(array))


def _from_tensor(tensor: Tensor) -> Image.Image:
    scaled = tensor.is_floating_point()
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel() or not (scaled or tensor.dtype == torch.uint8):
        raise ValueError(
            f"image: found a tensor {tuple(tensor.shape)} {tensor.dtype}, expected [3, H, W], uint8 or float in [0, 1]"
        )
    _check_values("image", tensor)
    if scaled:
        if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError("image: found a float tensor with values outside [0, 1]")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return _from_array(tensor.permute(1, 2, 0).cpu().numpy())


def _check_values(name: str, tensor: Tensor) -> None:
    if tensor.is_meta or tensor.layout != torch.strided:
        raise ValueError(f"{name}: found a tensor {tensor.layout} on {tensor.device}, expected one with its values")


def _from_file(image: str | os.PathLike[str]) -> Image.Image:
    if "://" in os.fspath(image):
        raise ValueError(f"image: found the address {image}, expected a file; nothing is fetched from the network")
    path = as_path(image, "image")
    if not path.is_file():
        raise ValueError(
            f"image: {path} {'is a folder and cannot be read as a picture' if path.is_dir() else 'does not exist'}"
        )
    try:
        with Image.open(path, formats=FORMATS) as opened:
            return opened.copy()
    except Exception as error:  # PIL's readers raise many kinds
        if path.suffix.lower() in _VIDEOS:
            raise ValueError(
                f"image: {path} is a video, which is not decoded; a model of videos takes its frames: a folder of "
                "pictures, a GIF, WebP or animated PNG, or in Python a list or array"
            ) from error
        raise ValueError(f"image: {path} cannot be read as a picture ({error}); give a PNG, JPEG or WebP") from error


def open_image(image: ImageLike) -> Image.Image:
    """An RGB picture from a path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; turned as its EXIF data says.

    A tensor may also be float in [0, 1]. Of an animation the first picture is used.

    Raises
    ------
    ValueError
        The picture is missing, unreadable, truncated, transparent, smaller than 8 pixels a side, or of more than 8 bits
        a channel.
    TypeError
        ``image`` is none of the kinds above.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # damaged EXIF data and the like are harmless
        return _flat(_opened(image))


def _opened(image: Any) -> Image.Image:
    if isinstance(image, (str, os.PathLike)):
        return _from_file(image)
    if isinstance(image, Image.Image):
        try:
            image.load()
        except Exception as error:  # as above
            raise ValueError(f"image: cannot be read as a picture ({error})") from error
        return image
    if isinstance(image, np.ndarray):
        return _from_array(image)
    if isinstance(image, Tensor):
        return _from_tensor(image)
    more = ""
    if isinstance(image, bytes) or hasattr(image, "read"):
        more = "; PIL.Image.open reads files and io.BytesIO"
    elif isinstance(image, (list, tuple)):
        more = "; several pictures are for explain_many, words_many and log_likelihoods"
    raise TypeError(f"image: found {type(image).__name__}, expected a path, PIL image, uint8 array or tensor{more}")


def _flat(opened: Image.Image) -> Image.Image:
    """``opened`` as RGB, turned as its EXIF data says; ``ValueError`` as in :func:`open_image`."""
    if opened.mode[0] in "IF":  # of unknown scale: a conversion to RGB would clip it
        raise ValueError(f"image: found pixels of mode {opened.mode!r}, expected 8 bits a channel; scale them to 0…255")
    with suppress(Exception):  # unreadable EXIF data
        opened = ImageOps.exif_transpose(opened)
    if min(opened.size) < SMALLEST:
        raise ValueError(f"image: found {opened.width}×{opened.height} pixels, expected at least {SMALLEST} a side")
    try:
        clear = opened.has_transparency_data and np.asarray(opened.convert("RGBA"))[..., 3].min() < 255
        picture = opened.convert("RGB")
    except Exception as error:  # PIL cannot convert every mode
        raise ValueError(
            f"image: found pixels of mode {opened.mode!r}, which do not turn into RGB ({error})"
        ) from error
    if clear:
        raise ValueError("image: has transparent pixels; flatten it onto a background first, the model has seen none")
    return picture


def to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """The pixels uint8 [H,W,3] of ``image``, resized to ``size`` = (width, height)."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image))


def pixels_of(image: ImageLike, denoiser: Any) -> Tensor:
    """The pixels uint8 [H,W,3] of ``image`` at the size of ``denoiser``; errors as of :func:`open_image`."""
    opened = open_image(image)
    return to_pixels(opened, denoiser.size_for(*opened.size))


def encode_pixels(pixels: Tensor, denoiser: Any) -> Tensor:
    """Latents [B,C,h,w] of ``pixels`` uint8 [B,H,W,3]; ``ValueError`` if the denoiser has no image encoder."""
    latents: Tensor = denoiser.encode_image(pixels.permute(0, 3, 1, 2).float() / 127.5 - 1)
    return latents


def check_latents(latents: Any, denoiser: Any) -> Tensor:
    """``latents`` [C,h,w], those of a video [C,T·h,w]; ``ValueError`` unless ``denoiser`` accepts their type and shape.

    Those of a video are given as [C,T,h,w].
    """
    frames = denoiser.latent_frames
    expected = "[C,h,w]" if frames is None else "[C,T,h,w]"
    if not isinstance(latents, Tensor):
        raise ValueError(f"latents: found {type(latents).__name__}, expected a torch.Tensor {expected}")
    if not latents.is_floating_point():
        raise ValueError(f"latents: found {latents.dtype}, expected float32 or another type of floating-point numbers")
    _check_values("latents", latents)
    if latents.ndim != (3 if frames is None else 4) or not latents.numel():
        raise ValueError(f"latents: found {tuple(latents.shape)}, expected {expected}, none of them zero")
    if frames is not None and latents.shape[1] != frames:
        raise ValueError(
            f"latents: found {latents.shape[1]} frames, the model is asked for {frames}; make the explainer with "
            "another number, frames=…"
        )
    native = denoiser.latent_shape
    if native is not None and len(latents) != native[0]:
        raise ValueError(f"latents: found {len(latents)} channels, the model has {native[0]}")
    if native is not None and not denoiser.any_size and latents.shape != native:
        raise ValueError(f"latents: found {tuple(latents.shape)}, the model has {tuple(native)}")
    if native is not None and any(side % denoiser.patch for side in latents.shape[-2:]):
        raise ValueError(
            f"latents: found {latents.shape[-2]}×{latents.shape[-1]} pixels, expected multiples of {denoiser.patch}"
        )
    return latents.flatten(1, -2)


@dataclass(frozen=True)
class ImageCondition:
    """A picture as a condition, by itself or beside a text, for a model with an IP-Adapter.

    Two are equal if all pixels and the texts are. Errors as of :func:`open_image`; also ``TypeError`` for what is no
    text.

    Parameters
    ----------
    image : anything that :func:`open_image` takes
    text : the text beside it

    Attributes
    ----------
    picture : the RGB picture
    digest : of its pixels
    """

    image: InitVar[ImageLike]
    text: str = ""
    picture: Image.Image = field(init=False, repr=False, compare=False)
    digest: str = field(init=False)

    def __post_init__(self, image: ImageLike) -> None:
        picture = open_image(image)
        object.__setattr__(self, "text", text("text", self.text))
        object.__setattr__(self, "picture", picture)
        object.__setattr__(self, "digest", sha256(repr(picture.size).encode() + picture.tobytes()).hexdigest())

    def __str__(self) -> str:
        picture = f"picture {self.digest[:12]}"
        return f"{self.text} + {picture}" if self.text.strip() else picture
