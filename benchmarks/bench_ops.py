"""Speed of the ops, compared with torch in eager mode, with torch.compile and with the bandwidth of the machine.

``python benchmarks/bench_ops.py [--device cpu] [--quick]``. The ops are compared with the float64 reference in the same
run (Match). All implementations take turns; medians and paired ratios are printed and go to the ledger. On a GPU the
time is that of the device, with an empty cache, and the Triton kernels of the UNet are compared with torch as well.
"""

import statistics
from collections.abc import Callable
from functools import partial
from itertools import combinations
from typing import Annotated, Any

import ledger
import torch
import typer

from dpid import _C, ops
from dpid.bench.timing import in_turns, seconds
from dpid.ops import compiled, reference

LATENTS = {"SD 4x64x64": (4, 64, 64), "SDXL 4x128x128": (4, 128, 128), "Flux 16x128x128": (16, 128, 128)}
Case = dict[str, Any]
Measured = tuple[dict[str, list[float]], list[Case]]  # seconds of every implementation, further rows


class Cold:
    """Measures the seconds that ``run`` takes on the GPU with an empty cache.

    Emptying it takes long enough for the host to launch ``run`` meanwhile, so that its time is not included.
    """

    def __init__(self) -> None:
        self.other = torch.empty(2**30, dtype=torch.uint8, device="cuda")
        self.ends = [torch.cuda.Event(enable_timing=True) for _ in range(2)]

    def __call__(self, run: Callable[[], object]) -> float:
        self.other.zero_()
        self.ends[0].record()
        run()
        self.ends[1].record()
        self.ends[1].synchronize()
        return self.ends[0].elapsed_time(self.ends[1]) / 1e3


def paired(contenders: dict[str, Callable[[], object]], device: str, budget: float) -> dict[str, list[float]]:
    """{name: seconds of every run}, in turns for ``budget`` seconds after a warm-up; at least 5 rounds."""
    for run in contenders.values():
        run()
    clock = Cold() if device == "cuda" else partial(seconds, device=torch.device("cpu"))
    return in_turns(contenders, clock, budget, least=5)


def bandwidths(device: str) -> dict[str, float]:
    """The bandwidths of the machine in bytes/s: reading (a sum) and copying 256 MiB, the best run."""
    x = torch.rand(2**26, device=device)
    y = torch.empty_like(x)
    size = x.numel() * 4
    reads = paired({"read": lambda: x.sum(), "copy": lambda: y.copy_(x)}, device, 1.0)
    return {"read": size / min(reads["read"]), "copy": 2 * size / min(reads["copy"])}


def eager_channel(x: torch.Tensor, logsnr: torch.Tensor) -> torch.Tensor:
    """z [N,B,C,H,W] as torch users write it, with torch.randn."""
    shape = (-1, 1, 1, 1, 1)
    a, b = logsnr.sigmoid().sqrt().view(shape), (-logsnr).sigmoid().sqrt().view(shape)
    return a * x + b * torch.randn(len(logsnr), *x.shape, device=x.device)


