"""Reads the user's pictures for studies: from a CSV, or with pairs of captions as in ARO.

:mod:`dpid.studies.coco` reads COCO's format. A row that cannot be used is left out and reported with its number and
column; a file that cannot be read raises ``ValueError``.

>>> from dpid.studies.data import read_scenes
>>> data = read_scenes("pictures/index.csv")
>>> for problem in data.problems: print(problem)
row 7, column mask: masks/x.png does not exist
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from dpid.checks import found
from dpid.images import FORMATS, SMALLEST, open_image
from dpid.prompts.plan import spans_of

Masks = dict[str, NDArray[np.bool_]]
Row = TypeVar("Row")


@dataclass(frozen=True)
class Problem:
    """Why a row of the user's data is left out.

    ``row`` is its number as a spreadsheet counts, the header being row 1; in a file without header the first row is 1.
    """

    row: int
    column: str
    message: str

    def __str__(self) -> str:
        return f"row {self.row}" + (f", column {self.column}" if self.column else "") + f": {self.message}"

    @classmethod
    def of(cls, row: int, column: str, error: Exception) -> Problem:
        """The problem that ``error`` describes; without ``column``, in the one that its message begins with."""
        message = " ".join(str(error).split()) or type(error).__name__
        name, mark, rest = message.partition(": ")
        return cls(row, column or name, rest) if mark and name in _COLUMNS else cls(row, column, message)


_MORE = "\n"  # key of the cells beyond the header; no column can have this name
_COLUMNS = ("image", "prompt", "concepts", "mask", "true", "false")


@dataclass(frozen=True)
class Data(Generic[Row]):
    """The rows that can be used, and the problems of the others."""

    rows: tuple[Row, ...]
    problems: tuple[Problem, ...]


@dataclass(frozen=True)
class Scene:
    """A picture, its prompt, and the concepts of the prompt.

    Attributes
    ----------
    masks : function that reads {concept: bool [H,W]}, the pixels that show the concept; of none, some or all concepts
    row : row number in the file, as in :class:`Problem`; 0 if it was not read from a file
    """

    image: Path
    prompt: str
    concepts: tuple[str, ...]
    masks: Callable[[], Masks] = dict
    row: int = 0


@dataclass(frozen=True)
class CaptionPair:
    """A picture with a true and a false caption.

    ``box`` (left, top, right, bottom) is the part of the picture that the captions describe, None for all of it;
    ``row`` as in :class:`Scene`.
    """

    image: Path
    true: str
    false: str
    box: tuple[int, int, int, int] | None = None
    row: int = 0

    def open(self) -> Image.Image:
        """The picture in RGB, cropped to ``box``."""
        opened = open_image(self.image)
        return opened if self.box is None else opened.crop(self.box)


@dataclass
class Reader(Generic[Row]):
    """Collects the usable rows and the problems of a file; ``number`` is that of the current row."""

    rows: list[Row] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    number: int = 0

    @contextmanager
    def column(self, name: str) -> Iterator[None]:
        """A context in which an error becomes a problem of column ``name`` in row ``number``.

        Files of users can be wrong in any way, so that many kinds of errors are caught.
        """
        try:
            yield
        except (ValueError, TypeError, OSError, ArithmeticError, LookupError, AttributeError) as error:
            self.problems.append(Problem.of(self.number, name, error))

    def surplus(self, row: Mapping[str, Any]) -> bool:
        """Whether ``row`` has more cells than there are columns, so that its texts are shifted: a problem."""
        if row.get(_MORE):
            self.problems.append(
                Problem(self.number, "", "has more cells than the first row; put texts with commas in quotes")
            )
        return bool(row.get(_MORE))

    @property
    def good(self) -> bool:
        """Whether row ``number`` has no problem so far."""
        return not self.problems or self.problems[-1].row != self.number

    def done(self) -> Data[Row]:
        """The collected rows and problems."""
        return Data(tuple(self.rows), tuple(self.problems))


# -- files


def _read(argument: str, path: Path) -> str:
    """The text of a UTF-8 file; ``ValueError`` names the argument."""
    try:
        return path.read_text(encoding="utf-8-sig")  # spreadsheets write a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{argument}: {path} cannot be read ({error})") from error


def read_json(argument: str, path: Path, kind: type, more: str = "") -> Any:
    """The content of a JSON file, which is a ``kind``; ``ValueError``, naming the argument, otherwise.

    ``more``: what the error of a file that is not JSON ends with.
    """
    text = _read(argument, path)
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{argument}: {path} is not JSON ({error}){more}") from error
    if not isinstance(content, kind):
        raise ValueError(f"{argument}: {path} holds a {type(content).__name__}, expected a {kind.__name__}")
    return content


def _read_csv(argument: str, path: Path, columns: Sequence[str]) -> list[tuple[int, dict[str, str]]]:
    """(row number, {column: stripped cell}) of every row that is not blank; cells beyond the header under ``_MORE``.

    ``ValueError``, naming the argument, if one of ``columns`` is missing.
    """
    try:
        lines = list(csv.reader(io.StringIO(_read(argument, path), newline=""), skipinitialspace=True))
    except csv.Error as error:
        raise ValueError(f"{argument}: {path} is not CSV ({error})") from error
    header = [name.strip() for name in lines[0]] if lines else []
    missing = [name for name in columns if name not in header]
    if missing:
        first = found(", ".join(header)) if header else "empty"
        raise ValueError(f"{argument}: {path} has no column {', '.join(missing)}; its first row is {first}")
    rows = []
    for n, line in enumerate(lines[1:], 2):
        cells = [cell.strip() for cell in line]
        if any(cells):
            rows.append(
                (n, dict(zip(header, cells, strict=False)) | {_MORE: " ".join(filter(None, cells[len(header) :]))})
            )
    return rows


def text_of(row: Mapping[str, Any], *names: str) -> str:
    """The text in the first of the columns ``names`` that is not empty; ``ValueError`` if there is none."""
    value = next((row[name] for name in names if row.get(name)), None)
    if not isinstance(value, str):
        raise ValueError("is empty" if value is None else f"found {value!r}, expected a text")
    return value


def open_picture(folder: Path, cell: str) -> tuple[Path, tuple[int, int]]:
    """Path and (width, height) of the picture ``cell`` in ``folder``; ``ValueError`` if it cannot be opened."""
    path = folder / cell
    if not path.is_file():
        raise ValueError(f"{cell} does not exist")
    return path, open_image(path).size


# -- a folder with a CSV


def _labels(path: Path) -> NDArray[Any]:
    """The pixel values [H,W] of a mask file; ``ValueError`` if it is no picture of one channel."""
    try:
        with Image.open(path, formats=FORMATS) as opened:
            labels = np.asarray(opened)
    except Exception as error:  # Pillow's readers raise many kinds
        raise ValueError(f"cannot be read as a picture ({error})") from error
    if labels.ndim != 2:
        raise ValueError(f"found {labels.shape[-1]} channels, expected one: labels, or zero and non-zero")
    return labels


def _masks_from_labels(path: Path, concepts: tuple[str, ...]) -> Masks:
    """Masks {concept: bool [H,W]} of a file whose labels 1…n are the concepts in order; ``ValueError`` if it is wrong.

    Of one concept, or with a single value that is larger than n, all that is not zero is the first concept's mask.
    """
    labels = _labels(path)
    values = [int(v) for v in np.unique(labels) if v]
    if not values:
        raise ValueError("is zero everywhere")
    if len(concepts) == 1 or (len(values) == 1 and values[0] > len(concepts)):
        return {concepts[0]: labels != 0}
    if values[-1] > len(concepts):
        shown = ", ".join(map(str, values[:5])) + ("…" if len(values) > 5 else "")
        raise ValueError(f"found the labels {shown}, expected 1…{len(concepts)}, in the order of the concepts")
    return {concepts[v - 1]: labels == v for v in values}


def _scene_masks(folder: Path, cell: str, concepts: tuple[str, ...], size: tuple[int, int]) -> Callable[[], Masks]:
    """A function that reads the masks; ``ValueError`` if the file is missing, or does not fit concepts and picture."""
    path = folder / cell
    if not path.is_file():
        raise ValueError(f"{cell} does not exist")
    height, width = next(iter(_masks_from_labels(path, concepts).values())).shape
    if (width, height) != size:
        raise ValueError(f"{cell} has {width}×{height} pixels, but the picture has {size[0]}×{size[1]}")
    return partial(_masks_from_labels, path, concepts)


def read_scenes(path: str | Path) -> Data[Scene]:
    """The pictures that a CSV lists in the columns image, prompt, concepts and, optionally, mask.

    Paths are relative to the CSV's folder. Concepts are phrases of the prompt, separated by ";". A mask is a PNG of one
    channel and of the picture's size, whose pixels with value k show the k-th concept. With a single concept, or a
    single value that is larger than the number of concepts, all pixels that are not zero show the first concept.

    Raises
    ------
    ValueError
        The file cannot be read, or lacks a column.
    """
    path = Path(path)
    reader: Reader[Scene] = Reader()
    for reader.number, row in _read_csv("path", path, ("image", "prompt", "concepts")):
        if reader.surplus(row):
            continue
        masks: Callable[[], Masks] = dict
        with reader.column("image"):
            image, size = open_picture(path.parent, text_of(row, "image"))
        with reader.column("prompt"):
            prompt = text_of(row, "prompt")
        with reader.column("concepts"):
            concepts = tuple(c.strip() for c in text_of(row, "concepts").split(";") if c.strip())
            if row.get("prompt"):
                spans_of(row["prompt"], concepts)  # refuses concepts that are not phrases of the prompt
        if reader.good and row.get("mask"):
            with reader.column("mask"):
                masks = _scene_masks(path.parent, row["mask"], concepts, size)
        if reader.good:
            reader.rows.append(Scene(image, prompt, concepts, masks, reader.number))
    return reader.done()


# -- pairs of captions


def _box(row: Mapping[str, Any], size: tuple[int, int]) -> tuple[int, int, int, int] | None:
    """The bounding box (left, top, right, bottom) of a row, within the picture; None if it has none.

    ``ValueError`` unless it is of whole numbers, overlaps the picture and is large enough.
    """
    names = ("bbox_x", "bbox_y", "bbox_w", "bbox_h")
    if not any(name in row for name in names):
        return None
    try:
        x, y, w, h = (int(row[name]) for name in names)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"expected whole numbers {', '.join(names)} ({error!r})") from error
    box = (max(x, 0), max(y, 0), min(x + w, size[0]), min(y + h, size[1]))
    if box[0] >= box[2] or box[1] >= box[3]:
        raise ValueError(f"found ({x}, {y}, {w}, {h}), outside a picture of {size[0]}×{size[1]} pixels")
    if min(box[2] - box[0], box[3] - box[1]) < SMALLEST:
        raise ValueError(f"found ({x}, {y}, {w}, {h}), expected at least {SMALLEST} pixels a side")
    return box


def read_pairs(path: str | Path, pictures: str | Path | None = None) -> Data[CaptionPair]:
    """The pictures of a file, each with a true and a false caption, as in ARO (Yuksekgonul et al., 2023).

    Parameters
    ----------
    path : JSON, a list of {"image_path", "true_caption", "false_caption"}, optionally with "bbox_x", "bbox_y", "bbox_w"
        and "bbox_h" in pixels; or CSV with the columns image, true, false. These names are accepted in JSON too
    pictures : folder of the pictures; by default that of ``path``

    Raises
    ------
    ValueError
        The file cannot be read, is no list, or lacks a column.
    """
    path = Path(path)
    folder = path.parent if pictures is None else Path(pictures)
    table: Sequence[tuple[int, Any]]
    if path.suffix.lower() == ".csv":
        table = _read_csv("path", path, ("image", "true", "false"))
    else:
        table = list(enumerate(read_json("path", path, list, "; a table in CSV is a file named .csv"), 1))
    reader: Reader[CaptionPair] = Reader()
    for reader.number, row in table:
        if not isinstance(row, dict):
            reader.problems.append(Problem(reader.number, "image", f"found {row!r}, expected an object"))
            continue
        if reader.surplus(row):
            continue
        box = None
        with reader.column("image"):
            image, size = open_picture(folder, text_of(row, "image", "image_path"))
        with reader.column("true"):
            true = text_of(row, "true", "true_caption")
        with reader.column("false"):
            false = text_of(row, "false", "false_caption")
            if false == row.get("true", row.get("true_caption")):
                raise ValueError("is the true caption")
        if reader.good:
            with reader.column("bbox"):
                box = _box(row, size)
        if reader.good:
            reader.rows.append(CaptionPair(image, true, false, box, reader.number))
    return reader.done()
