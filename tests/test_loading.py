"""Model folders of all kinds, and the errors for those that cannot be used."""

import json
import logging
import shutil
from fnmatch import fnmatch
from types import SimpleNamespace

import pytest
import torch
from huggingface_hub import errors
from tiny_pipelines import build

import dpid
from dpid.denoisers.loading import embedded_path, folder_of, load_pipeline
from dpid.quiet import quiet

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


def test_a_transformer_that_is_no_safetensors_file(tmp_path):
    copied = shutil.copytree(embedded_path("emoji-flow"), tmp_path / "m")
    (copied / f"transformer/{UNET}.safetensors").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ValueError, match="model: "):
        load_pipeline(copied, "cpu")


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
        ({"_class_name": "StableDiffusionUpscalePipeline"},
         r"is a StableDiffusionUpscalePipeline, which is .*; its UNet2DConditionModel is, .*StableDiffusion "),
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


@pytest.mark.filterwarnings("ignore")  # that diffusers takes such a part in an old way is no refusal
@pytest.mark.parametrize("name", [f"unet/{UNET}.safetensors", "unet/config.json", "scheduler/scheduler_config.json"])
@pytest.mark.parametrize("content", [b"", b"\x00" * 100, b"[]", b"{}"])
def test_a_part_that_is_broken(folder, name, content):
    (folder / name).write_bytes(content)
    if (name, content) == ("scheduler/scheduler_config.json", b"{}"):
        load_pipeline(folder)  # with the scheduler's defaults
        return
    with pytest.raises(ValueError, match=r"^model: "):
        load_pipeline(folder)


def test_options_of_loading(folder, weights):
    """A variant that is asked for, a folder within the model, parts that are handed over or left out."""
    rename(folder, ["unet"], lambda name: name.replace(".safetensors", ".fp16.safetensors"))
    assert_same(load_pipeline(folder, "cpu", variant="fp16"), weights)
    with pytest.raises(ValueError, match=r"^variant: found 'bf16', .* has fp16$"):
        load_pipeline(folder, "cpu", variant="bf16")
    assert_same(load_pipeline(folder.parent, "cpu", subfolder=folder.name), weights)
    with pytest.raises(ValueError, match=r"^model: .*other is not a folder"):
        load_pipeline(folder.parent, "cpu", subfolder="other")
    pipe = load_pipeline(folder, "cpu", torch_dtype=torch.bfloat16)
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.bfloat16
    shutil.rmtree(folder / "vae")
    assert load_pipeline(folder, "cpu", vae=pipe.vae).vae is pipe.vae
    with pytest.raises(ValueError, match=r"^revision: found 'v2', .*model is a folder, which has none$"):
        load_pipeline(folder, "cpu", revision="v2")
    with pytest.raises(ValueError, match=r"^config: found 'x', .*model is a folder, which has none$"):
        load_pipeline(folder, "cpu", config="x")
    for name in ("varient", "text_encoder_3"):
        with pytest.raises(TypeError, match=f"^{name}: is no option of loading, and .*model has no such part"):
            dpid.Explainer.from_pretrained(folder, device="cpu", **{name: "fp16", "vae": None})
    with pytest.raises(ValueError, match=r"^device: found 'cpu' beside device_map = 'balanced'"):
        load_pipeline(folder, "cpu", device_map="balanced")


def test_a_device_map(folder, weights):
    pipeline_utils = pytest.importorskip("diffusers.pipelines.pipeline_utils")
    if "cpu" not in pipeline_utils.SUPPORTED_DEVICE_MAP:
        pytest.skip("this version of diffusers maps to GPUs alone")
    pipe = dpid.Explainer.from_pretrained(folder, device_map="cpu").denoiser.family.pipe
    assert_same(pipe, weights)
    assert pipe.hf_device_map == "cpu"


@pytest.mark.parametrize("stored", [torch.bfloat16, torch.float16, torch.float32])
def test_transformers_are_loaded_in_the_type_of_their_weights(tmp_path, stored):
    build("sd3").to(stored).save_pretrained(tmp_path)
    pipe = load_pipeline(tmp_path, "cpu")
    assert {part.dtype for part in (pipe.transformer, pipe.vae, pipe.text_encoder, pipe.text_encoder_3)} == {stored}
    assert load_pipeline(tmp_path, "cpu", torch.float32).transformer.dtype == torch.float32


