"""The benchmark of transformers runs on networks of few blocks, and batches compute what the loop does."""

import math
from dataclasses import replace

import bench_transformers
import pytest
import torch
from true_sizes import MODELS

FEW = {
    "Flux.1 dev": {
        "num_layers": 1, "num_single_layers": 1, "num_attention_heads": 2, "attention_head_dim": 24,
        "axes_dims_rope": (8, 8, 8),
    },
    "Sana 0.6B": {
        "num_attention_heads": 2, "num_layers": 1, "num_cross_attention_heads": 2, "cross_attention_head_dim": 32,
        "cross_attention_dim": 64,
    },
}  # fmt: skip


def measured(name, mode=""):
    """{metric: (value, unit)} of the model of that name with few blocks."""
    model = next(m for m in MODELS if m.name == name)
    smaller = replace(model, config={**model.config, **FEW[name]}, tokens=20)
    family = bench_transformers.family_of_random(smaller, torch.float32, torch.device("cpu"))
    found = {}
    bench_transformers.measured(family, torch.randn(1, family.channels, 16, 16), 2, 1, mode, found.update)
    return found


@pytest.mark.parametrize("name", FEW)
def test_a_network_of_few_blocks_is_measured(name):
    found = measured(name)
    assert all(math.isfinite(value) for value, _ in found.values())
    assert found["best: arithmetic"][0] > 0
    assert found["batches: relative difference from the loop"][0] < 1e-4  # fp32, ten times that of ε̂


def test_in_another_mode_of_the_compiler_the_loop_alone_is_measured(monkeypatch):
    asked = []
    monkeypatch.setattr(torch, "compile", lambda call, mode: (asked.append(mode), call)[1])
    found = measured("Sana 0.6B", "max-autotune-no-cudagraphs")
    assert asked == ["max-autotune-no-cudagraphs"]  # of its only block
    name = "loop, compiled (max-autotune-no-cudagraphs)"
    assert found[f"{name}: relative difference from the loop"][0] < 1e-4  # fp32, ten times that of ε̂
    assert {metric.partition(":")[0] for metric in found} == {"loop", name}
