"""ConceptAttention's maps against the formula in float64; the network computes what it does without."""

import copy
import functools

import numpy as np
import pytest
import torch
from tiny_parts import beginning_tokenizer
from tiny_pipelines import build, drawn

from dpid.denoisers import from_pipeline
from dpid.studies import concept_attention
from dpid.zoo import generate

# diffusers' DPM-Solver makes an array of a tensor, which NumPy 2 deprecates.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")
PROMPT = "a cow and a giraffe"
CONCEPTS = ("giraffe", "cow")
TEXT = "giraffe cow a and"  # with the prompt's other words
TOKENS = {"giraffe": slice(1, 8), "cow": slice(8, 11), "a": slice(11, 12), "and": slice(12, 15)}  # a letter is a token
shared = functools.cache(build)


@pytest.fixture
def picture():
    return np.random.default_rng(0).integers(0, 256, (64, 96, 3), dtype=np.uint8)


def watched(pipe, run):
    """The inputs and outputs of the calls of the network while ``run()`` runs, without those by which it is checked."""
    calls = []
    from_pipeline(pipe, fused=False)  # whose check at load runs the network, too
    handle = pipe.transformer.register_forward_hook(
        lambda _m, _a, inputs, outputs: calls.append((dict(inputs), outputs[0].clone())), with_kwargs=True
    )
    run()
    handle.remove()
    most = max(output.numel() // len(output) for _, output in calls)
    return [call for call in calls if call[1].numel() // len(call[1]) == most]


def heads(x, attention, norm=None):
    """[M,L,C] as [M,heads,L,C/heads], normalised."""
    x = x.unflatten(-1, (attention.heads, -1)).transpose(1, 2)
    return x if norm is None else norm(x)


def outputs(net, inputs, words):
    """Attention's outputs of words [layers,M,L,C] and picture [layers,M,Q,C] of a float64 network."""
    x, text = net.pos_embed(inputs["hidden_states"]), net.context_embedder(inputs["encoder_hidden_states"])
    temb = net.time_text_embed(inputs["timestep"], inputs["pooled_projections"])
    words, found = net.context_embedder(words).expand(len(x), -1, -1), ([], [])
    for block in net.transformer_blocks:
        a, seen = block.attn, block.norm1(x, emb=temb)[0]
        if block.context_pre_only:
            said, gates = block.norm1_context(words, temb), ()
        else:
            said, *gates = block.norm1_context(words, emb=temb)
        q = torch.cat([heads(a.to_q(seen), a, a.norm_q), heads(a.add_q_proj(said), a, a.norm_added_q)], 2)
        k = torch.cat([heads(a.to_k(seen), a, a.norm_k), heads(a.add_k_proj(said), a, a.norm_added_k)], 2)
        v = torch.cat([heads(a.to_v(seen), a), heads(a.add_v_proj(said), a)], 2)
        out = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
        found[0].append(out[:, x.shape[1] :])
        found[1].append(out[:, : x.shape[1]])
        if gates:
            gate, shift, scale, gate_ff = (g[:, None] for g in gates)
            words = words + gate * a.to_add_out(out[:, x.shape[1] :])
            words = words + gate_ff * block.ff_context(block.norm2_context(words) * (1 + scale) + shift)
        text, x = block(hidden_states=x, encoder_hidden_states=text, temb=temb)
    return torch.stack(found[0]), torch.stack(found[1])


def by_hand(pipe, calls, rows):
    """{word: [Q]} float64: shares of the words at every place of the picture."""
    net = copy.deepcopy(pipe.transformer).double()
    encoded = pipe.encode_prompt(TEXT, None, None, do_classifier_free_guidance=False)[0][:, :15].double()
    words, seen = [], []
    for inputs, _ in calls:
        tensors = {name: x[rows].double() for name, x in inputs.items() if isinstance(x, torch.Tensor)}
        for of, found in zip((words, seen), outputs(net, tensors, encoded), strict=True):
            of.append(found)
    words, seen = torch.cat(words, 1).mean(1), torch.cat(seen, 1).mean(1)
    words = torch.stack([words[:, tokens].mean(1) for tokens in TOKENS.values()], 1)
    shares = (words / words.norm(dim=-1, keepdim=True) @ seen.mT).softmax(1).mean(0)
    return dict(zip(TOKENS, shares, strict=True))


def assert_maps(maps, want, height):
    assert list(maps) == list(CONCEPTS)
    for word, values in maps.items():
        patches = want[word].float().view(height // 2, -1).repeat_interleave(2, 0).repeat_interleave(2, 1)
        # fp32 against fp64: 2⁻²⁴ times a softmax's logits, and sums of hundreds of values in three blocks.
        torch.testing.assert_close(values, patches, rtol=1e-5, atol=1e-6)


@torch.no_grad()
def test_a_given_picture_equals_the_formula(picture):
    """Of a picture that is not square; the first block has a second attention, in the last words end."""
    pipe, found = shared("sd3"), []

    def run():
        found.append(concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=picture, samples=3))

    calls = watched(pipe, run)
    assert found[0].unet_evaluations == sum(len(inputs["hidden_states"]) for inputs, _ in calls) == 4
    assert found[0].maps["cow"].shape == (6, 10)
    assert found[0].maps["cow"].std() > 1e-3  # hundreds of times the tolerance
    assert_maps(found[0].maps, by_hand(pipe, calls, slice(None)), 6)


@torch.no_grad()
@pytest.mark.parametrize("guidance", [3.0, 1.0])
def test_generation_equals_the_formula(guidance):
    """The words go beside the conditional half alone."""
    pipe, found = shared("sd3"), []

    def run():
        found.append(concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, samples=2, seed=5, guidance=guidance))

    calls = watched(pipe, run)
    assert found[0].unet_evaluations == (4 if guidance > 1 else 2)
    assert_maps(found[0].maps, by_hand(pipe, calls, slice(-1, None)), 8)
    (made,) = generate(pipe, [PROMPT], seed=5, steps=2, guidance=guidance)
    assert np.array_equal(found[0].picture.numpy(), np.asarray(made))


def turned(x, ids, axes, base=10_000.0):
    """Queries or keys [M,heads,L,D] turned by the places ``ids`` [L,A]: pairs as complex numbers, Su et al. (2021)."""
    angles = [
        ids[:, k, None] * base ** (-torch.arange(0, size, 2, dtype=torch.float64) / size) for k, size in enumerate(axes)
    ]
    pairs = torch.view_as_complex(x.unflatten(-1, (-1, 2)))
    return torch.view_as_real(pairs * torch.exp(1j * torch.cat(angles, 1))).flatten(-2)


def joint(block, x, text, temb, ids):
    """Outputs of the attention of a block of Flux.1 for the text [M,L,C] and the picture [M,Q,C]; and the gates."""
    a, seen, (said, *gates) = block.attn, block.norm1(x, emb=temb)[0], block.norm1_context(text, emb=temb)
    q = torch.cat([heads(a.add_q_proj(said), a, a.norm_added_q), heads(a.to_q(seen), a, a.norm_q)], 2)
    k = torch.cat([heads(a.add_k_proj(said), a, a.norm_added_k), heads(a.to_k(seen), a, a.norm_k)], 2)
    v = torch.cat([heads(a.add_v_proj(said), a), heads(a.to_v(seen), a)], 2)
    q, k = (turned(part, ids, (4, 6, 6)) for part in (q, k))
    out = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return out[:, : text.shape[1]], out[:, text.shape[1] :], gates


def by_hand_in_flux(pipe, calls):
    """{word: [Q]} float64: shares of the words at every place of the picture, by Flux.1."""
    net = copy.deepcopy(pipe.transformer).double()
    first = [pipe.encode_prompt(word, None, max_sequence_length=512)[0][:, 0] for word in TOKENS]
    encoded, found = torch.stack(first, 1).double(), []
    for inputs, _ in calls:
        given = {name: v.double() for name, v in inputs.items() if isinstance(v, torch.Tensor)}
        told, pooled = (1000 * given["timestep"], 1000 * given["guidance"]), given["pooled_projections"]
        temb, plain = net.time_text_embed(*told, pooled), net.time_text_embed(*told, torch.zeros_like(pooled))
        x, text = net.x_embedder(given["hidden_states"]), net.context_embedder(given["encoder_hidden_states"])
        words = net.context_embedder(encoded).expand(len(x), -1, -1)
        long, short = (torch.cat([torch.zeros(n, 3), given["img_ids"]]).double() for n in (text.shape[1], len(TOKENS)))
        for block in net.transformer_blocks:
            picture = joint(block, x, text, temb, long)[1]
            said, _, (gate, shift, scale, gate_ff) = joint(block, x, words, plain, short)
            found.append((said @ picture.mT).softmax(1))
            words = words + gate[:, None] * block.attn.to_add_out(said)
            seen = block.norm2_context(words) * (1 + scale[:, None]) + shift[:, None]
            words = words + gate_ff[:, None] * block.ff_context(seen)
            places = net.pos_embed(long)
            text, x = block(hidden_states=x, encoder_hidden_states=text, temb=temb, image_rotary_emb=places)
    return dict(zip(TOKENS, torch.cat(found).mean(0), strict=True))


@torch.no_grad()
@pytest.mark.parametrize("given", [True, False])
def test_flux_equals_its_formula(picture, given):
    """Of a picture that is not square, and of one that is made; two blocks with joint attention."""
    pipe, found = build("flux"), []
    pipe.default_sample_size = 8  # which follows from the VAE's size where weights are real
    for block in pipe.transformer.transformer_blocks:
        for values in (block.attn.to_v, block.attn.add_v_proj):
            values.weight.mul_(5)  # so that places differ
    image = picture if given else None

    def run():
        found.append(concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=image, samples=2, seed=3))

    calls = watched(pipe, run)
    assert found[0].unet_evaluations == sum(len(inputs["hidden_states"]) for inputs, _ in calls) == 2
    size = found[0].maps["cow"].shape
    if given:
        assert size[0] < size[1]
    assert found[0].maps["cow"].std() > 1e-3  # hundreds of times the tolerance
    assert_maps(found[0].maps, by_hand_in_flux(pipe, calls), size[0])


