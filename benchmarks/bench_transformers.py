"""Speed of transformers of true size: in batches as dpid makes them, and in a loop over log-SNRs, eager and compiled.

``python benchmarks/bench_transformers.py --model "Flux.1 dev" [--side 1024] [--compile default]``. Weights and texts'
encodings are random, of the shapes in ``true_sizes.py``, and the latents those of ``side``² pixels, so that nothing is
downloaded. The loop calls the pipeline's own network as its own loop does, with one picture at one level of noise; its
batch has the K conditions, and its sums are taken on the host. ``--compile default`` measures both with the blocks of
the network compiled by torch, too, another mode of torch.compile the loop alone, without and with it. ``explain`` is
what a user calls, with the correction for rounding.
"""

import math
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import ledger
import torch
import typer
from bench_models import SHORT
from bench_unet import PAIRS, PROMPTS, K, checked, random_texts
from torch import Tensor
from true_sizes import MODELS, TEXT, Model

sys.path.append(str(Path(__file__).parents[1] / "tests" / "denoisers"))
from tiny_pipelines import TINY, build

import dpid
from dpid.bench.speed import Contender
from dpid.bench.timing import in_turns, matmul_peak, seconds, timed
from dpid.denoisers.blocks import blocks_of
from dpid.denoisers.families import Family, family_of
from dpid.denoisers.modes import PRECISIONS
from dpid.denoisers.network import NetworkDenoiser
from dpid.denoisers.texts import LENGTHS
from dpid.device import default_device, peak_memory
from dpid.estimation.engine import fitting
from dpid.estimation.sampling import Samples, draw

Found = dict[str, tuple[float, str]]
"""{metric: (value, unit)}"""


def random_network(model: Model, dtype: torch.dtype, device: torch.device) -> Any:
    """The network of ``model`` on ``device``, with random weights that keep activations of order one."""
    import diffusers

    torch.set_default_dtype(dtype)
    try:
        with device:
            net = getattr(diffusers, model.network)(**model.config).eval().requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)
    for p in net.parameters():
        if p.ndim > 1:
            p.normal_(std=p[0].numel() ** -0.5)
    return net.to(device, dtype)  # some make their tables of positions elsewhere


def family_of_random(model: Model, dtype: torch.dtype, device: torch.device) -> Family:
    """The family of a pipeline of tiny parts around the network of ``model``; its texts are random."""
    tiny = next(name for name, (pipeline, _) in TINY.items() if pipeline == model.pipeline)
    pipe = build(tiny).to(device)
    family = family_of(pipe)
    pipe.register_modules(**{family.network: random_network(model, dtype, device)})
    pipe.vae.register_to_config(latent_channels=family.channels)  # it is never called
    tokens = SHORT if model.cut else model.tokens

    shapes = {name: [tokens if n == TEXT else n for n in shape] for name, shape in model.texts.items()}
    drawn = random_texts(family, shapes)

    def encode_texts(texts: Sequence[str]) -> dict[str, Tensor]:
        return drawn(texts) | ({LENGTHS: torch.full((len(texts),), tokens)} if model.cut else {})

    family.encode_texts = encode_texts
    return family


def loop(way: Contender, x: Tensor, samples: Samples) -> Tensor:
    """The integrals [K-1,H,W] of squared differences from the first condition, one log-SNR after the other."""
    total = torch.zeros(K - 1, *x.shape[2:])
    for n in range(len(samples.logsnr)):
        eps_hat = way.eps_hat(x, samples[n : n + 1].to(x.device))[0, :, 0].float()
        total += float(samples.weight[n]) / 2 * (eps_hat[1:] - eps_hat[:1]).square().sum(1).cpu()
    return total


def batches(way: Contender, x: Tensor, samples: Samples) -> Tensor:
    """The same integrals, in batches as large as dpid makes them."""
    return way.run(x, samples, PAIRS).gaps[0, : K - 1, 0].cpu()


def explained(denoiser: NetworkDenoiser, x: Tensor, samples: int) -> Found:
    """{metric: (value, unit)} of a call of ``explain`` after a first one of two samples."""
    explainer = dpid.Explainer(denoiser)
    asked = partial(explainer.explain, prompt="a cow and a giraffe", concepts=("cow", "giraffe"), latents=x[0])
    asked(samples=2)  # the first of a process measures what the model's predictions are
    if x.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    result, took = timed(partial(asked, samples=samples), x.device)
    return {
        "explain": (took, "s"),
        "explain: evaluations": (result.metadata.unet_evaluations, ""),
        "explain: samples in float32 too": (float(result.metadata.paired), ""),
        "explain: peak memory": (peak_memory(x.device) / 1e9, "GB"),
    }


