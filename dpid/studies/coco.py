"""Pictures of COCO (Lin et al., 2014), or of any annotations in its format, as :class:`dpid.studies.data.Scene`."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from dpid.prompts.phrases import span_of
from dpid.prompts.plan import spans_of
from dpid.studies.data import Data, Masks, Reader, Scene, open_picture, read_json, text_of

Groups = defaultdict[Any, list[Any]]


def _masks(things: Mapping[str, Sequence[Any]]) -> Masks:
    """{concept: compressed run lengths of its instances} -> the union of each."""
    from pycocotools import mask

    return {concept: mask.decode(mask.merge(list(runs))).astype(bool) for concept, runs in things.items()}


def _run_lengths(segmentation: Any, height: int, width: int) -> list[Any]:
    """Compressed run lengths of an instance's polygons or run lengths."""
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


def _things(
    annotations: Sequence[Mapping[str, Any]], names: Mapping[Any, str], size: tuple[int, int]
) -> dict[str, Any]:
    """{category: run lengths of its instances}, the largest thing first."""
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


def _named(captions: Sequence[str], things: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """The caption that names most of ``things``, the first of several, and those that it names."""

    def names(caption: str) -> tuple[str, ...]:
        found: list[str] = []
        for thing in things:
            try:
                spans_of(caption, [*found, thing])  # in the caption, and not part of another's name
            except ValueError:
                continue
            found.append(thing)
        return tuple(sorted(found, key=lambda thing: span_of(caption, thing)))

    best = max(captions, key=lambda caption: len(names(caption)), default="")
    if not best or not names(best):
        raise ValueError(f"no caption names one of its things: {', '.join(things)}")
    return best, names(best)


def _listed(things: Mapping[str, Any]) -> tuple[str, tuple[str, ...]]:
    """ "a cat and an umbrella": the two largest things."""
    chosen = tuple(things)[:2]
    return " and ".join(f"{'an' if name[0] in 'aeiou' else 'a'} {name}" for name in chosen), chosen


def _annotations(instances: Path, captions: Path | None) -> tuple[list[Any], dict[Any, str], Groups, Groups]:
    """Pictures, names of categories, and annotations and captions by picture."""
    content = read_json("instances", instances, dict)
    missing = [part for part in ("images", "annotations", "categories") if not isinstance(content.get(part), list)]
    if missing:
        raise ValueError(f"instances: {instances} has no {', '.join(missing)}")
    of, said = Groups(list), Groups(list)
    spoken = read_json("captions", captions, dict).get("annotations", []) if captions else []
    try:
        for annotation in content["annotations"]:
            of[annotation.get("image_id")].append(annotation)
        for caption in spoken:
            said[caption["image_id"]].append(" ".join(caption["caption"].split()))
        names = {category["id"]: " ".join(category["name"].split()) for category in content["categories"]}
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"instances, captions: an annotation, category or caption lacks a part ({error!r})") from error
    return content["images"], names, of, said


def read_coco(instances: str | Path, pictures: str | Path, captions: str | Path | None = None) -> Data[Scene]:
    """Pictures of COCO with the masks of their categories. Needs ``pip install "dpid[coco]"``.

    Parameters
    ----------
    instances : annotations with segmentations, such as instances_val2017.json
    pictures : folder of the pictures
    captions : captions_val2017.json; the prompt is the caption that names most categories of the picture, which are the
        concepts. Without it the prompt is "a cat and an umbrella", of the two categories that cover most

    Pictures without annotations are passed over; problems are numbered by the position in the file's ``images``.

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
    images, names, of, said = _annotations(Path(instances), Path(captions) if captions else None)
    reader: Reader[Scene] = Reader()
    for reader.number, entry in enumerate(images, 1):
        about: list[Any] = []
        with reader.column("id"):
            about = of[entry.get("id")]
        if not about:
            continue
        with reader.column("file_name"):
            path, (width, height) = open_picture(Path(pictures), text_of(entry, "file_name"))
        if reader.good:
            with reader.column("segmentation"):
                things = _things(about, names, (height, width))
        if reader.good:
            with reader.column("caption"):
                prompt, concepts = _named(said[entry["id"]], things) if captions else _listed(things)
        if reader.good:
            reader.rows.append(
                Scene(path, prompt, concepts, partial(_masks, {c: things[c] for c in concepts}), reader.number)
            )
    return reader.done()
