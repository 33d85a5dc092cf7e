"""The flow that is trained, compared with its own exported pipeline, and its levels."""

import random

import pytest
import torch

from dpid.denoisers.levels import Flow
from dpid.zoo.emoji import lessons

train = pytest.importorskip("dpid.zoo.emoji.train")


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    model = train.FlowModel()
    with torch.no_grad():
        for p in model.parameters():  # no path is the identity or zero, and fp16 holds every weight
            p.copy_((p + 0.02 * torch.randn_like(p)).half())
        for p in model.buffers():
            p.copy_(p.half() if p.ndim > 1 else p)  # of which the table of positions is exported
    return model.eval()


def test_what_is_trained_is_what_the_exported_pipeline_computes(model, tmp_path):
    train.export(tmp_path, train.make_vae(), 0.9, train.copy.deepcopy(model))
    pipe = train.DiffusionPipeline.from_pretrained(tmp_path, local_files_only=True)
    texts = ["a cow", "a cow and an apple"]
    words, _, pooled, _ = pipe.encode_prompt(
        texts, None, None, max_sequence_length=16, device="cpu", do_classifier_free_guidance=False
    )
    t, z = torch.tensor([3, 800]), torch.randn(2, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    logsnr = torch.logit(model.alphas().double())[t]
    x = Flow.enter(z, logsnr)
    with torch.inference_mode():
        v = pipe.transformer(x, words, pooled, 1000 * Flow.time(logsnr)).sample
        found = model.eps_hat(z, t, train.tokenized(model.tokenizer(), texts * 2))
    expected = Flow.eps(v, x, logsnr).repeat(2, 1, 1, 1)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)  # fp32, numbers of order one
    assert sum(f.stat().st_size for f in tmp_path.rglob("*") if f.is_file()) < 14e6


def test_levels_reach_the_noise_that_generation_starts_from(model):
    logsnr = torch.logit(model.alphas().double())
    assert (logsnr.diff() < 0).all()
    assert logsnr[0] == pytest.approx(7, abs=1e-3)  # float32 holds 1 - σ(7) to 7e-5 of itself
    assert model.sigma[-1] > 0.998
    torch.manual_seed(0)
    drawn = lessons.timesteps(model.alphas(), 4000)
    share = (logsnr[drawn] < lessons.NOISE - 1e-3).float().mean()
    # Half of the draws are uniform in t, the others never go there; stratified draws have no spread to speak of.
    assert share == pytest.approx(0.5 * 25 / len(logsnr), rel=0.1)


def test_a_step_teaches_every_part(model):
    rng, tokens = random.Random(0), model.tokenizer()
    texts = [lessons.Captions().draw(rng, p) for p in [("cow",), ("cow", "bus")] * 2]
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(2, 2, 4, 16, 16, generator=generator)
    z = torch.randn(2, 4, 16, 16, generator=generator)
    train.losses(model, z, torch.tensor([200, 700]), train.tokenized(tokens, texts), target, torch.ones(2))
    still = {name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()}
    # In the last block nothing comes after the text, whose queries Stable Diffusion 3 has all the same.
    last = "transformer.transformer_blocks.5.attn."
    assert still == {last + name for name in ("add_q_proj.weight", "add_q_proj.bias", "norm_added_q.weight")}
    model.zero_grad()
