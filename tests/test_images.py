"""Pictures of all file formats and types are read as they are displayed."""

import io
import os
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from dpid.images import open_image
from dpid.videos import encode, read


def test_a_photograph_is_turned_as_its_camera_was_held(tmp_path):
    upright = Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 32, 3), np.uint8))
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter clockwise
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "photo.png", exif=exif)
    for image in (tmp_path / "photo.png", Image.open(tmp_path / "photo.png")):
        assert np.array_equal(np.asarray(open_image(image)), np.asarray(upright))


def test_exif_data_that_cannot_be_read_turn_nothing(tmp_path):
    picture = Image.new("RGB", (16, 32), "red")
    picture.save(tmp_path / "photo.jpg", exif=b"Exif\0\0garbagegarbage")
    assert open_image(tmp_path / "photo.jpg").size == (16, 32)


def test_a_truncated_picture_of_pil_is_refused(tmp_path):
    Image.effect_noise((64, 64), 90).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "b.png").write_bytes((tmp_path / "a.png").read_bytes()[:600])
    with Image.open(tmp_path / "b.png") as broken, pytest.raises(ValueError, match="image: cannot be read as a pict"):
        open_image(broken)
    with pytest.raises(ValueError, match=r"image: found a tensor \(3, 0, 5\)"):
        open_image(torch.zeros(3, 0, 5))


@pytest.mark.parametrize("dtype", [np.uint16, np.int32, np.float32])
def test_what_has_no_scale_is_refused(dtype, tmp_path):
    deep = Image.fromarray(np.linspace(0, 60000, 1024).reshape(32, 32).astype(dtype))
    with pytest.raises(ValueError, match="expected 8 bits a channel"):
        open_image(deep)


def gradient(mode="RGB"):
    """A picture of 32 by 32 pixels with all levels of grey."""
    return Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)).convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "P", "CMYK", "YCbCr", "HSV", "LA", "RGBA", "RGBX"])
def test_modes_of_eight_bits_become_rgb(mode):
    # Grey survives every one of these but 1 bit; a step of rounding for the detours over other colours.
    picture = gradient("P") if mode == "P" else gradient().convert(mode)  # a palette of greys
    found, grey = np.asarray(open_image(picture)), np.asarray(gradient())
    assert found.shape == (32, 32, 3)
    assert np.abs(found.astype(int) - grey).max() <= (255 if mode == "1" else 1)