def test_a_pipeline_without_an_optional_part(tmp_path):
    """Stable Diffusion 3 is used without T5, whose weights are most of it."""
    build("sd3").save_pretrained(tmp_path)
    without = {"text_encoder_3": None, "tokenizer_3": None}
    assert load_pipeline(tmp_path, "cpu", **without).text_encoder_3 is None
    shutil.rmtree(tmp_path / "text_encoder_3")
    with pytest.raises(
        ValueError, match=r"^model: .* has no folder text_encoder_3, expected all of a StableDiffusion3"
    ):
        load_pipeline(tmp_path, "cpu")
    explainer = dpid.Explainer.from_pretrained(tmp_path, device="cpu", **without)
    assert explainer.denoiser.encode_conditions(["cow"]).encoded["encoder_hidden_states"].shape[1] == 77 + 256
    shutil.rmtree(tmp_path / "transformer")
    with pytest.raises(ValueError, match=r"^model: .* has no folder transformer, expected all of a StableDiffusion3"):
        load_pipeline(tmp_path, "cpu", **without)


@pytest.mark.parametrize("subfolder", ["", "within"])
def test_a_model_in_the_cache_of_the_hub(tmp_path, folder, weights, subfolder):
    """As the hub's library stores it; with revisions, and without a connection."""
    stored = tmp_path / "models--some--model"
    for revision, commit in (("main", "0" * 40), ("v2", "1" * 40)):
        (stored / "refs").mkdir(parents=True, exist_ok=True)
        (stored / "refs" / revision).write_text(commit)
    shutil.copytree(folder, stored / "snapshots" / ("1" * 40) / subfolder)
    where = {"cache_dir": tmp_path, "local_files_only": True, "subfolder": subfolder}
    assert_same(load_pipeline("some/model", "cpu", revision="v2", **where), weights)
    with pytest.raises(ValueError, match=r"^model: some/model"):
        load_pipeline("some/model", "cpu", **where)


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

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    with pytest.raises(ValueError, match=f"^model: some/model could not be loaded: {message}") as e:
        load_pipeline("some/model", "cpu")
    assert len(str(e.value)) < 400


def test_tries_to_reach_the_hub_are_not_told(monkeypatch):
    """As the hub's library logs them, whose level is afterwards what it was."""
    told, log = [], logging.getLogger("huggingface_hub.utils._http")

    def fail(*_, **__):
        log.warning("Retrying in 1s [Retry 1/5].")
        raise ConnectionError

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)
    handler = logging.Handler()
    handler.emit = told.append
    log.addHandler(handler)
    try:
        with pytest.raises(ValueError, match="the hub cannot be reached"):
            load_pipeline("some/model", "cpu")
        assert told == []
        log.warning("of the user's own call")
        assert len(told) == 1
    finally:
        log.removeHandler(handler)


def put_on_hub(folder, monkeypatch):
    """A hub that has the model in ``folder``, as some/model; diffusers decides itself what there is to be fetched."""
    from diffusers.pipelines import pipeline_utils

    index = str(folder / "model_index.json")
    files = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()]
    info = SimpleNamespace(siblings=[SimpleNamespace(rfilename=name) for name in files], sha="0" * 40)
    asked = []
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **given: asked.append(given) or index)
    for name, answer in (("hf_hub_download", index), ("model_info", info), ("snapshot_download", str(folder))):
        monkeypatch.setattr(pipeline_utils, name, lambda *_, answer=answer, **__: answer)
    monkeypatch.setattr(pipeline_utils, "_resolve_revision", lambda *_, **__: None, raising=False)  # in new releases
    return asked


@pytest.mark.parametrize("subfolder", ["", "within"])
def test_what_needs_no_weights_is_checked_before_they_are_fetched(monkeypatch, folder, subfolder):
    asked = put_on_hub(folder, monkeypatch)
    for fetch in ("diffusers.DiffusionPipeline.download", "huggingface_hub.snapshot_download"):
        monkeypatch.setattr(fetch, lambda *_, **__: pytest.fail("weights were fetched"))
    with pytest.raises(TypeError, match=r"^devcie_map: is no option of loading, and some/model has no such part"):
        load_pipeline("some/model", "cpu", subfolder=subfolder, devcie_map="auto")
    with pytest.raises(ValueError, match=r"^model: some/model comes without vae, which a StableDiffusionPipeline nee"):
        load_pipeline("some/model", "cpu", subfolder=subfolder, vae=None)
    assert {given.get("subfolder") or "" for given in asked} == {subfolder}


