"""Videos: which are taken, and their explanation by a tiny pipeline; tests/denoisers has its noise and latents."""

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_pipelines import build

import dpid
from dpid.images import open_image
from dpid.videos import open_video

FRAMES = np.random.default_rng(0).integers(0, 256, (7, 32, 48, 3), dtype=np.uint8)
ASK = {"prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe"), "samples": 8}


def pixels(frames):
    return np.stack([np.asarray(frame) for frame in frames])


def kinds(folder):
    """A video of every kind, with the same frames."""
    listed = [Image.fromarray(frame) for frame in FRAMES]
    (folder / "frames").mkdir()
    for number, frame in enumerate(listed, 7):  # past 9, which would come after 10 as a text
        frame.save(folder / "frames" / f"frame{number}.png")
    (folder / "frames" / "notes.txt").touch()
    listed[0].save(folder / "video.webp", save_all=True, append_images=listed[1:], lossless=True)
    listed[0].save(folder / "video.png", save_all=True, append_images=listed[1:])
    return [
        FRAMES, torch.from_numpy(FRAMES), FRAMES / np.float32(255), torch.from_numpy(FRAMES).float() / 255, listed,
        list(FRAMES), folder / "frames", str(folder / "video.webp"), folder / "video.png",
    ]  # fmt: skip


def test_frames_of_every_kind(tmp_path):
    for video in kinds(tmp_path):
        np.testing.assert_array_equal(pixels(open_video(video, 5)), FRAMES[:5])
    with Image.open(tmp_path / "video.webp") as opened:
        opened.seek(1)
        np.testing.assert_array_equal(pixels(open_video(opened, 5)), FRAMES[:5])
        assert opened.tell() == 1  # the user's own, which stays where it was
    backwards = np.ascontiguousarray(FRAMES[..., ::-1])[..., ::-1]  # as OpenCV's BGR is turned round
    np.testing.assert_array_equal(pixels(open_video(backwards, 5)), FRAMES[:5])


def test_a_gif(tmp_path):
    colours = [Image.new("RGB", (16, 16), (shade, 0, 255 - shade)) for shade in range(0, 250, 50)]
    colours[0].save(tmp_path / "video.gif", save_all=True, append_images=colours[1:])
    np.testing.assert_array_equal(pixels(open_video(tmp_path / "video.gif", 5)), pixels(colours))


@pytest.mark.parametrize(
    ("video", "message"),
    [
        (
            FRAMES[:3],
            r"image: found 3 frames, the model is asked for 5 \(in .*\); ask it for fewer by frames$",
        ),
        (Image.fromarray(FRAMES[0]), r"image: found 1 frame, the model is asked for 5"),
        (FRAMES[0], r"image: found uint8 \(32, 48, 3\), expected a video \[F, H, W, 3\]"),
        ([*FRAMES[:4], FRAMES[4, :16]], r"image: found frames of 48×16, 48×32 pixels, expected all of one size"),
        (FRAMES.astype(np.float32), r"image: found a float tensor with values outside \[0, 1\]"),
        ("missing.gif", r"image: missing.gif does not exist"),
    ],
)
def test_what_is_no_video(video, message):
    with pytest.raises(ValueError, match=rf"^{message}"):
        open_video(video, 5)


def test_a_file_of_a_video(tmp_path):
    """Also where the command line opens it, before it knows whether the model is one of videos."""
    (tmp_path / "cow.MP4").write_bytes(b"\x00\x00\x00\x20ftypisom")
    for opened in (lambda path: open_video(path, 5), open_image):
        with pytest.raises(ValueError, match=r"^image: .*cow\.MP4 is a video, which is not decoded; .*a folder of pi"):
            opened(tmp_path / "cow.MP4")


def test_what_is_of_another_type():
    with pytest.raises(TypeError, match=r"^image: found int, expected a folder"):
        open_video(3, 5)


@pytest.fixture(scope="module")
def pipe():
    return build("wan")


@pytest.fixture(scope="module")
def result(pipe):
    return dpid.Explainer(pipe, precision="float32").explain(FRAMES, estimator="orthogonal", smooth=3, **ASK)


def test_maps_are_those_of_frames_which_do_not_mix(result):
    raw = result.replicates_by("orthogonal").mean(0)[-1]  # [T·h,w]
    found = result.maps.information[("cow", "giraffe")]
    assert found.shape == result.maps.stderr.redundancy.shape == result.atom_maps()[0].redundancy.shape == (2, 6, 10)
    assert result.picture.shape == (2, 48, 80, 3)
    # Means of 3 × 3 pixels of a frame, which is mirrored at its edges.
    frames = np.pad(raw.double().numpy().reshape(2, 6, 10), ((0, 0), (1, 1), (1, 1)), "symmetric")
    expected = np.lib.stride_tricks.sliding_window_view(frames, (3, 3), (1, 2)).mean((-2, -1))
    torch.testing.assert_close(found.double(), torch.from_numpy(expected), rtol=1e-5, atol=1e-7)  # float32 maps