@pytest.mark.parametrize("kind", ["gif", "webp", "png"])
def test_of_an_animation_the_first_picture_is_taken(kind, tmp_path):
    frames = [Image.new("RGB", (16, 16), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / f"a.{kind}", save_all=True, append_images=frames[1:], lossless=True)
    assert open_image(tmp_path / f"a.{kind}").getpixel((8, 8))[2] < 5  # WebP may be off by a rounding of colours


def test_a_transparent_colour_of_a_palette_is_seen(tmp_path):
    picture = gradient("P")
    picture.save(tmp_path / "a.gif", transparency=7)
    with pytest.raises(ValueError, match="image: has transparent pixels"):
        open_image(tmp_path / "a.gif")


@pytest.mark.parametrize("kind", ["eps", "tiff", "ppm"])
def test_other_kinds_of_files_are_not_opened(tmp_path, kind):
    """Pillow reads some by other programs, as EPS by Ghostscript."""
    path = tmp_path / f"a.{kind}"
    Image.new("RGB", (64, 64)).save(path)
    path = path.rename(tmp_path / "picture.png")
    with pytest.raises(ValueError, match=r"picture.png cannot be read as a picture .*give a PNG, JPEG or WebP"):
        open_image(path)


def test_a_home_folder_is_written_as_a_wave(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    gradient().save(tmp_path / "a.png")
    for path in ("~/a.png", Path("~/a.png")):
        assert open_image(path).size == (32, 32)


def huge():
    """A PNG that says it has 60000 by 60000 pixels."""

    def chunk(name, data):
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    (tmp_path / "bomb.png").write_bytes(huge())
    gradient().save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-60])
    for image, message in (
        (tmp_path, "is a folder"), (tmp_path / "none.png", "does not exist"),
        ("https://a.b/c.png", "nothing is fetched"), ("a\0b", "does not exist"),
        (tmp_path / "bomb.png", "cannot be read as a picture"), (tmp_path / "cut.jpg", "cannot be read as a picture"),
        (np.zeros((32, 32, 3)), r"found float64 \(32, 32, 3\), expected uint8"),
        (np.zeros((32, 32), np.uint8), "found uint8"),
        (np.zeros((3, 32, 32), np.uint8), "found uint8"),
        (np.zeros((0, 32, 3), np.uint8), "found uint8"), (torch.zeros(3, 32, 32, dtype=torch.int64), "int64"),
        (torch.zeros(3, 32, 32, device="meta"), "on meta"), (Image.new("La", (32, 32)), "do not turn into RGB"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=f"image: .*{message}"):
            open_image(image)
    for image, kind, more in (
        (b"\x89PNG", "bytes", r"PIL\.Image\.open reads"),
        (io.BytesIO(), "BytesIO", r"PIL\.Image\.open reads"),
        (["a.png", "b.png"], "list", "several pictures are for explain_many"),
        (("a.png",), "tuple", "several pictures are for explain_many"),
        (None, "NoneType", "tensor$"),
        (3, "int", "tensor$"),
    ):
        with pytest.raises(TypeError, match=f"image: found {kind}, expected a path.*{more}"):
            open_image(image)


LATENTS = torch.zeros(4, 16, 16)


@pytest.mark.parametrize(
    ("latents", "message"),
    [
        (LATENTS.cfloat(), "found torch.complex64, expected float32 or another"),
        (LATENTS.bool(), "found torch.bool, expected float32"),
        (LATENTS.int(), "found torch.int32, expected float32"),
        (LATENTS.to_sparse(), "found a tensor torch.sparse_coo on cpu, expected one with its values"),
        (LATENTS.to("meta"), "found a tensor torch.strided on meta, expected one with its values"),
    ],
)
def test_latents_are_floating_point_numbers(emoji, latents, message):
    with pytest.raises(ValueError, match=f"^latents: {message}"):
        emoji.explain(latents=latents, prompt="a cow and a giraffe", concepts=("cow", "giraffe"))


def test_the_latents_of_a_picture_do_not_depend_on_the_default_type(emoji):
    torch.set_default_dtype(torch.bfloat16)
    try:
        other = encode(read(gradient(), emoji.denoiser)[None], emoji.denoiser)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(other, encode(read(gradient(), emoji.denoiser)[None], emoji.denoiser))


def files():
    """Files of every kind of picture, whole."""
    made = []
    for kind, mode in (("PNG", "RGB"), ("PNG", "P"), ("JPEG", "RGB"), ("JPEG", "CMYK"), ("WEBP", "RGB"), ("GIF", "P"),
                       ("TIFF", "RGB"), ("BMP", "RGB"), ("PPM", "L"), ("TGA", "RGB"), ("ICO", "RGB")):  # fmt: skip
        file = io.BytesIO()
        gradient(mode).save(file, format=kind)
        made.append(file.getvalue())
    return made


def answers(image):
    """``open_image`` returns a picture, or raises what it says it does."""
    try:
        assert open_image(image).mode == "RGB"
    except (ValueError, TypeError) as error:
        assert str(error).startswith("image: ")  # noqa: PT017


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(files()),
    st.lists(st.tuples(st.integers(0, 2000), st.binary(min_size=1, max_size=8)), max_size=4),
    st.integers(0, 5000),
)
def test_damaged_files_are_read_or_refused(tmp_path, whole, edits, length):
    data = bytearray(whole)
    for at, new in edits:
        data[at % len(data) : at % len(data) + len(new)] = new
    (tmp_path / "a").write_bytes(data[:length])
    answers(tmp_path / "a")


DTYPES = [
    "uint8",
    "int8",
    "uint16",
    "int64",
    "float16",
    "float64",
    "bool",
    "complex64",
    "object",
    "U3",
    "datetime64[s]",
]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from([0, 1, 3, 4, 8, 40]), max_size=4), st.sampled_from(DTYPES), st.booleans())
def test_any_array_is_taken_or_refused(shape, dtype, reverse):
    array = np.zeros(shape, dtype)
    answers(array[::-1] if reverse and shape else array)
    if dtype in DTYPES[:8]:
        answers(torch.zeros(shape, dtype=getattr(torch, dtype)))


@settings(max_examples=60, deadline=None)
@given(st.text() | st.binary() | st.integers() | st.floats() | st.lists(st.integers()) | st.none())
def test_anything_else_is_refused(image):
    if not (isinstance(image, str) and os.path.exists(os.path.expanduser(image))):
        with pytest.raises((ValueError, TypeError), match=r"^image: "):
            open_image(image)
