"""Train an embedded model: ``python -m dpid.zoo.emoji.train --work DIR --out DIR [--kind flow] [--start MODEL]``.

Six stages, each of which resumes from its checkpoint: the autoencoder; the latents of ``--scenes`` scenes; the teacher
(``teacher.py``), which computes the targets; the network with its text encoders, on the batches of ``lessons.py``; the
export to a pipeline's folder in fp16; the density of log-SNRs for ``rule="adaptive"``. The batch of a step
depends on (seed, step) alone, so that an interrupted run sees the same data as an uninterrupted one. ``--steps`` may
change between runs: the learning rate is constant and falls to zero over the last share ``DECAY`` of the steps.
``--start`` continues from an exported model, on scenes of another ``--seed``: its autoencoder is kept, the rest is
trained further, or begun where that model is of the other kind.
"""

from __future__ import annotations

import copy
import csv
import json
import os
import random
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import fields
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
from diffusers import AutoencoderKL, DiffusionPipeline
from PIL import Image
from safetensors.torch import load_file, save, save_file
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.data import DataLoader
from transformers import PreTrainedTokenizerFast

from dpid.denoisers.loading import DENSITY
from dpid.estimation.precision import candidates
from dpid.explainer import Explainer
from dpid.results.result import PIDResult
from dpid.zoo.emoji import scenes, sprites
from dpid.zoo.emoji.flow import FlowModel
from dpid.zoo.emoji.lessons import Lesson, Lessons, scene, tame
from dpid.zoo.emoji.networks import UNetModel, make_vae
from dpid.zoo.emoji.teacher import Teacher

Model = UNetModel | FlowModel
KINDS: dict[str, type[Model]] = {model.kind: model for model in (UNetModel, FlowModel)}

VAE_BATCH, VAE_LR = 16, 2e-3
BATCH, LR, WARMUP, DECAY, EMA = 48, 1e-3, 200, 0.8, 0.999
GAP = 4.0  # weight of the error of the difference between two captions' ε̂, relative to the error of ε̂
SAVE_EVERY = 250
SEEN, SAMPLES = 24, 128  # pictures from which the density is learnt, evaluations of every condition of these


def to_tensor(images: list[np.ndarray]) -> Tensor:
    """Pictures uint8 [64,64,3] as a tensor float32 [B,3,64,64] in [-1,1]."""
    return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).float() / 127.5 - 1


class Run:
    """The folder of a training run, with its checkpoints and its log, its seed and its device."""

    def __init__(self, work: Path, seed: int, device: torch.device) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.seed, self.device = work, seed, device

    def load(self, name: str) -> dict[str, Any] | None:
        """The checkpoint ``name``; None if there is none."""
        path = self.work / f"{name}.pt"
        return torch.load(path, map_location="cpu", weights_only=True) if path.exists() else None

    def save(self, name: str, state: dict[str, Any]) -> None:
        """Write the checkpoint ``name``, which replaces an older one when it is complete."""
        path = self.work / f"{name}.pt"
        torch.save(state, path.with_suffix(".tmp"))
        path.with_suffix(".tmp").replace(path)

    def log(self, stage: str, step: int, loss: float, seconds: float) -> None:
        """Print a loss and append it to log.csv."""
        path = self.work / "log.csv"
        new = not path.exists()
        with path.open("a", newline="") as f:
            writer = csv.writer(f)
            if new:
                writer.writerow(["stage", "step", "loss", "seconds"])
            writer.writerow([stage, step, f"{loss:.5f}", f"{seconds:.1f}"])
        print(f"{stage} step {step} loss {loss:.4f} {seconds:.0f} s", flush=True)

    def rng(self, stage: str, step: int) -> random.Random:
        """The random generator of a step, which depends on seed, stage and step alone."""
        return random.Random(f"{self.seed}/{stage}/{step}")


