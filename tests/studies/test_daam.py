"""Attention maps, compared with attention computed from hooks on the pipeline's own projections."""

from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.metrics import roc_auc_score
from torch.nn import functional

from dpid.denoisers import from_pipeline
from dpid.denoisers.loading import load_pipeline
from dpid.studies.daam import attention_maps, token_positions
from dpid.zoo import generate

# diffusers' DPM-Solver makes an array of a tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
PROMPT = "a cow and a giraffe"
TOKENS = {"cow": [2], "giraffe": [5], "cow and": [2, 3]}  # after the token of the beginning


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


def by_hand(pipe, run, size, rows, middle=False):
    """[L,h,w] float64: softmax of what the projections give while ``run()`` runs, averaged over heads and calls."""
    from_pipeline(pipe, fused=False)  # whose check at load runs the network, too
    seen, handles = {}, []
    for name, module in pipe.unet.named_modules():
        if name.endswith(("attn2.to_q", "attn2.to_k")) and (middle or "mid_block" not in name):
            layer, kind = name.rsplit(".", 1)
            calls = seen.setdefault(layer, {"to_q": [], "to_k": []})[kind]
            handles.append(module.register_forward_hook(lambda _m, _i, out, calls=calls: calls.append(out.double())))
    run()
    for handle in handles:
        handle.remove()
    every = []  # heads of all layers
    for layer, calls in seen.items():
        heads = pipe.unet.get_submodule(layer).heads
        maps, most = [], max(q.shape[1] for q in calls["to_q"])
        for q, k in zip(calls["to_q"], calls["to_k"], strict=True):
            if q.shape[1] < most:  # the small input by which changes of a pipeline are noticed
                continue
            q, k = (x.unflatten(-1, (heads, -1))[rows] for x in (q, k))
            logits = torch.einsum("bqhd,blhd->bhlq", q, k) / q.shape[-1] ** 0.5
            maps.append(logits.softmax(2))
        for mean in torch.cat(maps).mean(0):
            side = round((mean.shape[-1] * size[0] / size[1]) ** 0.5)  # sizes of these tests halve without a remainder
            grid = mean.view(1, len(mean), side, -1)
            every.append(functional.interpolate(grid, size, mode="bicubic").clamp(min=0)[0])
    return torch.stack(every).mean(0)


@pytest.mark.parametrize("family", ["sd1", "sd2", "xl"])
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_generation_equals_attention_by_hand(tiny, family, guidance):
    pipe = tiny(family=family)
    found = attention_maps(pipe, PROMPT, tuple(TOKENS), samples=3, seed=5, guidance=guidance)
    assert found.unet_evaluations == (6 if guidance > 1 else 3)
    made = []
    want = by_hand(
        pipe, lambda: made.extend(generate(pipe, [PROMPT], seed=5, steps=3, guidance=guidance)), (8, 8), slice(-1, None)
    )
    assert np.array_equal(found.picture.numpy(), np.asarray(made[0]))  # recording changes nothing
    for word, tokens in TOKENS.items():
        # fp32 against fp64: 2⁻²⁴ times a softmax's logits, and sums of tens of values.
        torch.testing.assert_close(found.maps[word], want[tokens].mean(0).float(), rtol=1e-5, atol=1e-7)


def test_the_middle_block_counts_if_asked_for(tiny, picture):
    """The authors' package leaves it out by default."""
    pipe, found = tiny(), {}

    def run(middle):
        found[middle] = attention_maps(pipe, PROMPT, ("cow",), image=picture, samples=2, middle=middle)

    for middle in (False, True):
        want = by_hand(pipe, partial(run, middle), (10, 6), slice(None), middle)
        torch.testing.assert_close(found[middle].maps["cow"], want[2].float(), rtol=1e-5, atol=1e-7)  # as above
    assert not torch.equal(found[False].maps["cow"], found[True].maps["cow"])


@pytest.mark.parametrize("family", ["sd1", "xl"])
def test_a_given_picture_equals_attention_by_hand(tiny, family, picture):
    """The hooks see the projections of the same call; a picture that is not square keeps its shape."""
    pipe = tiny(family=family)
    found = []
    want = by_hand(
        pipe, lambda: found.append(attention_maps(pipe, PROMPT, TOKENS, image=picture, samples=5)), (10, 6), slice(None)
    )
    assert found[0].unet_evaluations == 6
    assert found[0].picture.shape == (20, 12, 3)
    for word, tokens in TOKENS.items():
        torch.testing.assert_close(found[0].maps[word], want[tokens].mean(0).float(), rtol=1e-5, atol=1e-7)  # as above


def test_probabilities(tiny, picture):
    found = attention_maps(tiny(), PROMPT, ("a", "cow", "and", "a#2", "giraffe", "cow and a giraffe"), image=picture)
    whole = found.maps.pop("cow and a giraffe")
    words = torch.stack(list(found.maps.values()))
    assert words.min() >= 0
    # The tokens of beginning and end take the rest. 1e-6: sums of six fp32 numbers.
    assert words.sum(0).max() < 1
    torch.testing.assert_close(whole, words[1:].mean(0), rtol=1e-6, atol=1e-6)


