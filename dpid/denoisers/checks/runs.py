"""Short runs of a pipeline by its own ``__call__``, recorded; afterwards the pipeline is what it was."""

from __future__ import annotations

import copy
import functools
import inspect
import math
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils import _pytree

from dpid.denoisers.families import Family
from dpid.denoisers.levels import Flow, Levels, Preconditioned
from dpid.denoisers.modes import as_written, evaluating, hooks_kept, types_kept, undisturbed
from dpid.denoisers.texts import padding_kept
from dpid.device import out_of_memory
from dpid.quiet import quiet

# Of the second of two steps. Not a half, where time runs as fast from noise to picture as from picture to noise.
_SIGMA = 0.3


@dataclass(frozen=True)
class Step:
    """A step of a pipeline.

    Attributes
    ----------
    t : the timestep of the scheduler
    before, after : the latents, in the pipeline's own layout and type
    exact : ``after``, computed by the scheduler in float32
    calls : (arguments by name, raw output) of every call of the network for this step
    """

    t: Any
    before: Tensor
    after: Tensor
    exact: Tensor
    calls: tuple[tuple[dict[str, Any], Any], ...]


@dataclass
class Run:
    """What a pipeline handed around in a run.

    Attributes
    ----------
    scheduler : the scheduler, after the run
    size : height and width of the latents that were asked for
    steps : its steps
    decoded : what the VAE was given to decode
    """

    scheduler: Any
    size: tuple[int, int]
    steps: list[Step] = field(default_factory=list)
    decoded: list[Tensor] = field(default_factory=list)


class NotRun(Exception):
    """The pipeline could not be run; the message says why."""


class _Enough(BaseException):
    """Ends a run after its first step."""


def run(family: Family, levels: Levels, *, guided: bool) -> Run:
    """Two recorded steps of the family's pipeline at a small size, the first alone if ``guided``.

    To be called in :func:`unchanged`. ``NotRun`` if the pipeline cannot be run.
    """
    kind = type(family.pipe).__name__
    family.leave_device()
    try:
        found = Run(_scheduler(family, levels), _size(family))
        with _recorded(family, found, once=guided):
            family.pipe(**_arguments(family, found, guided))
    except _Enough:
        pass
    except Exception as error:  # pipelines raise too many kinds to list
        raise NotRun(f"{kind} could not be run ({reason(error)})") from error
    if not (all(step.calls for step in found.steps) and found.steps and (guided or found.decoded)):
        raise NotRun(f"{kind} did not call its network, scheduler.step and vae.decode")
    if isinstance(levels, Flow) and not (hasattr(found.scheduler, "sigmas") and found.scheduler.sigmas[-1] == 0):
        raise NotRun(f"the last step of its {type(found.scheduler).__name__} does not end at the picture")
    return found


def reason(error: Exception) -> str:
    """The message of ``error`` in a line; errors that tell of too little memory are raised again."""
    if isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and out_of_memory(error)):
        raise error
    return " ".join(str(error).split())[:300] or type(error).__name__


def _size(family: Family) -> tuple[int, int]:
    """Height and width of latents of a few tokens, more than one a side and not as many, so that their places count.

    Some pipelines take multiples of 32 pixels.
    """
    token = family.step * family.factor
    allowed = math.lcm(token, 32)
    height = allowed * math.ceil(2 * token / allowed)
    return height // family.factor, (height + allowed) // family.factor


def _scheduler(family: Family, levels: Levels) -> Any:
    """A scheduler whose last step ends at the predicted picture: a copy of a flow's own, Euler's of EDM, else DDIM.

    Of the samplers for numbered timesteps many end elsewhere (PNDM, LMS, those with noise); none of them matters to
    the network, only the noise levels and the prediction that their configuration names.
    """
    own = family.pipe.scheduler
    if isinstance(levels, Flow):
        return copy.deepcopy(own)
    from diffusers import DDIMScheduler, EDMEulerScheduler

    if isinstance(levels, Preconditioned):
        return EDMEulerScheduler.from_config(own.config, sigma_min=_SIGMA, final_sigmas_type="zero")

    class Ddim(DDIMScheduler):  # type: ignore[misc]
        """DDIM that takes what a pipeline of consistency models gives its own scheduler."""

        def set_timesteps(self, count: int, device: Any = None, **_: Any) -> None:
            super().set_timesteps(count, device)

        def step(self, *args: Any, eta: float | None = 0.0, **options: Any) -> Any:
            return super().step(*args, eta=eta or 0.0, **options)

    ends = {"clip_sample": False, "thresholding": False, "set_alpha_to_one": True, "timestep_spacing": "trailing"}
    # Without the list of what is a default there, in place of which DDIM would take its own.
    config = {name: value for name, value in own.config.items() if name != "_use_default_values"}
    return Ddim.from_config(config, **ends)