def rate(step: int, steps: int, peak: float, decay: float) -> float:
    """The learning rate of a step: linear warm-up, constant, linear to zero over the last share ``decay``."""
    return peak * min(1.0, (step + 1) / WARMUP, (steps - step) / (decay * steps))


def collage(rng: random.Random) -> scenes.Scene:
    """A scene of four random pictures, of which the autoencoder learns more than of one that is mostly background."""
    places = [(4 + 32 * (i % 2) + rng.randint(-4, 0), 4 + 32 * (i // 2) + rng.randint(-4, 0)) for i in range(4)]
    names = tuple(rng.choices(list(scenes.PICTURES), k=4))
    return scenes.Scene(names, tuple(places), rng.choice(scenes.BACKGROUNDS), "")


def train_vae(run: Run, steps: int) -> AutoencoderKL:
    """The trained autoencoder; its loss is L1 + ½ MSE, and 1e-4 of the latents' KL divergence from N(0, 1)."""
    torch.manual_seed(run.seed)
    vae = make_vae().to(run.device)
    optimizer = torch.optim.AdamW(vae.parameters(), lr=VAE_LR, betas=(0.9, 0.99), weight_decay=1e-4)
    start, seconds, recent = 0, 0.0, []
    if state := run.load("vae"):
        vae.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
    for step in range(start, steps):
        began = time.perf_counter()
        rng = run.rng("vae", step)
        torch.manual_seed(rng.getrandbits(63))
        drawn = [sprites.draw(collage(rng) if i % 4 else scenes.sample(rng))[0] for i in range(VAE_BATCH)]
        x = to_tensor(drawn).to(run.device)
        latent = vae.encode(x).latent_dist
        error = vae.decode(latent.sample()).sample - x
        loss = error.abs().mean() + 0.5 * error.square().mean() + 1e-4 * latent.kl().mean() / latent.mean[0].numel()
        loss.backward()
        step_with(optimizer, rate(step, steps, VAE_LR, 0.5), vae)
        recent.append(loss.item())
        seconds += time.perf_counter() - began
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            run.save(
                "vae",
                {"model": vae.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "seconds": seconds},
            )
            run.log("vae", step + 1, float(np.mean(recent)), seconds)
            recent = []
    return vae.eval().requires_grad_(False)


def step_with(optimizer: torch.optim.Optimizer, lr: float, *modules: nn.Module, keep: bool = False) -> None:
    """Take an optimizer step at rate ``lr``, gradients clipped to norm 1, which are then reset unless ``keep``."""
    for group in optimizer.param_groups:
        group["lr"] = lr
    nn.utils.clip_grad_norm_([p for m in modules for p in m.parameters()], 1.0)
    optimizer.step()
    if not keep:
        optimizer.zero_grad()


def training_scenes(run: Run, count: int) -> list[scenes.Scene]:
    """The ``count`` training scenes of the UNet, which depend on the seed alone."""
    rng = run.rng("scenes", count)
    return [scene(rng) for _ in range(count)]


@torch.inference_mode()
def encode(vae: AutoencoderKL, drawn: list[np.ndarray]) -> Tensor:
    """The latents [n,4,16,16] of n pictures uint8 [64,64,3], not scaled."""
    parts = (to_tensor(drawn[i : i + 256]).to(vae.device) for i in range(0, len(drawn), 256))
    return torch.cat([vae.encode(part).latent_dist.mode() for part in parts])


def encode_scenes(
    run: Run, vae: AutoencoderKL, world: list[scenes.Scene], scaling: float | None
) -> tuple[Tensor, float]:
    """The latents fp16 [len(world),4,16,16] times the scaling factor, and that; None: for unit variance."""
    if state := run.load("latents"):
        return state["latents"].to(run.device), state["scaling"]
    parts = (world[i : i + 256] for i in range(0, len(world), 256))  # to save memory
    latents = torch.cat([encode(vae, [sprites.draw(s)[0] for s in part]) for part in parts])
    scaling = scaling or 1 / latents.std().item()
    latents = (latents * scaling).half()
    run.save("latents", {"latents": latents, "scaling": scaling})
    return latents, scaling


def make_teacher(run: Run, vae: AutoencoderKL, scaling: float) -> Teacher:
    """The teacher in the latents of ``vae``; made in minutes, and kept as a checkpoint."""
    if state := run.load("teacher"):
        return Teacher(**{name: v.to(run.device) if isinstance(v, Tensor) else v for name, v in state.items()})
    teacher = Teacher.of(lambda drawn: encode(vae, drawn) * scaling)
    run.save("teacher", {field.name: getattr(teacher, field.name) for field in fields(teacher)})
    return teacher


def tokenized(tokenizer: PreTrainedTokenizerFast, texts: list[str]) -> Tensor:
    """Token ids int64 [len(texts), MAX_LENGTH]."""
    return torch.tensor(tokenizer(texts, padding="max_length").input_ids)


def losses(model: Model, z: Tensor, t: Tensor, tokens: Tensor, target: Tensor, weight: Tensor) -> Tensor:
    """The loss of ε̂ and that of its difference between two captions [2]; adds the gradients of their weighted sum."""
    fast = "bfloat16" in candidates(z.device)
    # On a CPU the backward pass of flash attention is far slower, and would be a third of all.
    plain = sdpa_kernel(SDPBackend.MATH) if z.device.type == "cpu" else nullcontext()
    # No cache of casts: a CUDA graph must not use tensors from outside.
    with plain, torch.autocast(z.device.type, torch.bfloat16, enabled=fast, cache_enabled=False):
        eps_hat = model.eps_hat(z, t, tokens)
    error, tamed = eps_hat.float().unflatten(0, (2, -1)) - target, tame(target)
    first, second = error.square().mean((2, 3, 4))
    error_loss = ((first + second * tamed) / 2 * weight).mean()
    gap = ((error[0] - error[1]).square().mean((1, 2, 3)) * tamed).mean()
    (error_loss + GAP * gap).backward()
    return torch.stack((error_loss, gap)).detach()


class Captured:
    """The function :func:`losses` as a CUDA graph: its many small kernels take longer to launch than to run."""

    def __init__(self, model: Model, *arguments: Tensor) -> None:
        self.arguments = [a.clone() for a in arguments]
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(3):
                losses(model, *self.arguments)
        torch.cuda.current_stream().wait_stream(stream)
        model.zero_grad(set_to_none=True)
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.out = losses(model, *self.arguments)

    def __call__(self, *arguments: Tensor) -> Tensor:
        for held, new in zip(self.arguments, arguments, strict=True):
            held.copy_(new)
        self.graph.replay()
        return self.out.clone()


def train_unet(
    run: Run, steps: int, lessons: Lessons, taught: Callable[[Lesson], tuple[Tensor, Tensor, Tensor]],
    model: Model, peak: float,
) -> tuple[Model, int, float]:  # fmt: skip
    """The moving average of the trained weights, the number of steps and the seconds that they took.

    The loss is that of ε̂ plus ``GAP`` times that of the difference between ε̂ under two captions of the same z. A PID
    depends on that difference alone, and it is small beside the error that is common to both.
    """
    average = copy.deepcopy(model).requires_grad_(False)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LR, betas=(0.9, 0.99), weight_decay=1e-2)
    start, seconds, recent = 0, 0.0, []
    if state := run.load("unet"):
        model.load_state_dict(state["model"])
        average.load_state_dict(state["average"])
        optimizer.load_state_dict(state["optimizer"])
        start, seconds = state["step"], state["seconds"]
    # On a GPU a step takes less time than its batch, which other processes prepare.
    gpu = run.device.type == "cuda"
    workers = max(1, min(14, len(os.sched_getaffinity(0)) - 2)) if gpu else 0
    loader = DataLoader(lessons, None, sampler=range(start, steps), num_workers=workers, pin_memory=gpu)
    began, learn = time.perf_counter() - seconds, None
    for step, lesson in zip(range(start, steps), loader, strict=True):
        lesson = lesson.map(partial(Tensor.to, device=run.device, non_blocking=True))
        z, target, weight = taught(lesson)
        arguments = z, lesson.t, lesson.tokens, target, weight
        learn = learn or (Captured(model, *arguments) if gpu else partial(losses, model))
        recent.append(learn(*arguments))
        step_with(optimizer, rate(step, steps, peak, DECAY), model, keep=gpu)  # a graph overwrites them
        decay = min(EMA, (step + 1) / (step + 10))
        torch._foreach_lerp_(list(average.parameters()), [p.detach() for p in model.parameters()], 1 - decay)
        if (step + 1) % SAVE_EVERY == 0 or step + 1 == steps:
            seconds = time.perf_counter() - began
            run.save("unet", {"model": model.state_dict(), "average": average.state_dict(),
                              "optimizer": optimizer.state_dict(), "step": step + 1, "seconds": seconds})  # fmt: skip
            for stage, mean in zip(("unet", "unet: gap"), torch.stack(recent).mean(0).tolist(), strict=True):
                run.log(stage, step + 1, mean, seconds)
            recent = []
    return average.eval(), max(steps, start), seconds


def first(run: Run, kind: type[Model], start: Path | None) -> tuple[Model, AutoencoderKL | None, float | None]:
    """The model to be trained; autoencoder and scaling factor of the model ``start``, None without one."""
    if start is None:
        torch.manual_seed(run.seed)
        return kind(), None, None
    pipe = DiffusionPipeline.from_pretrained(start, safety_checker=None, torch_dtype=torch.float32)
    vae, scaling = pipe.vae.eval().requires_grad_(False).to(run.device), pipe.vae.config.scaling_factor
    if not isinstance(pipe, kind.pipeline):  # of another kind: its autoencoder alone is of use
        torch.manual_seed(run.seed)
        return kind(), vae, scaling
    return kind(pipe).train().requires_grad_(), vae, scaling


def export(out: Path, vae: AutoencoderKL, scaling: float, model: Model) -> None:
    """Write the model as a folder of a pipeline, in fp16."""
    vae.register_to_config(scaling_factor=scaling)
    model.assembled(vae).to(torch.float16).save_pretrained(out, safe_serialization=True)
    for part in model.text_encoders:
        # transformers loads a model in the dtype that its config names, diffusers in fp32: without this the parts of a
        # pipeline loaded with no dtype would not fit together.
        config = out / part / "config.json"
        config.write_text(json.dumps({**json.loads(config.read_text()), "dtype": "float32"}, indent=2) + "\n")
        if json.loads(config.read_text())["model_type"] == "clip_text_model":
            _write_names_of_transformers_4(out / part)
        tokenizer = out / part.replace("text_encoder", "tokenizer") / "tokenizer_config.json"
        for file in (out / "model_index.json", tokenizer):
            file.write_text(file.read_text().replace('"TokenizersBackend"', '"PreTrainedTokenizerFast"'))
    for path in out.glob("*/config.json"):  # without the local path of --start
        kept = {key: value for key, value in json.loads(path.read_text()).items() if key != "_name_or_path"}
        path.write_text(json.dumps(kept, indent=2) + "\n")


def _write_names_of_transformers_4(encoder: Path) -> None:
    """Rename the weights in the folder ``encoder`` of a CLIP model: transformers 5 reads both names, 4 only its own.

    Transformers 4 would leave a text encoder of the new names at random weights, with no more than a warning.
    """
    weights = encoder / "model.safetensors"
    named = {
        name if name.startswith("text_projection") else f"text_model.{name.removeprefix('text_model.')}": w
        for name, w in load_file(weights).items()
    }
    save_file(named, weights, metadata={"format": "pt"})


def learn_density(run: Run, out: Path) -> None:
    """Write the density :attr:`dpid.Explainer.density`, learnt from random scenes of two pictures.

    Each is explained twice: by its own words, and by one of them and a word for what it does not show.
    """
    explainer, rng = Explainer.from_pretrained(out), run.rng("density", 0)
    results: list[PIDResult] = []
    while len(results) < 2 * SEEN:
        scene = scenes.sample(rng)
        phrases = [rng.choice(scenes.PICTURES[p].phrases)[0] for p in scene.pictures]
        absent = scenes.absent(rng, scene.pictures)
        if len(set(phrases)) == 2:
            there = phrases[0]
            prompt, image = " and ".join(f"a {p}" for p in phrases), Image.fromarray(sprites.draw(scene)[0])
            wrong = {(): "", (there,): there, (absent,): absent, (there, absent): f"{there} {absent}"}
            options: dict[str, Any] = {"samples": SAMPLES, "rule": "shifted-grid"}
            results.append(explainer.explain(image, prompt, phrases, **options))
            results.append(explainer.explain(image, prompt, conditions=wrong, reference="prompt", **options))
    explainer.learn(results)
    assert explainer.density is not None
    (out / DENSITY).write_bytes(save({"density": explainer.density.float()}))


def main(
    work: Annotated[Path, typer.Option(help="Checkpoints and log; a run resumes from here.")],
    out: Annotated[Path, typer.Option(help="Folder of the exported pipeline.")],
    vae_steps: int = 2000,
    steps: int = 7000,
    count: Annotated[int, typer.Option("--scenes", help="Training scenes.")] = 30000,
    seed: int = 0,
    kind: Annotated[str, typer.Option(help=f"Of network: {', '.join(KINDS)}.")] = "unet",
    start: Annotated[Path | None, typer.Option(help="An exported model to go on from.")] = None,
    peak: Annotated[float, typer.Option(help="Learning rate.")] = LR,
    batch: Annotated[int, typer.Option(help="Captions a step, two of each scene.")] = BATCH,
    device: str = "cuda" if torch.cuda.is_available() else "cpu",
) -> None:
    """Train an embedded model and export it."""
    if kind not in KINDS:
        raise typer.BadParameter(f"--kind: found {kind}, expected one of {', '.join(KINDS)}")
    if batch < 16 or batch % 2:
        raise typer.BadParameter(f"--batch: found {batch}, expected an even number from 16")
    run = Run(work, seed, torch.device(device))
    if run.device.type == "cuda":
        torch.cuda.set_device(run.device.index or 0)
    model, vae, scaling = first(run, KINDS[kind], start)
    vae = vae or train_vae(run, vae_steps)
    world = training_scenes(run, count)
    latents, scaling = encode_scenes(run, vae, world, scaling)
    alphas, teacher = model.alphas(), make_teacher(run, vae, scaling)
    lessons = Lessons(
        world,
        alphas,
        batch // 2,
        tuple(latents.shape[1:]),
        partial(tokenized, model.tokenizer()),
        partial(run.rng, "unet"),
    )
    taught = partial(Lesson.taught, latents=latents, teacher=teacher, alphas=alphas.to(run.device))
    average, done, seconds = train_unet(run, steps, lessons, taught, model.to(run.device), peak)
    export(out, vae, scaling, average)
    learn_density(run, out)
    (out / "train_log.csv").write_text((work / "log.csv").read_text())
    metadata = {"seed": seed, "vae_steps": vae_steps, "unet_steps": done, "batch": batch, "scenes": count,
             "unet_seconds": round(seconds), "start": start and str(start), "peak": peak, "device": device,
             "torch": torch.__version__}  # fmt: skip
    (out / "training.json").write_text(json.dumps(metadata, indent=2) + "\n")


if __name__ == "__main__":
    typer.run(main)
