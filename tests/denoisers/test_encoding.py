"""Texts are encoded once in an explanation, and encoders that leave a GPU come back."""

import functools

import pytest
import torch
from tiny_pipelines import build

import dpid
from dpid.denoisers import encoding, from_pipeline

TEXTS = ["", "a cow"]
ASK = {"latents": torch.zeros(16, 8, 8), "prompt": "a cow and a giraffe", "concepts": ("cow", "giraffe")}


@pytest.fixture
def pipe():
    """A pipeline that counts the texts that it encodes."""
    made = build("sd3")
    made.encoded, encode = [], made.encode_prompt

    @functools.wraps(encode)
    def counted(prompt, **more):
        made.encoded.append(len(prompt))
        return encode(prompt, **more)

    made.encode_prompt = counted
    return made


def test_texts_are_encoded_once_in_an_explanation(pipe):
    pipe.to(torch.bfloat16)
    explainer = dpid.Explainer(pipe)
    fast, fine = explainer.denoiser.at("bfloat16"), explainer.denoiser.at("float32")
    pipe.encoded.clear()
    with fast.lock:  # "" is encoded to see whether the network has changed
        first = fast.encode_conditions(TEXTS).encoded
        assert fine.encode_conditions(TEXTS).encoded is first
        fast.encode_conditions(TEXTS[::-1])
        with fine.lock:
            assert fine.encode_conditions(TEXTS).encoded is first
        assert fast.encode_conditions(TEXTS).encoded is first
    assert pipe.encoded == [1, 2, 2]
    pipe.text_encoder.text_model.final_layer_norm.weight.data.mul_(2)
    with fast.lock:  # another explanation
        again = fast.encode_conditions(TEXTS).encoded
    assert not torch.equal(again["pooled_projections"], first["pooled_projections"])
    assert pipe.encoded == [1, 2, 2, 1, 2]


def test_an_explanation_in_two_types_encodes_once(pipe):
    pipe.to(torch.bfloat16)
    explainer = dpid.Explainer(pipe, precision="bfloat16")
    explainer._finer = ("float32",)  # as "auto" has it where the device computes bfloat16
    pipe.encoded.clear()
    explainer.explain(**ASK, samples=64)
    assert pipe.encoded == [1, 4]


@pytest.mark.parametrize("free", [0, 10**12])
def test_encoders_leave_a_full_gpu_and_come_back(pipe, free, monkeypatch):
    """On a CPU that counts as a GPU: which encoders are moved, and when."""
    moved = []
    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        encoder = getattr(pipe, name)
        monkeypatch.setattr(encoder, "to", lambda device, name=name: moved.append((name, str(device))))
    pipe.text_encoder_2._hf_hook = None  # something else moves it
    denoiser = from_pipeline(pipe)
    monkeypatch.setattr(encoding, "is_gpu", lambda device: True)
    monkeypatch.setattr(encoding, "free_memory", lambda device: free)
    away = [("text_encoder", "cpu"), ("text_encoder_3", "cpu")] if free == 0 else []
    z, logsnr = torch.zeros(1, 1, 16, 8, 8), denoiser.logsnr_grid[:1]
    with denoiser.lock:
        conditions = denoiser.encode_conditions(TEXTS)
        assert not moved
        for _ in range(2):
            denoiser.eps_hat(z, logsnr, conditions)
            assert moved == away
        denoiser.encode_conditions(TEXTS)
        assert moved == away
        denoiser.encode_conditions(["a giraffe"])
        assert len(moved) == 2 * len(away)
        denoiser.eps_hat(z, logsnr, conditions)
        assert moved[2 * len(away) :] == away
        moved.clear()
    assert sorted(moved) == away
    moved.clear()
    denoiser.eps_hat(z, logsnr, denoiser.encode_conditions(TEXTS))
    assert not moved  # outside an explanation nobody would bring them back
