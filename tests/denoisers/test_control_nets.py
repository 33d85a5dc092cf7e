"""ControlNets: pictures that a network is given with every text, against the pipeline itself."""

import json

import diffusers
import numpy as np
import pytest
import torch
from own_calls import differs
from peak import Peak
from PIL import Image
from tiny_pipelines import build, drawn

import dpid
from dpid.denoisers import from_pipeline

# The same float32 operations; in another order where a batch has another shape.
EXACT = 1e-5
PICTURE = Image.effect_noise((40, 24), 90).convert("RGB")


def controlled(tiny, family, **call):
    made = tiny(family=family)
    kind = diffusers.StableDiffusionXLControlNetPipeline if family == "xl" else None
    kind = kind or diffusers.StableDiffusionControlNetPipeline
    net = diffusers.ControlNetModel.from_unet(made.unet, conditioning_embedding_out_channels=(8, 8))
    parts = {name: part for name, part in made.components.items() if name not in ("safety_checker", "image_encoder")}
    pipe = kind(**parts, controlnet=drawn(net, 5), **({} if family == "xl" else {"safety_checker": None}))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_control_nets(tiny, family):
    pipe = controlled(tiny, family)
    call = {"image": PICTURE, "height": 16, "width": 16, "controlnet_conditioning_scale": 0.7}
    options = {"control": PICTURE, "control_scale": 0.7}
    assert differs(pipe, call=call, **options) < EXACT
    assert differs(pipe, call=call, control=PICTURE, control_scale=0.1) > 1e-3
    assert differs(pipe, call=call, control=Image.new("RGB", (16, 16)), control_scale=0.7) > 1e-4
    explainer = dpid.Explainer(pipe, **options)
    assert not explainer.denoiser.fused
    image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))  # another size than above
    result = explainer.explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8)
    assert result.information[("cow",)].value != 0


@pytest.mark.parametrize("kind", ["Img2Img", "Inpaint"])
@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_pipelines_that_start_from_a_picture(tiny, family, kind, checked_again):
    """They have two pictures, and numbers are those of the pipeline that starts from noise."""
    made = controlled(tiny, family)
    name = type(made).__name__.replace("ControlNet", f"ControlNet{kind}")
    more = {"requires_safety_checker": False} if family == "sd1" else {}
    pipe = getattr(diffusers, name)(**made.components, **more)
    found, own = (from_pipeline(p, control=PICTURE, control_scale=0.7) for p in (pipe, made))
    assert checked_again.text.count("agrees with the pipeline: time") == 2
    z = torch.randn(1, 1, *own.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, expected = (d.eps_hat(z, d.logsnr_grid[300:301], d.encode_conditions(["", "cow"])) for d in (found, own))
    assert torch.equal(ours, expected)


def controlled_3(**config):
    made = build("sd3")
    settings = {**made.transformer.config, "num_layers": 2, **config}
    net = diffusers.SD3ControlNetModel.from_config(settings)
    parts = {name: part for name, part in made.components.items() if name not in ("image_encoder", "feature_extractor")}
    pipe = diffusers.StableDiffusion3ControlNetPipeline(**parts, controlnet=drawn(net, 5))
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_control_nets_of_a_consistency_model(tiny, family, checked_again):
    """Whose network takes guidance as an input, and whose ControlNet does not."""
    pipe = controlled(tiny, family)
    unet = diffusers.UNet2DConditionModel.from_config(pipe.unet.config, time_cond_proj_dim=8)
    pipe.register_modules(unet=drawn(unet, 3))
    assert from_pipeline(pipe, control=PICTURE).family.takes_guidance
    assert "agrees with the pipeline: " in checked_again.text


@pytest.mark.parametrize("config", [{}, {"force_zeros_for_pooled_projection": False}, {"joint_attention_dim": None}])
def test_control_nets_of_stable_diffusion_3(config, monkeypatch, checked_again):
    pipe = controlled_3(**config)
    # A posterior as wide as the pictures, from which the pipeline draws.
    pipe.vae.encoder.conv_out.bias.data[16:] = 0.0
    from_pipeline(pipe, control=PICTURE)
    assert "the family StableDiffusion3ControlNet agrees with the pipeline" in checked_again.text
    # The pipeline draws from the VAE's posterior, here its mode is taken.
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())
    call = {"control_image": PICTURE, "height": 64, "width": 64, "controlnet_conditioning_scale": 0.7}
    assert differs(pipe, "a cow", call=call, control=PICTURE, control_scale=0.7) < EXACT
    assert differs(pipe, "a cow", call=call, control=PICTURE, control_scale=0.1) > 1e-3