def eager_accumulate(
    gaps: torch.Tensor, residuals: torch.Tensor, eps_hat: torch.Tensor, eps: torch.Tensor, weight: torch.Tensor,
    replicate: torch.Tensor, pairs: torch.Tensor,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:  # fmt: skip
    """The op accumulate by broadcasting; the noise is an argument here, while the op generates it again."""
    gap = 0.5 * (eps_hat[:, pairs[:, 0]] - eps_hat[:, pairs[:, 1]]).square().sum(3)
    difference = eps[:, None] - eps_hat
    residual = 0.5 * difference.square().sum(3)
    gaps.index_add_(0, replicate, weight.view(-1, 1, 1, 1, 1) * gap)
    residuals.index_add_(0, replicate, weight.view(-1, 1, 1, 1, 1) * residual)
    return gap.sum((-2, -1)), residual.sum((-2, -1)), 0.5 * (eps_hat * difference).sum((-3, -2, -1))


def match(got: torch.Tensor, exact: torch.Tensor, tolerance: float) -> bool:
    """Whether the largest error, relative to the largest value, is within ``tolerance``."""
    return bool((got.double() - exact).abs().max() <= tolerance * exact.abs().max())


def report(rows: list[Case], op: str, case: str, times: dict[str, list[float]], extra: list[Case]) -> None:
    """Append the median of ours, the medians of the paired ratios of all others, and ``extra``."""
    ours = times["ours"]
    n = len(ours)
    rows.append({"case": case, "metric": f"{op}: ours", "value": statistics.median(ours) * 1e3, "stderr": None, "n": n,
                 "unit": "ms"})  # fmt: skip
    for name, other in times.items():
        if name != "ours":
            ratio = statistics.median(b / a for a, b in zip(ours, other, strict=True))
            rows.append({"case": case, "metric": f"{op}: {name} / ours", "value": ratio, "stderr": None, "n": n,
                         "unit": "x"})  # fmt: skip
    rows.extend({"case": case, "stderr": None, "n": n, **row} for row in extra)


def partners(n: int, device: str) -> torch.Tensor:
    """Sample ids [N] in antithetic pairs, as in an explanation."""
    half = torch.arange((n + 1) // 2, device=device)
    return torch.stack((half, ~half), -1).flatten()[:n]


def channel(shape: tuple[int, ...], n: int, device: str, peak: dict[str, float], budget: float) -> Measured:
    """Times of the op noisy_channel and of others at N = ``n``, and rows on its bandwidth and errors."""
    x = torch.randn(1, *shape, device=device)
    logsnr, ids = torch.linspace(-5, 7, n, device=device), partners(n, device)
    levels = logsnr.double()  # as an explanation has them
    torch._dynamo.reset()  # else a second shape is compiled for any shape, which is slower
    inductor = torch.compile(eager_channel)
    exact = reference.noisy_channel(x.double(), levels, ids, 1)
    ok = match(ops.noisy_channel(x, levels, ids, 1), exact, 1e-5)
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.noisy_channel(x, levels, ids, 1),
        "eager": lambda: eager_channel(x, logsnr),
        "compile": lambda: inductor(x, logsnr),
        "reference": lambda: reference.noisy_channel(x, levels, ids, 1),
    }
    times = paired(contenders, device, budget)
    moved = 4 * x.numel() * (n + 1)
    share = moved / statistics.median(times["ours"]) / peak["copy"]
    return times, [{"metric": "noisy_channel: share of copy bandwidth", "value": share, "unit": ""},
                   {"metric": "noisy_channel: Match", "value": float(ok), "unit": ""}]  # fmt: skip


def accumulate(shape: tuple[int, ...], n: int, k: int, device: str, peak: dict[str, float], budget: float) -> Measured:
    """Times of the op accumulate and of others at N = ``n``, K = ``k`` and all pairs, and rows as for noisy_channel."""
    c, h, w = shape
    pairs = torch.tensor(list(combinations(range(k), 2)), device=device)
    ids = partners(n, device)
    eps_hat = torch.randn(n, k, 1, *shape, device=device)
    replicate = torch.arange(4, device=device).repeat_interleave(max(2, n // 4))[:n]
    rest = (torch.rand(n, device=device) + 0.5, replicate, pairs)
    eps = ops.normal(1, ids, (1, *shape))
    torch._dynamo.reset()  # else a second shape is compiled for any shape, which is slower
    inductor = torch.compile(eager_accumulate)

    def zeros(dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, torch.Tensor]:
        return (torch.zeros(4, len(pairs), 1, h, w, device=device, dtype=dtype),
                torch.zeros(4, k, 1, h, w, device=device, dtype=dtype))  # fmt: skip

    exact, got = zeros(torch.float64), zeros()
    squares = reference.accumulate(*exact, eps_hat, *rest, ids, 1)
    got += ops.accumulate(*got, eps_hat, *rest, ids, 1)
    exact += (squares[:, k:-k], squares[:, :k], squares[:, -k:])
    ok = all(match(a, b, 1e-5) for a, b in zip(got, exact, strict=True))
    into = zeros()
    contenders: dict[str, Callable[[], object]] = {
        "ours": lambda: ops.accumulate(*into, eps_hat, *rest, ids, 1),
        "eager": lambda: eager_accumulate(*into, eps_hat, eps, *rest),
        "compile": lambda: inductor(*into, eps_hat, eps, *rest),
    }
    if n * k * c <= 256:  # for more the float64 reference takes seconds
        contenders["reference"] = lambda: reference.accumulate(*into, eps_hat, *rest, ids, 1)
    times = paired(contenders, device, budget)
    median = statistics.median(times["ours"])
    # A squared difference takes three operations, a product two more, a value of the noise about 60.
    operations = n * c * h * w * (5 * k + 3 * len(pairs) + 60)
    share = 4 * eps_hat.numel() / median / peak["read"]
    return times, [{"metric": "accumulate: share of read bandwidth", "value": share, "unit": ""},
                   {"metric": "accumulate: operations", "value": operations / median / 1e9, "unit": "Gop/s"},
                   {"metric": "accumulate: Match", "value": float(ok), "unit": ""}]  # fmt: skip


def outputs(op: "partial[Any]", change: Callable[[torch.Tensor], torch.Tensor], backend: str) -> tuple[Any, ...]:
    """What ``op`` returns by ``backend``, as a tuple, for its tensors after ``change``."""
    args = [change(a) if isinstance(a, torch.Tensor) else a for a in op.args]
    named = {name: change(a) for name, a in op.keywords.items()}
    found = op.func(*args, **named, backend=backend)
    return found if isinstance(found, tuple) else (found,)


def unet_ops(rows: list[Case], peak: dict[str, float], budget: float) -> None:
    """Append times of the UNet's Triton kernels and of torch, at the widest layers of SD 1.5, fp16, 16 evaluations.

    Their share of the bandwidth is that of reading what they are given and writing what they return, each once.
    """

    def randn(*size: int) -> torch.Tensor:
        return torch.randn(*size, device="cuda", dtype=torch.float16)

    x, w, b = randn(16, 320, 64, 64).to(memory_format=torch.channels_last), randn(320), randn(320)
    wide = randn(16, 4096, 2560)
    time, tokens, more = randn(16, 320), randn(16, 4096, 320), randn(16, 4096, 320)
    cases: dict[str, partial[Any]] = {
        "group_norm_silu 16x320x64x64": partial(ops.group_norm_silu, x, 32, w, b),
        "group_norm_silu 16x320x64x64 and a time embedding": partial(ops.group_norm_silu, x, 32, w, b, added=time),
        "group_norm_silu 16x320x64x64 and a skip connection of 320": partial(
            ops.group_norm_silu, x, 32, randn(640), randn(640), skip=x.clone()
        ),
        "add_maps 16x320x64x64 and a bias": partial(ops.add_maps, x, x.clone(), b),
        "layer_norm 16x4096x320": partial(ops.layer_norm, tokens, w, b),
        "add_layer_norm 16x4096x320": partial(ops.add_layer_norm, tokens, more, w, b),
        "geglu 16x4096x2560": partial(ops.geglu, wide),
    }
    for case, op in cases.items():
        exact = outputs(op, torch.Tensor.double, "reference")
        got = outputs(op, lambda t: t, "triton")
        ok = all(match(a, b, 1e-3) for a, b in zip(got, exact, strict=True))  # one rounding to fp16
        name, size = case.split(" ", 1)
        torch._dynamo.reset()
        inductor = torch.compile(op.func)
        contenders = {
            "ours": partial(op, backend="triton"), "torch": partial(op, backend="reference"),
            "compile": partial(inductor, *op.args, **op.keywords, backend="reference"),
        }  # fmt: skip
        times = paired(contenders, "cuda", budget)
        moved = sum(t.nbytes for t in (*op.args, *op.keywords.values(), *got) if isinstance(t, torch.Tensor))
        share = moved / statistics.median(times["ours"]) / peak["copy"]
        report(rows, name, size, times, [{"metric": f"{name}: share of copy bandwidth", "value": share, "unit": ""},
                                         {"metric": f"{name}: Match", "value": float(ok), "unit": ""}])  # fmt: skip


def overhead(rows: list[Case], device: str) -> None:
    """Append the overhead of Python and dispatch: a call on a 4×8×8 input less the kernel alone."""
    x = torch.randn(1, 4, 8, 8, device=device)
    logsnr, ids = torch.zeros(1, device=device, dtype=torch.float64), torch.zeros(1, dtype=torch.int64, device=device)
    gaps, residuals = torch.zeros(1, 5, 1, 8, 8, device=device), torch.zeros(1, 4, 1, 8, 8, device=device)
    eps_hat, weight = torch.randn(1, 4, *x.shape, device=device), torch.ones(1, device=device)
    pairs = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]], device=device)
    channel = {"x": x, "logsnr": logsnr, "sample_id": ids}
    sums = {"gaps": gaps, "residuals": residuals, "eps_hat": eps_hat, "weight": weight, "replicate": ids,
            "pairs": pairs, "sample_id": ids}  # fmt: skip
    threads = -1 if device == "cuda" else 1
    where = {"seed": 1, "threads": threads, "stream": torch.cuda.current_stream().cuda_stream if threads < 0 else 0}
    z, squares = torch.empty(1, *x.shape, device=device), torch.empty(1, 13, 1, device=device)
    views = {name: compiled._view(t) for name, t in (channel | sums | {"z": z, "squares": squares}).items()}
    scratch = torch.empty(
        _C.accumulate_scratch(eps_hat=views["eps_hat"], pairs=views["pairs"], threads=threads), device=device
    )
    views["scratch"] = compiled._view(scratch)
    z_views, sum_views = (
        {name: views[name] for name in names} for names in ((*channel, "z"), (*sums, "squares", "scratch"))
    )
    calls: dict[str, tuple[Callable[[], object], Callable[[], object]]] = {
        "noisy_channel": (lambda: ops.noisy_channel(**channel, seed=1), lambda: _C.noisy_channel(**z_views, **where)),
        "accumulate": (lambda: ops.accumulate(**sums, seed=1), lambda: _C.accumulate(**sum_views, **where)),
    }
    for op, (call, kernel) in calls.items():
        times = paired({"call": call, "kernel": kernel}, "cpu", 1.0)
        extra = statistics.median(a - b for a, b in zip(times["call"], times["kernel"], strict=True))
        rows.append({"case": "4x8x8", "metric": f"{op}: Python and dispatch of a call", "value": extra * 1e6,
                     "stderr": None, "n": len(times["call"]), "unit": "us"})  # fmt: skip


