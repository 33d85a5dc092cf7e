"""What the page shows of a result: another way to look at its samples, figures, tables, and files."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import replace
from html import escape
from operator import itemgetter
from pathlib import Path

import torch
from PIL import Image

from dpid.pid.decomposition import find, image_priors
from dpid.results.figure_style import Figure
from dpid.results.intervals import Estimate
from dpid.results.profile import Profile
from dpid.results.result import PIDResult

FILES = {"result": "result.safetensors", "numbers": "result.json", "maps": "maps.png"}  # what each is, and its name


def seen(result: PIDResult, estimator: str, measure: str, level: str) -> PIDResult:
    """``result`` by another estimator and measure, and at another level, from the samples that it has.

    A measure that needs priors of words gets uniform ones.
    """
    metadata = result.metadata
    uniform = "uniform" if find(measure).priors else None
    h = image_priors(uniform, metadata.concepts, measure, metadata.prompt)
    priors = None if h is None else {"+".join(subset): nats for subset, nats in h.items()}
    return replace(result, metadata=replace(metadata, estimator=estimator, measure=measure, level=level, priors=priors))


def image_of(figure: Figure) -> Image.Image:
    """``figure`` as a picture, sharp on a screen of two pixels a point."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return Image.open(buffer)


def profile_of(result: PIDResult, logsnr: float) -> tuple[Image.Image, str]:
    """The figure over log-SNR with a line at ``logsnr``, and the numbers there in a sentence of HTML."""
    figure = result.plot_profile()
    for axes in figure.axes:
        axes.axvline(logsnr, color="black", linewidth=1, linestyle=":")
    profile = result.profile
    assert profile.stderr is not None
    last = len(profile.logsnr) - 1
    at = min(last, max(0, int(torch.searchsorted(profile.edges, logsnr, right=True)) - 1))
    numbers = zip(_at(profile, at).items(), _at(profile.stderr, at).values(), strict=True)
    told = "; ".join(f"{escape(name)} {value:.2f} ± {error:.2f}" for (name, value), error in numbers)
    low, high = (float(edge) for edge in profile.edges[at : at + 2])
    unit = result.metadata.unit
    return image_of(figure), f"Between log-SNR {low:.1f} and {high:.1f}: {told} ({unit} per unit of log-SNR)."


def _at(profile: Profile, at: int) -> dict[str, float]:
    """The parts of ``profile`` in bin ``at``, by name."""
    unique = {f"only “{concept}”": float(values[at]) for concept, values in profile.unique.items()}
    return {"redundancy": float(profile.redundancy[at]), **unique, "synergy": float(profile.synergy[at])}


def numbers(result: PIDResult) -> dict[tuple[int, str], Estimate]:
    """The numbers of ``result`` by what they are, in words; the first part of a key is the place in a table."""
    concepts = result.metadata.concepts
    rows = {(0, f"“{concept}” by itself"): result.information[(concept,)] for concept in concepts}
    rows[1, "all words together"] = result.information[concepts]
    rows[2, "redundancy: told by each"] = result.redundancy
    rows |= {(3, f"unique: told by “{concept}” only"): estimate for concept, estimate in result.unique.items()}
    rows[4, "synergy: told only together"] = result.synergy
    return rows


def table(results: Sequence[PIDResult]) -> str:
    """The numbers of ``results`` side by side as a table of HTML, and what is to be known of them."""
    columns = [numbers(result) for result in results]
    heads = _cells("th", [_title(result) for result in results])
    body = "".join(
        f"<tr><th>{escape(row[1])}</th>{_cells('td', [column.get(row, '') for column in columns])}</tr>"
        for row in sorted(dict.fromkeys(row for column in columns for row in column), key=itemgetter(0))
    )
    notes = "".join(f"<li>{escape(line)}</li>" for result in results for line in result.remarks())
    about = escape(", ".join(dict.fromkeys(result.metadata.unit for result in results)))
    return (
        f"<table><thead><tr><th>{about} ± standard error</th>{heads}</tr></thead><tbody>{body}</tbody></table>"
        f"<ul>{notes}</ul>"
    )


def _cells(tag: str, contents: Sequence[object]) -> str:
    return "".join(f"<{tag}>{content}</{tag}>" for content in contents)


def _title(result: PIDResult) -> str:
    """The prompt of ``result`` and how much was sampled, as HTML."""
    given = ", given the rest of the prompt" if result.metadata.context else ""
    return f"“{escape(result.metadata.prompt)}”<br><small>{result.metadata.samples} samples{given}</small>"


def write_files(result: PIDResult, folder: Path) -> list[Path]:
    """The paths of :data:`FILES`, what can be downloaded, which are written into ``folder``."""
    paths = [folder / name for name in FILES.values()]
    result.save(paths[0])
    paths[1].write_text(json.dumps(result.to_dict(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    image_of(result.plot()).save(paths[2])
    return paths
