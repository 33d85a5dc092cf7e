"""The ledger ``benchmarks/results.csv``: a row for every measured number, with the machine, versions and command.

A row's key is what was measured: benchmark, case, metric, arguments of the command, and the kind of device (the name of
the GPU, or CPU). A new run replaces the rows of its keys and leaves all others, so that every row is the newest of its
kind. Rows from before a column existed have it empty.
"""

from __future__ import annotations

import csv
import datetime
import fcntl
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path

import torch

PATH = Path(__file__).parent / "results.csv"
MEASURED = ("case", "metric", "value", "stderr", "low", "high", "n", "unit", "note")
FIELDS = ("date", "benchmark", *MEASURED, "machine", "commit", "weights", "versions", "command")
Row = dict[str, str]


def key(row: Row) -> tuple[str, ...]:
    """The key of a row: what was measured. Of two rows with the same key the newer is kept."""
    device = row["machine"] if row["machine"].startswith("NVIDIA") else "CPU"
    return row["benchmark"], row["case"], row["metric"], row["command"], device


def read(path: Path | None = None) -> list[Row]:
    """All rows of the ledger, with "" for missing values."""
    with (path or PATH).open(newline="", encoding="utf-8") as f:
        return [{field: row.get(field) or "" for field in FIELDS} for row in csv.DictReader(f)]


def replace(rows: Sequence[Row], path: Path | None = None) -> None:
    """Put ``rows`` into the ledger, in place of those with the same keys; several processes may do so at once."""
    with (path or PATH).open("a+", newline="", encoding="utf-8") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        f.seek(0)
        kept = {key(row): row for row in csv.DictReader(f)} | {key(row): row for row in rows}
        f.seek(0)
        f.truncate()
        writer = csv.DictWriter(f, FIELDS, restval="", lineterminator="\n")
        writer.writeheader()
        writer.writerows(kept.values())


def _git(*arguments: str) -> str:
    """What git says of the repository; "" without git."""
    command = ["git", "-C", str(PATH.parents[1]), *arguments]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except FileNotFoundError:
        return ""


def commit() -> str:
    """The commit of the sources, with "+" if they have changed since; without a repository, ``DPID_COMMIT``."""
    found = _git("rev-parse", "--short=12", "HEAD")
    changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", f":!{PATH.relative_to(PATH.parents[1])}")
    return f"{found}{'+' * bool(changed)}" if found else os.environ.get("DPID_COMMIT", "")


def kept(folder: Path) -> Path:
    """Where what these sources have measured is kept in ``folder``: by their commit, and what has changed since."""
    found, changed = commit(), _git("diff", "HEAD", "--", ".", f":!{PATH.relative_to(PATH.parents[1])}")
    return folder / (f"{found}{zlib.crc32(changed.encode()):08x}" if changed else found or "unknown")


def fingerprint(model: str | Path) -> str:
    """A checksum of a model's network and density, 8 hex digits: it differs where the model was trained again.

    Of a folder, or of a single file, which has all parts in one; "" for a hub id, which has no folder here.
    """
    from dpid.denoisers.families import FAMILIES
    from dpid.denoisers.loading import DENSITY, folder_of

    folder = folder_of(model)
    found = 0
    networks = sorted({family.network for family in FAMILIES.values()})
    weights = [path for network in networks for path in sorted(folder.glob(f"{network}/*.safetensors"))]
    for path in [folder] if folder.is_file() else weights + sorted(folder.glob(DENSITY)):
        with path.open("rb") as f:
            f.seek(-min(path.stat().st_size, 1 << 20), 2)  # the last MiB: training changes all weights
            found = zlib.crc32(f.read(), found)
    return f"{found:08x}" if found else ""


def share(case: str, metric: str, p: float, n: int) -> dict[str, object]:
    """A row of the ledger: the share ``p`` of ``n``, with its binomial standard error."""
    return {"case": case, "metric": metric, "value": p, "n": n, "stderr": (p * (1 - p) / n) ** 0.5}


def of_model(benchmark: str, model: str) -> str:
    """The name of ``benchmark`` in the ledger where it measures ``model``: its own for the model "emoji"."""
    return benchmark if model == "emoji" else f"{benchmark}, {Path(model).name}"


def record(benchmark: str, rows: Sequence[dict[str, object]], model: str = "") -> None:
    """Print ``rows``, dictionaries with keys of ``MEASURED``, and put them into the ledger.

    ``model`` is the name or folder of the model that was measured, as for ``Explainer.from_pretrained``, whose
    fingerprint is recorded; empty where no model was loaded.
    """
    import dpid
    from dpid.bench.timing import machine
    from dpid.device import default_device

    shared = {
        "date": datetime.date.today().isoformat(), "benchmark": benchmark,
        "machine": machine(default_device()), "commit": commit(), "weights": fingerprint(model) if model else "",
        "versions": f"dpid {dpid.__version__}, torch {torch.__version__}, python {platform.python_version()}",
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }  # fmt: skip
    replace([shared | {name: _text(row.get(name)) for name in MEASURED} for row in rows])
    for row in rows:
        spread = f" ± {row['stderr']:.2g}" if row.get("stderr") is not None else ""
        if row.get("low") is not None:
            spread += f" [{row['low']:.3g}, {row['high']:.3g}]"
        print(f"{row['case']:32} {row['metric']:44} {row['value']:.5g}{spread} {row.get('unit', '')} (n = {row['n']})")


def _text(value: object) -> str:
    """A value as the ledger has it: numbers with five digits, None as ""."""
    return "" if value is None else f"{value:.5g}" if isinstance(value, float) else str(value)
