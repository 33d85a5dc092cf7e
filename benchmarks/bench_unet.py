"""Speed of evaluating all conditions of a picture: as ITD does, in batches of diffusers, and with the fused UNet.

``python benchmarks/bench_unet.py [--model emoji|sd1.5|sd2.1|sdxl] [--rounds 3] [--precision float32]``. Stable
Diffusion has its true size and random weights, so that nothing is downloaded; latents are 64×64 (a quarter of SDXL's
native area). ITD: fp32 as torch computes it by default (on a GPU with convolutions in TF32), one log-SNR in a step,
conditions repeated in the batch, the host waits in every step. Batched: the pipeline's UNet, its weights in the given
precision, in batches of the size that dpid chooses. Ours: the fused UNet. The last two include the profile over
log-SNR, as an explanation does. Below float32 the bias by rounding is measured as well.
"""

import copy
import statistics
import time
from collections.abc import Callable
from typing import Annotated, Any

import ledger
import torch
import torch._inductor.config
import typer
from torch.utils.flop_counter import FlopCounterMode
from true_sizes import UNETS

from dpid.denoisers.protocol import Conditions
from dpid.estimation.engine import Accumulator, fitting, integrate, profile_edges
from dpid.estimation.sampling import Samples, draw

K, PROMPTS = 4, ("", "cow", "giraffe", "cow giraffe")
PAIRS = torch.tensor([[0, 1], [0, 2], [0, 3], [1, 3], [2, 3]])


def random_unet(config: dict[str, object]) -> torch.nn.Module:
    """A UNet of ``config`` with random weights that keep activations of order one, made on its device."""
    from diffusers import UNet2DConditionModel

    with torch.device("meta"):
        unet = UNet2DConditionModel(sample_size=64, **config).eval()
    unet = unet.to_empty(device="cuda" if torch.cuda.is_available() else "cpu")
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if p.ndim > 1:
                p.normal_(std=p[0].numel() ** -0.5)
            else:
                p.fill_(float(name.endswith("weight")))
    return unet


def denoisers(model: str, precision: str) -> tuple[Any, Any, Any]:
    """Three denoisers of ``model``: the plain one in fp32, the plain and the fused one in ``precision``."""
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline

    from dpid.denoisers import from_pipeline
    from dpid.denoisers.loading import load_pipeline

    pipe = load_pipeline("emoji")
    if model in UNETS:
        # Only the UNet matters here: texts are random hidden states, pictures random latents.
        vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
        pipe.register_modules(
            vae=vae, unet=random_unet(UNETS[model]), scheduler=DDPMScheduler.from_config(pipe.scheduler.config)
        )
    plain, fused = from_pipeline(pipe, fused=False), from_pipeline(pipe).at(precision)
    if precision == "float32":
        return plain, plain, fused
    coarse = StableDiffusionPipeline(**pipe.components, requires_safety_checker=False)
    coarse.register_modules(unet=copy.deepcopy(pipe.unet).to(getattr(torch, precision)))
    return plain, from_pipeline(coarse, fused=False), fused


def itd(denoiser: Any, x: torch.Tensor, conditions: Conditions, samples: Samples) -> torch.Tensor:
    """The integrals [K,H,W] of squared differences by ITD's loop: one log-SNR in a step, sums on the host."""
    total = torch.zeros(K, *x.shape[2:])
    for n in range(len(samples.logsnr)):
        logsnr = samples.logsnr[n : n + 1].to(x.device)
        noise = torch.randn_like(x)
        z = logsnr.sigmoid().sqrt().float() * x + (-logsnr).sigmoid().sqrt().float() * noise
        eps_hat = denoiser.predict(z, denoiser.levels.time(logsnr), conditions)[:, 0]
        total += float(samples.weight[n]) / 2 * (eps_hat - eps_hat[:1]).square().sum(1).cpu()
    return total


def matmul_peak(dtype: torch.dtype, device: torch.device) -> float:
    """The FLOP/s of a large matrix product, the best of five."""
    n = 8192 if device.type == "cuda" else 2048
    a = torch.randn(n, n, device=device, dtype=dtype)
    return max(2 * n**3 / seconds(lambda: a @ a, device) for _ in range(5))


