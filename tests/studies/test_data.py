"""Rows read from files, and the problems of those that cannot be used."""

import json
import pickle
import sys

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from dpid.cli.study import _data
from dpid.studies.coco import read_coco
from dpid.studies.data import Problem, read_pairs, read_scenes

# pycocotools makes arrays in a way that NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
HEIGHT, WIDTH = 12, 20


@pytest.fixture
def folder(tmp_path):
    """Two pictures of 20×12 pixels and masks of several kinds."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    for name in ("a.png", "b.png"):
        Image.fromarray(pixels).save(tmp_path / name)
    labels = np.zeros((HEIGHT, WIDTH), np.uint8)
    labels[2:5, 3:9], labels[6:11, 10:15] = 1, 2
    masks = {
        "labels": labels, "second": np.where(labels == 2, 2, 0), "white": np.where(labels == 2, 255, 0),
        "grey": labels * 100, "empty": labels * 0, "small": labels[:10], "bits": labels == 1,
    }  # fmt: skip
    for name, mask in masks.items():
        Image.fromarray(mask if mask.dtype == bool else mask.astype(np.uint8)).save(tmp_path / f"{name}.png")
    palette = Image.fromarray(labels)  # becomes one of a palette, the labels its indices
    palette.putpalette([200, 0, 0, 0, 200, 0, 0, 0, 200])
    palette.save(tmp_path / "palette.png")
    return tmp_path, labels


def write(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def scenes(folder, *lines):
    return read_scenes(write(folder / "index.csv", "image,prompt,concepts,mask", *lines))


def test_scenes_of_a_csv(folder):
    folder, labels = folder
    data = scenes(
        folder, 'a.png,"a cow, a bowl and a bowl",cow; bowl#2,labels.png', "", ' b.png , "a cow\nand a dog",cow,'
    )
    assert data.problems == ()
    first, second = data.rows
    assert (first.image, first.prompt, first.concepts) == (
        folder / "a.png", "a cow, a bowl and a bowl", ("cow", "bowl#2"),
    )  # fmt: skip
    masks = first.masks()
    assert np.array_equal(masks["cow"], labels == 1)
    assert np.array_equal(masks["bowl#2"], labels == 2)
    assert second.image == folder / "b.png"
    assert second.masks() == {}
    assert pickle.loads(pickle.dumps(first)).masks().keys() == {"cow", "bowl#2"}  # goes to another process


@pytest.mark.parametrize(
    ("mask", "concepts", "want"),
    [
        ("white", "cow;dog", {"cow": 2}),  # zero and one other value: the first concept's thing
        ("white", "cow", {"cow": 2}),
        ("bits", "cow;dog", {"cow": 1}),
        ("second", "cow;dog", {"dog": 2}),  # labels, of which the first does not occur
        ("palette", "dog;cow", {"dog": 1, "cow": 2}),
    ],
)
def test_kinds_of_masks(folder, mask, concepts, want):
    folder, labels = folder
    data = scenes(folder, f"a.png,a cow and a dog,{concepts},{mask}.png")
    assert data.problems == ()
    masks = data.rows[0].masks()
    assert masks.keys() == want.keys()
    for concept, label in want.items():
        assert np.array_equal(masks[concept], labels == label)


def test_a_mask_of_one_concept_is_all_that_is_not_zero(folder):
    folder, labels = folder
    data = scenes(folder, "a.png,a cow,cow,labels.png")
    assert np.array_equal(data.rows[0].masks()["cow"], labels > 0)


def test_bad_rows_are_named_and_the_others_kept(folder):
    folder, _ = folder
    write(folder / "text.png", "no picture")
    (folder / "cut.png").write_bytes((folder / "a.png").read_bytes()[:200])
    data = scenes(
        folder,
        "a.png,a cow,cow,",  # 2
        "x.png,,dog,",
        "a.png,a cow and a dog,cow;cat,",
        "text.png,a cow,cow,",
        "cut.png,a cow,cow,",
        "a.png,a cow,cow,masks/x.png",  # 7
        "a.png,a cow and a dog,cow;dog,grey.png",
        "a.png,a cow,cow,small.png",
        "a.png,a cow,cow,empty.png",
        "a.png,a cow,cow,b.png",  # 11
        "a.png,a cow",
        "b.png,a cow,cow,",
        "a.png,a cow, a dog,cow;dog,labels.png",  # 14
        f"{'x' * 300}.png,a cow,cow,",
        "a.png,a cow,cow,,,",
    )
    assert [row.image.name for row in data.rows] == ["a.png", "b.png", "a.png"]
    assert [row.row for row in data.rows] == [2, 13, 16]
    said = [str(problem) for problem in data.problems]
    wanted = [
        "row 3, column image: x.png does not exist",
        "row 3, column prompt: is empty",
        "row 4, column concepts: 'cat' is not in the prompt; its words are a, cow, and, dog",
        "row 5, column image: ",
        "row 6, column image: ",
        "row 7, column mask: masks/x.png does not exist",
        "row 8, column mask: found the labels 100, 200, expected 1…2",
        "row 9, column mask: small.png has 20×10 pixels, but the picture has 20×12",
        "row 10, column mask: is zero everywhere",
        "row 11, column mask: found 3 channels",
        "row 12, column concepts: is empty",
        "row 14: has more cells than the first row; put texts with commas in quotes",
        "row 15, column image: ",
    ]
    assert len(said) == len(wanted)
    for got, start in zip(said, wanted, strict=True):
        assert got.startswith(start)


def test_unreadable_files(tmp_path):
    with pytest.raises(ValueError, match=r"path: .*nowhere\.csv cannot be read"):
        read_scenes(tmp_path / "nowhere.csv")
    with pytest.raises(ValueError, match="has no column prompt, concepts; its first row is 'image, text'"):
        read_scenes(write(tmp_path / "x.csv", "image,text", "a.png,b"))
    with pytest.raises(ValueError, match="its first row is empty"):
        read_scenes(write(tmp_path / "x.csv"))
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00image")
    with pytest.raises(ValueError, match="cannot be read"):
        read_scenes(tmp_path / "x.csv")
    with pytest.raises(ValueError, match="is not JSON"):
        read_pairs(write(tmp_path / "x.json", "[{"))
    with pytest.raises(ValueError, match=r"^path: .*x\.txt is not JSON \(.*\); a table in CSV is a file named \.csv$"):
        read_pairs(write(tmp_path / "x.txt", "image,true,false"))
    for text in ("[" * 10**5, "9" * 5000):
        with pytest.raises(ValueError, match="is not JSON"):
            read_pairs(write(tmp_path / "x.json", text))
    with pytest.raises(ValueError, match="holds a dict, expected a list"):
        read_pairs(write(tmp_path / "x.json", "{}"))


def test_a_spreadsheet_s_byte_order_mark(folder):
    folder, _ = folder
    (folder / "x.csv").write_text("image,prompt,concepts\na.png,a cow,cow\n", encoding="utf-8-sig")
    assert len(read_scenes(folder / "x.csv").rows) == 1


def test_pairs_of_aro(folder):
    folder, _ = folder
    entries = [
        {"image_path": "a.png", "true_caption": "the cow eats the grass", "false_caption": "the grass eats the cow",
         "bbox_x": 4, "bbox_y": 0, "bbox_w": 10, "bbox_h": 40},
        {"image": "b.png", "true": "x", "false": "y"},
        {"image_path": "a.png", "true_caption": "x", "false_caption": "x"},
        {"image_path": "c.png", "true_caption": 3},
        {"image_path": "a.png", "true_caption": "x", "false_caption": "y", "bbox_x": 30, "bbox_y": 0, "bbox_w": 5,
         "bbox_h": 5},
        "a.png",
        {"image_path": "a.png", "true_caption": "x", "false_caption": "y", "bbox_x": 3},
        {"image_path": "a.png", "true_caption": "x", "false_caption": "y", "bbox_x": 3, "bbox_y": 0, "bbox_w": 5,
         "bbox_h": 9},
    ]  # fmt: skip
    data = read_pairs(write(folder / "vg.json", json.dumps(entries)))
    first, second = data.rows
    assert (first.true, first.false) == ("the cow eats the grass", "the grass eats the cow")
    assert first.box == (4, 0, 14, 12)  # cut at the picture's edge
    with Image.open(folder / "a.png") as whole:
        assert np.array_equal(np.asarray(first.open()), np.asarray(whole)[:, 4:14])
        assert np.array_equal(np.asarray(second.open()), np.asarray(whole))
    assert [(p.row, p.column) for p in data.problems] == [
        (3, "false"), (4, "image"), (4, "true"), (4, "false"), (5, "bbox"), (6, "image"), (7, "bbox"),
        (8, "bbox"),
    ]  # fmt: skip
    assert data.problems[0] == Problem(3, "false", "is the true caption")


def test_pairs_of_a_csv(folder, tmp_path):
    folder, _ = folder
    path = write(tmp_path / "elsewhere.csv", "image,true,false", "a.png,x,y", "a.png,,y")
    data = read_pairs(path, folder)
    assert [(r.image, r.true, r.false, r.box) for r in data.rows] == [(folder / "a.png", "x", "y", None)]
    assert list(map(str, data.problems)) == ["row 3, column true: is empty"]


def rectangle(left, top, right, bottom):
    """A polygon whose edges lie between pixels, so that its mask is exact."""
    return [left, top, right, top, right, bottom, left, bottom]


def run_lengths(mask):
    """COCO's uncompressed run lengths: column by column, zeros first."""
    flat = mask.T.flatten()
    edges = np.flatnonzero(np.diff(flat)) + 1
    counts = np.diff([0, *edges, flat.size]).tolist()
    return {"size": list(mask.shape), "counts": [0, *counts] if flat[0] else counts}