def ways_of(family: Family, mode: str) -> dict[str, Callable[[], Callable[[Tensor, Samples], Tensor]]]:
    """{name: a maker of a way to compute the integrals of samples at latents}, compiled in ``mode`` unless that is "".

    Made one after the other, since what is compiled first of a shape is fastest, as for a user of one way.
    """

    def make(of: Callable[[Contender, Tensor, Samples], Tensor], compile: bool) -> partial[Tensor]:
        torch._dynamo.reset()
        denoiser = NetworkDenoiser(family, check=False, compile=compile)  # a pipeline whose parts do not fit
        return partial(of, Contender(denoiser, denoiser.encode_conditions(PROMPTS)))

    def in_mode() -> Callable[[Tensor, Samples], Tensor]:
        way: Contender = make(loop, False).args[0]
        calls = {block: torch.compile(block._call_impl, mode=mode) for block in blocks_of(family.net)}
        return partial(loop, replace(way, compiled=calls))

    if mode not in ("", "default"):
        return {"loop": partial(make, loop, False), f"loop, compiled ({mode})": in_mode}
    return {
        f"{of.__name__}{', compiled' * compile}": partial(make, of, compile)
        for compile in ((False, True) if mode else (False,))
        for of in (loop, batches)
    }


def measured(family: Family, x: Tensor, samples: int, rounds: int, mode: str, record: Callable[[Found], None]) -> None:
    """Give ``record`` what is found of all ways to evaluate ``samples`` samples of K conditions at latents ``x``.

    Every way is timed in turns with the eager loop, and told at once: what follows may not end in its time. ``mode``:
    of torch.compile, or "".
    """
    denoiser = NetworkDenoiser(family, check=False)
    drawn = draw("shifted-grid", denoiser.logsnr_grid, samples, 1, torch.Generator().manual_seed(0))
    clock, ways = partial(seconds, device=x.device), ways_of(family, mode)
    slow = partial(ways["loop"](), x, drawn)
    expected, fastest = slow(), math.inf
    for name, make in ways.items():
        way = slow if name == "loop" else partial(make(), x, drawn)
        try:
            took, error = checked(name, way, expected, denoiser.precision, x.device)
        except RuntimeError as problem:  # of the compiler, or of memory
            print(f"{name}: {problem}")
            continue
        found: Found = {f"{name}: first run": (took, "s"), f"{name}: relative difference from the loop": (error, "")}
        times = in_turns({name: way, "loop": slow}, clock, 0, rounds)
        taken = statistics.median(times[name])
        fastest = min(fastest, taken)
        found[f"{name}: evaluations a second"] = samples * K / taken, "1/s"
        ratio = statistics.median(a / b for a, b in zip(times["loop"], times[name], strict=True))
        found[f"{name}: times as fast as the loop"] = ratio, "x"
        record(found)
    if mode not in ("", "default"):
        return
    flops = Contender(denoiser, denoiser.encode_conditions(PROMPTS)).flops(x, drawn[:1].to(x.device))
    rate = samples * K * flops / fastest
    record({
        "best: arithmetic": (rate / 1e12, "TFLOP/s"),
        "best: share of the matmul peak": (rate / matmul_peak(PRECISIONS[denoiser.precision], x.device), ""),
        "batches: evaluations a call": (float(fitting(denoiser, x, K)), ""),
        **explained(denoiser, x, samples),
    })  # fmt: skip


def main(
    model: Annotated[str, typer.Option(help="A name of true_sizes.py.")] = "Stable Diffusion 3.5 medium",
    side: Annotated[int, typer.Option(help="Pixels a side.")] = 1024,
    samples: Annotated[int, typer.Option(help="Of every condition, even.")] = 16,
    rounds: int = 3,
    precision: str = "bfloat16",
    compile: Annotated[str, typer.Option(help="A mode of torch.compile, to measure compiled blocks: default, …")] = "",
) -> None:
    """Measure and record in the ledger."""
    chosen = next((m for m in MODELS if m.name == model), None)
    if chosen is None:
        raise typer.BadParameter(f"--model: found {model!r}, expected one of {', '.join(m.name for m in MODELS)}")
    family = family_of_random(chosen, PRECISIONS[precision], default_device())
    shape = family.channels, side // chosen.factor, side // chosen.factor
    x = torch.randn(1, *shape, generator=torch.Generator().manual_seed(0)).to(family.device)
    case = f"{model} {side}x{side} K={K} {precision}"

    def record(found: Found) -> None:
        rows = [{"case": case, "metric": m, "value": v, "unit": u, "n": rounds} for m, (v, u) in found.items()]
        ledger.record("transformers", rows)

    measured(family, x, samples, rounds, compile, record)


if __name__ == "__main__":
    typer.run(main)
