"""Checks a family against the pipeline itself: what it says of the network is what the pipeline does.

The pipeline is run for two steps at a small size, and what it hands to its network, scheduler and VAE is compared:

- time: what the network is told of the noise is what the family tells at the scheduler's noise level,
- network: on the same latents, time and text the network returns the same for the family,
- noise: the scheduler's last step ends at the picture x̂ that the network predicts, by the scheduler's own rule; with
  the latents x_σ before it that is a noise, (z - √σ(λ) x̂) / √σ(-λ), which is the family's ε̂,
- decoded: what the VAE is given to decode is x̂ before the family's normalisation,
- null: with guidance, one row of the network's output is that of the family's empty text.

Latents are taken out of the pipeline's layout by the inverse of the family's ``pack``.
"""

from __future__ import annotations

import logging
import math
import re
import time
from collections.abc import Mapping
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.utils import _pytree

from dpid.denoisers.checks.runs import NotRun, Run, Step, reason, run, unchanged
from dpid.denoisers.families import Family
from dpid.denoisers.levels import Discrete, Flow, Levels, Preconditioned
from dpid.denoisers.modes import PRECISIONS, relative_difference
from dpid.denoisers.texts import by_length

_LOG = logging.getLogger("dpid")
_TIMES = ("timestep", "timesteps", "t")  # of the networks' arguments
# Largest relative differences of the network's answers, by the type of its weights. To the same arguments it gives the
# same bits, but for sums whose order a GPU leaves open: a rounding of the answer.
_SAME = {"float32": 1e-5, "float16": 5e-4, "bfloat16": 4e-3}
# Where padding is cut, or two prompts are one batch, sums have another order, over as many as sixty layers.
_NETWORK = {"float32": 1e-4, "float16": 5e-3, "bfloat16": 3e-2}
# Of the whole range of times: one rounding, by half a unit of the last place.
_TOLD = {name: torch.finfo(dtype).eps for name, dtype in PRECISIONS.items()}
# Eight bits are those of the largest number in a batch, which is another with two prompts than with one.
_QUANTISED = 3e-2
_LARGE = 10**9  # parameters, with which the check takes long enough to say so before
# Whose call (diffusers 0.42) shifts latents when it encodes a picture, and does not when it decodes them.
_UNSHIFTED = "StableDiffusion3InpaintPipeline"
_passed: set[tuple[Any, ...]] = set()


def check_family(family: Family, levels: Levels) -> None:
    """Raise ``ValueError`` if ``family`` and its pipeline differ, which says in what; returns nothing.

    What passed once in this process passes again. A pipeline that cannot be run is a warning in the log.
    """
    token = _token(family, levels)
    if token in _passed:
        return
    kind = type(family).__name__
    if sum(p.numel() for p in family.net.parameters()) > _LARGE:
        _LOG.info("comparing the family %s with the pipeline, for two steps of its own; check=False skips this", kind)
    start = time.perf_counter()
    with family.lock, unchanged(family):
        try:
            found = _differences(family, levels)
        except NotRun as error:
            _LOG.warning("the family %s was not compared with the pipeline: %s", kind, error)
            return
    _passed.add(token)
    listed = ", ".join(f"{name} {value:.0e}" for name, value in found.items())
    _LOG.info("the family %s agrees with the pipeline: %s (%.1f s)", kind, listed, time.perf_counter() - start)


def _token(family: Family, levels: Levels) -> tuple[Any, ...]:
    """What the check depends on: classes, configurations, the types of weights and modules, adapters."""
    pipe, net = family.pipe, family.net
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    return (
        type(family), type(pipe), family.precision, family.device.type, levels.signature, repr(pipe.config),
        tuple((name, type(part), repr(getattr(part, "config", None))) for name, part in parts.items()),
        frozenset(type(module) for module in net.modules()), tuple(sorted(getattr(net, "peft_config", ()))),
    )  # fmt: skip