def seconds(call: Callable[[], object], device: torch.device) -> float:
    """The wall time of ``call`` in seconds, the device's work included."""
    began = time.perf_counter()
    call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - began


class Inside:
    """A context that measures the time which ``denoiser`` spends in its UNet."""

    def __init__(self, denoiser: Any) -> None:
        self.denoiser, self.predict, self.calls = denoiser, denoiser.predict, []

    def __enter__(self) -> "Inside":
        self.denoiser.predict = self.timed
        return self

    def __exit__(self, *_: object) -> None:
        del self.denoiser.predict  # restores the method; an attribute would be copied with the denoiser

    def now(self) -> Any:
        """A point in time: an event of the GPU, or seconds on the CPU."""
        if self.denoiser.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def timed(self, *args: object) -> torch.Tensor:
        """The UNet's output; the call is timed."""
        began = self.now()
        out = self.predict(*args)
        self.calls.append((began, self.now()))
        return out

    def seconds(self) -> float:
        """The seconds that all calls took."""
        if self.denoiser.device.type != "cuda":
            return sum(end - began for began, end in self.calls)
        torch.cuda.synchronize()
        return sum(began.elapsed_time(end) for began, end in self.calls) / 1e3


def encode(denoiser: Any, generator: torch.Generator) -> Conditions:
    """The conditions: texts for the embedded model, random hidden states for the others."""
    config = denoiser.family.net_config
    if denoiser.latent_shape[-1] == 16:
        return denoiser.encode_conditions(PROMPTS)
    hidden = torch.randn(K, 77, config["cross_attention_dim"], generator=generator).to(denoiser.device)
    pooled = torch.randn(K, 1280, generator=generator).to(denoiser.device)
    pooled_too = {"text_embeds": pooled} if config["addition_embed_type"] else {}
    return denoiser.conditions_of(PROMPTS, {"encoder_hidden_states": hidden, **pooled_too})


def rounding(fused: Any, x: torch.Tensor) -> float:
    """The largest rounding bias of iʳ(x; y_S) over its standard error, at 32 samples, not corrected."""
    drawn = draw("shifted-grid", fused.logsnr_grid, 2, 4, torch.Generator().manual_seed(2))
    f = []
    for model in (fused, fused.at("float32")):
        into = Accumulator.empty(x, 4, K, PAIRS)
        integrate(model, x, encode(model, torch.Generator().manual_seed(1)), drawn, into, seed=2)
        null, one, two = into.gaps.sum((2, 3, 4))[:, 2:].unbind(1)  # of the condition of all concepts
        f.append(torch.stack((null - one, null - two, null)))
    error = f[1].std(1) / 32**0.5 * 2**0.5  # of 4 replicates of 2 samples
    return float(((f[0] - f[1]).mean(1).abs() / error).max())


def operations(fused: Any, run: Callable[[], object]) -> int:
    """FLOPs of ``run``."""
    graphed, unet = fused.network.graphed, fused.network.unet
    packed, unet.packed = unet.packed, {}  # torch does not count the operations of oneDNN's own layouts
    usable, graphed._usable = graphed._usable, False  # nor those of a CUDA graph
    with FlopCounterMode(display=False) as counted:
        run()
    unet.packed, graphed._usable = packed, usable
    return counted.get_total_flops()


