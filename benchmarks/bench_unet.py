"""Speed of evaluating all conditions of a picture: as ITD does, in batches of diffusers, and with the fused UNet.

``python benchmarks/bench_unet.py [--model emoji|sd1.5|sd2.1|sdxl] [--precision float32] [--side 64]``. Stable Diffusion
has its true size and random weights, so that nothing is downloaded. ITD: fp32 as torch computes it by default (on a GPU
with convolutions in TF32), one log-SNR in a step, conditions repeated in the batch, the host waits in every step.
Batched: the pipeline's UNet, its weights in the given precision, in batches of the size that dpid chooses. Ours: the
fused UNet. The last two include the profile over log-SNR, as an explanation does. Below float32 the batches' maps are
channels-last, as is usual on a GPU, and the bias by rounding is measured too. Before all that the first explanation of
the process is timed, from an explainer at hand to its result. ``--compile default`` instead measures the batches and
then ours compiled by torch, each in turns with ours as it is; another mode of torch.compile the batches alone.
"""

import copy
import statistics
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Annotated, Any

import ledger
import torch
import typer
from true_sizes import UNETS

import dpid
from dpid.bench.speed import Contender
from dpid.bench.timing import in_turns, matmul_peak, seconds, timed
from dpid.denoisers.families import family_of
from dpid.denoisers.modes import PRECISIONS, TOLERANCE, relative_difference
from dpid.denoisers.network import NetworkDenoiser
from dpid.denoisers.protocol import Conditions
from dpid.estimation.engine import Accumulator, fitting, integrate
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
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionXLPipeline

    from dpid.denoisers.loading import load_pipeline

    pipe = load_pipeline("emoji")
    if model in UNETS:
        # Only the UNet matters here: texts are random hidden states, pictures random latents.
        vae = AutoencoderKL(block_out_channels=(32,) * 4, down_block_types=("DownEncoderBlock2D",) * 4,
                            up_block_types=("UpDecoderBlock2D",) * 4)  # fmt: skip
        pipe.register_modules(
            vae=vae, unet=random_unet(UNETS[model]), scheduler=DDPMScheduler.from_config(pipe.scheduler.config)
        )
    if model == "sdxl":
        parts = {name: getattr(pipe, name) for name in ("vae", "text_encoder", "tokenizer", "unet", "scheduler")}
        pipe = StableDiffusionXLPipeline(**parts, text_encoder_2=pipe.text_encoder, tokenizer_2=pipe.tokenizer)
    plain, fused = made(pipe, fused=False), made(pipe).at(precision)
    if precision == "float32":
        return plain, plain, fused
    coarse = copy.copy(pipe)
    unet = copy.deepcopy(pipe.unet).to(getattr(torch, precision), memory_format=torch.channels_last)
    coarse.register_modules(unet=unet)
    return plain, made(coarse, fused=False), fused


def random_texts(
    family: Any, shapes: Mapping[str, Sequence[int]]
) -> Callable[[Sequence[str]], dict[str, torch.Tensor]]:
    """A family's ``encode_texts`` of random numbers drawn by the text: {argument: [K, *shape]} of K texts."""

    def encode_texts(texts: Sequence[str]) -> dict[str, torch.Tensor]:
        seeds = [torch.Generator().manual_seed(zlib.crc32(text.encode())) for text in texts]
        drawn = {name: torch.stack([torch.randn(*n, generator=seed) for seed in seeds]) for name, n in shapes.items()}
        return {name: rows.to(family.device, family.net.dtype) for name, rows in drawn.items()}

    return encode_texts


def made(pipe: Any, **options: Any) -> NetworkDenoiser:
    """The denoiser of ``pipe``; where the text encoder is of another size than the UNet, texts are random."""
    family = family_of(pipe)
    config = family.net_config
    if config["cross_attention_dim"] == pipe.text_encoder.config.hidden_size:
        return NetworkDenoiser(family, **options)

    pooled = {"text_embeds": (1280,)} if config["addition_embed_type"] else {}
    family.encode_texts = random_texts(family, {"encoder_hidden_states": (77, config["cross_attention_dim"]), **pooled})
    return NetworkDenoiser(family, check=False, **options)  # against a pipeline whose parts do not fit


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


