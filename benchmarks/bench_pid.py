"""The time of decomposing a map, compared with solving the lattice's equations, and the memory that many atoms take.

``python benchmarks/bench_pid.py`` prints and records in the ledger.
"""

import statistics
import subprocess
import sys
from pathlib import Path

import ledger
import numpy as np
import torch

import dpid
from dpid.bench.timing import seconds
from dpid.pid import decompose, lattice
from dpid.prompts.plan import subsets_of
from dpid.zoo.emoji import scenes

SIDE, REPEATS = 128, 40
CPU = torch.device("cpu")


def solved(n: int, f: dict[int, np.ndarray]) -> np.ndarray:
    """The atoms [A,P] of r(α) = min f by definition (docs/theory.md, eq. (31)), as the solution of linear equations."""
    nodes = lattice.antichains(n)
    below = np.array([[lattice.precedes(b, a) for b in nodes] for a in nodes], dtype=np.float64)
    return np.linalg.solve(below, np.stack([np.minimum.reduce([f[s] for s in a]) for a in nodes]))


def memory_of_atoms(n: int) -> float:
    """The megabytes of a process of its own, at most, while it makes the maps of all atoms of ``n`` words."""
    done = subprocess.run([sys.executable, __file__, str(n)], capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def print_memory(n: int) -> None:
    """Explain ``n`` words by the embedded model, and print the most that this process takes for all their atoms, MB."""
    words, latents = list(scenes.THINGS)[:n], torch.randn(4, 16, 16, generator=torch.Generator().manual_seed(0))
    result = dpid.Explainer.from_pretrained("emoji").explain(
        latents=latents, prompt=" ".join(words), concepts=words, samples=8
    )
    Path("/proc/self/clear_refs").write_text("5")  # Linux then counts VmHWM, the most so far, from now on
    result.atom_maps()
    (line,) = (row for row in Path("/proc/self/status").read_text().splitlines() if row.startswith("VmHWM:"))
    print(int(line.split()[1]) / 1e3)


def main() -> None:
    """Measure and record in the ledger."""
    generator, rows = torch.Generator().manual_seed(0), []
    for n in (2, 3, 4):
        concepts = "abcd"[:n]
        f = {s: torch.randn(SIDE, SIDE, generator=generator) for s in subsets_of(concepts)[1:]}
        masks = {sum(1 << concepts.index(c) for c in s): v.double().flatten().numpy() for s, v in f.items()}
        # float32 sums of up to 64 terms of order 1.
        np.testing.assert_allclose(decompose(f).flat.numpy(), solved(n, masks), rtol=0, atol=1e-4)
        # In turn, so that other load on the machine affects both alike.
        pairs = [
            (seconds(lambda f=f: decompose(f), CPU), seconds(lambda n=n, m=masks: solved(n, m), CPU))
            for _ in range(REPEATS)
        ]
        ours = [1e3 * a for a, _ in pairs]
        case = f"min, {n} concepts, {SIDE}x{SIDE}"
        error = statistics.stdev(ours) / REPEATS**0.5
        shared = {"case": case, "n": REPEATS}
        rows.append(
            {**shared, "metric": "decompose, median", "value": statistics.median(ours), "stderr": error, "unit": "ms"}
        )
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append({**shared, "metric": "times faster than a dense float64 solve", "value": ratio, "unit": "x"})
    rows.extend(
        {"case": f"min, {n} concepts, embedded model", "metric": "memory of a process that makes maps of all atoms",
         "value": memory_of_atoms(n), "n": 1, "unit": "MB"}
        for n in (4, 6, 8)
    )  # fmt: skip
    ledger.record("pid", rows)


if __name__ == "__main__":
    print_memory(int(sys.argv[1])) if len(sys.argv) > 1 else main()
