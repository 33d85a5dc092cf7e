"""Time and error of the Gaussian PID, compared with gpid, the published solver of the ~ decomposition.

``python benchmarks/bench_gaussian.py [--gpid PATH]``, PATH the ``src`` folder of a copy of gpid. The result of every
case is compared with the sum of its independent parts, or with that of a semidefinite programme. The solvers take turns
on one thread; medians and paired ratios go to the ledger.
"""

import statistics
import sys
import warnings
from collections.abc import Callable
from typing import Annotated, Any

import ledger
import numpy as np
import torch
import typer
from bench_ops import paired
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from dpid import gaussian

Array = NDArray[np.float64]
Solver = Callable[[Array, tuple[int, int, int]], float]  # redundancy in bits


def orthogonal(rng: np.random.Generator, d: int) -> Array:
    """A random orthogonal matrix [d,d]."""
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def parts(x: Array, y: Array, seed: int) -> Array:
    """The covariance of d independent scalar channels of gains ``x`` and ``y`` [d]; M, X and Y randomly rotated."""
    rng, d = np.random.default_rng(seed), len(x)
    m = orthogonal(rng, d)
    h = np.vstack((orthogonal(rng, d) @ np.diag(x) @ m, orthogonal(rng, d) @ np.diag(y) @ m))
    return np.block([[np.eye(d), h.T], [h, h @ h.T + np.eye(2 * d)]])


def dense(d: int, seed: int) -> Array:
    """The covariance of random channels, with gains N(0, 1.5²/d) and correlated noise."""
    rng = np.random.default_rng(seed)
    h, a = 1.5 * rng.normal(size=(2 * d, d)) / np.sqrt(d), 0.5 * rng.normal(size=(2 * d, 2 * d)) / np.sqrt(2 * d)
    return np.block([[np.eye(d), h.T], [h, h @ h.T + np.eye(2 * d) + a @ a.T]])


def ours(cov: Array, dims: tuple[int, int, int]) -> float:
    """The redundancy of ~ in bits by ``dpid.gaussian``."""
    return gaussian.pid(cov, dims).redundancy


def load_gpid(path: str) -> Solver:
    """A function that returns the redundancy of ~ in bits by gpid, without its warnings of an iteration limit."""
    sys.path.insert(0, path)
    from gpid.tilde_pid import exact_gauss_tilde_pid

    def solve(cov: Array, dims: tuple[int, int, int]) -> float:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return float(exact_gauss_tilde_pid(cov, *dims)[-2])

    return solve


def measure(
    rows: list[dict[str, Any]], case: str, cov: Array, exact: float | None, solvers: dict[str, Solver], budget: float
) -> None:
    """Append the times, ratios and errors of one case; differences from ours where no exact value is known."""
    d = len(cov) // 3
    dims = (d, d, d)
    times = paired({name: lambda f=f: f(cov, dims) for name, f in solvers.items()}, "cpu", budget)
    n, mine = len(times["ours"]), ours(cov, dims)
    shared = {"case": case, "stderr": None, "n": n}
    for name, solver in solvers.items():
        rows.append({**shared, "metric": f"tilde: {name}", "value": statistics.median(times[name]) * 1e3, "unit": "ms"})
        if exact is not None:
            error = abs(solver(cov, dims) - exact)
            rows.append({**shared, "metric": f"tilde: error of {name}", "value": error, "unit": "bits"})
        elif name != "ours":
            gap = abs(solver(cov, dims) - mine)
            rows.append({**shared, "metric": f"tilde: {name} less ours", "value": gap, "unit": "bits"})
        if name != "ours":
            ratio = statistics.median(b / a for a, b in zip(times["ours"], times[name], strict=True))
            rows.append({**shared, "metric": f"tilde: {name} / ours", "value": ratio, "unit": "x"})


def scalar_redundancy(x: Array, y: Array) -> float:
    """The redundancy in bits of ~ of independent scalar channels: the sum of each one's smaller information."""
    return float(0.5 * np.log2(1 + np.minimum(x, y) ** 2).sum())


def deficiency(x: Array, y: Array) -> float:
    """The redundancy in bits by deficiency of independent scalar channels; δ is at t² + x y t = 1 + x² where x > y."""

    def delta(a: Array, b: Array) -> float:
        t = (-a * b + np.sqrt((a * b) ** 2 + 4 * (1 + a * a))) / 2
        nats = 0.5 * (2 * np.log(t) + (1 + (a - t * b) ** 2) / t**2 - 1)
        return float(np.where(a > b, nats, 0).sum() / np.log(2))

    i_x, i_y = (0.5 * np.log2(1 + gains**2).sum() for gains in (x, y))
    return min(float(i_x) - delta(x, y), float(i_y) - delta(y, x))


def main(
    gpid: Annotated[str, typer.Option(help="The src folder of a copy of gpid; without it dpid alone is timed.")] = "",
    budget: Annotated[float, typer.Option(help="Seconds for every case; at least five rounds.")] = 3.0,
) -> None:
    """Measure and record in the ledger."""
    torch.set_num_threads(1)  # for the ledger's note of the machine
    threadpool_limits(1)  # on matrices this small, two threads of BLAS are slower than one
    solvers: dict[str, Solver] = {"ours": ours}
    if gpid:
        solvers["gpid"] = load_gpid(gpid)
    only = {"ours": ours}
    for d in (2, 8, 32, 64, 128):
        rows: list[dict[str, Any]] = []
        x, y = np.tile([3.0, 1.0], d // 2), np.tile([1.0, np.sqrt(2)], d // 2)
        measure(rows, f"parts d={d}", parts(x, y, d), scalar_redundancy(x, y), solvers, budget)
        exact = None
        if d <= 8:
            exact = gaussian.pid(dense(d, d), (d, d, d), solver="sdp").redundancy
        measure(rows, f"dense d={d}", dense(d, d), exact, solvers if d <= 64 else only, budget)
        # Above eight dimensions gpid takes minutes, until its iteration limit.
        measure(
            rows, f"equal channels d={d}", parts(x * 0 + 1, x * 0 + 1, d), d / 2, solvers if d <= 8 else only, budget
        )
        if d <= 64:
            x, y = np.tile([3.0, 1.0], d // 2), np.tile([1.0, 2.0], d // 2)
            cov = parts(x, y, d)
            times = paired({"ours": lambda c=cov: gaussian.pid(c, (len(c) // 3,) * 3, "delta")}, "cpu", budget)["ours"]
            found = gaussian.pid(cov, (d, d, d), "delta").redundancy
            shared = {"case": f"parts d={d}", "stderr": None, "n": len(times)}
            rows.append({**shared, "metric": "delta: ours", "value": statistics.median(times) * 1e3, "unit": "ms"})
            error = abs(found - deficiency(x, y))
            rows.append({**shared, "metric": "delta: error of ours", "value": error, "unit": "bits"})
        ledger.record("gaussian", rows)


if __name__ == "__main__":
    typer.run(main)
