"""Open-vocabulary attention maps against attention computed by hand from the pipeline's own queries and weights."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from dpid.denoisers.network import from_pipeline
from dpid.studies import daam, ovam
from dpid.zoo import generate

# diffusers' DPM-Solver makes an array of a tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
PROMPT = "a cow and a giraffe"


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (24, 16, 3), dtype=np.uint8)


def by_hand(pipe, text, length, run, size, rows):
    """[L,h,w] float64: queries seen while ``run()`` runs, against the keys of the first ``length`` of ``text``."""
    (embedding,) = from_pipeline(pipe, fused=False).encode_conditions((text,)).encoded["encoder_hidden_states"]
    seen, handles = {}, []
    last = f"down_blocks.{len(pipe.unet.down_blocks) - 1}."
    for name, module in pipe.unet.named_modules():
        if name.endswith("attn2.to_q") and not name.startswith(("mid_block", last)):
            calls = seen.setdefault(name.removesuffix(".to_q"), [])
            handles.append(module.register_forward_hook(lambda _m, _i, out, calls=calls: calls.append(out.double())))
    run()
    for handle in handles:
        handle.remove()
    every = []  # heads of all layers
    for layer, calls in seen.items():
        attention = pipe.unet.get_submodule(layer)
        key = (embedding[:length].double() @ attention.to_k.weight.double().T).unflatten(-1, (attention.heads, -1))
        most = max(q.shape[1] for q in calls)  # fewer has the small input by which changes of a pipeline are noticed
        query = torch.cat([q.unflatten(-1, (attention.heads, -1))[rows] for q in calls if q.shape[1] == most])
        logits = torch.einsum("bqhd,lhd->bhlq", query, key) / query.shape[-1] ** 0.5
        mean = logits.softmax(2).mean(0)
        side = round((mean.shape[-1] * size[0] / size[1]) ** 0.5)  # sizes of these tests halve without a remainder
        every.append(functional.interpolate(mean.unflatten(-1, (side, -1)), size, mode="bilinear"))
    return torch.cat(every).mean(0)


@pytest.mark.parametrize("family", ["sd1", "xl"])
@pytest.mark.parametrize(
    ("attribution", "tokens"),
    [(None, {"cow": [2], "giraffe": [5], "cow and": [2, 3]}), ("a zebra and a cow", {"zebra": [2], "cow": [5]})],
)
def test_a_given_picture_equals_attention_by_hand(tiny, family, picture, attribution, tokens):
    """Both texts are of seven tokens with the beginning and the end; what fills them up to 16 does not count."""
    pipe, found = tiny(family=family), []

    def run():
        found.append(ovam.attention_maps(pipe, PROMPT, tokens, attribution=attribution, image=picture, samples=4))

    want = by_hand(pipe, attribution or PROMPT, 7, run, (10, 6), slice(None))
    for word, positions in tokens.items():
        # fp32 against fp64: 2⁻²⁴ times a softmax's logits, and sums of tens of values.
        torch.testing.assert_close(found[0].maps[word], want[positions].mean(0).float(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_generation_equals_attention_by_hand(tiny, guidance):
    """The queries are the conditional half's, and recording changes nothing."""
    pipe, made = tiny(family="sd2"), []
    found = ovam.attention_maps(pipe, PROMPT, ("dog",), attribution="dog", samples=3, seed=5, guidance=guidance)

    def run():
        made.extend(generate(pipe, [PROMPT], seed=5, steps=3, guidance=guidance))

    want = by_hand(pipe, "dog", 3, run, (8, 8), slice(-1, None))
    assert np.array_equal(found.picture.numpy(), np.asarray(made[0]))
    torch.testing.assert_close(found.maps["dog"], want[1].float(), rtol=1e-5, atol=1e-7)  # as above


def test_the_picture_is_that_of_daam(tiny, picture):
    """The attribution changes the maps, not what the UNet sees."""
    pipe = tiny()
    theirs = daam.attention_maps(pipe, PROMPT, ("cow",), image=picture, samples=3)
    ours = [ovam.attention_maps(pipe, PROMPT, ("cow",), attribution=a, image=picture, samples=3) for a in (None, "cow")]
    assert all(torch.equal(o.picture, theirs.picture) for o in ours)
    assert [o.unet_evaluations for o in ours] == [theirs.unet_evaluations] * 2
    assert not torch.equal(ours[0].maps["cow"], ours[1].maps["cow"])


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"concepts": ("cow", "dog")}, ValueError, "'dog' is not in the prompt"),
        ({"attribution": "a dog"}, ValueError, "'cow' is not in the prompt"),
        ({"attribution": "a cow" + " and a cow" * 8}, ValueError, "tokens, but the text encoder takes 16"),
        ({"concepts": "cow"}, TypeError, "expected a sequence"),
    ],
)
def test_refusals(tiny, arguments, error, message):
    with pytest.raises(error, match=message):
        ovam.attention_maps(tiny(), **{"prompt": PROMPT, "concepts": ("cow",), **arguments})