def inductor(fused: Any, run: Callable[[], torch.Tensor], rounds: int) -> dict[str, tuple[float, str]]:
    """torch.compile with freezing instead of eager calls on packed weights: seconds to its first answer, the ratio."""
    network, unet, packed = fused.network, fused.network.unet, fused.network.unet.packed
    function = torch.compile(network._call, dynamic=False)

    def compiled(*args: object) -> torch.Tensor:
        with torch.no_grad():  # freezing needs weights that ask for no gradient
            return function(*args)

    ways = {"ours": (network.graphed, packed), "inductor": (compiled, {})}  # it does not know the packed layout

    def timed(way: str) -> float:
        network.graphed, unet.packed = ways[way]
        return seconds(run, torch.device("cpu"))

    reference = run()
    with torch._inductor.config.patch(freezing=True):
        first = timed("inductor")
        # Rounding of float32 in another order; of the gaps, which are small differences, ten times that of ε̂.
        assert (run() - reference).norm() < 1e-4 * reference.norm()
        ratio = statistics.median(timed("inductor") / timed("ours") for _ in range(rounds))
    network.graphed, unet.packed = ways["ours"]
    return {"inductor: compile and first call": (first, "s"), "inductor / ours": (ratio, "x")}


def figures(
    times: dict[str, list[float]], inside: float, evaluations: int, flops: int, peak: float
) -> dict[str, tuple[float, str]]:
    """{metric: (value, unit)} from the wall times of ITD, batches and ours in every round."""
    medians = {name: statistics.median(t) for name, t in times.items()}
    return {
        **{f"{name}: evaluations a second": (evaluations / m, "1/s") for name, m in medians.items()},
        **{f"{name} / ours": (statistics.median(a / b for a, b in zip(times[name], times["ours"], strict=True)), "x")
           for name in ("ITD", "batched")},
        "ours: arithmetic": (flops / medians["ours"] / 1e12, "TFLOP/s"),
        "ours: share of the matmul peak": (flops / medians["ours"] / peak, ""),
        "ours: outside the UNet": (1 - inside / sum(times["ours"]), ""),
    }  # fmt: skip


def main(
    model: str = "emoji",
    rounds: int = 3,
    samples: Annotated[int, typer.Option(help="Of every condition, even; 0: 32, or 2 at true size on a CPU.")] = 0,
    precision: Annotated[str, typer.Option(help="Type for ours and the batches; ITD is in float32.")] = "float32",
) -> None:
    """Measure and record in the ledger."""
    plain, batched, fused = denoisers(model, precision)
    count = samples or (32 if model == "emoji" or torch.cuda.is_available() else 2)
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, *fused.latent_shape, generator=generator).to(fused.device)
    drawn = draw("shifted-grid", fused.logsnr_grid, count, 1, generator)
    encoded = {d: encode(d, torch.Generator().manual_seed(1)) for d in (plain, batched, fused)}

    def run(denoiser: Any) -> torch.Tensor:
        into = Accumulator.empty(x, 1, K, PAIRS, profile_edges(fused.logsnr_grid, count // 2, 1))
        integrate(denoiser, x, encoded[denoiser], drawn, into, seed=0)
        return into.gaps

    reference = run(plain)
    error = float((run(fused) - reference).norm() / reference.norm())
    times: dict[str, list[float]] = {"ITD": [], "batched": [], "ours": []}
    with Inside(fused) as inside:
        for _ in range(rounds):
            times["ITD"].append(seconds(lambda: itd(plain, x, encoded[plain], drawn), x.device))
            times["batched"].append(seconds(lambda: run(batched), x.device))
            times["ours"].append(seconds(lambda: run(fused), x.device))
    peak = matmul_peak(getattr(torch, fused.precision), x.device)
    found = figures(times, inside.seconds(), count * K, operations(fused, lambda: run(fused)), peak)
    found["ours: evaluations a call"] = (float(fitting(fused, x, K)), "")
    found["gaps: relative difference from diffusers"] = (error, "")
    if fused.precision != "float32":
        found["ours: rounding bias of iʳ over its standard error"] = (rounding(fused, x), "")
    elif model == "emoji" and x.device.type == "cpu":  # its tolerance is for float32; at true size it takes too long
        found |= inductor(fused, lambda: run(fused), rounds)
    case = f"{model} {'x'.join(map(str, fused.latent_shape))} K={K} {fused.precision}"
    rows = [{"case": case, "metric": m, "value": v, "unit": u, "n": rounds} for m, (v, u) in found.items()]
    ledger.record("unet", rows, "emoji" if model == "emoji" else "")


if __name__ == "__main__":
    typer.run(main)
