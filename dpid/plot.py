"""Pictures of results."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from dpid.result import PIDResult


def plot_maps(result: PIDResult) -> Figure:
    """Picture, redundancy, both uniqueness maps and synergy on one diverging scale, white at zero."""
    maps = result.maps
    panels = [("redundancy", result.redundancy, maps.redundancy)]
    panels += [(f"unique: {c}", result.unique[c], maps.unique[c]) for c in result.facts.concepts]
    panels += [("synergy", result.synergy, maps.synergy)]
    values = [m.cpu().numpy() for _, _, m in panels]
    # A few extreme pixels must not wash out the rest; they are drawn in the end colour.
    limit = max(float(np.quantile(np.abs(np.stack(values)), 0.995)), 1e-9)
    columns = len(panels) + (result.picture is not None)
    figure = Figure(figsize=(2.5 * columns + 0.6, 3.3), dpi=150, layout="constrained")
    axes = figure.subplots(1, columns)
    if result.picture is not None:
        axes[0].imshow(result.picture.numpy(), interpolation="lanczos")
        axes[0].set_title("picture", fontsize=10)
    for ax, (name, estimate, _), value in zip(axes[columns - len(panels) :], panels, values, strict=True):
        drawn = ax.imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
        ax.set_title(f"{name}\nimage {estimate}, map sum {value.sum():.1f}", fontsize=9)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
        ax.spines[:].set_color("0.8")
    figure.colorbar(drawn, ax=list(axes), shrink=0.7, pad=0.01, label="nats per latent pixel", extend="both")
    given = " | rest of the prompt" if result.facts.context else ""
    figure.suptitle(f"“{result.facts.prompt}”{given}", fontsize=11, fontweight="bold")
    figure.supxlabel(
        f"{result.facts.estimator}, {result.facts.measure}; {result.facts.unet_evaluations} UNet evaluations; "
        f"{result.facts.model}",
        fontsize=7, color="0.4",
    )  # fmt: skip
    return figure
