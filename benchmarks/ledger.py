"""The ledger: one row of ``benchmarks/results.csv`` a measured figure, with machine, versions and date."""

import csv
import datetime
import platform
import sys
from pathlib import Path

import torch

PATH = Path(__file__).parent / "results.csv"
FIELDS = ("date", "benchmark", "case", "metric", "value", "stderr", "n", "unit", "machine", "versions", "command")


def machine() -> str:
    """Processor (or GPU) and threads."""
    if torch.cuda.is_available():
        return torch.cuda.get_device_name()
    names = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
    return f"{names[0].split(':')[1].strip() if names else platform.processor()}, {torch.get_num_threads()} threads"


def append(benchmark: str, rows: list[dict[str, object]]) -> None:
    """Print ``rows`` of {case, metric, value, stderr, n, unit} and add them to the ledger."""
    import dpid

    shared = {
        "date": datetime.date.today().isoformat(), "benchmark": benchmark, "machine": machine(),
        "versions": f"dpid {dpid.__version__}, torch {torch.__version__}, python {platform.python_version()}",
        "command": " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]),
    }  # fmt: skip
    new = not PATH.exists()
    with PATH.open("a", newline="") as f:
        writer = csv.DictWriter(f, FIELDS)
        if new:
            writer.writeheader()
        for row in rows:
            writer.writerow({**shared, **{k: f"{v:.5g}" if isinstance(v, float) else v for k, v in row.items()}})
            spread = f" ± {row['stderr']:.2g}" if row.get("stderr") is not None else ""
            print(
                f"{row['case']:32} {row['metric']:44} {row['value']:.5g}{spread} {row.get('unit', '')} (n = {row['n']})"
            )