def _arguments(family: Family, found: Run, guided: bool) -> dict[str, Any]:
    """Those arguments of the pipeline's call that it knows."""
    takes = family.call_parameters
    height, width = (side * family.factor for side in found.size)
    # Where guidance_scale is an input of the network there may be another scale, or no guidance by two predictions.
    separate = "true_cfg_scale" in takes
    embedded = separate or family.takes_guidance
    given = {
        "prompt": family.example, "height": height, "width": width, "num_inference_steps": 2, "output_type": "pt",
        "generator": torch.Generator().manual_seed(0), "guidance_scale": 1.0 if embedded else 3.0 * guided,
        "true_cfg_scale": 3.0 if guided else 1.0, "use_resolution_binning": False, "original_inference_steps": 50,
    }  # fmt: skip
    if separate and guided:
        given["negative_prompt"] = ""
    if "strength" in takes:  # of a pipeline that starts from a picture
        given |= {"image": torch.zeros(1, 3, height, width), "strength": 1.0}
        given["mask_image"] = torch.ones(1, 1, height, width)  # of inpainting, all of it
    if "timesteps" not in takes and "sigmas" in inspect.signature(found.scheduler.set_timesteps).parameters:
        given["sigmas"] = [1.0, _SIGMA]
    given |= family.asks() | family.call_arguments()
    return {name: value for name, value in given.items() if name in takes}


@contextmanager
def _recorded(family: Family, found: Run, once: bool) -> Iterator[None]:
    """A context in which the pipeline has the scheduler of ``found`` and is recorded; ``once`` ends it after a step."""
    net, scheduler, own = family.net, found.scheduler, family.pipe.scheduler
    names, step = list(inspect.signature(net.forward).parameters), scheduler.step
    calls: list[tuple[dict[str, Any], Any]] = []

    def called(module: nn.Module, args: Any, kwargs: Any, out: Any) -> None:
        out = out if isinstance(out, Tensor) else out[0]
        calls.append(_copied(({**dict(zip(names, args, strict=False)), **kwargs}, out)))

    @functools.wraps(step)  # pipelines look at its signature
    def stepped(out: Tensor, t: Any, sample: Tensor, *args: Any, **kwargs: Any) -> Any:
        before, twin = sample.clone(), copy.deepcopy(scheduler)
        del twin.step  # this function
        exact = twin.step(out.float(), t, sample.float(), *args, **kwargs)[0]
        result = step(out, t, sample, *args, **kwargs)
        found.steps.append(Step(t, before, result[0].clone(), exact, tuple(calls)))
        calls.clear()
        if once:
            raise _Enough
        return result

    hook = net.register_forward_hook(called, with_kwargs=True)
    scheduler.step = stepped
    vars(family.pipe)["scheduler"] = scheduler  # not by assignment, which writes into the pipeline's configuration
    try:
        with _watched(family.pipe.vae, found):
            yield
    finally:
        hook.remove()
        vars(family.pipe)["scheduler"] = own


@contextmanager
def _watched(vae: Any, found: Run) -> Iterator[None]:
    """A context in which what ``vae`` decodes is kept in ``found``, and its posterior's samples are its mode.

    A pipeline may draw what it tells its network of a picture, of which the family takes the mode.
    """
    encode, decode = vae.encode, vae.decode
    had = {name: vars(vae)[name] for name in ("encode", "decode") if name in vars(vae)}

    @functools.wraps(encode)
    def encoded(*args: Any, **kwargs: Any) -> Any:
        result = encode(*args, **kwargs)
        posterior = getattr(result, "latent_dist", None)
        if posterior is not None:
            posterior.sample = lambda generator=None: posterior.mode()
        return result

    @functools.wraps(decode)
    def decoded(z: Tensor, *args: Any, **kwargs: Any) -> Any:
        found.decoded.append(z.clone())
        return decode(z, *args, **kwargs)

    vae.encode, vae.decode = encoded, decoded
    try:
        yield
    finally:
        del vae.encode, vae.decode
        vars(vae).update(had)


def _copied(tree: Any) -> Any:
    """``tree`` with copies of its tensors: pipelines write into some of them."""
    return _pytree.tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, tree)


@contextmanager
def unchanged(family: Family) -> Iterator[None]:
    """A context for runs, after which the pipeline and torch's random state are what they were."""
    pipe, device, (height, width) = family.pipe, family.device, _size(family)
    kept, parts = dict(vars(pipe)), pipe.components.values()
    gpus = [] if device.type == "cpu" else [device]
    with ExitStack() as held:
        held.enter_context(as_written())
        held.enter_context(torch.random.fork_rng(gpus, device_type=device.type if gpus else "cuda"))
        held.enter_context(quiet())
        held.enter_context(warnings.catch_warnings())
        warnings.simplefilter("ignore")
        held.enter_context(padding_kept(parts))
        modules = [part for part in parts if isinstance(part, nn.Module)]
        held.enter_context(hooks_kept(*modules))
        held.enter_context(evaluating(*modules))
        held.enter_context(undisturbed())  # inside evaluating, whose inference mode would mark tensors that are kept
        held.enter_context(types_kept(*modules))
        # Some pipelines (HiDream) make every picture of the default size.
        small = {"safety_checker": None, "default_sample_size": (height * width) ** 0.5}
        try:
            vars(pipe).update((name, value) for name, value in small.items() if name in kept)
            pipe.set_progress_bar_config(disable=True)
            yield
        finally:
            for name in vars(pipe).keys() - kept.keys():
                del vars(pipe)[name]
            vars(pipe).update(kept)
            pipe.maybe_free_model_hooks()  # offloaded models leave the device, as after every call