@pytest.fixture
def coco(folder):
    """Two pictures: a cat (two instances) and an umbrella and a dog; nothing; and four that are broken."""
    folder, labels = folder
    names = ["a.png", "b.png", "gone.png", "a.png", "a.png", "a.png"]
    segmentations = [
        (1, 1, [rectangle(3, 2, 9, 5)]), (1, 1, [rectangle(0, 6, 4, 10)]), (1, 2, run_lengths(labels == 2)),
        (1, 3, [rectangle(18, 0, 20, 2)]), (3, 1, [rectangle(3, 2, 9, 5)]), (4, 9, [rectangle(3, 2, 9, 5)]),
        (5, 1, "oops"), (6, 1, run_lengths(labels[:10] == 1)),
    ]  # fmt: skip
    content = {
        "images": [{"id": i, "file_name": name} for i, name in enumerate(names, 1)],
        "annotations": [{"image_id": i, "category_id": c, "segmentation": s} for i, c, s in segmentations],
        "categories": [{"id": 1, "name": "cat"}, {"id": 2, "name": "umbrella"}, {"id": 3, "name": "dog"}],
    }
    want = {"cat": np.zeros((HEIGHT, WIDTH), bool), "umbrella": labels == 2, "dog": np.zeros((HEIGHT, WIDTH), bool)}
    want["cat"][2:5, 3:9] = want["cat"][6:10, 0:4] = want["dog"][0:2, 18:20] = True
    return write(folder / "instances.json", json.dumps(content)), folder, want