def test_what_control_nets_of_stable_diffusion_3_leave_to_its_blocks_is_counted():
    """The estimate of an evaluation's memory grows with them by what they leave or more, at most 2.5 times that."""
    measured, estimates = [], []
    for layers in (8, 16):
        family = from_pipeline(controlled_3(num_layers=layers), control=PICTURE, check=False, fused=False).family
        x, levels = torch.zeros(1, 16, 32, 32), family.levels()
        call = (x, levels.time(levels.grid[100:101]), family.encode_texts(["a cow"]), "float32")
        with torch.inference_mode():
            family.plain(*call)  # which encodes the picture
            with Peak() as peak:
                family.plain(*call)
        measured.append(peak.peak)
        estimates.append(family.evaluation_bytes(32, 32, 4))
    # The estimate has 512 tokens of text, for which a ControlNet leaves nothing, beside the 256 of the picture.
    bound = (estimates[1] - estimates[0]) * 256 / (256 + 512)
    assert bound / 2.5 < measured[1] - measured[0] <= bound


@pytest.mark.parametrize("zeros", [True, False])
def test_several_control_nets_of_stable_diffusion_3(zeros, monkeypatch, checked_again):
    pipe, other = (controlled_3(force_zeros_for_pooled_projection=zeros) for _ in range(2))
    nets = [pipe.controlnet, drawn(other.controlnet, 9)]
    pipe.register_modules(controlnet=diffusers.models.controlnets.SD3MultiControlNetModel(nets))
    kind = diffusers.models.autoencoders.vae.DiagonalGaussianDistribution
    monkeypatch.setattr(kind, "sample", lambda self, generator=None: self.mode())
    pictures, scales = [PICTURE, PICTURE.rotate(90)], [0.7, 0.4]
    call = {"control_image": pictures, "height": 64, "width": 64, "controlnet_conditioning_scale": scales}
    assert differs(pipe, "a cow", call=call, control=pictures, control_scale=scales) < EXACT
    assert "the family StableDiffusion3ControlNet agrees with the pipeline" in checked_again.text
    assert differs(pipe, "a cow", call=call, control=pictures[::-1], control_scale=scales) > 1e-4


def test_a_control_picture_is_encoded_in_the_vaes_own_type():
    """Also where the first pass is in half precision: the latents of the picture are kept for float32."""
    pipe = controlled_3()
    first, fresh = (from_pipeline(pipe, control=PICTURE, check=False, fused=False) for _ in range(2))
    z, level = torch.zeros(1, 1, 16, 8, 8), first.logsnr_grid[300:301]
    conditions, expected = (
        first.encode_conditions(["a cow"]),
        fresh.eps_hat(z, level, fresh.encode_conditions(["a cow"])),
    )
    assert not torch.equal(first.at("bfloat16").eps_hat(z, level, conditions), expected)
    assert torch.equal(first.eps_hat(z, level, conditions), expected)


@pytest.mark.parametrize("scale", [1, True, np.float32(0.5), torch.tensor(0.5)], ids=str)
def test_a_scale_may_be_a_number_of_any_kind(tiny, scale, checked_again):
    """Pipelines take a float alone, and a pipeline that refuses its own call is not compared with its family."""
    denoiser = from_pipeline(controlled(tiny, "sd1"), control=PICTURE, control_scale=scale)
    assert "agrees with the pipeline: " in checked_again.text
    assert denoiser.family.call_arguments()["controlnet_conditioning_scale"] == float(scale)


