"""The wall time of ``dpid explain`` with default options, of ``dpid demo``, and of importing and loading alone.

``python benchmarks/bench_explain.py [--runs 7]``, on an idle machine. The numbers that the command writes are compared
with those of an explainer in this process.
"""

import json
import math
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Annotated

import ledger
import numpy as np
import typer

import dpid

DATA = Path(__file__).parents[1] / "tests" / "data" / "heldout"
IMAGE, PROMPT, CONCEPTS = DATA / "040.png", "a horse and a cake", ("horse", "cake")
# Without the clean-up at the end of a process, which takes time of its own.
LOAD = "import os, dpid; dpid.Explainer.from_pretrained('emoji'); os._exit(0)"


def took(*command: str) -> float:
    """The wall time of ``command`` in seconds; ``CalledProcessError`` if it fails."""
    began = time.perf_counter()
    subprocess.run(command, check=True, capture_output=True, cwd=tempfile.gettempdir())
    return time.perf_counter() - began


def check(out: Path) -> None:
    """Exit unless ``out``/result.json has the redundancy that :meth:`dpid.Explainer.explain` returns."""
    written = json.loads((out / "result.json").read_text())["redundancy"]["value"]
    here = dpid.Explainer.from_pretrained("emoji").explain(IMAGE, PROMPT, CONCEPTS).redundancy.value
    # With another number of threads sums of float32 are in another order.
    if not math.isclose(written, here, rel_tol=1e-3):
        raise SystemExit(f"explain wrote a redundancy of {written}, expected {here}")


def main(runs: Annotated[int, typer.Option(help="Runs of every command, in turn.")] = 7) -> None:
    """Measure and record in the ledger."""
    with tempfile.TemporaryDirectory() as folder:
        concepts = [word for c in CONCEPTS for word in ("-c", c)]
        program = sys.executable, "-c", "from dpid.cli import main; main()"
        commands = {
            "dpid explain": (*program, "explain", str(IMAGE), PROMPT, *concepts, "--out", folder),
            "dpid demo": (*program, "demo", "--out", str(Path(folder) / "demo")),
            "import and load": (sys.executable, "-c", LOAD),
            "import torch": (sys.executable, "-c", "import torch"),
        }  # fmt: skip
        times = [[took(*command) for command in commands.values()] for _ in range(runs)]
        check(Path(folder))
    rows = []
    for name, values in zip(commands, np.array(times).T, strict=True):
        rows.append({"case": name, "metric": "wall time of the process, median", "value": float(np.median(values)),
                     "low": float(values.min()), "high": float(values.max()), "n": runs, "unit": "s"})  # fmt: skip
    ledger.record("explain", rows, "emoji")


if __name__ == "__main__":
    typer.run(main)
