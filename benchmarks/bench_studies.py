"""The numbers and the wall time of every study on an embedded model, as ``dpid study all`` runs them.

``python benchmarks/bench_studies.py [NAME …] [--pictures N] [--model emoji-flow]``. Studies that are finished in
build/studies, of the same commit, are neither run again nor timed.
"""

import json
import time
from pathlib import Path
from typing import Annotated

import ledger
import typer

from dpid.studies import STUDIES, Workbench, write

OUT = Path(__file__).parents[1] / "build" / "studies"


def rows_of(name: str, folder: Path, case: str) -> list[dict[str, object]]:
    """Rows of the ledger from the summary of a finished study, with 95 % intervals."""
    summary = json.loads((folder / name / "summary.json").read_text())["summary"]
    rows: list[dict[str, object]] = []
    for metric, found in summary.items():
        if not isinstance(found, dict) or found["value"] is None:
            continue
        low, high = found["interval"] or (None, None)
        numbers = {k: found[k] for k in ("value", "stderr", "n")}
        rows.append({"case": case, "metric": metric, "low": low, "high": high, **numbers})
    return rows


def main(
    names: Annotated[list[str] | None, typer.Argument(help=f"Of {', '.join(STUDIES)}; default: all.")] = None,
    pictures: Annotated[int | None, typer.Option(help="Of every kind; default: the study's own number.")] = None,
    model: Annotated[str, typer.Option(help="An embedded model.")] = "emoji",
) -> None:
    """Run, print and record in the ledger."""
    out = ledger.kept(OUT) / model / str(pictures or "default")
    bench, total, chosen = Workbench(model, pictures=pictures), 0.0, names or list(STUDIES)
    for name in chosen:
        began = time.perf_counter()
        done = write(name, bench, out)
        took = time.perf_counter() - began
        total += took
        case = name if pictures is None else f"{name}, {pictures} pictures a case"
        rows = rows_of(name, out, case)
        if done:
            rows.append({"case": case, "metric": "wall time", "value": took, "stderr": None, "n": 1, "unit": "s"})
        ledger.record(ledger.of_model("studies", model), rows, model)
    print(f"{len(chosen)} studies: {total:.0f} s; {out}/report.html")


if __name__ == "__main__":
    typer.run(main)