def in_flux_2(name, padding):
    """A tiny Flux.2 with four blocks with joint attention, whose values are large, so that places differ."""
    pipe = build(name)
    pipe.default_sample_size = 8  # which follows from the VAE's size where weights are real
    pipe.transformer = drawn(type(pipe.transformer).from_config({**pipe.transformer.config, "num_layers": 4}), 0)
    for block in pipe.transformer.transformer_blocks:
        for values in (block.attn.to_v, block.attn.add_v_proj):
            values.weight.mul_(20)
    getattr(pipe.tokenizer, "tokenizer", pipe.tokenizer).padding_side = padding
    return pipe


def by_hand_in_flux_2(pipe, calls, places):
    """{word: [Q]} float64: shares of the words, whose last tokens are at ``places``, at every place of the picture."""
    net = copy.deepcopy(pipe.transformer).double()
    encoded = [pipe.encode_prompt(word)[0][:, place] for word, place in zip(TOKENS, places, strict=True)]
    encoded, found = torch.stack(encoded, 1).double(), []
    for inputs, _ in calls:
        given = {name: v.double() for name, v in inputs.items() if isinstance(v, torch.Tensor)}
        told = (1000 * given[name] if name in given else None for name in ("timestep", "guidance"))
        temb = net.time_guidance_embed(*told)
        mods = net.double_stream_modulation_img(temb), net.double_stream_modulation_txt(temb)
        x, text = net.x_embedder(given["hidden_states"]), net.context_embedder(given["encoder_hidden_states"])
        words = net.context_embedder(encoded).expand(len(x), -1, -1)
        own = torch.tensor([[0.0, 0.0, 0.0, place] for place in places])
        long, short = (torch.cat([ids, given["img_ids"][0]]).double() for ids in (given["txt_ids"][0], own))
        for block in net.transformer_blocks:
            (_, picture), (said, _) = (joint_2(block, x, *part, mods) for part in ((text, long), (words, short)))
            found.append(said @ picture.mT)
            _, _, gate, shift, scale, gate_ff = mods[1][:, None].chunk(6, -1)
            words = words + gate * block.attn.to_add_out(said)
            words = words + gate_ff * block.ff_context(block.norm2_context(words) * (1 + scale) + shift)
            turns = net.pos_embed(long)
            text, x = block(x, text, *mods, image_rotary_emb=turns)
    layers = torch.stack(found).unflatten(0, (len(calls), 4))[:, 1:].transpose(1, 2)  # the last three of each call
    return dict(zip(TOKENS, (layers.flatten(0, 2).mean(0) / 1000).softmax(0), strict=True))


