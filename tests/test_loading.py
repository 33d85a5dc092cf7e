"""Model folders of all kinds, and the errors for those that cannot be used."""

import json
import shutil

import pytest
import torch
from huggingface_hub import errors

import dpid
from dpid.denoisers.loading import embedded_path, folder_of, load_pipeline

UNET = "diffusion_pytorch_model"


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    return shutil.copytree(embedded_path("emoji"), tmp_path / "model")


@pytest.fixture(scope="module")
def weights():
    """The embedded model's UNet weights."""
    return load_pipeline("emoji", "cpu").unet.state_dict()


def rename(folder, parts, change):
    for part in parts:
        for path in (folder / part).glob("*.safetensors"):
            path.rename(path.with_name(change(path.name)))


@pytest.mark.parametrize("variant", ["fp16", "bf16", "non_ema"])
@pytest.mark.parametrize("parts", [("unet",), ("unet", "vae", "text_encoder")])
def test_a_variant_alone_is_loaded(folder, weights, variant, parts):
    rename(folder, parts, lambda name: name.replace(".safetensors", f".{variant}.safetensors"))
    assert_same(load_pipeline(folder, "cpu"), weights)


def assert_same(pipe, weights):
    found = pipe.unet.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[name], w) for name, w in weights.items())
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32


def test_plain_weights_come_before_a_variant(folder, weights):
    for path in list(folder.glob("*/*.safetensors")):
        path.with_name(path.name.replace(".safetensors", ".fp16.safetensors")).write_bytes(b"never read")
    assert_same(load_pipeline(folder, "cpu"), weights)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_in_several_files(tmp_path, weights, variant):
    pipe = load_pipeline("emoji", "cpu")
    pipe.save_pretrained(tmp_path / "m", max_shard_size="300KB", variant=variant)
    assert len(list((tmp_path / "m/unet").glob("*-00001-of-*.safetensors"))) == 1
    try:
        type(pipe.unet).from_pretrained(tmp_path / "m/unet", low_cpu_mem_usage=False, variant=variant)
    except TypeError as error:  # in old releases
        pytest.skip(f"diffusers itself: {error}")
    assert_same(load_pipeline(tmp_path / "m", "cpu"), weights)


def test_parts_of_different_variants(folder):
    rename(folder, ["unet"], lambda name: name.replace(".safetensors", ".fp16.safetensors"))
    rename(folder, ["vae"], lambda name: name.replace(".safetensors", ".non_ema.safetensors"))
    with pytest.raises(ValueError, match="have no variant of their weights in common"):
        load_pipeline(folder)


