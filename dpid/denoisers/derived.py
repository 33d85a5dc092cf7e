"""What is derived from a pipeline: its noise levels, fused networks and compiled blocks, made anew after a change.

A user may change a pipeline between explanations (load a LoRA, replace a scheduler, …). To notice any such change, the
pipeline's own network is run on one small input before each explanation; unless the output is bit for bit that of the
last time, everything that was derived from the pipeline is computed again.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from dpid.denoisers.blocks import compiled
from dpid.denoisers.checks import check_family, difference, small_input
from dpid.denoisers.families import Family
from dpid.denoisers.fused import FusedNetwork
from dpid.denoisers.levels import Levels
from dpid.denoisers.modes import TOLERANCE, as_written
from dpid.device import exact_float32, repeatable

_LOG = logging.getLogger("dpid")


class Derived:
    """Everything derived from a pipeline; the denoisers of all precisions share it.

    Attributes
    ----------
    family : the wrapped pipeline
    wanted : whether the fused network is asked for
    compile : whether a compiled network is asked for
    checked : whether the family is compared with the pipeline
    state : a token that is replaced whenever the pipeline has changed
    levels : the noise levels that the network was trained at
    fixed : why the network can compute only in its own type, or None
    fusable : whether the fused network stands in
    """

    levels: Levels

    def __init__(self, family: Family, wanted: bool, compile: bool, checked: bool) -> None:
        self.family, self.wanted, self.compile, self.checked = family, wanted, compile, checked
        self.state: object = None
        self.fixed: str | None = None
        self._seen: tuple[Any, ...] | None = None
        self.fusable = False
        self._networks: dict[str, FusedNetwork] = {}
        self._compiled: dict[nn.Module, Any] | None = None

    @exact_float32()
    def refresh(self) -> None:
        """Check the pipeline for changes and, after one, derive everything again."""
        if not self.family.only_fused or self._seen is None:
            with self.used():
                self._refresh()

    def _refresh(self) -> None:
        family = self.family
        family.check()
        family.check_weights()
        levels, fixed, reason = family.levels(), family.fixed_precision(), family.not_fused()
        first = self._seen is None
        if first:
            self._check(levels)
        inputs = None if family.only_fused else small_input(family, levels)
        with repeatable(), as_written():  # equal weights have to give equal bits
            own = family.plain(*inputs, family.precision) if inputs else None
        bits = b"" if own is None else own.float().cpu().numpy().tobytes()
        seen = (id(family.net), family.device, family.precision, levels.signature, fixed, reason, bits)
        if seen == self._seen:
            return
        family.texts.back()  # for whatever is compared and derived now
        if not first:
            self._check(levels)
        self._seen, self.state, self.levels, self.fixed = seen, object(), levels, fixed
        self._networks, self.fusable, self._compiled = {}, self.wanted and reason is None, None
        if self.fusable and inputs is not None and own is not None:
            network = family.fused(family.precision)
            found = difference(network, inputs, own)
            self._keep(network, family.precision)
            self.fusable = found <= TOLERANCE[family.precision]
            reason = f"it differs from the pipeline's UNet by {found:.1e}"
        if self.wanted and not self.fusable and reason:
            _LOG.warning("the fused path is not taken, %s: conditions run as one plain batch", reason)

    def _check(self, levels: Levels) -> None:
        """Compare the family with the pipeline, if that is wanted and there is a pipeline."""
        if self.checked and not self.family.only_fused:
            check_family(self.family, levels)

    @contextmanager
    def used(self) -> Iterator[None]:
        """A context in which one thread uses the model, and every text is encoded once."""
        with self.family.lock, self.family.texts.kept():
            yield

    def compiled(self) -> dict[nn.Module, Any]:
        """{block of the pipeline's own network: its compiled call}; none unless asked for."""
        if self._compiled is None:
            self._compiled = compiled(self.family.net) if self.compile else {}
        return self._compiled

    def network(self, precision: str) -> FusedNetwork | None:
        """The fused network in ``precision``, built at its first use; None if the pipeline's own network is called."""
        if not self.fusable:
            return None
        if precision not in self._networks:
            self._keep(self.family.fused(precision), precision)
        return self._networks[precision]

    def drop_graphs(self) -> None:
        """Free the memory of all CUDA graphs of the fused networks."""
        for network in self._networks.values():
            network.drop_graphs()

    def _keep(self, network: FusedNetwork, precision: str) -> None:
        """Keep the fused network of ``precision``, from now on compiled if that is wanted."""
        if self.compile:
            network.compile()
        self._networks[precision] = network
