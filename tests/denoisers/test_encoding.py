"""Texts are encoded once in an explanation, and encoders that leave a GPU come back."""

import functools

import diffusers
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


@pytest.fixture
def full_gpu(monkeypatch):
    """The CPU counts as a GPU without free memory where it is decided whether encoders leave it."""
    monkeypatch.setattr(encoding, "is_gpu", lambda device: True)
    monkeypatch.setattr(encoding, "free_memory", lambda device: 0)


def test_graphs_are_dropped_before_encoders_come_back(tiny, full_gpu, monkeypatch):
    pipe = tiny()
    denoiser = from_pipeline(pipe)
    captured, moved = denoiser.network.graphed._captured, []
    monkeypatch.setattr(pipe.text_encoder, "to", lambda device: moved.append((type(device), len(captured))))
    with denoiser.lock:
        conditions = denoiser.encode_conditions(TEXTS)
        denoiser.eps_hat(torch.zeros(1, 1, 4, 8, 8), denoiser.logsnr_grid[:1], conditions)
        captured["a shape"] = None  # as a GPU's graph would be kept
    assert moved == [(str, 0), (torch.device, 0)]  # to the CPU, and back


def test_encoders_that_find_no_memory_stay_away_until_they_are_needed(pipe, full_gpu, monkeypatch, caplog):
    away, full = set(), True

    def to(name, device):
        if isinstance(device, torch.device) and full:
            raise torch.OutOfMemoryError("CUDA out of memory.\nTried to allocate 9 GiB")
        away.symmetric_difference_update({name})

    for name in ("text_encoder", "text_encoder_2", "text_encoder_3"):
        monkeypatch.setattr(getattr(pipe, name), "to", functools.partial(to, name))
    explainer = dpid.Explainer(pipe)
    assert explainer.explain(**ASK, samples=8).metadata.samples == 8
    assert len(away) == 3
    assert caplog.messages == ["the text encoders stay on the CPU for now: CUDA out of memory."]
    for _ in range(2):  # the memory is still full
        with pytest.raises(torch.OutOfMemoryError):
            explainer.denoiser.encode_conditions(TEXTS)
    full = False
    explainer.denoiser.encode_conditions(TEXTS)
    assert not away
    full = True
    explainer.explain(**ASK, samples=8)
    full = False
    explainer.explain(**ASK, samples=8)
    assert not away


@pytest.fixture
def held(monkeypatch):
    """The modules on the device, and all sets of them that were ever there together, as accelerate's hooks move them.

    The CPU is the device, to which they are moved in name.
    """
    hooks = pytest.importorskip("accelerate.hooks")
    now, together = set(), []

    def pre_forward(self, module, *args, **more):
        if self.prev_module_hook is not None:
            self.prev_module_hook.offload()
        now.add(module)
        together.append(set(now))
        return args, more

    monkeypatch.setattr(hooks.CpuOffload, "pre_forward", pre_forward)
    monkeypatch.setattr(hooks.CpuOffload, "init_hook", lambda self, module: now.discard(module) or module)
    return now, together


@pytest.mark.parametrize("name", ["sd3", "lumina2"])
def test_an_offloaded_network_and_its_encoders_take_turns(name, held, checked_again):
    now, together = held
    offloaded = build(name)
    offloaded.enable_model_cpu_offload(device="cpu")
    hooks = list(offloaded._all_hooks)
    denoiser = from_pipeline(offloaded, check=False)
    assert not now
    assert offloaded._all_hooks == hooks
    from_pipeline(offloaded)
    assert not now
    explainer = dpid.Explainer(denoiser)
    ask = {"prompt": ASK["prompt"], "concepts": ASK["concepts"], "samples": 8}
    explainer.explain(torch.rand(3, 64, 64), **ask)
    assert not now
    with denoiser.lock:
        z = torch.zeros(1, 1, denoiser.latent_shape[0], 8, 8)
        for text in TEXTS:
            denoiser.eps_hat(z, denoiser.logsnr_grid[300:301], denoiser.encode_conditions([text]))
    assert not now
    forward = offloaded.transformer.forward

    def broken(*args, **more):
        forward(*args, **more)
        raise KeyError("a broken network")

    offloaded.transformer.forward = broken
    with pytest.raises(KeyError, match="a broken network"):
        explainer.explain(torch.rand(3, 64, 64), **ask)
    assert not now
    encoders = {part for part_name, part in offloaded.components.items() if part_name.startswith("text_encoder")}
    assert all(offloaded.transformer not in parts or not parts & encoders for parts in together)


def test_the_device_is_that_of_the_network(monkeypatch):
    """Older diffusers name that of the pipeline's first part, here an encoder that is away."""
    made = build("pixart_sigma")
    family = from_pipeline(made).family
    device = property(lambda self: next(p.device for p in self.components.values() if isinstance(p, torch.nn.Module)))
    monkeypatch.setattr(diffusers.DiffusionPipeline, "device", device)
    made.text_encoder.to("meta")
    assert made.device.type == "meta"
    assert family.device.type == "cpu"