def test_coco_without_captions(coco):
    path, folder, want = coco
    data = read_coco(path, folder)
    (scene,) = data.rows
    assert (scene.prompt, scene.concepts) == ("a cat and an umbrella", ("cat", "umbrella"))
    masks = pickle.loads(pickle.dumps(scene)).masks()
    assert masks.keys() == {"cat", "umbrella"}
    for concept, mask in masks.items():
        assert np.array_equal(mask, want[concept])
    assert [(p.row, p.column) for p in data.problems] == [
        (3, "file_name"), (4, "segmentation"), (5, "segmentation"), (6, "segmentation"),
    ]  # fmt: skip
    assert "category_id 9 is none" in data.problems[1].message
    assert "its size is [10, 20], but the picture has 12×20" in data.problems[3].message


def test_coco_from_the_command_line(coco):
    path, folder, _ = coco
    said = Console(record=True, width=200)
    (scene,) = _data(path, folder, None, "localisation", said)["scenes"]
    assert scene.concepts == ("cat", "umbrella")
    assert "note: instances.json: row 3, column file_name" in said.export_text()
    for data, study, why in (
        (path, "retrieval", r"they belong to COCO's instances\.json, which retrieval does not read"),
        (None, "localisation", r"found without --data, give COCO's instances\.json there"),
    ):
        with pytest.raises(ValueError, match=f"images, captions: {why}"):
            _data(data, folder, None, study, said)
    with pytest.raises(ValueError, match=r"data: .*nowhere\.json is not a file"):
        _data(path.with_name("nowhere.json"), folder, None, "localisation", said)


