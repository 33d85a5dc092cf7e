"""The texts of an explanation: each is encoded once, and encoders that fill a GPU leave it meanwhile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from dpid.denoisers.families import Family
from dpid.device import free_memory, is_gpu


class Texts:
    """Encodes texts for one explanation after the other.

    Within :meth:`kept` the same texts are encoded once: rounding is measured, and a run may start again, on the
    conditions of before. And where the text encoders hold more of a GPU than is free, they are moved to the CPU until
    its end, or until other texts are encoded: T5-XXL has 9.5 GB.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._depth = 0
        self._known: dict[tuple[object, ...], dict[str, Tensor]] = {}
        self._away: list[tuple[nn.Module, torch.device]] = []

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context, at whose end the encodings are forgotten and the encoders are back; it may be entered again."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._known.clear()
                self._back()

    def encode(self, texts: Sequence[str], state: object) -> dict[str, Tensor]:
        """The family's encodings {argument: [K,…]} of K texts, for a ``state`` of the pipeline."""
        if not self._depth:
            return self.family.encode_texts(texts)
        key = (state, *texts)
        if key not in self._known:
            self._back()
            self._known[key] = self.family.encode_texts(texts)
            self._leave()
        return self._known[key]

    def _leave(self) -> None:
        device = self.family.device
        if not is_gpu(device):
            return
        movable = [encoder for encoder in self.family.text_encoders() if _movable(encoder, device)]
        held = sum(p.nbytes for encoder in movable for p in encoder.parameters())
        if held > free_memory(device):
            self._away = [(encoder, device) for encoder in movable]
            for encoder in movable:
                encoder.to("cpu")

    def _back(self) -> None:
        while self._away:
            encoder, device = self._away.pop()
            encoder.to(device)


def _movable(encoder: nn.Module, device: torch.device) -> bool:
    """Whether all of ``encoder`` lies on ``device`` as plain tensors that nothing else moves."""
    hooked = any(hasattr(module, "_hf_hook") for module in encoder.modules())
    plain = all(p.device == device and type(p.data) is Tensor and p.is_floating_point() for p in encoder.parameters())
    return plain and not hooked
