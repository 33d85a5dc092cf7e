"""Metadata of a result: what was explained, with which settings, and at which cost."""

from __future__ import annotations

from dataclasses import dataclass, field

from dpid.equality import Comparable

UNITS = ("nats", "arbitrary units of steering")  # of posterior means, and of a model distilled to few steps
NOT_CORRECTED = "computed in {} alone: what its rounding adds is not known"


def remarks_on_model(distilled: str, caveat: str) -> list[str]:
    """What limits the numbers of a model, by what its denoiser says of how it was trained and distilled."""
    told = f"the maps show where words steer the model, in arbitrary units and not in nats, since {distilled}"
    return [caveat] * bool(caveat) + [told] * bool(distilled)


@dataclass(frozen=True, eq=False)
class Metadata(Comparable):
    """Prompt, conditions, settings and cost of a result; :class:`dpid.options.Options` explains the settings.

    Attributes
    ----------
    conditions : {"": null condition, "cow": …, "cow+giraffe": …}
    reference : the condition F
    priors : {"cow": nats}, the prior surprisal h(y_S), where the measure needs it
    samples : evaluations of every condition, in all replicates together
    unet_evaluations : evaluations of the denoiser under all conditions
    precision : the type that the network computed in
    distilled : why the model's predictions are no posterior means (it was distilled to few steps); "" if they are
    caveat : what else limits the numbers of this model, or ""
    paired : evaluations of every condition, of ``samples``, that were made in float32 too
    correction : {estimator: {"cow+giraffe": (nats, standard error)}}, what these found i(x; y_S) in float32 to be more
        than in ``precision``, docs/theory.md, eq. (57); all numbers contain it. None in float32, {} if float32 was not
        possible
    density : a checksum of the density over log-SNR of the first round, for rules "adaptive" and "learning"; "" if even
    frames : T of a video's latents; None of a picture
    peak_memory : most bytes in use, on the GPU or else by the process
    converged : whether the error is within the tolerance; None without one
    broken : the model's error that ended a run after the rounds of samples that are in the result, or ""
    unit : of all numbers; those of a model distilled to few steps are no information
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
    distilled: str
    caveat: str
    paired: int
    correction: dict[str, dict[str, tuple[float, float]]] | None
    density: str
    frames: int | None
    peak_memory: int | None = field(compare=False)  # differs between runs that give equal numbers
    converged: bool | None = None
    broken: str = ""
    unit: str = field(default=UNITS[0], init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "unit", UNITS[bool(self.distilled)])