def _differences(family: Family, levels: Levels) -> dict[str, float]:
    """Relative differences by what was compared; ``ValueError`` for one that is too large."""
    plain = run(family, levels, guided=False)
    last = _Case(family, levels, plain, -1, family.example_condition)
    found = {"time": _time(last, plain.scheduler)}
    found["network"], prediction = _network(last)
    found["noise"] = _noise(last, prediction)
    if all(kind.__name__ != _UNSHIFTED for kind in type(family.pipe).__mro__):
        found["decoded"] = _decoded(last, plain.decoded[0])
    if not family.guided_by_null:
        return found
    null = _Case(family, levels, run(family, levels, guided=True), 0, "")
    if len(null.answers) > len(last.answers):  # else the pipeline has no guidance of its own
        found["null"] = _null(null)
    return found


class _Case:
    """A step of the pipeline, and what the family makes of the latents at its start.

    Attributes
    ----------
    x, after : the network's input at the start of the step and the latents at its end, [1,C,h,w]
    exact : those at the end before they were rounded
    dtype : the type of the pipeline's latents
    answers : the network's predictions in that step, each [1,C,h,w] and with the arguments of its call
    logsnr : log-SNR [1] float64
    same, tolerance : the largest relative differences of two answers of the network, to the same arguments or not
    t, told : the family's own time [1], and what the pipeline tells its network, None if that has another name
    """

    told: float | None = None

    def __init__(self, family: Family, levels: Levels, made: Run, step: int, condition: Any) -> None:
        self.family, self.levels, self.encoded = family, levels, family.encode([condition])
        taken = made.steps[step]
        self.x, self.after, self.exact = (
            _latents(family, latents, made.size) for latents in (taken.before, taken.after, taken.exact)
        )
        self.dtype = taken.after.dtype
        self.answers = [(family.output(row, self.x), arguments) for arguments, out in taken.calls for row in _rows(out)]
        if not all(answer.isfinite().all() for answer, _ in self.answers):
            raise NotRun(f"the network of {type(family.pipe).__name__} returns NaN or infinity")
        self.logsnr, self.t = (value.to(self.x.device) for value in _level(levels, made.scheduler, taken, step))
        if isinstance(levels, Preconditioned):  # whose scheduler works on x + s ε
            self.x = levels.enter(self.logsnr.sigmoid().sqrt().float() * self.x, self.logsnr)
        own = family.fixed_precision() is None  # neither quantised nor offloaded
        self.same = _SAME[family.precision] if own else _QUANTISED
        self.tolerance = _NETWORK[family.precision] if own else _QUANTISED
        arguments = taken.calls[0][0]
        self.time_name = next((name for name in _TIMES if name in arguments), "")
        if self.time_name:
            self.told = float(torch.as_tensor(arguments[self.time_name]).flatten()[0])

    def arguments(self, t: Tensor) -> dict[str, Any]:
        """The network's arguments by the family, at its time ``t`` [1]."""
        work = PRECISIONS[self.family.precision]
        _, encoded = next(by_length(self.encoded, next(iter(self.family.text), "")))
        typed = {name: value.to(work) if value.is_floating_point() else value for name, value in encoded.items()}
        return self.family.inputs(self.x.to(work), t, typed)

    def tells(self, t: Tensor) -> float:
        """What the family tells the network at its time ``t`` [1]."""
        found = self.arguments(t).get(self.time_name)
        if found is None:
            _refuse(self.family, f"the pipeline tells its network the time as {self.time_name}, it does not")
        return float(torch.as_tensor(found).flatten()[0])

    def closest(self) -> tuple[float, Tensor, dict[str, Any]]:
        """How far, relatively, the network's answer to the family is from the closest of the pipeline's, and that.

        The network is told the same time; the last is the arguments of the pipeline's call.
        """
        try:
            given = self.arguments(self.t)
            if self.told is not None:
                given[self.time_name] = torch.full_like(torch.as_tensor(given[self.time_name]), self.told)
            ours = self.family.output(self.family.net(**given, return_dict=False)[0], self.x)
        except Exception as error:  # networks raise too many kinds to list
            _refuse(self.family, f"the network fails with its arguments ({reason(error)})", error)
        found = ((relative_difference(ours, theirs), theirs, arguments) for theirs, arguments in self.answers)
        return min(found, key=lambda answer: answer[0])


