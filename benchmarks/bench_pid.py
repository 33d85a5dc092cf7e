"""The time of decomposing a map, compared with solving the lattice's equations: ``python benchmarks/bench_pid.py``."""

import statistics
import time
from collections.abc import Callable

import ledger
import numpy as np
import torch

from dpid.pid import decompose, lattice
from dpid.prompts.plan import subsets_of

SIDE, REPEATS = 128, 40


def solved(n: int, f: dict[int, np.ndarray]) -> np.ndarray:
    """The atoms [A,P] of r(α) = min f by definition (docs/theory.md, eq. (31)), as the solution of linear equations."""
    nodes = lattice.antichains(n)
    below = np.array([[lattice.precedes(b, a) for b in nodes] for a in nodes], dtype=np.float64)
    return np.linalg.solve(below, np.stack([np.minimum.reduce([f[s] for s in a]) for a in nodes]))


def timed(call: Callable[[], object]) -> float:
    """The milliseconds that ``call`` takes."""
    start = time.perf_counter()
    call()
    return (time.perf_counter() - start) * 1e3


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
        pairs = [(timed(lambda f=f: decompose(f)), timed(lambda n=n, m=masks: solved(n, m))) for _ in range(REPEATS)]
        ours = [a for a, _ in pairs]
        case = f"min, {n} concepts, {SIDE}x{SIDE}"
        error = statistics.stdev(ours) / REPEATS**0.5
        shared = {"case": case, "n": REPEATS}
        rows.append(
            {**shared, "metric": "decompose, median", "value": statistics.median(ours), "stderr": error, "unit": "ms"}
        )
        ratio = statistics.median(b / a for a, b in pairs)
        rows.append({**shared, "metric": "times faster than a dense float64 solve", "value": ratio, "unit": "x"})
    ledger.record("pid", rows)


if __name__ == "__main__":
    main()
