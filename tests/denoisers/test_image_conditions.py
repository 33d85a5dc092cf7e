"""Pictures as conditions, by an IP-Adapter of a tiny pipeline, against that pipeline's own run."""

import pickle

import diffusers
import numpy as np
import pytest
import torch
import transformers
from diffusers.models.embeddings import ImageProjection, IPAdapterPlusImageProjection
from own_calls import first_call
from PIL import Image
from tiny_pipelines import drawn

import dpid
from dpid.denoisers import NetworkDenoiser, from_pipeline
from dpid.denoisers.families.stable_diffusion import StableDiffusion

PICTURE, OTHER = (
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (20, 30, 3), dtype=np.uint8)) for seed in (0, 1)
)
TEXT, WIDTH = "cow giraffe", 16


def adapted(tiny, family="sd1", plus=False):
    """A tiny pipeline with an IP-Adapter of random weights."""
    pipe = tiny(family=family)
    vision = transformers.CLIPVisionConfig(
        hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=16,
        patch_size=8, projection_dim=WIDTH,
    )  # fmt: skip
    encoder = drawn(transformers.CLIPVisionModelWithProjection(vision), 6)
    extractor = transformers.CLIPImageProcessor(size=16, crop_size=16)
    pipe.register_modules(image_encoder=encoder, feature_extractor=extractor)
    generator, wide = torch.Generator().manual_seed(7), pipe.unet.config.cross_attention_dim
    attention, number = {}, 1
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2"):
            for part in ("to_k_ip", "to_v_ip"):
                attention[f"{number}.{part}.weight"] = torch.randn(module.inner_dim, wide, generator=generator) / 4
            number += 2
    layer = drawn(ImageProjection(image_embed_dim=WIDTH, cross_attention_dim=wide, num_image_text_embeds=4), 8)
    named = {"proj": layer.image_embeds, "norm": layer.norm}
    weights = {f"{name}.{part}": w for name, module in named.items() for part, w in module.state_dict().items()}
    pipe.unet._load_ip_adapter_weights([{"image_proj": weights, "ip_adapter": attention}], low_cpu_mem_usage=False)
    if plus:  # which is given the encoder's last but one layer, and a black picture's where there is none
        pipe.unet.encoder_hid_proj.image_projection_layers[0] = drawn(
            IPAdapterPlusImageProjection(
                embed_dims=WIDTH, output_dims=wide, hidden_dims=WIDTH, depth=1, dim_head=8, heads=2, num_queries=4
            ),
            8,
        )
    pipe.unet.eval()
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.mark.parametrize(("family", "plus"), [("sd1", False), ("sd1", True), ("xl", False), ("xl", True)])
def test_a_picture_is_what_the_pipeline_makes_of_it(tiny, family, plus, checked_again):
    pipe = adapted(tiny, family, plus)
    denoiser = from_pipeline(pipe)
    assert "agrees with the pipeline: time" in checked_again.text  # by the check at load, with its picture and without
    assert not denoiser.fused
    conditions = denoiser.encode_conditions(
        ["", dpid.ImageCondition(PICTURE, TEXT), dpid.ImageCondition(PICTURE), TEXT, dpid.ImageCondition(OTHER, TEXT)]
    )
    x, t, theirs = first_call(pipe, TEXT, ip_adapter_image=PICTURE)
    found = denoiser.predict(x, t, conditions)[:, 0]
    # The same float32 operations in batches of another shape.
    torch.testing.assert_close(found[:2], theirs, rtol=1e-4, atol=1e-5)
    size = {"height": x.shape[2] * denoiser.family.factor, "width": x.shape[3] * denoiser.family.factor}
    if family == "sd1":  # XL's pipeline gives "" where no text is none only as a negative prompt
        _, _, theirs = first_call(pipe, "", ip_adapter_image=PICTURE, **size)
        torch.testing.assert_close(found[2], theirs[1], rtol=1e-4, atol=1e-5)
    pairs = [(i, j) for i in range(5) for j in range(i)]
    assert all((found[i] - found[j]).norm() > 1e-3 * found[i].norm() for i, j in pairs)


def test_a_black_picture_is_not_none(tiny):
    pipe = adapted(tiny)
    kind, black = StableDiffusion, dpid.ImageCondition(Image.new("RGB", (16, 16)))
    wrong = {"pipelines": (), "_embedded": lambda self, c: kind._embedded(self, black if isinstance(c, str) else c)}
    with pytest.raises(ValueError, match="its empty text is not what the pipeline's guidance takes for no text"):
        NetworkDenoiser(type("Wrong", (kind,), wrong)(pipe))