def _refuse(family: Family, what: str, cause: Exception | None = None) -> NoReturn:
    """Raise ``ValueError``: the family does not fit the pipeline in ``what``."""
    kind = type(family.pipe).__name__
    raise ValueError(
        f"pipe: the family {type(family).__name__} does not fit this {kind}: {what}; check=False explains it all the "
        "same"
    ) from cause


def _level(levels: Levels, scheduler: Any, taken: Step, step: int) -> tuple[Tensor, Tensor]:
    """The log-SNR [1] float64 at the start of a step, and the family's own time [1]."""
    if isinstance(levels, Flow):
        sigma = scheduler.sigmas[:-1][step].double().cpu()[None]  # the last is that of the picture
        return 2 * (torch.log1p(-sigma) - sigma.log()), sigma.float()
    if isinstance(levels, Preconditioned):
        logsnr = -2 * scheduler.sigmas[:-1][step].double().cpu().log()[None]
        return logsnr, levels.time(logsnr)
    number = torch.tensor([int(taken.t)])
    return torch.logit(scheduler.alphas_cumprod.double().cpu()[number]), number


def _rows(out: Any) -> list[Any]:
    """The raw output of the network as a list of those of single inputs."""
    return [[row] for row in out] if isinstance(out, (list, tuple)) else list(out.split(1))


def _latents(family: Family, packed: Tensor, size: tuple[int, int]) -> Tensor:
    """Latents [1,C,h,w] fp32 of what the scheduler works on, by the inverse of the family's ``pack``."""
    # Frames of a video come one below the other.
    height, width = size[0] * (family.latent_frames or 1), size[1]
    if packed.ndim > 3:
        height, width = packed.shape[2:-1].numel(), packed.shape[-1]
    shape = (1, family.latent_shape[0], height, width)
    if math.prod(shape) != packed.numel():
        _refuse(family, f"its latents {shape} cannot be those of the pipeline, {tuple(packed.shape)}")
    numbers = torch.arange(math.prod(shape), device=packed.device).view(shape)
    latents = torch.empty(numbers.numel(), device=packed.device)
    latents[family.pack(numbers).flatten()] = packed.flatten().float()
    return latents.view(shape)


def _time(case: _Case, scheduler: Any) -> float:
    """The difference of times, as a share of the range between picture and noise."""
    level = float(case.logsnr)
    if isinstance(case.levels, Discrete) and (case.levels.grid - level).abs().min() > 1e-4:
        _refuse(case.family, f"its levels have no log-SNR {level:.4f}, which the pipeline's scheduler has")
    if case.told is None:  # told in another way, where a difference shows in the answer
        return 0.0
    picture, noise = (case.tells(torch.full_like(case.t, end)) for end in (0, 1))
    ours = case.tells(case.t)
    found = abs(ours - case.told) / abs(noise - picture)
    rounded = 0.0 if scheduler.timesteps.is_floating_point() else 1 / scheduler.config.num_train_timesteps
    if not found <= _TOLD[case.family.precision] + rounded:
        times = f"the time {ours:.6g}, the pipeline {case.told:.6g}"
        _refuse(case.family, f"at log-SNR {level:.2f} it tells the network {times}")
    return found


def _network(case: _Case) -> tuple[float, Tensor]:
    """The difference of predictions, and the pipeline's."""
    found, theirs, arguments = case.closest()
    unlike = _unlike(case.arguments(case.t), arguments)
    allowed = case.tolerance if any("values" not in how for how in unlike.values()) else case.same
    if not found <= allowed:
        listed = ", ".join(f"{name} ({how})" for name, how in unlike.items()) or "none that could be compared"
        _refuse(
            case.family,
            f"on the same latents, time and text the network answers otherwise (they differ by {found:.0e}); arguments "
            f"that differ: {listed}",
        )
    return found, theirs


