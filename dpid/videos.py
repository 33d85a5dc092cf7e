"""Reads videos of the kinds that a user may pass: folders and lists of pictures, animations, arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from dpid import images
from dpid.files import as_path
from dpid.images import FORMATS, ImageLike, open_image, to_pixels

VideoLike = str | os.PathLike[str] | Image.Image | np.ndarray | Tensor | Sequence[ImageLike]
_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")


def open_video(video: VideoLike, count: int) -> list[Image.Image]:
    """The first ``count`` frames of a video as RGB pictures of one size.

    It may be a folder of pictures (in the order of their names, numbers as numbers), an animation (GIF, WebP, APNG) as
    a file or PIL image, a sequence of anything that :func:`dpid.images.open_image` takes, or an array or tensor
    [F,H,W,3], uint8 or float in [0, 1].

    Raises
    ------
    ValueError
        There are fewer frames, they differ in size, or one is no picture that the model can be given.
    TypeError
        ``video`` or a frame is none of the kinds above.
    """
    listed = _frames(video, count)
    if len(listed) < count:
        raise ValueError(
            f"image: found {len(listed)} frame{'s' * (len(listed) != 1)}, the model is asked for {count} (in a folder, "
            "list, array or animation); ask it for fewer by frames"
        )
    frames = [open_image(frame) for frame in listed]
    if len(sizes := {frame.size for frame in frames}) > 1:
        known = ", ".join(f"{width}×{height}" for width, height in sorted(sizes)[:3])
        raise ValueError(f"image: found frames of {known} pixels, expected all of one size")
    return frames


def read(image: ImageLike | VideoLike, denoiser: Any) -> Tensor:
    """The pixels at the model's size, uint8 [H,W,3], of a model of videos [F,H,W,3]; errors as of opening it."""
    if denoiser.frames is None:
        return images.pixels_of(image, denoiser)  # type: ignore[arg-type]  # which refuses a video
    opened = open_video(image, denoiser.frames)
    size = denoiser.size_for(*opened[0].size)
    return torch.stack([to_pixels(frame, size) for frame in opened])


def encode(pixels: Tensor, denoiser: Any) -> Tensor:
    """Latents [B,C,h,w] of what :func:`read` read, stacked [B,…], of videos [B,C,T·h,w]."""
    if denoiser.frames is None:
        return images.encode_pixels(pixels, denoiser)
    latents: Tensor = denoiser.encode_image(pixels.permute(0, 4, 1, 2, 3).float() / 127.5 - 1)
    return latents


def shown(pixels: Tensor, denoiser: Any) -> Tensor:
    """The picture of ``pixels`` that a result has: of a video [F,H,W,3] a frame for every frame of latents [T,H,W,3].

    Every frame of latents but the first stands for as many frames, of which the last is shown.
    """
    if denoiser.frames is None:
        return pixels
    return pixels[torch.linspace(0, len(pixels) - 1, denoiser.latent_frames).round().long()]


def _frames(video: Any, count: int) -> list[Any]:
    """At most ``count`` frames of ``video``, each as it is."""
    if isinstance(video, (str, os.PathLike)):
        path = as_path(video, "image")
        if path.is_dir():
            return _pictures_in(path)[:count]
        open_image(path)  # refuses what is no file or no picture
        with Image.open(path, formats=FORMATS) as opened:
            return _of_animation(opened, count)
    if isinstance(video, Image.Image):
        return _of_animation(video, count)
    if isinstance(video, (np.ndarray, Tensor)):
        if video.ndim != 4 or video.shape[-1] != 3:
            raise ValueError(f"image: found {video.dtype} {tuple(video.shape)}, expected a video [F, H, W, 3]")
        frames = video[:count]
        if isinstance(frames, np.ndarray):
            frames = torch.from_numpy(np.ascontiguousarray(frames))  # torch takes no negative strides, as of BGR
        return list(frames.movedim(-1, 1))
    if isinstance(video, Sequence):
        return list(video[:count])
    raise TypeError(f"image: found {type(video).__name__}, expected a folder, file, list of pictures or array")


def _of_animation(opened: Image.Image, count: int) -> list[Image.Image]:
    """Copies of the first ``count`` frames of an animation, which stays where it is, or the one of a picture."""
    at = opened.tell()
    try:
        frames = [frame.copy() for frame in islice(ImageSequence.Iterator(opened), count)]
        opened.seek(at)
    except (OSError, SyntaxError) as error:  # Pillow cannot read an animated PNG twice
        raise ValueError(
            f"image: its frames cannot be read ({error}); open the file again, or give its path"
        ) from error
    return frames


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures in ``folder``, "9.png" before "10.png"."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)])
