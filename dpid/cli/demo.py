"""``dpid demo``: a picture made with the embedded model, what every word of its prompt does, and how two share it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from dpid.cli.explain import explain_one
from dpid.cli.outputs import page
from dpid.cli.parameters import at_home, load
from dpid.cli.words import explain_words
from dpid.files import writable
from dpid.options import Options
from dpid.zoo import CONCEPTS, PROMPT, generate


def demo(
    out: Annotated[Path, typer.Option(help="Folder for the picture and the results.", callback=at_home)] = Path("demo"),
    seed: Annotated[int, typer.Option(help="Of the picture and of the noise.")] = 40,
) -> None:
    """Make a picture with the embedded model and explain it."""
    from dpid.denoisers.loading import load_pipeline

    Options(seed=seed)
    with writable(out):
        explainer = load("emoji", {})
        picture = generate(load_pipeline("emoji"), [PROMPT], seed=seed)[0]
        picture.save(out / "picture.png")
        explain_words(explainer, picture, PROMPT, out, seed=seed)
        # By pixel, as the words are judged, so that both tables and all maps tell of the same numbers.
        own = {"seed": seed, "samples": 64, "max_samples": 64, "level": "pixel"}
        explain_one(explainer, picture, PROMPT, CONCEPTS, out, **own)
        page([out / f"{name}.safetensors" for name in ("words", "result")], out / "report.html")
