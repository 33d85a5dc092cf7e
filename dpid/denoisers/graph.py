"""CUDA graphs of the fused UNet: one a shape, captured at its first use, replayed over all log-SNRs;
those of the last two shapes are kept.

A UNet call launches a thousand kernels; at small batches the host needs longer to launch them than the device to run
them. Off CUDA, and where a capture fails, the UNet is simply called.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from dpid.denoisers.unet import FusedUNet

_MOST = 2  # graphs kept, each with memory of its own: of whole batches, and of the last one of a run
_LOG = logging.getLogger("dpid")
KeysValues = Mapping[str, tuple[Tensor, Tensor]]


@dataclass
class _Captured:
    graph: Any
    z: Tensor
    t: Tensor
    keys_values: KeysValues
    added: Tensor | None
    out: Tensor
    source: KeysValues  # whose values ``keys_values`` holds now


class Graphed:
    """Calls ``unet`` through CUDA graphs; arguments and result as for :meth:`FusedUNet.__call__`."""

    def __init__(self, unet: FusedUNet) -> None:
        self.unet = unet
        self._captured: dict[Any, _Captured] = {}
        self._usable = True

    def __call__(self, z: Tensor, t: Tensor, keys_values: KeysValues, added: Tensor | None = None) -> Tensor:
        """z [M,C,H,W], t [M] -> [K,M,C,H,W]."""
        if z.device.type != "cuda" or not self._usable:
            return self.unet(z, t, keys_values, added)
        with torch.cuda.device(z.device):
            captured = self._of(z, t, keys_values, added)
            if captured is None:
                return self.unet(z, t, keys_values, added)
            return self._replay(captured, z, t, keys_values, added)

    def _of(self, z: Tensor, t: Tensor, keys_values: KeysValues, added: Tensor | None) -> _Captured | None:
        """The graph of these shapes, captured if need be; None where a capture fails."""
        key, _ = next(iter(keys_values.values()))
        shape = (z.shape, z.dtype, key.shape)
        if captured := self._captured.pop(shape, None):
            self._captured[shape] = captured  # the last one used comes last
            return captured
        while len(self._captured) >= _MOST:
            del self._captured[next(iter(self._captured))]
        try:
            self._captured[shape] = self._capture(z, t, keys_values, added)
        except torch.OutOfMemoryError:
            self._captured.clear()
            raise
        except RuntimeError as error:
            _LOG.warning("CUDA graph capture failed, going on without: %s", str(error).splitlines()[0])
            self._usable = False
            return None
        return self._captured[shape]

    def _capture(self, z: Tensor, t: Tensor, keys_values: KeysValues, added: Tensor | None) -> _Captured:
        static_kv = {name: (k.clone(), v.clone()) for name, (k, v) in keys_values.items()}
        static = (z.clone(), t.clone(), static_kv, None if added is None else added.clone())
        stream = torch.cuda.Stream(z.device)
        stream.wait_stream(torch.cuda.current_stream(z.device))
        with torch.cuda.stream(stream):  # libraries choose their algorithms and allocate workspaces outside the capture
            for _ in range(2):
                self.unet(*static)
        torch.cuda.current_stream(z.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self.unet(*static)
        return _Captured(graph, *static, out, keys_values)

    @staticmethod
    def _replay(captured: _Captured, z: Tensor, t: Tensor, keys_values: KeysValues, added: Tensor | None) -> Tensor:
        captured.z.copy_(z)
        captured.t.copy_(t)
        if captured.added is not None and added is not None:
            captured.added.copy_(added)
        if captured.source is not keys_values:
            for name, (k, v) in keys_values.items():
                captured.keys_values[name][0].copy_(k)
                captured.keys_values[name][1].copy_(v)
            captured.source = keys_values
        captured.graph.replay()
        return captured.out.clone()
