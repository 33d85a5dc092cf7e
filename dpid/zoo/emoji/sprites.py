"""The drawings of all pictures in one file, so that scenes can be made without the font they come from.

``python -m dpid.zoo.emoji.sprites`` writes the file anew; it needs the font (see :func:`scenes.sprite`).
"""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from dpid.zoo.emoji.scenes import PICTURES, SPRITE, sprite

SHEET = Path(__file__).parent / "sprites.png"
_COLUMNS = 25


def read() -> dict[str, Image.Image]:
    """The RGBA drawing, SPRITE × SPRITE, of every picture."""
    with Image.open(SHEET) as sheet:
        return {
            picture: sheet.crop((*corner, corner[0] + SPRITE, corner[1] + SPRITE)) for picture, corner in _corners()
        }


def write(path: Path) -> None:
    """Draw all pictures from the font into one PNG."""
    rows = -(-len(PICTURES) // _COLUMNS)
    sheet = Image.new("RGBA", (_COLUMNS * SPRITE, rows * SPRITE))
    for picture, corner in _corners():
        sheet.paste(sprite(picture), corner)
    sheet.save(path, optimize=True)


def _corners() -> list[tuple[str, tuple[int, int]]]:
    return [(picture, (i % _COLUMNS * SPRITE, i // _COLUMNS * SPRITE)) for i, picture in enumerate(PICTURES)]


if __name__ == "__main__":
    write(SHEET)
