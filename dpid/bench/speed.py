"""How fast a model is evaluated: by the fused network, by the pipeline's own, and by both compiled by torch."""

from __future__ import annotations

import copy
import statistics
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from dpid import ops
from dpid.bench.timing import in_turns, seconds, timed
from dpid.denoisers.blocks import calling, compiled
from dpid.denoisers.modes import PRECISIONS, TOLERANCE, relative_difference
from dpid.denoisers.network import NetworkDenoiser, from_pipeline
from dpid.denoisers.protocol import Conditions
from dpid.device import is_gpu
from dpid.estimation.engine import Accumulator, integrate, profile_edges
from dpid.estimation.sampling import Samples
from dpid.quiet import quiet

# Attention of the CPU and products added in place, which FlopCounterMode does not know by itself.
UNCOUNTED = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *_, **__: sdpa_flop_count(q, k, v),
    torch.ops.aten.addmm_: lambda _, a, b, **__: 2 * a[0] * a[1] * b[1],
}


@dataclass
class Contender:
    """One way to evaluate all conditions.

    Attributes
    ----------
    denoiser, conditions : the model and what it has encoded, K conditions
    compiled : {module of the pipeline: its compiled call}, by which it is called meanwhile
    """

    denoiser: NetworkDenoiser
    conditions: Conditions
    compiled: Mapping[nn.Module, Any] = field(default_factory=dict)

    def run(self, x: Tensor, samples: Samples, pairs: Tensor) -> Accumulator:
        """The sums of ``samples`` for latents ``x`` [1,C,h,w], with their profile over log-SNR."""
        edges = profile_edges(self.denoiser.logsnr_grid, max(1, len(samples.logsnr) // 2), 1)
        into = Accumulator.empty(x, 1, len(self.conditions.names), pairs, edges)
        with calling(self.compiled):
            integrate(self.denoiser, x, self.conditions, samples, into, seed=0)
        return into

    def eps_hat(self, x: Tensor, samples: Samples) -> Tensor:
        """Predicted noise ε̂ [N,K,1,C,h,w] of ``samples`` in one call."""
        z = ops.noisy_channel(x, samples.logsnr, samples.sample_id, 0)
        with calling(self.compiled):
            return self.denoiser.eps_hat(z, samples.logsnr, self.conditions)

    def flops(self, x: Tensor, samples: Samples) -> float:
        """FLOPs of an evaluation of ``samples``: of matrix products, convolutions and attention, not compiled."""
        network = self.denoiser.network
        with FlopCounterMode(display=False, custom_mapping=UNCOUNTED) as counted:
            plain = Contender(self.denoiser, self.conditions)
            if network is None:
                plain.eps_hat(x, samples)
            else:
                with network.plainly():
                    plain.eps_hat(x, samples)
        return float(counted.get_total_flops()) / (len(samples.logsnr) * len(self.conditions.names))


@dataclass
class Speed:
    """What was measured of a contender; times are of one batch.

    Attributes
    ----------
    evaluations : of the batch
    first : seconds of the first call, in which is compiled what has to be
    times, reference : seconds of every run, and of the reference's run in the same turn; none without a reference
    difference : ‖ε̂ - reference's ε̂‖ / ‖reference's ε̂‖
    flops : of one evaluation
    """

    evaluations: int
    first: float
    times: list[float]
    reference: list[float]
    difference: float
    flops: float

    @property
    def per_second(self) -> float:
        """Evaluations a second, the median."""
        return self.evaluations / statistics.median(self.times)

    @property
    def reference_per_second(self) -> float:
        """The same of the reference's runs in the same turns."""
        return self.evaluations / statistics.median(self.reference)

    @property
    def ratio(self) -> float:
        """The reference's time over this one's, the median of all turns."""
        return statistics.median(b / a for a, b in zip(self.times, self.reference, strict=True))


def speed(
    name: str, contender: Contender, reference: Contender | None, x: Tensor, samples: Samples, pairs: Tensor,
    budget: float,
) -> Speed:  # fmt: skip
    """A :class:`Speed`: times of ``contender`` on the batch ``samples``, in turns with those of any ``reference``.

    ``FloatingPointError`` where it predicts NaN or infinity, ``ValueError`` where it predicts something else than
    ``reference``.
    """
    here, difference = samples.to(x.device), 0.0
    found, first = timed(partial(contender.eps_hat, x, here), x.device)
    if not found.isfinite().all():
        raise FloatingPointError(f"model: {name} predicts NaN or infinity in {contender.denoiser.precision}")
    calls = {name: partial(contender.run, x, samples, pairs)}
    if reference is not None:
        expected = reference.eps_hat(x, here)
        difference = relative_difference(found, expected)
        if difference > TOLERANCE[contender.denoiser.precision]:
            raise ValueError(f"model: {name} differs by {difference:.1e} from the pipeline's own network")
        calls["reference"] = partial(reference.run, x, samples, pairs)
    for call in calls.values():
        call()  # the first run of a shape allocates
    times = in_turns(calls, partial(seconds, device=x.device), budget)
    return Speed(
        len(samples.logsnr) * len(contender.conditions.names), first, times[name], times.get("reference", []),
        difference, contender.flops(x, here[:1]),
    )  # fmt: skip


def contenders(
    denoiser: NetworkDenoiser, pipe: Any, texts: Sequence[str], compiling: bool
) -> Iterator[tuple[str, Contender]]:
    """(name, contender) one by one, the pipeline ``pipe`` as its own network is called, "plain", first.

    Then the fused network, where there is one, and if ``compiling`` both compiled.
    """
    options: dict[str, Any] = {"precision": denoiser.precision, "check": False, "size": denoiser.size}
    plain = from_pipeline(_rival(pipe, denoiser), fused=False, **options)
    encoded = plain.encode_conditions(texts)
    yield "plain", Contender(plain, encoded)
    fused = denoiser.fused
    if fused:
        yield "fused", Contender(denoiser, denoiser.encode_conditions(texts))
    if not compiling:
        return
    if fused:
        other = NetworkDenoiser(denoiser.family, compile=True, **options)
        yield "fused, compiled", Contender(other, other.encode_conditions(texts))
    net = plain.family.net
    # A transformer's blocks share what is compiled; of a UNet every block is another, and the whole has more to fuse.
    calls = {net: torch.compile(net._call_impl)} if fused else compiled(net)
    yield "plain, compiled", Contender(plain, encoded, calls)


def _rival(pipe: Any, denoiser: NetworkDenoiser) -> Any:
    """``pipe`` or, where that is slower, a copy whose network is as its users have it in the denoiser's type.

    Weights in float32 are given that type; on a GPU a UNet in a half type is channels-last.
    """
    net, dtype = getattr(pipe, denoiser.family.network), PRECISIONS[denoiser.precision]
    if denoiser.precision == "float32":
        return pipe
    last = torch.channels_last if denoiser.fused and is_gpu(denoiser.device) else torch.preserve_format
    if net.dtype != torch.float32 and last == torch.preserve_format:
        return pipe
    other = copy.copy(pipe)
    with quiet():
        other.register_modules(**{denoiser.family.network: copy.deepcopy(net).to(dtype, memory_format=last)})
    return other
