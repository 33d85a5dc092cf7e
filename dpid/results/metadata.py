"""How a result came about."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpid.equality import Comparable


@dataclass(frozen=True, eq=False)
class Metadata(Comparable):
    """How a result came about; see :class:`dpid.options.Options` for what was asked.

    ``conditions``: {"": null, "cow": …, "cow+giraffe": …}; ``reference``: the condition F; ``priors``: {"cow": nats}.
    ``rounding_bias``: {estimator: {"cow+giraffe": nats}}, how much more i(x; y_S) is in ``precision`` than in float32,
    measured on a few samples of this picture. ``distilled``: why the model's predictions are no posterior means, ""
    where they are. ``broken``: what ended a run before its tolerance. ``peak_memory`` in bytes: of the GPU, else of the
    process.
    """

    prompt: str
    concepts: tuple[str, ...]
    context: bool
    conditions: dict[str, str]
    reference: str
    estimator: str
    measure: str
    level: str
    smooth: int
    rule: str
    antithetic: bool
    priors: dict[str, float] | None
    samples: int
    replicates: int
    unet_evaluations: int
    logsnr_range: tuple[float, float]
    seed: int
    model: str
    precision: str
    version: str
    distilled: str = ""
    converged: bool | None = None
    broken: str = ""
    rounding_bias: dict[str, dict[str, float]] | None = None
    peak_memory: int | None = field(default=None, compare=False)  # says nothing about the numbers
    unit: str = field(default="nats", init=False)