@pytest.mark.parametrize("alone", [False, True])
def test_what_is_fetched_of_a_folder_within_a_hub_model(monkeypatch, tmp_path, alone):
    """Of Stable Diffusion 3 without T5 neither its weights, nor of others those of more than one variant."""
    folder = tmp_path / "within"
    build("sd3").save_pretrained(folder)
    for path in list(folder.glob("*/*.safetensors")):
        half = path.with_name(path.name.replace(".safetensors", ".fp16.safetensors"))
        path.rename(half) if alone else shutil.copy(path, half)
        shutil.copy(half, path.with_suffix(".msgpack"))
    files = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    put_on_hub(folder, monkeypatch)
    fetched = []

    def snapshot(*_, allow_patterns, **__):
        fetched.append({name for name in files if any(fnmatch(name, pattern) for pattern in allow_patterns)})
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda *_, **__: [*files, "other/model.safetensors"])
    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot)
    without = {"subfolder": "within", "text_encoder_3": None, "tokenizer_3": None}
    for variant in (None, "fp16"):
        load_pipeline("some/model", "cpu", variant=variant, **without)
        weights = {name for name in files if name.endswith(".safetensors")}
        wanted = {name for name in weights if (".fp16." in name) == (alone or variant is not None)}
        kept = {name for name in files if name.endswith((".json", ".txt"))} | wanted
        assert fetched.pop() == {name for name in kept if "_3/" not in name}
    with pytest.raises(ValueError, match=r"^variant: found 'bf16', some/model has fp16$"):
        load_pipeline("some/model", "cpu", variant="bf16", **without)


def test_a_model_whose_parts_are_handed_over(monkeypatch, tmp_path):
    """As HiDream-I1, of which Llama has a licence of its own."""
    pipe = build("hidream")
    pipe.save_pretrained(tmp_path)
    handed = {name: getattr(pipe, name) for name in ("tokenizer_4", "text_encoder_4")}
    index = json.loads((tmp_path / "model_index.json").read_text())
    (tmp_path / "model_index.json").write_text(json.dumps({k: v for k, v in index.items() if k not in handed}))
    for name in handed:
        shutil.rmtree(tmp_path / name)
    put_on_hub(tmp_path, monkeypatch)
    with pytest.raises(ValueError, match=r"comes without tokenizer_4, text_enc.*: tokenizer_4=…, text_encoder_4=…"):
        load_pipeline("some/model", "cpu")
    assert load_pipeline("some/model", "cpu", **handed).text_encoder_4 is handed["text_encoder_4"]


@pytest.mark.parametrize("variant", ["fp16", "bf16"])
def test_a_hub_model_that_has_the_variant_alone(monkeypatch, folder, weights, variant):
    """Of which diffusers has an error for plain weights, and for another variant."""
    rename(
        folder, ["unet", "vae", "text_encoder"], lambda name: name.replace(".safetensors", f".{variant}.safetensors")
    )
    put_on_hub(folder, monkeypatch)
    assert_same(load_pipeline("some/model", "cpu"), weights)


def test_a_hub_model_without_safetensors(monkeypatch, folder):
    """The error is that of plain weights."""
    rename(folder, ["unet", "vae", "text_encoder"], lambda name: name.replace(".safetensors", ".bin"))
    put_on_hub(folder, monkeypatch)
    with pytest.raises(ValueError, match=r"^model: some/model could not be loaded: Could not find the necessary `safe"):
        load_pipeline("some/model", "cpu")


def test_memory_is_not_the_models_fault(monkeypatch):
    def fail(*_, **__):
        raise MemoryError

    monkeypatch.setattr("diffusers.DiffusionPipeline.from_pretrained", fail)
    with pytest.raises(MemoryError):
        load_pipeline("emoji", "cpu")


def test_loads_that_overlap_leave_the_levels_of_other_libraries_as_they_were():
    from huggingface_hub.utils import logging as hub

    before = hub.get_verbosity()
    first, second = quiet(), quiet()
    hub.set_verbosity_info()
    try:
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert hub.get_verbosity() == hub.ERROR  # the second is still at it
        second.__exit__(None, None, None)
        assert hub.get_verbosity() == hub.INFO
    finally:
        hub.set_verbosity(before)