def _noise(case: _Case, prediction: Tensor) -> float:
    """The difference of ε̂ made of the pipeline's own ``prediction`` by the family and by the scheduler.

    Relative to ε̂ and z together, since close to the picture a network may find next to no noise.
    """
    a, b = (level.sigmoid().sqrt().view(1, 1, 1, 1) for level in (case.logsnr, -case.logsnr))
    z = case.x.double() / case.levels.enter(torch.ones_like(case.x, dtype=torch.float64), case.logsnr)
    theirs = (z - a * case.exact) / b
    size = float(theirs.norm() + z.norm())

    def difference(prediction: Tensor) -> float:
        return float((case.levels.eps(prediction.float(), case.x, case.logsnr) - theirs).norm()) / size

    found = difference(prediction)
    # Of a few operations in float32; the scheduler's ε̂ is a difference of two numbers, divided by b.
    allowed = 8 * torch.finfo(torch.float32).eps * (1 + float((a * case.exact / b).norm()) / size)
    if not found <= min(0.1, allowed):
        kind, turned = ("ε - x", "x - ε") if isinstance(case.levels, Flow) else (case.levels.prediction, "its negative")
        what = f"of {turned}" if difference(-prediction) <= allowed else f"whose noise differs by {found:.0e}"
        _refuse(
            case.family,
            f"it takes the network's output for {kind}, but the pipeline's own last step ends at a picture {what}",
        )
    return found


def _decoded(case: _Case, given: Tensor) -> float:
    """The difference between the normalised input of the VAE and the latents at the end of the last step."""
    if given.numel() != case.after.numel():
        _refuse(case.family, f"its latents {tuple(case.after.shape)} cannot be those of the VAE, {tuple(given.shape)}")
    ours = case.family.normalise(given.float().reshape(case.after.shape))
    found = relative_difference(ours, case.after)
    # Scaled and shifted in the coarser type of the two, each time rounded by half a unit of the last place, and back in
    # float32, where a shift larger than the spread costs a digit or two.
    allowed = max(1e-5, 2 * max(torch.finfo(dtype).eps for dtype in (case.dtype, given.dtype)))
    if not found <= allowed:
        moved = relative_difference(ours.flatten().sort()[0], case.after.flatten().sort()[0])
        what = "order of its tokens (pack)" if moved <= allowed else "shift, scale or statistics (normalise)"
        _refuse(case.family, f"what the pipeline gives to its VAE differs by {found:.0e} in the {what}")
    return found


def _null(case: _Case) -> float:
    """The difference between the answer to the empty text and the closest of those that guidance takes."""
    found, *_ = case.closest()
    if not found <= case.tolerance:
        _refuse(
            case.family,
            "its empty text is not what the pipeline's guidance takes for no text (the network's answers differ by "
            f"{found:.0e})",
        )
    return found


def _unlike(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> dict[str, str]:
    """The names of the network's arguments that differ, each with how."""
    ours, theirs, found = _leaves(ours), _leaves(theirs), {}
    for name in dict.fromkeys((*theirs, *ours)):
        if name not in ours or name not in theirs:
            found[name] = f"given by the {'pipeline' if name in theirs else 'family'} alone"
            continue
        mine, other = (torch.as_tensor(leaf) for leaf in (ours[name], theirs[name]))
        if mine.shape != other.shape:
            found[name] = f"shape {tuple(mine.shape)}, of the pipeline {tuple(other.shape)}"
        elif (mine.dtype == torch.bool) != (other.dtype == torch.bool):
            found[name] = f"values of {mine.dtype}, of the pipeline of {other.dtype}"
        elif not torch.allclose(mine.double().cpu(), other.double().cpu(), rtol=1e-2, atol=1e-2):
            found[name] = "values"
    return found


def _leaves(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """{path: number or tensor} of the network's arguments."""
    found, _ = _pytree.tree_flatten_with_path({n: a for n, a in arguments.items() if n != "return_dict"})
    named = {".".join(re.findall(r"\w+", _pytree.keystr(path))): leaf for path, leaf in found}
    return {name: leaf for name, leaf in named.items() if isinstance(leaf, (Tensor, int, float))}
