"""What the rows of a study depend on besides its own options: the files of the model, and how an explainer samples."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from pathlib import Path

from torch import Tensor

from dpid.denoisers.loading import folder_of
from dpid.denoisers.network import NetworkDenoiser
from dpid.estimation.density import checksum_of
from dpid.explainer import Explainer

_KINDS = {".safetensors", ".json", ".txt", ".model"}  # weights, configurations, and tables of tokenizers
_PIECES, _PIECE = 16, 1 << 16  # so many pieces of a file are read, of so many bytes each
_OPTIONS = "precision", "size", "frames", "guidance"  # of a denoiser, where it has them


def checksum(model: str | Path) -> str:
    """A checksum of all weights and configurations of a model, 8 hex digits; "" for a hub id, which has no folder here.

    Of a large file pieces are read that are spread over all of it, since a part that was trained further, such as one
    kind of layer, may lie anywhere.
    """
    source = folder_of(model)
    paths = [source] if source.is_file() else sorted([*source.glob("*"), *source.glob("*/*")])
    found = 0
    for path in (p for p in paths if p.suffix in _KINDS and p.is_file()):
        size = path.stat().st_size
        found = zlib.crc32(f"{path.relative_to(source).as_posix()} {size}".encode(), found)
        with path.open("rb") as f:
            for i in range(_PIECES):
                f.seek(max(size - _PIECE, 0) * i // (_PIECES - 1))
                found = zlib.crc32(f.read(_PIECE), found)
    return f"{found:08x}" if found else ""


def fixed_rule(explainer: Explainer) -> str:
    """The rule of all studies: one that learns nothing, so that an interrupted run goes on with the same rows."""
    return "shifted-grid" if explainer.density is None else "adaptive"


def sampling(explainer: Explainer) -> str:
    """A text of how a given explainer samples: its rule with a checksum of the density, and its model's options."""
    density, model = explainer.density, explainer.denoiser
    drawn = "" if density is None else f" by {checksum_of(density)}"
    options = [f", {name} {getattr(model, name)}" for name in _OPTIONS if hasattr(model, name)]
    if isinstance(model, NetworkDenoiser):
        options.append(f", weights {_of_weights(model.family.weights):08x}")
    return f"rule {fixed_rule(explainer)}{drawn}{''.join(options)}"


def _of_weights(weights: Mapping[str, Tensor]) -> int:
    """A checksum of a few numbers of each of ``weights``, which a training changes all."""
    crc = 0
    for name, values in weights.items():
        few = "" if values.is_meta else values.flatten()[:8].float().cpu().numpy().tobytes().hex()
        crc = zlib.crc32(f"{name} {values.dtype} {tuple(values.shape)} {few}".encode(), crc)
    return crc
