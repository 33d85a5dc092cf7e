"""Single files of weights, in the layout of the first releases."""

import re
import shutil
from pathlib import Path

import diffusers
import pytest
import torch
from safetensors.torch import save_file
from tiny_pipelines import drawn

import dpid
from dpid.denoisers.loading import embedded_path, load_pipeline


@pytest.fixture
def folder(tmp_path):
    """A copy of the embedded model."""
    return shutil.copytree(embedded_path("emoji"), tmp_path / "model")


def test_a_single_file(tmp_path, folder):
    """The layout of the first releases of Stable Diffusion, in which people share their fine-tunes."""
    path = tmp_path / "model.safetensors"
    save_file(single_file(load_pipeline(folder, "cpu")), path)
    pipe = load_pipeline(path, "cpu", config=folder)
    found, expected = pipe.unet.state_dict(), load_pipeline(folder, "cpu").unet.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], w) for name, w in expected.items())
    assert pipe.unet.dtype == pipe.vae.dtype == pipe.text_encoder.dtype == torch.float32
    assert load_pipeline(path, "cpu", config=folder, dtype=torch.float16).unet.dtype == torch.float16
    with pytest.raises(ValueError, match=r"^variant: found 'fp16', .*\.safetensors is a single file, which has none$"):
        load_pipeline(path, "cpu", config=folder, variant="fp16")
    explainer = dpid.Explainer.from_pretrained(path, device="cpu", config=folder)
    assert explainer.denoiser.fused
    assert explainer.denoiser.distilled == ""
    named = path.with_name("DreamShaperXL_Turbo.safetensors")
    shutil.copy(path, named)
    explainer = dpid.Explainer.from_pretrained(named, device="cpu", config=folder)
    assert explainer.denoiser.distilled.startswith("'Turbo' in the name 'DreamShaperXL_Turbo': ")
    with pytest.raises(ValueError, match=r"^model: the configuration stable-diffusion-v1-5/stable-diffusion-v1-5 of .*"
                       r"model.safetensors \(dpid.Explainer.from_pretrained takes another as config=\) could not be "
                       "loaded: .*the hub cannot be reached"):  # fmt: skip
        load_pipeline(path, "cpu")


def single_file(pipe):
    """The weights of a Stable Diffusion 1.x pipeline, or the UNet of XL, under their names of Rombach et al."""
    layers, levels = pipe.unet.config.layers_per_block, len(pipe.vae.config.block_out_channels)
    named = {"conv_in": "input_blocks.0.0", "time_embedding.linear_1": "time_embed.0", "conv_norm_out": "out.0",
             "time_embedding.linear_2": "time_embed.2", "conv_out": "out.2", "mid_block.resnets.0": "middle_block.0",
             "mid_block.attentions.0": "middle_block.1", "mid_block.resnets.1": "middle_block.2",
             "add_embedding.linear_1": "label_emb.0.0", "add_embedding.linear_2": "label_emb.0.2"}  # fmt: skip
    resnet = {"norm1": "in_layers.0", "conv1": "in_layers.2", "time_emb_proj": "emb_layers.1", "conv2": "out_layers.3",
              "norm2": "out_layers.0", "conv_shortcut": "skip_connection"}  # fmt: skip

    def of_unet(name):
        for ours, theirs in named.items():
            name = re.sub(rf"^{ours}\.", f"{theirs}.", name)
        if m := re.match(r"(down|up)_blocks\.(\d+)\.(\w+)\.(\d+)\.(.*)", name):
            level, i, rest = int(m[2]), int(m[4]), m[5]
            first = level * (layers + 1) + (m[1] == "down")
            side = "input" if m[1] == "down" else "output"
            attends = "CrossAttn" in pipe.unet.config[f"{m[1]}_block_types"][level]
            name = {
                "resnets": f"{side}_blocks.{first + i}.0.{rest}", "attentions": f"{side}_blocks.{first + i}.1.{rest}",
                "downsamplers": f"input_blocks.{first + layers}.0.op.{rest.removeprefix('conv.')}",
                "upsamplers": f"output_blocks.{first + layers}.{1 + attends}.{rest}",
            }[m[3]]  # fmt: skip
        if re.match(r"(in|out)put_blocks\.\d+\.0\.|middle_block\.[02]", name):
            for ours, theirs in resnet.items():
                name = name.replace(f".{ours}.", f".{theirs}.")
        return f"model.diffusion_model.{name}"

    def of_vae(name):
        name = re.sub(r"up_blocks\.(\d+)\.", lambda m: f"up.{levels - 1 - int(m[1])}.", name)
        for ours, theirs in {
            "down_blocks.": "down.", "samplers.0.conv": "sample.conv", "mid_block.resnets.0": "mid.block_1",
            "mid_block.resnets.1": "mid.block_2", "resnets": "block", "conv_norm_out": "norm_out",
            "conv_shortcut": "nin_shortcut",
        }.items():  # fmt: skip
            name = name.replace(ours, theirs)
        return f"first_stage_model.{name}"

    def of_text(name):
        return f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"

    parts = ((pipe.unet, of_unet), (pipe.vae, of_vae), (pipe.text_encoder, of_text))
    return {rename(name): w.contiguous() for part, rename in parts for name, w in part.state_dict().items()}


def test_a_single_file_of_another_kind(tiny, tmp_path):
    """The UNet of Stable Diffusion XL, with the other parts and a ControlNet beside it."""
    made = tiny(family="xl")
    made.save_pretrained(tmp_path / "model")
    weights = {name: w for name, w in single_file(made).items() if name.startswith("model.")}
    save_file(weights, tmp_path / "xl.safetensors")
    net = drawn(diffusers.ControlNetModel.from_unet(made.unet, conditioning_embedding_out_channels=(8, 8)), 5)
    parts = {name: getattr(made, name) for name in ("vae", "text_encoder", "text_encoder_2")}
    pipe = load_pipeline(tmp_path / "xl.safetensors", "cpu", config=tmp_path / "model", controlnet=net, **parts)
    assert type(pipe) is diffusers.StableDiffusionXLControlNetPipeline
    assert pipe.controlnet is net
    found = pipe.unet.state_dict()
    assert all(torch.equal(found[name], w) for name, w in made.unet.state_dict().items())


@pytest.mark.parametrize("name", ["result-1", "words-1"])
def test_a_result_is_no_model(monkeypatch, name):
    monkeypatch.setattr("huggingface_hub.hf_hub_download", lambda *_, **__: pytest.fail("asked the hub"))
    path = Path(__file__).parent / "data" / f"{name}.safetensors"
    with pytest.raises(ValueError, match=rf"^model: .*{name}.safetensors is a result of dpid, and no checkpoint"):
        load_pipeline(path, "cpu")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("sd.safetensors", "could not be loaded: "),
        ("sd.ckpt", "is no .safetensors file; other kinds can run code"),
        ("flux.gguf", "is a GGUF file, which has a network alone; .* GGUFQuantizationConfig"),
    ],
)
def test_a_single_file_that_cannot_be_read(tmp_path, name, message):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(ValueError, match=f"^model: .*{message}"):
        load_pipeline(tmp_path / name)


def test_a_single_file_of_something_else(tmp_path, folder):
    save_file({"weight": torch.zeros(1)}, tmp_path / "any.safetensors")
    with pytest.raises(ValueError, match=r"^model: .*any\.safetensors could not be loaded: ") as caught:
        load_pipeline(tmp_path / "any.safetensors", config=folder)
    assert "\n" not in str(caught.value)
