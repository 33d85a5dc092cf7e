"""The base class of families whose network was trained at numbered timesteps, or is preconditioned as of EDM."""

from __future__ import annotations

from typing import Any

from dpid.denoisers.families.family import Family
from dpid.denoisers.levels import Discrete, Preconditioned

_CONTINUOUS = ("continuous", "v_prediction")  # with which Euler's scheduler tells log σ / 4


class DiscreteFamily(Family):
    """A pipeline whose network predicts ε or v and is told the number of the timestep.

    With a scheduler of EDM it is told the logarithm of the noise level, and predicts a mixture of noise and picture.
    """

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or its scheduler has no timesteps of training."""
        super().check()
        scheduler = self.pipe.scheduler
        if _is_edm(scheduler):
            return
        given = scheduler.config.get("sigma_data") is not None  # made of the configuration of a scheduler of EDM
        if given or (scheduler.config.get("timestep_type"), scheduler.config.get("prediction_type")) == _CONTINUOUS:
            raise ValueError(
                f"pipe: its {type(scheduler).__name__} is for a network that is preconditioned as of EDM, and does not "
                "say how; give the pipeline the scheduler that its model came with, such as EDMEulerScheduler"
            )
        if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("prediction_type") == "flow_prediction":
            raise ValueError(
                f"pipe: a {type(scheduler).__name__} has no trained noise levels (alphas_cumprod); give "
                "the pipeline the scheduler that its model was trained with, such as DDPMScheduler"
            )

    def levels(self) -> Discrete | Preconditioned:
        """The noise levels of the scheduler's training timesteps, or of a network preconditioned as of EDM."""
        scheduler = self.pipe.scheduler
        if _is_edm(scheduler):
            c = scheduler.config
            return Preconditioned(c.sigma_min, c.sigma_max, c.sigma_data, str(c.prediction_type))
        return Discrete(scheduler.alphas_cumprod, str(scheduler.config.prediction_type))


def _is_edm(scheduler: Any) -> bool:
    """Whether the pipeline's network is preconditioned, as its ``scheduler`` says (Playground 2.5)."""
    return type(scheduler).__name__.startswith("EDM")