def test_a_picture_is_a_concept(tiny):
    explainer = dpid.Explainer(adapted(tiny))
    style = dpid.ImageCondition(PICTURE)
    conditions = {
        (): "", ("cow",): "cow", ("style",): style, ("cow", "style"): dpid.ImageCondition(PICTURE, "cow"),
    }  # fmt: skip
    result = explainer.explain(latents=torch.zeros(4, 8, 8), conditions=conditions, samples=8)
    assert result.unique["style"].value != 0
    named = f"picture {style.digest[:12]}"
    assert result.metadata.conditions == {"": "", "cow": "cow", "style": named, "cow+style": f"cow + {named}"}
    assert result.metadata.reference == f"cow + {named}"


def test_without_the_adapter_again(tiny):
    pipe = adapted(tiny)
    explainer = dpid.Explainer(pipe)
    ask = {"latents": torch.zeros(4, 8, 8), "samples": 8}
    conditions = {(): "", ("a",): dpid.ImageCondition(PICTURE), ("b",): "cow", ("a", "b"): "cow giraffe"}
    explainer.explain(conditions=conditions, **ask)
    pipe.unet.encoder_hid_proj = None
    pipe.unet.config.encoder_hid_dim_type = None
    pipe.unet.set_default_attn_processor()
    with pytest.raises(ValueError, match=r"^conditions: found 'picture [0-9a-f]{12}', but this model takes text"):
        explainer.explain(conditions=conditions, **ask)
    assert explainer.explain(conditions=conditions | {("a",): "giraffe"}, **ask).synergy.value != 0
    assert explainer.denoiser.fused


def test_equal_pictures_are_equal_conditions(tmp_path):
    one, other = dpid.ImageCondition(PICTURE, "a cow"), dpid.ImageCondition(np.asarray(PICTURE), "a cow")
    assert one == other == pickle.loads(pickle.dumps(one))
    assert len({one, other, dpid.ImageCondition(PICTURE), dpid.ImageCondition(OTHER, "a cow")}) == 3
    turned = PICTURE.transpose(Image.Transpose.ROTATE_90)
    assert dpid.ImageCondition(PICTURE.resize((30, 20))) == dpid.ImageCondition(PICTURE)
    assert dpid.ImageCondition(turned) != dpid.ImageCondition(PICTURE)
    with pytest.raises(ValueError, match=r"^image: missing.png does not exist"):
        dpid.ImageCondition("missing.png")
    with pytest.raises(TypeError, match=r"^text: found 3, expected a text"):
        dpid.ImageCondition(PICTURE, 3)


def test_pipelines_that_cannot_be_given_a_picture(tiny):
    pipe = adapted(tiny)
    pipe.image_encoder = None
    with pytest.raises(ValueError, match=r"^pipe: the UNet of StableDiffusionPipeline needs a picture .* image_enc"):
        dpid.Explainer(pipe)
    pipe = adapted(tiny)
    projection = pipe.unet.encoder_hid_proj
    projection.image_projection_layers.append(projection.image_projection_layers[0])
    with pytest.raises(ValueError, match=r"^pipe: the UNet of StableDiffusionPipeline needs a picture .* one adapter"):
        dpid.Explainer(pipe)


def test_an_adapter_beside_a_control_net(tiny):
    made = adapted(tiny)
    net = drawn(diffusers.ControlNetModel.from_unet(tiny().unet, conditioning_embedding_out_channels=(8, 8)), 5)
    parts = {name: part for name, part in made.components.items() if name != "safety_checker"}
    pipe = diffusers.StableDiffusionControlNetPipeline(**parts, controlnet=net, safety_checker=None)
    pipe.set_progress_bar_config(disable=True)
    denoiser = from_pipeline(pipe, control=PICTURE)
    conditions = denoiser.encode_conditions(["", dpid.ImageCondition(OTHER, TEXT)])
    x, t, theirs = first_call(pipe, TEXT, ip_adapter_image=OTHER, image=PICTURE, height=16, width=16)
    torch.testing.assert_close(denoiser.predict(x, t, conditions)[:, 0], theirs, rtol=1e-4, atol=1e-5)  # as above