def joint_2(block, x, text, ids, mods):
    """Outputs of the attention of a block of Flux.2 for the text [M,L,C] and the picture [M,Q,C]."""
    a, both = block.attn, []
    for part, norm, mod in ((text, block.norm1_context, mods[1]), (x, block.norm1, mods[0])):
        shift, scale = mod[:, None].chunk(6, -1)[:2]
        both.append(norm(part) * (1 + scale) + shift)
    q = torch.cat([heads(a.add_q_proj(both[0]), a, a.norm_added_q), heads(a.to_q(both[1]), a, a.norm_q)], 2)
    k = torch.cat([heads(a.add_k_proj(both[0]), a, a.norm_added_k), heads(a.to_k(both[1]), a, a.norm_k)], 2)
    v = torch.cat([heads(a.add_v_proj(both[0]), a), heads(a.to_v(both[1]), a)], 2)
    q, k = (turned(part, ids, (4, 4, 4, 4), 2000.0) for part in (q, k))
    out = ((q @ k.mT / q.shape[-1] ** 0.5).softmax(-1) @ v).transpose(1, 2).flatten(2)
    return out[:, : text.shape[1]], out[:, text.shape[1] :]


# Every letter is a token. Klein's template begins with the start of a message and "user\n", dev's ends with two tokens.
PLACES = {"flux2_klein": [5 + len(word) for word in TOKENS], "flux2": [509] * len(TOKENS)}
PADDING = {"flux2_klein": "right", "flux2": "left"}