def rounding(fused: Any, x: torch.Tensor) -> float:
    """The largest rounding bias of iʳ(x; y_S) over its standard error, at 32 samples, not corrected."""
    drawn = draw("shifted-grid", fused.logsnr_grid, 2, 4, torch.Generator().manual_seed(2))
    f = []
    for model in (fused, fused.at("float32")):
        into = Accumulator.empty(x, 4, K, PAIRS)
        integrate(model, x, model.encode_conditions(PROMPTS), drawn, into, seed=2)
        null, one, two = into.gaps.sum((2, 3, 4))[:, 2:].unbind(1)  # of the condition of all concepts
        f.append(torch.stack((null - one, null - two, null)))
    error = f[1].std(1) / 32**0.5 * 2**0.5  # of 4 replicates of 2 samples
    return float(((f[0] - f[1]).mean(1).abs() / error).max())


def figures(times: dict[str, list[float]], evaluations: int) -> dict[str, tuple[float, str]]:
    """{metric: (value, unit)} of every way that was timed in turns with ours, from the wall times of all rounds."""
    return {
        **{f"{name}: evaluations a second": (evaluations / statistics.median(t), "1/s") for name, t in times.items()},
        **{f"{name} / ours": (statistics.median(a / b for a, b in zip(t, times["ours"], strict=True)), "x")
           for name, t in times.items() if name != "ours"},
    }  # fmt: skip


def compiled(batched: Contender, ours: Contender, mode: str) -> dict[str, Callable[[], Contender]]:
    """Ways under ``torch.compile``: diffusers' whole UNet in ``mode``; if it is "default" ours, as ``compile=True``."""
    net, denoiser = batched.denoiser.family.net, ours.denoiser

    def own() -> Contender:
        other = NetworkDenoiser(denoiser.family, compile=True, check=False, precision=denoiser.precision)
        return Contender(other, other.encode_conditions(PROMPTS))

    ways: dict[str, Callable[[], Contender]] = {
        f"batched, compiled ({mode})": lambda: replace(
            batched, compiled={net: torch.compile(net._call_impl, mode=mode)}
        )
    }
    return ways | ({"ours, compiled": own} if mode == "default" else {})


def checked(
    name: str, call: Callable[[], torch.Tensor], expected: torch.Tensor, precision: str, device: torch.device
) -> tuple[float, float]:  # fmt: skip
    """The seconds of the first ``call`` of a way, and how far its integrals are from those ``expected``, relatively.

    Ends the program if that is too far for ``precision``.
    """
    gaps, took = timed(call, device)
    error = relative_difference(gaps, expected)
    # The gaps are small differences: of rounding they have about ten times as much as ε̂.
    if not error <= 10 * TOLERANCE[precision]:
        raise SystemExit(f"{name}: the gaps differ by {error:.1e} from what they should be")
    return took, error


@dataclass
class Run:
    """The input of all ways, and what they find.

    Attributes
    ----------
    case : the name of rows in the ledger
    x, samples : latents [1,C,h,w] and what is drawn of noise and log-SNR
    reference : the integrals of diffusers in float32
    precision, rounds : of the ways, and how often they are timed
    """

    case: str
    x: torch.Tensor
    samples: Samples
    reference: torch.Tensor
    precision: str
    rounds: int

    def record(self, found: Mapping[str, tuple[float, str]]) -> None:
        """Put {metric: (value, unit)} into the ledger at once: what follows may not end in its time."""
        model = self.case.split()[0]
        rows = [
            {"case": self.case, "metric": m, "value": v, "unit": u, "n": self.rounds} for m, (v, u) in found.items()
        ]
        ledger.record("unet", rows, "emoji" if model == "emoji" else "")

    def call(self, way: Contender) -> Callable[[], Accumulator]:
        """The call that evaluates ``way``."""
        return partial(way.run, self.x, self.samples, PAIRS)

    def clock(self, call: Callable[[], object]) -> float:
        """The seconds that ``call`` takes on the device of the latents."""
        return seconds(call, self.x.device)

    def first(self, name: str, way: Contender) -> dict[str, tuple[float, str]]:
        """{metric: (value, unit)} of the first call of ``way``; ends the program if its integrals are wrong."""
        call = self.call(way)
        took, error = checked(name, lambda: call().gaps, self.reference, self.precision, self.x.device)
        metric = f"{'gaps' if name == 'ours' else f'{name}, gaps'}: relative difference from diffusers"
        return {f"{name}: first run": (took, "s"), metric: (error, "")}


