"""Reads videos of the kinds that a user may pass: folders and lists of pictures, animations, arrays."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageSequence
from torch import Tensor

from dpid.files import as_path
from dpid.images import ImageLike, open_image, to_pixels

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


def encode_video(video: VideoLike, denoiser: Any) -> tuple[Tensor, Tensor]:
    """A frame of ``video`` for every frame of its latents, uint8 [T,H,W,3], and these latents [1,C,T·h,w].

    Frames are resized to the model's size. Errors as of :func:`open_video`.
    """
    opened = open_video(video, denoiser.frames)
    size = denoiser.size_for(*opened[0].size)
    pixels = torch.stack([to_pixels(frame, size) for frame in opened])
    latents = denoiser.encode_image(pixels.permute(3, 0, 1, 2)[None].float() / 127.5 - 1)
    # Every frame of latents but the first stands for as many frames, of which the last is shown.
    shown = torch.linspace(0, len(opened) - 1, denoiser.latent_frames).round().long()
    return pixels[shown], latents


def _frames(video: Any, count: int) -> list[Any]:
    """At most ``count`` frames of ``video``, each as it is."""
    if isinstance(video, (str, os.PathLike)):
        path = as_path(video, "image")
        if path.is_dir():
            return _pictures_in(path)[:count]
        open_image(path)  # refuses what is no file or no picture
        with Image.open(path) as opened:
            return _of_animation(opened, count)
    if isinstance(video, Image.Image):
        return _of_animation(video, count)
    if isinstance(video, (np.ndarray, Tensor)):
        if video.ndim != 4 or video.shape[-1] != 3:
            raise ValueError(f"image: found {video.dtype} {tuple(video.shape)}, expected a video [F, H, W, 3]")
        return list(torch.as_tensor(video[:count]).movedim(-1, 1))
    if isinstance(video, Sequence):
        return list(video[:count])
    raise TypeError(f"image: found {type(video).__name__}, expected a folder, file, list of pictures or array")


def _of_animation(opened: Image.Image, count: int) -> list[Image.Image]:
    """Copies of the first ``count`` frames of an animation, or the one of a picture."""
    return [frame.copy() for frame, _ in zip(ImageSequence.Iterator(opened), range(count), strict=False)]


def _pictures_in(folder: Path) -> list[Path]:
    """The pictures in ``folder``, "9.png" before "10.png"."""
    found = [path for path in folder.iterdir() if path.suffix.lower() in _SUFFIXES]
    return sorted(found, key=lambda path: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", path.name)])
