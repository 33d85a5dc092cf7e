"""Results of made-up maps, for tests that need no model, and the bytes of their files."""

import torch

from dpid.prompts.plan import subsets_of
from dpid.results import file_format
from dpid.results.metadata import Metadata
from dpid.results.result import PIDResult
from dpid.results.word import REST, Word
from dpid.results.words import WordsResult


def metadata(concepts=("cow", "pizza"), **facts):
    """How a result of ``concepts`` was made, but for ``facts``."""
    subsets = subsets_of(concepts)
    known = {
        "prompt": " and ".join(f"a {c}" for c in concepts), "concepts": concepts, "context": False,
        "conditions": {"+".join(s): " ".join(s) for s in subsets},
        "reference": " ".join(concepts), "estimator": "rao-blackwell", "measure": "min", "level": "image", "smooth": 3,
        "rule": "shifted-grid", "antithetic": True, "priors": None, "samples": 8, "replicates": 4,
        "unet_evaluations": 8 * len(subsets), "logsnr_range": (-5.0, 7.0), "seed": 0, "model": "emoji",
        "precision": "float32", "version": "0", "distilled": "", "caveat": "", "paired": 4,
        "correction": {"standard": {concepts[0]: (0.1, 0.2)}}, "density": "", "frames": None, "peak_memory": 1,
    }  # fmt: skip
    return Metadata(**known | facts)


def made(seed=0, size=4, concepts=("cow", "pizza"), **facts):
    """A result of random maps of ``concepts``."""
    rng = torch.Generator().manual_seed(seed)
    count = len(subsets_of(concepts)) - 1
    names = ("rao-blackwell", "standard", "orthogonal")
    return PIDResult(
        metadata(concepts, **{"seed": seed} | facts),
        {name: torch.randn(4, count, size, size, generator=rng) for name in names},
        {name: torch.randn(4, count, 5, generator=rng) for name in names},
        torch.linspace(-5, 7, 6, dtype=torch.float64),
        torch.randn(4, 2, 5, generator=rng),
        torch.zeros(8, 8, 3, dtype=torch.uint8),
    )


def made_words(*names):
    """A result of every word, of random maps."""
    prompt = " and ".join(f"a {name}" for name in names)
    words = {name: Word(made(i, concepts=(name, REST), prompt=prompt), 0.05) for i, name in enumerate(names)}
    return WordsResult(words, 64)


def to_bytes(result):
    return file_format.to_bytes(result.metadata, result.tensors(), result.to_dict())


def from_bytes(data):
    return PIDResult(**file_format.from_bytes(data))
