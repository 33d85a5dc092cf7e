"""Draws scenes from the drawings of all pictures, which are kept in one file, so that no emoji font is needed.

``python -m dpid.zoo.emoji.sprites`` writes that file anew; it needs the font, see :func:`sprite`.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from dpid.zoo.emoji.scenes import PICTURES, SIZE, SPRITE, Scene

SHEET = Path(__file__).parent / "sprites.png"
FONT = Path("/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf")  # Debian: fonts-noto-color-emoji
_COLUMNS = 25


def draw(scene: Scene) -> tuple[np.ndarray, np.ndarray]:
    """Pixels uint8 [64,64,3] and masks bool [pictures,64,64] of a scene."""
    image = Image.new("RGB", (SIZE, SIZE), scene.background)
    masks = np.zeros((len(scene.pictures), SIZE, SIZE), dtype=bool)
    for mask, picture, (x, y) in zip(masks, scene.pictures, scene.corners, strict=True):
        drawing = read()[picture]
        image.paste(drawing, (x, y), drawing)
        mask[y : y + SPRITE, x : x + SPRITE] = np.asarray(drawing)[..., 3] > 127
    return np.asarray(image), masks


@cache
def read() -> Mapping[str, Image.Image]:
    """{picture: drawing}, RGBA, SPRITE × SPRITE pixels."""
    with Image.open(SHEET) as sheet:
        return {
            picture: sheet.crop((*corner, corner[0] + SPRITE, corner[1] + SPRITE)) for picture, corner in _corners()
        }


def sprite(picture: str) -> Image.Image:
    """The drawing of ``picture``, RGBA, SPRITE × SPRITE pixels, from the Noto Color Emoji font.

    ``FileNotFoundError`` without the font; ``RuntimeError`` without libraqm, or if the font has no such emoji.
    """
    if not FONT.exists():
        raise FileNotFoundError(f"{FONT} is missing: install Debian's fonts-noto-color-emoji")
    if not features.check("raqm"):
        raise RuntimeError("Pillow was built without RAQM: emoji sequences of people cannot be drawn")
    font = ImageFont.truetype(str(FONT), 109, layout_engine=ImageFont.Layout.RAQM)
    image = Image.new("RGBA", (136, 128))
    ImageDraw.Draw(image).text((0, 0), PICTURES[picture].emoji, font=font, embedded_color=True)
    box = image.getbbox()
    if box is None:
        raise RuntimeError(f"the font has no drawing for {picture!r}")
    image = image.crop(box)
    scale = SPRITE / max(image.size)
    image = image.resize(
        (max(1, round(image.width * scale)), max(1, round(image.height * scale))), Image.Resampling.LANCZOS
    )
    square = Image.new("RGBA", (SPRITE, SPRITE))
    square.paste(image, ((SPRITE - image.width) // 2, (SPRITE - image.height) // 2))
    return square


def write(path: Path) -> None:
    """Draw all pictures from the font into a PNG at ``path``."""
    rows = -(-len(PICTURES) // _COLUMNS)
    sheet = Image.new("RGBA", (_COLUMNS * SPRITE, rows * SPRITE))
    for picture, corner in _corners():
        sheet.paste(sprite(picture), corner)
    sheet.save(path, optimize=True)


def _corners() -> list[tuple[str, tuple[int, int]]]:
    """Every picture and the corner (x, y) of its drawing in the file."""
    return [(picture, (i % _COLUMNS * SPRITE, i // _COLUMNS * SPRITE)) for i, picture in enumerate(PICTURES)]


if __name__ == "__main__":
    write(SHEET)
