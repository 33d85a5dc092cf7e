"""The package's own models, and pictures made with them."""

from __future__ import annotations

import copy
from typing import Any

from PIL import Image

GUIDANCE = 5.0  # classifier-free guidance's scale that suits the embedded model


def generate(
    pipe: Any, prompts: list[str], seed: int = 0, steps: int = 25, guidance: float = GUIDANCE
) -> list[Image.Image]:
    """One picture for each prompt; the pipeline and the global random state stay as they are.

    ``guidance`` is classifier-free guidance's scale. The noise of picture i depends on ``seed`` + i alone.
    """
    import torch

    from dpid.quiet import quiet

    with quiet():
        from diffusers import DPMSolverMultistepScheduler

        sampler = copy.copy(pipe)  # of any kind, with its modules and offloading hooks
        sampler.scheduler = DPMSolverMultistepScheduler.from_config(pipe.scheduler.config, timestep_spacing="linspace")
    sampler.set_progress_bar_config(disable=True)
    generators = [torch.Generator().manual_seed(seed + i) for i in range(len(prompts))]
    images: list[Image.Image] = sampler(
        prompts, num_inference_steps=steps, guidance_scale=guidance, generator=generators
    ).images
    return images