def verdict(rows: list[Case]) -> None:
    """Print where torch.compile is faster, where an op is wrong, and the share of the bandwidth of every case."""
    for row in rows:
        name, value = row["metric"], row["value"]
        if (name.endswith("compile / ours") and value < 1) or (name.endswith("Match") and not value):
            print(f"NOT REACHED: {row['case']}, {name}: {value:.2f}")
        elif "share of" in name:
            print(f"{row['case']}, {name}: {value:.2f}")


def cases(device: str, quick: bool) -> list[tuple[str, int, list[int]]]:
    """(name of latents, N, all K) of what is measured; on a GPU less, where compiling the rivals takes most time."""
    all_n, all_k = ((8, 32), (4, 16)) if device == "cuda" else ((1, 8, 32), (4, 8, 16))
    if quick:
        return [("SDXL 4x128x128", 8, [4])]
    # Over 2048 the eager temporaries have 2 GiB.
    return [(name, n, [k for k in all_k if n * k * c <= 2048]) for name, (c, _, _) in LATENTS.items() for n in all_n]


def main(
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
    budget: Annotated[float, typer.Option(help="Seconds for every case.")] = 2.0,
    quick: Annotated[bool, typer.Option(help="Only SDXL, N = 8, K = 4.")] = False,
) -> None:
    """Measure and record in the ledger."""
    rows: list[Case] = []
    recorded: list[Case] = []
    peak = bandwidths(device)
    for kind, value in peak.items():
        rows.append(
            {
                "case": "machine",
                "metric": f"{kind} bandwidth",
                "value": value / 1e9,
                "stderr": None,
                "n": 9,
                "unit": "GB/s",
            }
        )
    overhead(rows, device)
    if device == "cuda":
        unet_ops(rows, peak, budget)
    for name, n, counts in cases(device, quick):
        shape = LATENTS[name]
        report(rows, "noisy_channel", f"{name} N={n}", *channel(shape, n, device, peak, budget))
        for k in counts:
            report(rows, "accumulate", f"{name} N={n} K={k}", *accumulate(shape, n, k, device, peak, budget))
        ledger.record("ops", rows)  # after every case, so that an interrupted run loses nothing
        recorded += rows
        rows.clear()
    verdict(recorded)


if __name__ == "__main__":
    typer.run(main)