@torch.no_grad()
@pytest.mark.parametrize("name", PLACES)
def test_flux_2_equals_its_formula(picture, name):
    """Of a picture that is not square, at all noise levels."""
    pipe, found = in_flux_2(name, PADDING[name]), []

    def run():
        found.append(concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=picture, samples=2, seed=3))

    calls = watched(pipe, run)
    assert found[0].unet_evaluations == sum(len(inputs["hidden_states"]) for inputs, _ in calls) == 2
    assert found[0].maps["cow"].shape == (6, 10)
    assert found[0].maps["cow"].std() > 1e-3  # hundreds of times the tolerance
    assert_maps(found[0].maps, by_hand_in_flux_2(pipe, calls, PLACES[name]), 6)


def test_a_beginning_that_the_pipeline_gives_no_text_is_not_counted(picture):
    """Flux.2 dev's tokenizer adds one, and its pipeline leaves it out where the template has it: the same tokens."""
    pipe = in_flux_2("flux2", "right")
    look = functools.partial(concept_attention.attention_maps, pipe, PROMPT, CONCEPTS, image=picture, samples=2)
    without = look().maps["cow"]
    pipe.tokenizer.tokenizer = beginning_tokenizer()
    assert len(pipe.tokenizer.tokenizer("cow").input_ids) == 4
    assert torch.equal(look().maps["cow"], without)


@torch.no_grad()
@pytest.mark.parametrize(("steps", "counted"), [(10, slice(7, 9)), (2, slice(1, 2))])
@pytest.mark.parametrize("name", PLACES)
def test_a_run_of_flux_2_equals_its_formula(name, steps, counted):
    """Its late steps count, of klein's two calls a step the one with the prompt."""
    pipe, found = in_flux_2(name, PADDING[name]), []

    def run():
        found.append(concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, samples=steps, seed=3, guidance=3.0))

    calls = watched(pipe, run)
    each = 2 if name == "flux2_klein" else 1
    assert found[0].unet_evaluations == len(calls) == each * steps
    assert_maps(found[0].maps, by_hand_in_flux_2(pipe, calls[::each][counted], PLACES[name]), 8)
    (made,) = generate(pipe, [PROMPT], seed=3, steps=steps, guidance=3.0)
    assert np.array_equal(found[0].picture.numpy(), np.asarray(made))


