"""Reads pictures, captions and masks in the format of COCO (Lin et al., 2014) as :class:`dpid.studies.data.Scene`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dpid.prompts.phrases import span_of
from dpid.prompts.plan import spans_of
from dpid.studies.data import Data, Masks, Reader, Scene, open_picture, read_json, text_of
from dpid.studies.words import one

Groups = defaultdict[Any, list[Any]]


def _masks(objects: Mapping[str, Sequence[Any]]) -> Masks:
    """Masks {concept: bool [H,W]}, the union of its instances, from {concept: compressed run lengths of these}."""
    from pycocotools import mask

    return {concept: mask.decode(mask.merge(list(runs))).astype(bool) for concept, runs in objects.items()}


def _run_lengths(segmentation: Any, height: int, width: int) -> list[Any]:
    """Compressed run lengths of an instance, annotated by polygons or run lengths; ``ValueError`` if it is neither."""
    from pycocotools import mask

    if isinstance(segmentation, dict) and isinstance(segmentation.get("counts"), (str, bytes)):
        runs = [segmentation]
    else:
        try:
            found = mask.frPyObjects(segmentation, height, width)
        except Exception as error:  # the library raises Exception itself
            raise ValueError(f"found {str(segmentation)[:60]}, expected polygons or run lengths ({error})") from error
        runs = found if isinstance(found, list) else [found]
    if any(list(r["size"]) != [height, width] for r in runs):
        raise ValueError(f"its size is {runs[0]['size']}, but the picture has {height}×{width}")
    return runs


def _objects(
    annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, str], size: tuple[int, int]
) -> dict[str, Any]:
    """{category: run lengths of its instances}, the largest area first; ``ValueError`` if there is none."""
    from pycocotools import mask

    runs: dict[str, list[Any]] = defaultdict(list)
    for annotation in annotations:
        if annotation.get("category_id") not in names:
            raise ValueError(f"category_id {annotation.get('category_id')!r} is none of the file's categories")
        runs[names[annotation["category_id"]]] += _run_lengths(annotation.get("segmentation"), *size)
    area = {name: float(mask.area(mask.merge(of))) for name, of in runs.items()}
    if not any(area.values()):
        raise ValueError("is empty")
    return {name: runs[name] for name in sorted(runs, key=lambda name: -area[name]) if area[name]}


def _best_caption(captions: Sequence[str], objects: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The first caption of those that name most of ``objects``, and which it names; ``ValueError`` if none does."""

    def names(caption: str) -> tuple[str, ...]:
        found: list[str] = []
        for name in objects:
            try:
                spans_of(caption, [*found, name])  # fails if the name is not there, or is part of another's
            except ValueError:
                continue
            found.append(name)
        return tuple(sorted(found, key=lambda name: span_of(caption, name)))

    best = max(captions, key=lambda caption: len(names(caption)), default="")
    if not best or not names(best):
        raise ValueError(f"no caption names one of its things: {', '.join(objects)}")
    return best, names(best)


def _made_caption(objects: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """A caption such as "a cat and an umbrella" of the two largest objects, and their names."""
    names = tuple(objects)[:2]
    return " and ".join(map(one, names)), names


def _annotations(instances: Path, captions: Path | None) -> tuple[list[Any], dict[Any, str], Groups, Groups]:
    """The pictures, {id: name} of the categories, and annotations and captions by the id of the picture."""
    content = read_json("instances", instances, dict)
    missing = [part for part in ("images", "annotations", "categories") if not isinstance(content.get(part), list)]
    if missing:
        raise ValueError(f"instances: {instances} has no {', '.join(missing)}")
    annotations, texts = Groups(list), Groups(list)
    entries = read_json("captions", captions, dict).get("annotations", []) if captions else []
    try:
        for annotation in content["annotations"]:
            annotations[annotation.get("image_id")].append(annotation)
        for caption in entries:
            texts[caption["image_id"]].append(" ".join(caption["caption"].split()))
        names = {category["id"]: " ".join(category["name"].split()) for category in content["categories"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"instances, captions: an annotation, category or caption lacks a part ({error!r})") from error
    return content["images"], names, annotations, texts


def read_coco(instances: str | Path, pictures: str | Path, captions: str | Path | None = None) -> Data[Scene]:
    """Pictures of COCO with prompt, concepts and the masks of these. Needs ``pip install "dpid[coco]"``.

    Parameters
    ----------
    instances : annotations with segmentations, such as instances_val2017.json
    pictures : folder of the pictures
    captions : annotations with captions, such as captions_val2017.json. The prompt is the caption that names most
        categories of the picture, and these are the concepts. Without captions the prompt is of the form "a cat and an
        umbrella", with the two categories of the largest area

    Pictures without annotations are skipped. The row number of a problem is the position in the file's ``images``.

    Raises
    ------
    ValueError
        A file cannot be read or lacks a part.
    RuntimeError
        pycocotools is not installed.
    """
    try:
        import pycocotools.mask  # noqa: F401
    except ImportError as error:
        raise RuntimeError(f'instances: read_coco needs pycocotools ({error}); pip install "dpid[coco]"') from error
    images, names, annotations, texts = _annotations(Path(instances), Path(captions) if captions else None)
    reader: Reader[Scene] = Reader()
    for reader.number, entry in enumerate(images, 1):
        instances_of: list[Any] = []
        with reader.column("id"):
            instances_of = annotations[entry.get("id")]
        if not instances_of:
            continue
        with reader.column("file_name"):
            path, (width, height) = open_picture(Path(pictures), text_of(entry, "file_name"))
            named = entry.get("width", width), entry.get("height", height)
            if named != (width, height):  # polygons are in pixels of these
                raise ValueError(f"found a picture of {width}×{height}, annotated at {named[0]}×{named[1]}")
        if reader.good:
            with reader.column("segmentation"):
                objects = _objects(instances_of, names, (height, width))
        if reader.good:
            with reader.column("caption"):
                prompt, concepts = _best_caption(texts[entry["id"]], objects) if captions else _made_caption(objects)
        if reader.good:
            reader.rows.append(
                Scene(path, prompt, concepts, partial(_masks, {c: objects[c] for c in concepts}), reader.number)
            )
    return reader.done()
