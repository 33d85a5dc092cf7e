"""AuraFlow (fal, 2024): a flow with joint attention to a text of T5."""

from __future__ import annotations

from torch import Tensor

from dpid.denoisers.families.flow import FlowFamily


class AuraFlow(FlowFamily):
    """An AuraFlow pipeline. Padding is zeros that the network attends, so every text keeps 256 tokens."""

    pipelines = ("AuraFlowPipeline",)
    networks = ("AuraFlowTransformer2DModel",)
    limits = {"tokenizer": 256}
    text = {"encoder_hidden_states": (0, 2)}

    def time(self, t: Tensor) -> Tensor:
        """The network's own time: σ."""
        return t