def test_coco_with_captions(coco):
    path, folder, want = coco
    spoken = [(1, "Two animals."), (1, "A dog  beside\na cat"), (1, "a cat and a dog again"), (3, "a cat")]
    captions = {"annotations": [{"image_id": i, "caption": text} for i, text in spoken]}
    data = read_coco(path, folder, write(folder / "captions.json", json.dumps(captions)))
    (scene,) = data.rows
    assert (scene.prompt, scene.concepts) == ("A dog beside a cat", ("dog", "cat"))
    masks = scene.masks()
    assert np.array_equal(masks["dog"], want["dog"])
    assert np.array_equal(masks["cat"], want["cat"])
    captions["annotations"] = captions["annotations"][:1]
    data = read_coco(path, folder, write(folder / "captions.json", json.dumps(captions)))
    assert data.rows == ()
    assert str(data.problems[0]) == "row 1, column caption: no caption names one of its things: cat, umbrella, dog"


def test_coco_files_that_lack_parts(tmp_path):
    path = write(tmp_path / "x.json", json.dumps({"images": [], "annotations": []}))
    with pytest.raises(ValueError, match="has no categories"):
        read_coco(path, tmp_path)
    path = write(tmp_path / "x.json", json.dumps({"images": [], "annotations": [], "categories": [{"id": 1}]}))
    with pytest.raises(ValueError, match="lacks a part"):
        read_coco(path, tmp_path)
    for broken in ({"annotations": ["x"]}, {"annotations": [{"image_id": []}]}, {"categories": [{"id": 1, "name": 2}]}):
        content = {"images": [], "annotations": [], "categories": [], **broken}
        with pytest.raises(ValueError, match="lacks a part"):
            read_coco(write(tmp_path / "x.json", json.dumps(content)), tmp_path)


def test_coco_s_broken_entries_are_named(coco):
    path, folder, _ = coco
    content = json.loads(path.read_text())
    content["images"] += ["x", {"id": []}, {"id": 7, "file_name": 3}, {"id": 8, "file_name": "a.png"}]
    content["annotations"] += [{"image_id": 7}, {"image_id": 8, "category_id": [1], "segmentation": []}]
    data = read_coco(write(path, json.dumps(content)), folder)
    assert len(data.rows) == 1
    assert [(p.row, p.column) for p in data.problems][-4:] == [
        (7, "id"), (8, "id"), (9, "file_name"), (10, "segmentation"),
    ]  # fmt: skip


def test_coco_s_pictures_of_another_size_are_named(coco):
    path, folder, _ = coco
    content = json.loads(path.read_text())
    content["images"][0] |= {"width": 2 * WIDTH, "height": 2 * HEIGHT}
    (problem,) = [p for p in read_coco(write(path, json.dumps(content)), folder).problems if p.row == 1]
    assert (problem.column, problem.message) == ("file_name", "found a picture of 20×12, annotated at 40×24")


def test_coco_needs_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pycocotools.mask", None)
    with pytest.raises(RuntimeError, match=r"pip install \"dpid\[coco\]\""):
        read_coco(tmp_path, tmp_path)
