"""Pictures as they are looked at, whatever file they come from."""

import numpy as np
import pytest
import torch
from PIL import Image

from dpid.images import open_image


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