@pytest.mark.parametrize("name", ["sd3", "flux"])
def test_every_evaluation_counts_alike(picture, name, monkeypatch):
    """Of four, in one call or in calls of three and one."""
    pipe = build(name)
    for block in pipe.transformer.transformer_blocks:
        for values in (block.attn.to_v, block.attn.add_v_proj):
            values.weight.data.mul_(5)  # so that noise levels differ
    look = functools.partial(concept_attention.attention_maps, pipe, PROMPT, CONCEPTS, image=picture, samples=4)
    at_once = look().maps["cow"]
    monkeypatch.setattr("dpid.studies.attention.fitting", lambda *_: 3)
    torch.testing.assert_close(look().maps["cow"], at_once, rtol=0, atol=2e-6)  # float32 in batches of other shapes


@torch.no_grad()
@pytest.mark.parametrize("name", ["sd3", "flux", "flux2", "flux2_klein"])
def test_the_network_computes_what_it_does_without_the_words(picture, name):
    pipe = shared(name)
    calls = watched(pipe, lambda: concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=picture, samples=4))
    assert calls
    for inputs, output in calls:
        assert torch.equal(pipe.transformer(**inputs)[0], output)


@pytest.mark.parametrize("name", ["sd3", "flux2"])
def test_other_words_share_the_picture(picture, name):
    look = functools.partial(concept_attention.attention_maps, shared(name), PROMPT, image=picture, samples=2)
    alone, own = look(CONCEPTS, beside=()).maps, look(CONCEPTS).maps
    torch.testing.assert_close(sum(alone.values()), torch.ones(6, 10), rtol=0, atol=1e-6)  # a few fp32 roundings
    assert sum(own.values()).max() < 1
    assert torch.equal(look(CONCEPTS, beside=("a", "and")).maps["cow"], own["cow"])
    assert not torch.equal(look(CONCEPTS, beside=("sky", "sky")).maps["cow"], own["cow"])


def test_the_pipeline_stays_as_it_was(picture, monkeypatch):
    pipe = build("sd3")
    pipe.transformer.train()

    def state():
        return [
            (id(m), m.training, *(len(hooks) for name, hooks in sorted(vars(m).items()) if "hooks" in name and hooks))
            for m in pipe.transformer.modules()
        ], torch.get_rng_state().tolist()

    before = state()
    concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=picture, samples=2)
    assert state() == before

    def fail(*_args, **_kwargs):
        raise RuntimeError("out of luck")

    monkeypatch.setattr(pipe.transformer.transformer_blocks[1].ff_context, "forward", fail)  # in the words' call
    with pytest.raises(RuntimeError, match="out of luck"):
        concept_attention.attention_maps(pipe, PROMPT, CONCEPTS, image=picture, samples=2)
    assert state() == before


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"concepts": ("cow", "dog")}, ValueError, "'dog' is not in the prompt"),
        ({"beside": "grass"}, TypeError, "beside: found 'grass', expected a sequence of words"),
        ({"beside": [5]}, TypeError, "beside: found int, expected one text"),
        ({"concepts": "cow"}, TypeError, "expected a sequence"),
        ({"concepts": ("cow",), "beside": ()}, ValueError, "beside: 'cow' alone has all of the picture"),
        ({"beside": ("sky", " ")}, ValueError, r"^beside: found \['sky', ' '\], expected words"),
        ({"beside": ("a" * 70,)}, ValueError, "tokens, but text_encoder takes 77"),
        ({"samples": 0}, ValueError, "samples: found 0"),
    ],
)
def test_refusals(arguments, error, message):
    with pytest.raises(error, match=message):
        concept_attention.attention_maps(shared("sd3"), **{"prompt": PROMPT, "concepts": CONCEPTS, **arguments})