def test_every_sample_is_a_new_noise_and_a_seed_repeats(tiny, picture):
    pipe = tiny()
    one, again, other = (attention_maps(pipe, PROMPT, ("cow",), image=picture, seed=s).maps["cow"] for s in (0, 0, 1))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("given", [True, False])
def test_the_pipeline_stays_as_it_was(tiny, picture, given, monkeypatch):
    pipe = tiny(dropout=0.5)
    pipe.unet.train()

    def state():
        return (
            {name: id(p) for name, p in pipe.unet.attn_processors.items()}, id(pipe.scheduler), dict(pipe.config),
            [m.training for m in pipe.unet.modules()], pipe.unet.dtype, pipe.unet.device,
            torch.get_rng_state().tolist(), {k: id(v) for k, v in vars(pipe).items() if k != "_internal_dict"},
        )  # fmt: skip

    before = state()
    attention_maps(pipe, PROMPT, ("cow",), image=picture if given else None, samples=2)
    assert state() == before

    def fail(*_args, **_kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(pipe.unet.conv_out, "forward", fail)  # after the attentions
    with pytest.raises(RuntimeError, match="out of luck"):
        attention_maps(pipe, PROMPT, ("cow",), image=picture if given else None, samples=2)
    assert state() == before


def test_positions_agree_with_the_offsets_of_the_tokenizer(tiny):
    tokenizer = tiny().tokenizer
    prompt = "An elephant, a dark skinned doctor and an Elephant."
    offsets = tokenizer(prompt, return_offsets_mapping=True).offset_mapping
    for phrase, text in (("elephant", "elephant"), ("elephant#2", "Elephant"), ("dark skinned", "dark skinned")):
        positions = token_positions(tokenizer, prompt, phrase)
        assert prompt[offsets[positions[0]][0] : offsets[positions[-1]][1]] == text
    assert token_positions(tokenizer, prompt, "elephant") != token_positions(tokenizer, prompt, "elephant#2")


class Pieces:
    """A tokenizer of subwords without offsets: begin, pieces of three letters of every word, end."""

    def __call__(self, text, verbose=True):
        pieces = [word[i : i + 3] for word in text.split() for i in range(0, len(word), 3)]
        return type("Encoding", (), {"input_ids": [0, *(sum(map(ord, piece)) for piece in pieces), 1]})


def test_a_word_of_several_tokens():
    assert list(token_positions(Pieces(), "a cow and a giraffe", "giraffe")) == [5, 6, 7]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"concepts": ("cow", "dog")}, ValueError, "'dog' is not in the prompt"),
        ({"concepts": ("cow#2",)}, ValueError, "occurs 1 time"),
        ({"concepts": "cow"}, TypeError, "expected a sequence"),
        ({"samples": 0}, ValueError, "samples: found 0"),
        ({"seed": -1}, ValueError, "seed: found -1"),
        ({"image": "nowhere.png"}, ValueError, "nowhere.png does not exist"),
        ({"prompt": None}, TypeError, "prompt: found NoneType, expected one text"),
        ({"guidance": "a", "image": "nowhere.png"}, ValueError, "guidance: found 'a', expected a finite number"),
        ({"guidance": float("nan"), "image": "nowhere.png"}, ValueError, "guidance: found nan, expected a finite"),
        ({"prompt": "a cow" + " and a cow" * 8}, ValueError, "tokens, but the text encoder takes 16"),
    ],
)
def test_refusals(tiny, arguments, error, message):
    with pytest.raises(error, match=message):
        attention_maps(tiny(), **{"prompt": PROMPT, "concepts": ("cow",), **arguments})


def test_a_word_attends_to_its_own_thing(heldout, request):
    """Held-out scenes of two things: own pixels against the other thing's, on the embedded model."""
    folder = request.path.parents[1] / "data" / "heldout"
    pipe, scores = load_pipeline("emoji", "cpu"), []
    for scene in [s for s in heldout if len(s["pictures"]) == 2][:8]:
        found = attention_maps(pipe, scene["prompt"], scene["concepts"], image=folder / scene["file"], samples=16)
        with Image.open(folder / scene["masks"]) as masks:
            labels = torch.from_numpy(np.array(masks))
        own = [functional.avg_pool2d((labels == n).float()[None], 4)[0] > 0.5 for n in (1, 2)]
        for concept, mine in zip(scene["concepts"], own, strict=True):
            either = own[0] | own[1]
            scores.append(roc_auc_score(mine[either].numpy(), found.maps[concept][either].numpy()))
    # A map that knew nothing scores 0.5 with a standard deviation of about 0.04 for the mean of 16.
    assert np.mean(scores) > 0.65
