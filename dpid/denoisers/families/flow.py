"""The base class of families whose network predicts the velocity of a rectified flow, docs/theory.md, eq. (3)."""

from __future__ import annotations

import math

from torch import Tensor

from dpid.denoisers.families.family import Family
from dpid.denoisers.levels import Flow


class FlowFamily(Family):
    """A pipeline whose network predicts the velocity of x_σ = (1-σ) x + σ ε and is told 1000 σ, by default.

    The range of log-SNRs is that of a training with logit-normal σ at the scheduler's shift (Esser et al., 2024).
    """

    def check(self) -> None:
        """Raise ``ValueError`` if the pipeline lacks a component or its scheduler is not that of a flow."""
        super().check()
        scheduler = self.pipe.scheduler
        settings = scheduler.config
        flow = settings.get("use_flow_sigmas") or settings.get("prediction_type") == "flow_prediction"
        if not (flow or "FlowMatch" in type(scheduler).__name__):
            raise ValueError(
                f"pipe: the network of {type(self.pipe).__name__} predicts the velocity of a flow, but its "
                f"{type(scheduler).__name__} is none; give the pipeline the scheduler that its model was trained with, "
                "such as FlowMatchEulerDiscreteScheduler"
            )

    def levels(self) -> Flow:
        """The noise levels of the training; in its own type the network may be told fewer."""
        return Flow.trained(self.shift, self.told)

    @property
    def shift(self) -> float:
        """The factor by which the scheduler multiplies the odds of σ at the native size."""
        _, h, w = self.latent_shape
        return self.shift_at(h, w)

    def shift_at(self, height: int, width: int) -> float:
        """The factor by which the scheduler multiplies the odds of σ for latents [C, height, width]."""
        config = self.pipe.scheduler.config
        if not config.get("use_dynamic_shifting"):
            return float(config.get("shift") or config.get("flow_shift") or 1.0)
        mu = self.mu(height * width / self.step**2)
        return mu if config.get("time_shift_type") == "linear" else math.exp(mu)

    def mu(self, tokens: float) -> float:
        """What the pipeline gives to its scheduler for pictures of that many tokens, for a shift that depends on it."""
        config = self.pipe.scheduler.config
        first, last = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return float(low + (high - low) * (tokens - first) / (last - first))

    def told(self, sigma: Tensor) -> Tensor:
        """σ after the network has rounded it; most compute their embedding of it in float32."""
        return sigma

    def time(self, t: Tensor) -> Tensor:
        """The network's own time [M] at σ ``t`` [M]."""
        return 1000 * t
