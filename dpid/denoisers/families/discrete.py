"""The base class of families whose network was trained at the numbered timesteps of a variance-preserving process."""

from __future__ import annotations

from dpid.denoisers.families.family import Family
from dpid.denoisers.levels import Discrete


class DiscreteFamily(Family):
    """A pipeline whose network predicts ε or v and is told the number of the timestep."""

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or its scheduler has no timesteps of training."""
        super().check()
        scheduler = self.pipe.scheduler
        if type(scheduler).__name__.startswith("EDM"):
            # Another scheduler would not help: the network is told log σ / 4, and its answer is neither ε nor v.
            raise ValueError(
                f"pipe: its {type(scheduler).__name__} says that the network is preconditioned as of EDM (such as "
                "Playground 2.5), which is not supported; another scheduler in its place would make numbers wrong"
            )
        if not hasattr(scheduler, "alphas_cumprod") or scheduler.config.get("prediction_type") == "flow_prediction":
            raise ValueError(
                f"pipe: a {type(scheduler).__name__} has no trained noise levels (alphas_cumprod); give "
                "the pipeline the scheduler that its model was trained with, such as DDPMScheduler"
            )

    def levels(self) -> Discrete:
        """The noise levels of the scheduler's training timesteps."""
        return Discrete(self.pipe.scheduler.alphas_cumprod, str(self.pipe.scheduler.config.prediction_type))
