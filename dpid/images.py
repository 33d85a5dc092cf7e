"""Pictures in, pixels out."""

from __future__ import annotations

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

SMALLEST = 8  # pixels a side: less holds no picture
ImageLike = str | Path | Image.Image | np.ndarray | Tensor


def _from_array(array: Any) -> Image.Image:
    if array.ndim != 3 or array.shape[-1] != 3 or array.dtype != np.uint8:
        raise ValueError(f"image: found {array.dtype} {tuple(array.shape)}, expected uint8 [H, W, 3]")
    return Image.fromarray(array)


def _from_tensor(tensor: Tensor) -> Image.Image:
    if tensor.ndim != 3 or tensor.shape[0] != 3 or not tensor.numel():
        raise ValueError(f"image: found a tensor {tuple(tensor.shape)}, expected [3, H, W], uint8 or float in [0, 1]")
    if tensor.is_floating_point():
        if not (tensor.isfinite().all() and tensor.min() >= 0 and tensor.max() <= 1):
            raise ValueError("image: found a float tensor with values outside [0, 1]")
        tensor = (tensor.float() * 255).round().to(torch.uint8)
    return _from_array(tensor.permute(1, 2, 0).cpu().numpy())


def open_image(image: ImageLike) -> Image.Image:
    """An RGB picture from a path, PIL image, uint8 array [H,W,3] or tensor [3,H,W]; turned as its EXIF data says.

    Raises
    ------
    ValueError
        Missing, unreadable, truncated, transparent, tiny, or of more than 8 bits a channel.
    TypeError
        None of the kinds above.
    """
    if isinstance(image, (str, Path)):
        try:
            with Image.open(image) as opened_file:
                opened: Image.Image = opened_file.copy()
        except FileNotFoundError as error:
            raise ValueError(f"image: {image} does not exist") from error
        except (UnidentifiedImageError, OSError, SyntaxError, Image.DecompressionBombError) as error:
            raise ValueError(
                f"image: {image} cannot be read as a picture ({error}); give a PNG, JPEG or WebP"
            ) from error
    elif isinstance(image, Image.Image):
        try:
            image.load()
        except (OSError, SyntaxError) as error:
            raise ValueError(f"image: cannot be read as a picture ({error})") from error
        opened = image
    elif isinstance(image, np.ndarray):
        opened = _from_array(image)
    elif isinstance(image, Tensor):
        opened = _from_tensor(image)
    else:
        raise TypeError(f"image: found {type(image).__name__}, expected a path, PIL image, uint8 array or tensor")
    if opened.mode[0] in "IF":  # whose scale nothing tells: conversion to RGB would clip it
        raise ValueError(f"image: found pixels of mode {opened.mode!r}, expected 8 bits a channel; scale them to 0…255")
    with suppress(SyntaxError, ValueError, TypeError, KeyError, struct.error):  # EXIF data that cannot be read
        opened = ImageOps.exif_transpose(opened)
    if min(opened.size) < SMALLEST:
        raise ValueError(f"image: found {opened.width}×{opened.height} pixels, expected at least {SMALLEST} a side")
    if opened.has_transparency_data and np.asarray(opened.convert("RGBA"))[..., 3].min() < 255:
        raise ValueError("image: has transparent pixels; flatten it onto a background first, the model has seen none")
    return opened.convert("RGB")


def to_pixels(image: Image.Image, size: tuple[int, int]) -> Tensor:
    """uint8 [H,W,3] of ``image`` brought to ``size`` = (width, height)."""
    if image.size != size:
        image = image.resize(size, Image.Resampling.LANCZOS)
    return torch.from_numpy(np.array(image))


def encode(image: ImageLike, denoiser: Any) -> tuple[Tensor, Tensor]:
    """``image`` as ``denoiser`` sees it, uint8 [H,W,3], and its latents [1,C,h,w]; raises as :func:`open_image`."""
    opened = open_image(image)
    picture = to_pixels(opened, denoiser.size_for(*opened.size))
    return picture, denoiser.encode_image(picture.permute(2, 0, 1)[None] / 127.5 - 1)
