"""Transformers whose weights are stored in a few bits, against the pipeline itself and against what they stand for."""

import diffusers
import pytest
import torch
from own_calls import differs
from tiny_pipelines import build

import dpid
from dpid.denoisers import from_pipeline


def test_a_transformer_quantised_by_torchao():
    quantization = pytest.importorskip("torchao.quantization")
    pipe = build("sd3")
    quantization.quantize_(pipe.transformer, quantization.Int8WeightOnlyConfig())
    assert differs(pipe, "a cow") < 1e-5  # the same float32 operations
    assert from_pipeline(pipe).precisions == ("float32",)
    with pytest.raises(
        ValueError, match=r"^precision: found 'bfloat16'; this network computes in float32 alone, since "
    ):
        dpid.Explainer(pipe, precision="bfloat16")


def test_a_transformer_quantised_while_it_is_loaded(tmp_path):
    quantization = pytest.importorskip("torchao.quantization")
    if not hasattr(diffusers, "PipelineQuantizationConfig"):
        pytest.skip("this version of diffusers quantises no pipeline")
    build("sd3").to(torch.bfloat16).save_pretrained(tmp_path)
    eight = diffusers.TorchAoConfig(quantization.Int8WeightOnlyConfig())
    config = diffusers.PipelineQuantizationConfig(quant_mapping={"transformer": eight})
    denoiser = dpid.Explainer.from_pretrained(tmp_path, device="cpu", quantization_config=config).denoiser
    assert denoiser.precisions == ("bfloat16",)
    assert denoiser.family.fixed_precision().endswith(" is quantised")
    assert differs(denoiser.family.pipe, "a cow") < 4e-3  # a rounding of bfloat16, at most


def quantised(pipe, kind):
    """``pipe`` in a half type, its linear layers (of four bits those of whole blocks) quantised by bitsandbytes.

    Diffusers replaces the same layers by the same, but only where there is a GPU.
    """
    bnb = pytest.importorskip("bitsandbytes")
    pipe.to(torch.float16 if kind == "int8" else torch.bfloat16)
    for module in list(pipe.transformer.modules()):
        for name, layer in list(module.named_children()):
            if type(layer) is not torch.nn.Linear:
                continue
            shape = (layer.in_features, layer.out_features, layer.bias is not None)
            if kind == "int8":
                made = bnb.nn.Linear8bitLt(*shape, has_fp16_weights=False)
            elif shape[0] % 64 == shape[1] % 32 == 0:
                made = bnb.nn.Linear4bit(*shape, compute_dtype=torch.bfloat16, quant_type=kind)
            else:
                continue
            made.load_state_dict(layer.state_dict())
            setattr(module, name, made.to("cpu", layer.weight.dtype).eval().requires_grad_(False))
    return pipe


@pytest.mark.parametrize("kind", ["nf4", "fp4", "int8"])
def test_a_transformer_quantised_by_bitsandbytes(kind, caplog):
    pipe = quantised(build("sd3"), kind)
    assert differs(pipe, "a cow") < 4e-3  # a rounding of bfloat16, at most: the same layers on the same numbers
    assert "not compared" not in caplog.text
    denoiser = from_pipeline(pipe)
    own = "float16" if kind == "int8" else "bfloat16"
    assert denoiser.precisions == ("float32", own)
    assert denoiser.evaluation_bytes(8, 8) == from_pipeline(build("sd3").to(pipe.dtype)).evaluation_bytes(8, 8)
    with pytest.raises(ValueError, match=rf"computes in float32 or {own} alone, since .* is a bitsandbytes Linear"):
        dpid.Explainer(pipe, precision="float16" if own == "bfloat16" else "bfloat16")


@pytest.mark.parametrize("kind", ["nf4", "int8"])
def test_quantised_weights_in_float32(kind):
    """As a network that has the weights which the quantised ones stand for, by what bitsandbytes says of them."""
    pipe, plain = quantised(build("sd3"), kind), build("sd3")
    plain.transformer.to(pipe.dtype).float()
    import bitsandbytes

    for name, layer in pipe.transformer.named_modules():
        if kind == "int8" and isinstance(layer, bitsandbytes.nn.Linear8bitLt):
            weight = layer.weight.CB.float() * layer.weight.SCB[:, None] / 127
        elif isinstance(layer, bitsandbytes.nn.Linear4bit):
            weight = bitsandbytes.functional.dequantize_4bit(layer.weight.data, layer.weight.quant_state).float()
        else:
            continue
        plain.transformer.get_submodule(name).weight = torch.nn.Parameter(weight)
    denoiser = from_pipeline(pipe, precision="float32")
    x = torch.randn(1, *denoiser.latent_shape, generator=torch.Generator().manual_seed(0))
    encoded = denoiser.family.encode_texts(["", "a cow"])
    before = [(id(p), p.data_ptr(), p.dtype) for p in pipe.transformer.parameters()]
    found, own = (denoiser.family.plain(x, torch.tensor([0.5]), encoded, p) for p in denoiser.precisions)
    assert [(id(p), p.data_ptr(), p.dtype) for p in pipe.transformer.parameters()] == before
    assert all(module._compiled_call_impl is None for module in pipe.transformer.modules())
    expected = from_pipeline(plain, check=False).family.plain(x, torch.tensor([0.5]), encoded, "float32")

    def difference(prediction):
        return float((prediction - expected).norm() / expected.norm())

    # The layers hold their scales in a half type: 2⁻⁹ of four bits, 2⁻¹¹ of eight. In use they round inputs, too.
    assert difference(found) < (5e-4 if kind == "int8" else 2e-3) < difference(own)


def test_layers_that_round_in_float32_are_remarked_on():
    pytest.importorskip("bitsandbytes")
    pipe = quantised(build("sd3"), "int8")
    for p in pipe.transformer.parameters():
        p.data = p.data.float() if p.is_floating_point() else p.data
    denoiser = from_pipeline(pipe, check=False)
    assert denoiser.precisions == ("float32",)
    assert denoiser.caveat.startswith("quantised layers round what they are given")
    assert from_pipeline(build("sd3"), check=False).caveat == ""