def test_refusals_of_control(tiny):
    pipe = controlled(tiny, "sd1")
    with pytest.raises(ValueError, match=r"^control: StableDiffusionControlNetPipeline has a ControlNet; give the pic"):
        dpid.Explainer(pipe)
    with pytest.raises(ValueError, match=r"^control, control_scale: are of a ControlNet, and StableDiffusionPi"):
        dpid.Explainer(tiny(), control=PICTURE)
    with pytest.raises(ValueError, match=r"^control: nowhere\.png does not exist"):
        dpid.Explainer(pipe, control="nowhere.png")
    with pytest.raises(TypeError, match=r"^control: found int, expected a path"):
        dpid.Explainer(pipe, control=3)
    with pytest.raises(ValueError, match=r"^control: found 2, but StableDiffusionControlNetPipeline has 1 ControlNet$"):
        dpid.Explainer(pipe, control=[PICTURE, PICTURE])
    pipe.controlnet = diffusers.models.controlnets.MultiControlNetModel([pipe.controlnet, pipe.controlnet])
    with pytest.raises(ValueError, match=r"^control: found 1, but StableDiffusionControlNetPipeline has 2 ControlNets"):
        dpid.Explainer(pipe, control=PICTURE)
    with pytest.raises(ValueError, match=r"^control_scale: found 3, but StableDiffusionControlNetPipeline has 2 Contr"):
        dpid.Explainer(pipe, control=[PICTURE, PICTURE], control_scale=[1, 2, 3])
    with pytest.raises(ValueError, match=r"^control_scale: found nan, expected a finite number"):
        dpid.Explainer(pipe, control=[PICTURE, PICTURE], control_scale=[1, float("nan")])
    with pytest.raises(ValueError, match=r"^control_scale: found '1', expected a finite number"):
        dpid.Explainer(pipe, control=[PICTURE, PICTURE], control_scale="1")
    pipe.controlnet = torch.nn.Identity()
    with pytest.raises(ValueError, match=r"^pipe: its controlnet is a Identity, supported is a ControlNetModel or Mul"):
        dpid.Explainer(pipe, control=PICTURE)


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_several_control_nets(tiny, family):
    pipe, other = (controlled(tiny, family) for _ in range(2))
    drawn(other.controlnet, 9)
    pipe.register_modules(
        controlnet=diffusers.models.controlnets.MultiControlNetModel([pipe.controlnet, other.controlnet])
    )
    pictures, scales = [PICTURE, PICTURE.rotate(90)], [0.7, 0.4]
    call = {"image": pictures, "height": 16, "width": 16, "controlnet_conditioning_scale": scales}
    assert differs(pipe, call=call, control=pictures, control_scale=scales) < EXACT
    assert differs(pipe, call=call, control=pictures[::-1], control_scale=scales) > 1e-4
    assert differs(pipe, call=call, control=pictures, control_scale=0.7) > 1e-3
    image = torch.rand(3, 16, 24, generator=torch.Generator().manual_seed(1))
    explainer = dpid.Explainer(pipe, control=pictures, control_scale=scales)
    assert explainer.explain(image, "a cow and a giraffe", ("cow", "giraffe"), samples=8).synergy.value != 0


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_control_nets_whose_answers_are_pooled(tiny, family, checked_again):
    """Guidance leaves them out of the unconditional prediction, which has them here."""
    pipe = controlled(tiny, family)
    pipe.controlnet.register_to_config(global_pool_conditions=True)
    found, other = (from_pipeline(pipe, control=picture) for picture in (PICTURE, Image.new("RGB", (16, 16))))
    assert "agrees with the pipeline: " in checked_again.text
    z, (first, second) = torch.zeros(1, 1, 4, 8, 8), (d.encode_conditions([""]) for d in (found, other))
    level = found.logsnr_grid[300:301]
    assert not torch.equal(found.eps_hat(z, level, first), other.eps_hat(z, level, second))


def test_on_the_command_line(tiny, command, tmp_path):
    """A saved pipeline of two ControlNets, with a picture each and one weight for both."""
    pipe = controlled(tiny, "sd1")
    pipe.register_modules(controlnet=diffusers.models.controlnets.MultiControlNetModel([pipe.controlnet] * 2))
    pipe.save_pretrained(tmp_path / "model")
    pictures = [PICTURE, PICTURE.rotate(90)]
    files = [tmp_path / "one.png", tmp_path / "other.png"]
    for file, picture in zip(files, pictures, strict=True):
        picture.save(file)
    asked = ("rank", "a cow", files[0], "--model", tmp_path / "model", "--samples", 8, "--out", tmp_path / "out")
    given = [word for file in files for word in ("--control", file)]
    assert command(*asked, *given, "--control-scale", 0.7)[0] == 0
    explainer = dpid.Explainer(pipe, control=pictures, control_scale=0.7)
    expected = explainer.rank([files[0]], "a cow", samples=8).information[0]
    found = json.loads((tmp_path / "out/ranking.json").read_text())["ranked"][0]
    assert found["value"] == pytest.approx(expected.value, rel=1e-4)  # float32 operations in batches of another shape
    code, _, err = command(*asked[:5], "--control", tmp_path / "none.png")
    assert (code, err) == (2, f"dpid: control: {tmp_path / 'none.png'} does not exist\n")
    assert command(*asked[:3], "--control-scale", 1, "--samples", 8)[0] == 0  # as it is without one
    code, _, err = command(*asked[:3], "--control-scale", 0.7)
    assert (code, err) == (2, "dpid: control, control_scale: are of a ControlNet, and emoji has none\n")


@pytest.mark.parametrize("family", ["sd1", "xl", "sd3"])
def test_a_control_net_beside_a_pipeline_without_one(tiny, family, tmp_path):
    made = controlled_3() if family == "sd3" else controlled(tiny, family)
    plain = {"sd1": "StableDiffusion", "xl": "StableDiffusionXL", "sd3": "StableDiffusion3"}[family]
    parts = {name: part for name, part in made.components.items() if name != "controlnet"}
    more = {} if family != "sd1" else {"requires_safety_checker": False}
    getattr(diffusers, f"{plain}Pipeline")(**parts, **more).save_pretrained(tmp_path)
    options = {"device": "cpu", "precision": "float32", "controlnet": made.controlnet, "control": PICTURE}
    found = dpid.Explainer.from_pretrained(tmp_path, **options).denoiser
    assert type(found.family.pipe).__name__ == f"{plain}ControlNetPipeline"
    own = from_pipeline(made, control=PICTURE, precision="float32")
    z = torch.randn(1, 1, *own.latent_shape, generator=torch.Generator().manual_seed(0))
    ours, expected = (d.eps_hat(z, d.logsnr_grid[300:301], d.encode_conditions(["", "cow"])) for d in (found, own))
    assert torch.equal(ours, expected)