def first_explanation(denoiser: NetworkDenoiser, x: torch.Tensor, samples: int) -> dict[str, tuple[float, str]]:
    """{metric: (value, unit)} of the time that an explanation of latents ``x`` takes in a process that made none."""
    explainer = dpid.Explainer(denoiser)
    ask = partial(explainer.explain, prompt="a cow and a giraffe", concepts=("cow", "giraffe"), latents=x[0])
    return {"ours: first explanation": (seconds(partial(ask, samples=samples), x.device), "s")}


def eager(run: Run, plain: Contender, batched: Contender, ours: Contender) -> None:
    """Measure and record what is not compiled."""
    found = run.first("batched", batched) | run.first("ours", ours)
    loop = partial(itd, plain.denoiser, run.x, plain.conditions, run.samples)
    calls: dict[str, Callable[[], object]] = {"batched": run.call(batched), "ours": run.call(ours), "ITD": loop}
    loop()  # untimed, as its rivals have run once by now
    with Inside(ours.denoiser) as inside:
        times = in_turns(calls, run.clock, 0, run.rounds)
    evaluations = len(run.samples.logsnr) * K
    run.record(found | figures(times, evaluations))
    found = {}
    flops = ours.flops(run.x, run.samples[:2].to(run.x.device))
    rate = evaluations * flops / statistics.median(times["ours"])
    found["ours: arithmetic"] = rate / 1e12, "TFLOP/s"
    found["ours: share of the matmul peak"] = rate / matmul_peak(PRECISIONS[run.precision], run.x.device), ""
    found["ours: outside the UNet"] = 1 - inside.seconds() / sum(times["ours"]), ""
    found["ours: evaluations a call"] = float(fitting(ours.denoiser, run.x, K)), ""
    if run.precision != "float32":
        found["ours: rounding bias of iʳ over its standard error"] = rounding(ours.denoiser, run.x), ""
    run.record(found)


def under_compiler(run: Run, batched: Contender, ours: Contender, mode: str) -> None:
    """Measure and record one after the other what torch compiles in ``mode``."""
    run.first("ours", ours)
    for name, make in compiled(batched, ours, mode).items():
        way = make()
        try:
            found = run.first(name, way)
        except RuntimeError as error:  # of the compiler
            print(f"{name}: {error}")
            continue
        times = in_turns({name: run.call(way), "ours": run.call(ours)}, run.clock, 0, run.rounds)
        evaluations = len(run.samples.logsnr) * K
        run.record(found | {m: v for m, v in figures(times, evaluations).items() if m.startswith(name)})


def main(
    model: str = "emoji",
    rounds: int = 3,
    samples: Annotated[int, typer.Option(help="Of every condition, even; 0: 32, or 2 at true size on a CPU.")] = 0,
    precision: Annotated[str, typer.Option(help="Type for ours and the batches; ITD is in float32.")] = "float32",
    side: Annotated[
        int, typer.Option(help="Of the latents, but for the embedded model; SDXL's native side is 128.")
    ] = 64,
    compile: Annotated[str, typer.Option(help="A mode of torch.compile, to measure that alone: default, …")] = "",
) -> None:
    """Measure and record in the ledger."""
    ways = denoisers(model, precision)
    denoiser = ways[-1]
    if not denoiser.fused:
        raise SystemExit(f"{model}: the fused UNet was refused, which the log says above")
    count = samples or (32 if model == "emoji" or torch.cuda.is_available() else 2)
    generator = torch.Generator().manual_seed(0)
    shape = denoiser.latent_shape if model == "emoji" else (4, side, side)
    x = torch.randn(1, *shape, generator=generator).to(denoiser.device)
    drawn = draw("shifted-grid", denoiser.logsnr_grid, count, 1, generator)
    first = {} if compile else first_explanation(denoiser, x, count)
    plain, batched, ours = (Contender(d, d.encode_conditions(PROMPTS)) for d in ways)
    case = f"{model} {'x'.join(map(str, shape))} K={K} {denoiser.precision}"
    run = Run(case, x, drawn, plain.run(x, drawn, PAIRS).gaps, denoiser.precision, rounds)
    run.record(first)
    if compile:
        under_compiler(run, batched, ours, compile)
    else:
        eager(run, plain, batched, ours)


if __name__ == "__main__":
    typer.run(main)
