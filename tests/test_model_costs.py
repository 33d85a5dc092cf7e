"""What an evaluation costs at true size: counted operations against a formula, sizes against what authors publish."""

from dataclasses import replace

import ledger
import pytest
from bench_models import family_at_true_size, flops_of, without_values
from measurements import finder
from true_sizes import MODELS

BY_NAME = {model.name: model for model in MODELS}
# In 10⁹, as the authors' papers, model cards and announcements have them.
PUBLISHED = {
    "Stable Diffusion 1.5": "0.86", "Stable Diffusion XL": "2.6", "Stable Diffusion 3 medium": "2",
    "Stable Diffusion 3.5 medium": "2.5", "Stable Diffusion 3.5 large": "8.1", "Flux.1 dev": "12",
    "Flux.1 schnell": "12", "Flux.2 dev": "32", "Flux.2 klein 9B": "9", "Flux.2 klein 4B": "4", "Chroma": "8.9",
    "PixArt-α": "0.6", "PixArt-Σ": "0.6", "Sana 1.6B": "1.6", "Sana 0.6B": "0.6", "AuraFlow": "6.8",
    "Lumina-Image 2.0": "2.6", "Z-Image": "6", "HunyuanDiT 1.2": "1.5", "Qwen-Image": "20", "HiDream-I1": "17",
    "CogView4": "6", "Wan 2.1 14B, 81 frames": "14", "LTX-Video 2B, 161 frames": "2",
    "LTX-Video 13B, 161 frames": "13",
}  # fmt: skip


def test_operations_of_a_block_are_those_of_its_matrices():
    pytest.importorskip("diffusers.models.transformers.transformer_hidream_image")  # which is made to read no values
    model, tokens, text, width = BY_NAME["PixArt-Σ"], 32 * 32, 300, 1152
    with without_values():
        one, two = (
            flops_of(model, family_at_true_size(replace(model, config={**model.config, "num_layers": n})), 512, text)
            for n in (1, 2)
        )
    # Queries, keys, values and output of both attentions (keys and values of one are the text's), and the feed-forward
    # layer of four times the width.
    matrices = (4 + 2 + 8) * tokens * width**2 + 2 * text * width**2
    attention = 2 * (tokens + text) * tokens * width  # scores and what they weigh
    assert two - one == 2 * (matrices + attention)


@pytest.mark.parametrize("name", PUBLISHED)
def test_networks_have_as_many_numbers_as_their_authors_say(name):
    published = PUBLISHED[name]
    digits = len(published.partition(".")[2])
    found = float(finder(ledger.read())("models", name, "numbers stored")["value"])
    # To half a unit of the last digit that they give, and a tenth for what they count in.
    assert found == pytest.approx(float(published), abs=0.6 * 10**-digits, rel=0)