def test_latents_are_explained_as_their_video_is(pipe, result):
    explainer = dpid.Explainer(pipe, precision="float32")
    frames = torch.stack([torch.from_numpy(np.array(f.resize((80, 48), 1))) for f in open_video(FRAMES, 5)])
    with torch.no_grad():
        mode = pipe.vae.encode(frames.permute(3, 0, 1, 2)[None].float() / 127.5 - 1).latent_dist.mode()[0]
    mean, std = (torch.tensor(pipe.vae.config[f"latents_{name}"]).view(-1, 1, 1, 1) for name in ("mean", "std"))
    found = explainer.explain(latents=(mode - mean) / std, estimator="orthogonal", smooth=3, **ASK)
    torch.testing.assert_close(found.maps.synergy, result.maps.synergy, rtol=1e-4, atol=1e-6)  # float32 of the network


def test_results_of_videos_are_kept(result, tmp_path):
    result.save(tmp_path / "video.safetensors")
    loaded = dpid.PIDResult.load(tmp_path / "video.safetensors")
    assert loaded == result
    assert loaded.to_dict()["frames"] == 2
    loaded.plot().savefig(tmp_path / "maps.png")
    with Image.open(tmp_path / "maps.png") as opened:
        assert opened.width > 500


def test_words_of_a_video(pipe, tmp_path):
    found = dpid.Explainer(pipe, precision="float32").words(FRAMES, "a cow and a giraffe", samples=8)
    assert found.words["cow"].map.shape == found.words["cow"].map_stderr.shape == (2, 6, 10)
    found.plot().savefig(tmp_path / "words.png")


def test_smoothing_reaches_no_further_than_a_frame(pipe):
    with pytest.raises(ValueError, match=r"^smooth: found 11, expected at most the 10 latent pixels of a side"):
        dpid.Explainer(pipe).explain(FRAMES, smooth=11, **ASK)


@pytest.mark.parametrize("frames", [0, 4, 9, -3, 5.0])
def test_numbers_of_frames_that_are_refused(pipe, frames):
    with pytest.raises(ValueError, match=rf"^frames: found {frames}, expected 1 more than a multiple of 4, up to 5$"):
        dpid.Explainer(pipe, frames=frames)


def test_warming_up(pipe):
    explainer = dpid.Explainer(pipe)
    explainer.warm_up([(80, 48)], samples=8)
    assert not explainer.learnt.rounds


def test_one_frame(pipe):
    result = dpid.Explainer(pipe, frames=1).explain([FRAMES[0]], **ASK)
    assert result.maps.synergy.shape == (1, 6, 10)


def test_latents_of_other_frames(pipe):
    explainer = dpid.Explainer(pipe)
    with pytest.raises(ValueError, match=r"^latents: found 3 frames, the model is asked for 2;"):
        explainer.explain(latents=torch.zeros(16, 3, 4, 4), **ASK)
    with pytest.raises(ValueError, match=r"^latents: found \(16, 4, 4\), expected \[C,T,h,w\], none"):
        explainer.explain(latents=torch.zeros(16, 4, 4), **ASK)


def test_pipelines_of_pictures_take_no_videos():
    with pytest.raises(ValueError, match=r"^frames: found 5, but StableDiffusion3Pipeline makes no videos"):
        dpid.Explainer(build("sd3"), frames=5)
    with pytest.raises(ValueError, match=r"^frames: found 5, but .*emoji makes no videos"):
        dpid.Explainer.from_pretrained("emoji", device="cpu", frames=5)


def test_relatives_that_are_not_supported():
    pipe = build("wan")
    pipe.register_to_config(boundary_ratio=0.875)
    with pytest.raises(ValueError, match=r"^pipe: this SmallPipeline is of Wan 2.2 and has two networks \(boundary_"):
        dpid.Explainer(pipe)
    pipe = build("wan")
    pipe.transformer.register_to_config(in_channels=36)
    with pytest.raises(ValueError, match=r"^pipe: the transformer of SmallPipeline makes a video of a picture; suppo"):
        dpid.Explainer(pipe)

    class WanImageToVideoPipeline:
        components = build("wan").components

    with pytest.raises(ValueError, match=r"WanImageToVideoPipeline, which is not supported; its WanTransformer3DModel"):
        dpid.Explainer(WanImageToVideoPipeline())
