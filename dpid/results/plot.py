"""Plots of results: the maps side by side, and the profile over log-SNR."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from dpid.results.figure_style import Figure, literal, shortened, standard

if TYPE_CHECKING:
    from dpid.results.result import PIDResult

_COLUMNS = 5
_FRAMES = 8  # most of a video that are shown
_CONCEPT, _MODEL = 26, 60  # letters that fit above a panel and below the figure


@standard()
def plot_maps(result: PIDResult) -> Figure:
    """A figure of the picture and the maps of redundancy, uniqueness and synergy on one colour scale, white at zero.

    Of a video, a row each, with up to eight frames side by side.
    """
    maps = result.maps
    panels = [("redundancy", result.redundancy, maps.redundancy)]
    panels += [(f"unique: {literal(c, _CONCEPT)}", result.unique[c], maps.unique[c]) for c in result.metadata.concepts]
    panels += [("synergy", result.synergy, maps.synergy)]
    count = len(panels) + (result.picture is not None)
    columns, width, height = min(count, _COLUMNS), 2.5, 2.6  # inches of a panel
    if result.metadata.frames is not None:
        columns, width = 1, max(5.0, 1.8 * min(result.metadata.frames, _FRAMES))
        height = 0.6 + 1.8 * maps.redundancy.shape[1] / maps.redundancy.shape[2]
    rows = -(-count // columns)
    figure = Figure(figsize=(width * columns + 0.6, height * rows + 0.7), dpi=150, layout="constrained")
    axes = list(figure.subplots(rows, columns, squeeze=False).flat)
    for ax in axes:
        ax.spines[:].set_color("0.8")
    for ax in axes[count:]:
        ax.set_visible(False)
    if result.picture is not None:
        axes[0].set_title("picture" if result.metadata.frames is None else "video", fontsize=10)
    drawn = draw_maps(axes[:count], result.picture, [m for _, _, m in panels])
    for ax, (name, estimate, value) in zip(axes[count - len(panels) : count], panels, strict=True):
        ax.set_title(f"{name}\nimage {estimate}, map sum {float(value.sum()):.1f}", fontsize=9)
    figure.colorbar(
        drawn, ax=axes, shrink=0.7, pad=0.01, label=f"{result.metadata.unit} per latent pixel", extend="both"
    )
    _frame(figure, result)
    return figure


def draw_maps(axes: Sequence[Any], picture: Tensor | None, maps: Sequence[Tensor]) -> Any:
    """Draw a picture on the first of ``axes`` and maps [h,w] on the last ones; returns an image for a colour bar.

    All maps have one diverging colour scale, white at zero. Frames of a video are side by side.
    """
    values = [m.cpu().numpy() for m in maps]
    if values[0].ndim == 3:
        if picture is not None:
            picture = torch.from_numpy(_strip(picture.numpy(), picture.shape[2] // values[0].shape[2], 204))
        values = [_strip(value, 1, np.nan) for value in values]
    # A few extreme pixels must not wash out the rest; they are drawn in the end colour.
    limit = max(float(np.nanquantile(np.abs(np.stack(values)), 0.995)), 1e-9)
    for ax in axes:
        ax.set_xticks([])
        ax.set_yticks([])
    if picture is not None:
        axes[0].imshow(picture.numpy(), interpolation="lanczos")
    for ax, value in zip(axes[len(axes) - len(values) :], values, strict=True):
        ax.set_facecolor("0.8")  # between frames
        drawn = ax.imshow(value, cmap="RdBu_r", vmin=-limit, vmax=limit, interpolation="nearest")
    return drawn


def _strip(video: Any, factor: int, empty: float) -> Any:
    """Up to eight frames of ``video`` [T,h,w,*] side by side, [h,W,*], ``empty`` between them.

    ``factor``: the side of a latent pixel, in which the gaps are measured.
    """
    shown = np.linspace(0, len(video) - 1, min(len(video), _FRAMES)).round().astype(int)
    gap = max(1, video.shape[2] // factor // 32) * factor
    around = [(0, 0), (0, 0), (0, gap), *[(0, 0)] * (video.ndim - 3)]
    spaced = np.pad(video[shown], around, constant_values=empty)
    return np.concatenate(list(spaced), 1)[:, :-gap]


@standard()
def plot_profile(result: PIDResult) -> Figure:
    """A figure of i(x; y_S), left, and of its decomposition, right, over log-SNR, with bands of one standard error."""
    profile = result.profile
    errors = profile.stderr
    assert errors is not None
    shown = {", ".join(s): (f, errors.information[s]) for s, f in profile.information.items()}
    if len(result.metadata.concepts) > 3:  # 2ⁿ lines would be unreadable
        shown = {k: v for k, v in shown.items() if k in result.metadata.concepts} | {"all": list(shown.values())[-1]}
    atoms = {"redundancy": (profile.redundancy, errors.redundancy)}
    atoms |= {f"unique: {c}": (f, errors.unique[c]) for c, f in profile.unique.items()}
    atoms |= {"synergy": (profile.synergy, errors.synergy)}
    figure = Figure(figsize=(10, 4.0), dpi=100, layout="tight")
    axes = figure.subplots(1, 2, sharey=True)
    x = profile.logsnr.numpy()
    for ax, title, lines in zip(axes, ("i(x; y)", "atoms"), (shown, atoms), strict=True):
        for name, (value, error) in lines.items():
            v, e = value.numpy(), error.numpy()
            # matplotlib leaves out labels that begin with "_".
            ax.plot(x, v, label=f" {literal(name)}", marker="o", markersize=3)
            ax.fill_between(x, v - e, v + e, alpha=0.2)
        ax.axhline(0, color="0.7", linewidth=0.8, zorder=0)
        ax.set_title(title, fontsize=10)
        ax.set_xlabel("log-SNR (noise on the left)")
        ax.legend(fontsize=8, frameon=False)
        ax.spines[["top", "right"]].set_visible(False)
    axes[0].set_ylabel(f"{result.metadata.unit} per unit of log-SNR")
    _frame(figure, result)
    return figure


def _frame(figure: Figure, result: PIDResult) -> None:
    """Add the prompt as a title and the settings below the panels."""
    metadata = result.metadata
    given = " | rest of the prompt" if metadata.context else ""
    columns = int(10 * figure.get_figwidth())  # of bold letters of 11 points
    prompt = literal(f"“{shortened(metadata.prompt, 3 * columns)}”{given}", columns, lines=4)
    figure.suptitle(prompt, fontsize=11, fontweight="bold")
    figure.supxlabel(
        f"{metadata.estimator}, {metadata.measure} by {metadata.level}; {metadata.unet_evaluations} UNet evaluations; "
        f"{literal(metadata.model, _MODEL)}", fontsize=7, color="0.4",
    )  # fmt: skip
