"""Priors of a masked language model, compared with direct calls of the model, offline."""

import math
import random
import shutil

import pytest
import torch

from dpid.pid import decompose
from dpid.pid.priors import masked_lm, uniform

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "red", "cow", "and", "giraffe", "dog"]
PROMPT = "a red cow and a giraffe"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A BERT of a few hundred random weights with a word-level tokenizer."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import BertConfig, BertForMaskedLM, PreTrainedTokenizerFast

    path = tmp_path_factory.mktemp("bert")
    words = Tokenizer(models.WordLevel({w: i for i, w in enumerate(WORDS)}, unk_token="[UNK]"))
    words.pre_tokenizer = pre_tokenizers.Whitespace()
    words.post_processor = processors.TemplateProcessing("[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)])
    PreTrainedTokenizerFast(
        tokenizer_object=words, mask_token="[MASK]", pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]",
        sep_token="[SEP]",
    ).save_pretrained(path)  # fmt: skip
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(WORDS), hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        max_position_embeddings=16, initializer_range=1.0,
    )  # fmt: skip
    model = BertForMaskedLM(config)
    model.save_pretrained(path)
    return path, model.eval()


def surprisal(model, text, position, word):
    ids = torch.tensor([[WORDS.index(w) for w in text.split()]])
    with torch.no_grad():
        return -float(model(input_ids=ids).logits[0, position].double().log_softmax(-1)[WORDS.index(word)])


def test_chain_rule_over_tokens_and_concepts(folder):
    path, model = folder
    h = masked_lm(str(path), PROMPT, ("giraffe", "red cow"))
    covered = "[CLS] a [MASK] [MASK] and a [MASK] [SEP]"
    red = surprisal(model, covered, 2, "red")
    cow = surprisal(model, "[CLS] a red [MASK] and a [MASK] [SEP]", 3, "cow")
    after = surprisal(model, "[CLS] a red cow and a [MASK] [SEP]", 6, "giraffe")
    alone = surprisal(model, covered, 6, "giraffe")
    # 1e-5: float32 forward passes, batched differently.
    assert h["red cow",] == pytest.approx(red + cow, abs=1e-5)
    assert h["giraffe",] == pytest.approx(alone, abs=1e-5)
    assert h["giraffe", "red cow"] == pytest.approx(max(red + cow + after, alone), abs=1e-5)


def test_a_pair_is_no_likelier_than_its_parts(folder):
    """Every subset of three words, whatever the network says."""
    h = masked_lm(str(folder[0]), PROMPT, ("red", "cow", "giraffe"))
    assert len(h) == 7
    for s, value in h.items():
        assert all(value >= h[part] for part in h if set(part) < set(s))


def test_in_a_decomposition(folder):
    f = {("cow",): 0.1, ("giraffe",): 0.2, ("cow", "giraffe"): 0.3}
    h = masked_lm(str(folder[0]), PROMPT, ("cow", "giraffe"))
    by_name = decompose(f, "ppid", f"mlm:{folder[0]}", prompt=PROMPT)
    assert float(by_name.redundancy) == float(decompose(f, "ppid", h).redundancy)
    # The rarer word's information counts less by the difference: Finn & Lizier.
    low, high = sorted((h[c,], f[c,]) for c in ("cow", "giraffe"))
    assert float(by_name.redundancy) == pytest.approx(max(low[1], high[1] - (high[0] - low[0])), abs=1e-12)


def test_a_hub_that_cannot_be_reached_is_asked_once(monkeypatch):
    asked = []

    def unreachable(name, *_, **__):
        asked.append(name)
        raise OSError("We couldn't connect")

    for part in ("AutoConfig", "AutoTokenizer", "AutoModelForMaskedLM"):
        monkeypatch.setattr(f"transformers.{part}.from_pretrained", unreachable)
    with pytest.raises(ValueError, match="cannot load the masked language model 'nothing/here'"):
        masked_lm("nothing/here", PROMPT, ("cow", "giraffe"))
    assert asked == ["nothing/here"]


def test_a_network_that_is_too_sure_gives_priors_of_a_distribution(folder, monkeypatch):
    """p = 0.9 of either word and 0.7 of the second after the first: that of none would be -0.17."""
    monkeypatch.setattr(
        "dpid.pid.priors._surprisals",
        lambda network, ids, masked, steps: {step: -math.log(0.7 if step[0] else 0.9) for step in steps},
    )
    h = masked_lm(str(folder[0]), PROMPT, ("cow", "giraffe"))
    p = {s: math.exp(-value) for s, value in h.items()}
    assert p == pytest.approx({("cow",): 0.9 / 1.17, ("giraffe",): 0.9 / 1.17, ("cow", "giraffe"): 0.63 / 1.17})
    f = {("cow",): 0.1, ("giraffe",): 0.2, ("cow", "giraffe"): 0.2}
    for measure in ("ppid", "i_sx"):
        assert float(decompose(f, measure, f"mlm:{folder[0]}", prompt=PROMPT).redundancy) > 0


@pytest.mark.parametrize("seed", range(20))
def test_whatever_a_network_says_its_priors_are_accepted(folder, monkeypatch, seed):
    draw = random.Random(seed)
    scale = draw.choice((0.01, 0.3, 2.0, 800.0))
    monkeypatch.setattr(
        "dpid.pid.priors._surprisals",
        lambda network, ids, masked, steps: {step: draw.expovariate(1 / scale) for step in steps},
    )
    h = masked_lm(str(folder[0]), PROMPT, ("red", "cow", "and", "giraffe"))
    for dtype in (torch.float32, torch.float64):
        for measure in ("ppid", "i_sx"):
            decompose({s: torch.zeros(2, 3, dtype=dtype) for s in h}, measure, h)


def test_uniform():
    assert uniform(("a", "b"), 100) == pytest.approx(
        {("a",): math.log(100), ("b",): math.log(100), ("a", "b"): 2 * math.log(100)}
    )


def test_refusals(folder, tmp_path):
    with pytest.raises(ValueError, match=r"priors: cannot load the masked language model '.*nowhere'"):
        masked_lm(str(tmp_path / "nowhere"), PROMPT, ("cow",))
    with pytest.raises(ValueError, match="concepts: 'dog' is not in the prompt"):
        masked_lm(str(folder[0]), PROMPT, ("dog",))
    with pytest.raises(ValueError, match="prompt: found None"):
        decompose({("cow",): 1.0}, "ppid", f"mlm:{folder[0]}")


def test_pickled_weights_are_refused(folder, tmp_path):
    pickled = tmp_path / "pickled"
    shutil.copytree(folder[0], pickled)
    (pickled / "model.safetensors").unlink()
    torch.save(folder[1].state_dict(), pickled / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"cannot load the masked language model '.*pickled'"):
        masked_lm(str(pickled), PROMPT, ("cow",))