def test_the_users_home(folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    monkeypatch.setenv("USERPROFILE", str(folder.parent))  # Windows
    assert folder_of("~/model") == folder
    explainer = dpid.Explainer.from_pretrained("~/model", device="cpu")
    assert explainer.density is not None  # which lies beside the weights


def remove(folder, name):
    path = folder / name
    shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"_class_name": "MyPipeline", "unet": None}, "is a MyPipeline; supported are .*, StableDiffusionPipeline, "),
        ({"_class_name": ["my_code", "MyPipeline"], "unet": None}, "is a MyPipeline; supported .*docs/extending.md"),
        ({"_class_name": "StableDiffusionInpaintPipeline"},
         r"is a StableDiffusionInpaintPipeline, which is .*; its UNet2DConditionModel is, .*StableDiffusion "),
        ({"_class_name": None}, "is a None, which is not supported"),
        ({"_class_name": []}, r"is a \[\], which is not supported"),
        ({"unet": ["my_code", "MyUNet"]}, "could not be loaded: "),
        ({"tokenizer_3": ["transformers", "CLIPTokenizer"]}, "has no folder tokenizer_3"),
    ],
)  # fmt: skip
def test_an_index_of_something_else(folder, change, message):
    path = folder / "model_index.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(ValueError, match=f"^model: .*{message}") as caught:
        load_pipeline(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "cannot be read"), ("", "cannot be read"), ("[" * 10**5, "cannot be read"), ("[]", "holds a list"),
     ("3", "holds a int"), ("\xff", "cannot be read"), ("{}", "is a None; supported")],
)  # fmt: skip
def test_a_broken_index(folder, text, message):
    (folder / "model_index.json").write_bytes(text.encode("latin-1"))
    with pytest.raises(ValueError, match=f"^model: .*{message}"):
        load_pipeline(folder)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("tokenizer", "has no folder tokenizer"), ("scheduler", "has no folder scheduler"), ("unet", "no folder unet"),
        ("vae/config.json", "has no vae/config.json"), ("model_index.json", "it has no model_index.json"),
        (f"unet/{UNET}.safetensors", "unet has no weights"), ("tokenizer/tokenizer.json", "could not be loaded"),
        ("scheduler/scheduler_config.json", "could not be loaded"),
    ],
)  # fmt: skip
def test_a_part_that_is_missing(folder, name, message):
    remove(folder, name)
    with pytest.raises(ValueError, match=f"^model: .*{message}") as caught:
        load_pipeline(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", [f"unet/{UNET}.safetensors", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"[]", b"{}"])
def test_a_part_that_is_broken(folder, name, content):
    (folder / name).write_bytes(content)
    try:
        load_pipeline(folder)
    except ValueError as error:
        assert str(error).startswith("model: ")  # noqa: PT017, some are as good as their defaults


def test_a_single_file_is_told_the_way(tmp_path):
    (tmp_path / "sd.safetensors").write_bytes(b"")
    with pytest.raises(ValueError, match=r"is a single file, expected a folder; .*from_single_file"):
        load_pipeline(tmp_path / "sd.safetensors")


@pytest.mark.parametrize("device", ["meta", "gpu", "cuda:99", "xpu", "mps:7", "", "cpu cuda", 3.5, "privateuseone"])
@pytest.mark.parametrize("dtype", [None, torch.float32])  # the embedded model's own loading, and the pipeline's
def test_a_device_that_cannot_be_used(device, dtype):
    with pytest.raises(ValueError, match=r"^device: .* cannot be used: .") as caught:
        dpid.Explainer.from_pretrained("emoji", device=device, dtype=dtype)
    assert len(str(caught.value)) < 250


@pytest.mark.parametrize(
    ("cause", "message"),
    [
        (errors.GatedRepoError, "it is gated: accept its terms"),
        (errors.RepositoryNotFoundError, "the hub has no such model, or it is private"),
        (errors.OfflineModeIsEnabled, r"it is not in this machine's cache, and the hub cannot be reached \(HF_HUB_OFF"),
        (errors.LocalEntryNotFoundError, "it is not in this machine's cache, and the hub cannot be reached$"),
        (ConnectionError, "it is not in this machine's cache, and the hub cannot be reached$"),
        (KeyError, "long long"),
    ],
)
def test_a_hub_model_that_cannot_be_had(monkeypatch, cause, message):
    def fail(*_, **__):
        raise OSError("long " * 200) from cause.__new__(cause)

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fail)
    with pytest.raises(ValueError, match=f"^model: some/model could not be loaded: {message}") as e:
        load_pipeline("some/model", "cpu")
    assert len(str(e.value)) < 400


def test_a_hub_model_that_has_the_variant_alone(monkeypatch):
    asked = []

    def load(model, variant=None, **_):
        asked.append(variant)
        if variant is None:
            raise OSError("Error no file named diffusion_pytorch_model.safetensors found in directory x")
        return type("StableDiffusionPipeline", (), {"to": lambda self, *_: self})()

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", load)
    load_pipeline("some/model", "cpu")
    assert asked == [None, "fp16"]


def test_memory_is_not_the_models_fault(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fail)
    with pytest.raises(MemoryError):
        load_pipeline("some/model", "cpu")
