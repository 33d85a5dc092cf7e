"""The texts of an explanation: each is encoded once, and encoders that fill a GPU leave it meanwhile."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dpid.denoisers.modes import is_offloaded
from dpid.device import free_memory, is_gpu

if TYPE_CHECKING:
    from dpid.denoisers.families import Family

_LOG = logging.getLogger("dpid")


class Texts:
    """Encodes texts for one explanation after the other.

    Within :meth:`kept` the same texts are encoded once: rounding is measured, and a run may start again, on the
    conditions of before. And where the text encoders hold more of a GPU than is free, :meth:`leave` moves them to the
    CPU until its end, or until other texts are encoded: T5-XXL has 9.5 GB.
    """

    def __init__(self, family: Family) -> None:
        self.family = family
        self._depth = 0
        self._known: dict[tuple[Any, ...], dict[str, Tensor]] = {}
        self._away: list[tuple[nn.Module, torch.device]] = []
        self._settled = False  # whether it was decided which encoders are away
        self._free: Callable[[], None] | None = None  # frees what was kept on the GPU while they were away

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A context, at whose end the encodings are forgotten and all parts are where they were.

        It may be entered again inside. Encoders for which no memory is left stay away, until texts are encoded again.
        """
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
            if not self._depth:
                self._known.clear()
                try:
                    self.back()
                except torch.OutOfMemoryError as error:  # which would take the place of what was computed
                    _LOG.warning("the text encoders stay on the CPU for now: %s", str(error).partition("\n")[0])
                self.family.leave_device()

    def encode(self, conditions: Sequence[Any]) -> dict[str, Tensor]:
        """The family's encodings {argument: [K,…]} of K conditions."""
        if not self._depth:
            self.back()
            return self.family.encode(conditions)
        key = tuple(conditions)
        if key not in self._known:
            self.back()
            self._known[key] = self.family.encode(conditions)
        return self._known[key]

    def back(self) -> None:
        """Move the encoders back to where they were."""
        free, self._free = self._free, None
        if free:
            free()
        while self._away:
            encoder, device = self._away[-1]
            encoder.to(device)  # where it fails for want of memory, the next call tries again
            self._away.pop()
        self._settled = False

    def leave(self, free: Callable[[], None]) -> None:
        """Move the encoders to the CPU where they hold more than is free; to be called before what needs the memory.

        Before they come back ``free`` is called, which drops the CUDA graphs that have taken their place meanwhile.
        """
        device = self.family.device
        if not self._depth or self._settled or not is_gpu(device):
            return
        self._settled = True
        movable = [encoder for encoder in self.family.text_encoders() if _movable(encoder, device)]
        held = sum(p.nbytes for encoder in movable for p in encoder.parameters())
        if held > free_memory(device):
            self._away, self._free = [(encoder, device) for encoder in movable], free
            for encoder in movable:
                encoder.to("cpu")


def _movable(encoder: nn.Module, device: torch.device) -> bool:
    """Whether all of ``encoder`` lies on ``device`` as plain tensors that nothing else moves."""
    plain = all(p.device == device and type(p.data) is Tensor and p.is_floating_point() for p in encoder.parameters())
    return plain and not is_offloaded(encoder)
