"""Many pictures at a call: those that share a shape share the calls of the model, and one that fails is told apart."""

from __future__ import annotations

import os
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from threading import Event
from typing import Any, TypeVar

import torch
from PIL import Image
from torch import Tensor

from dpid.denoisers.protocol import Denoiser
from dpid.estimation.engine import fitting
from dpid.images import ImageLike, check_latents
from dpid.options import Options
from dpid.prompts.plan import Plan
from dpid.run import Asked, Progress, ask
from dpid.videos import VideoLike, encode, read, shown

Item = TypeVar("Item")
Found = TypeVar("Found")
Stop = Event | Callable[[], bool]
_MOST = 16  # pictures evaluated together: more are hardly faster, and wait longer for the first


class Stopped(Exception):
    """Raised where a run ends because its ``stop`` said so; nothing of it is left."""


class PicturesError(Exception):
    """Raised after all other pictures are done, if some could not be; ``errors`` has {index: exception}."""

    def __init__(self, errors: Mapping[int, Exception], count: int) -> None:
        self.errors = dict(sorted(errors.items()))
        same: dict[str, list[str]] = {}
        for i, error in self.errors.items():
            same.setdefault(str(error), []).append(str(i))
        told = "; ".join(f"{', '.join(numbers)}: {error}" for error, numbers in same.items())
        super().__init__(f"images: {len(errors)} of {count} failed; number {told}")


class Watch:
    """What is called after every batch: tells the progress, and ends the run with :class:`Stopped` if it is to stop.

    Attributes
    ----------
    raised : the exception that ended the run here or within :meth:`ending`, which is no picture's fault
    """

    def __init__(self, progress: Progress | None, stop: Stop | None) -> None:
        if not (progress is None or callable(progress)):
            raise TypeError(f"progress: found {type(progress).__name__}, expected a function of (done, planned)")
        if not (stop is None or isinstance(stop, Event) or callable(stop)):
            raise TypeError(f"stop: found {type(stop).__name__}, expected a threading.Event or a function")
        self._progress, self._stop = progress, stop.is_set if isinstance(stop, Event) else stop
        self._told = 0, 0
        self.raised: BaseException | None = None

    def __call__(self, done: int, planned: int) -> None:
        self._told = done, planned
        with self.ending():
            self.check()
            if self._progress:
                self._progress(done, planned)

    @contextmanager
    def ending(self) -> Iterator[None]:
        """A context whose exceptions end the run, in :attr:`raised`."""
        try:
            yield
        except BaseException as error:
            self.raised = error
            raise

    def stopping(self) -> bool:
        """Whether the run is to stop."""
        return self._stop is not None and self._stop()

    def check(self) -> None:
        """Raise :class:`Stopped` if the run is to stop."""
        if self.stopping():
            self.raised = Stopped("stop: the run was stopped")
            raise self.raised

    def part(self, group: int, after: int) -> Progress:
        """The progress of the next ``group`` pictures, with ``after`` to follow, which are taken to need as much."""
        before, _ = self._told

        def tell(done: int, planned: int) -> None:
            self(before + done, before + planned + after * planned // group)

        return tell

    def end(self) -> None:
        """Tell that nothing follows where less was done than was planned."""
        done, planned = self._told
        if done < planned:
            self(done, done)


@dataclass(frozen=True)
class Wanted:
    """A picture and what is asked of it; one of ``image`` and ``latents``.

    Attributes
    ----------
    image, latents, prompt : as of :meth:`dpid.Explainer.explain`
    questions : as of :class:`dpid.run.Asked`
    """

    image: ImageLike | VideoLike | None
    latents: Tensor | None
    prompt: str | None
    questions: Sequence[Plan]


Column = tuple[str, Any, bool]


def column(name: str, value: Any, each: bool) -> Column:
    """An argument of many pictures for :func:`table`: one for ``each`` of them, or ``value`` for all."""
    if value is None or not each:
        return name, value, False
    if not isinstance(value, Iterable):
        kind = type(value).__name__
        raise TypeError(f"{name}: found {kind}, expected one for all pictures or a list of one for each")
    return name, list(value), True


def prompt_columns(prompts: Any, concepts: Any) -> tuple[Column, Column]:
    """The arguments ``prompts`` and ``concepts`` for :func:`table`, each one for all pictures or a sequence of them."""
    of_texts = isinstance(concepts, str) or (
        isinstance(concepts, Sequence) and all(isinstance(text, str) for text in concepts)
    )
    return column("prompts", prompts, not isinstance(prompts, str)), column("concepts", concepts, not of_texts)


def table(
    images: Iterable[ImageLike] | None, latents: Iterable[Tensor] | None, *columns: Column
) -> list[tuple[Any, ...]]:
    """(image, latents, a value of every column) of every picture, one of image and latents None.

    ``ValueError`` or ``TypeError`` for lists of different lengths and for a picture in place of a list.
    """
    if (images is None) == (latents is None):
        raise ValueError("images: give either images or latents")
    name, given = ("images", images) if latents is None else ("latents", latents)
    single = isinstance(given, (str, os.PathLike, Image.Image)) or getattr(given, "ndim", 0) == 3
    if single or not isinstance(given, Iterable):
        raise TypeError(f"{name}: found {type(given).__name__}, expected a list of them")
    pictures = list(given)
    none = [None] * len(pictures)
    filled = []
    for other, value, each in columns:
        if each and len(value) != len(pictures):
            raise ValueError(
                f"{other}: found {len(value)} for {len(pictures)} pictures, expected one for all or one for each"
            )
        filled.append(value if each else [value] * len(pictures))
    return list(zip(*((pictures, none) if latents is None else (none, pictures)), *filled, strict=True))


def batches(items: Mapping[int, Item], size: int) -> Iterator[dict[int, Item]]:
    """``items`` in parts of ``size``."""
    rest = iter(items.items())
    while part := dict(islice(rest, size)):
        yield part


def apart(
    items: Mapping[int, Item], run: Callable[[list[Item]], Sequence[Found]], watch: Watch,
    key: Callable[[Item], Hashable] = id,
) -> dict[int, Found | Exception]:  # fmt: skip
    """What ``run`` returns for every item, or the exception of that item alone.

    It is called with all items of one ``key`` and, if that raises, with one after the other.
    """
    groups: dict[Hashable, list[int]] = {}
    for index, item in items.items():
        groups.setdefault(key(item), []).append(index)
    found: dict[int, Found | Exception] = {}
    waiting = list(groups.values())
    while waiting:
        group = waiting.pop(0)
        try:
            found.update(zip(group, run([items[i] for i in group]), strict=True))
        except Exception as error:
            if watch.raised:
                raise
            if len(group) == 1:
                found[group[0]] = error
            else:
                waiting = [[i] for i in group] + waiting
    return found


def opened(one: Wanted, denoiser: Denoiser) -> Tensor:
    """The pixels of a picture or video at the model's size, or its latents [C,h,w] if these are given."""
    if (one.image is None) == (one.latents is None):
        raise ValueError("image: give either image or latents")
    return check_latents(one.latents, denoiser) if one.image is None else read(one.image, denoiser)


def asked(ones: Sequence[tuple[Wanted, Tensor]], denoiser: Denoiser, options: Options) -> list[Asked]:
    """What is asked of pictures that were :func:`opened`, which are encoded together: pixels, or latents, of one size.

    ``ValueError`` for what is not finite, or too small for the maps of ``options``.
    """
    given = ones[0][0].image is None
    x = torch.stack([t for _, t in ones])
    x = x.to(denoiser.device, torch.float32) if given else encode(x, denoiser)
    if not x.isfinite().all():
        raise ValueError("latents: found NaN or infinity" if given else "image: the VAE encodes it as NaN or infinity")
    options.check_maps(x.shape[-2] // (denoiser.latent_frames or 1), x.shape[-1])
    return [
        ask(None if given else shown(pixels, denoiser), latents[None], one.questions, options, one.prompt)
        for (one, pixels), latents in zip(ones, x.detach(), strict=True)
    ]


def prepare(wanted: Mapping[int, Wanted], denoiser: Denoiser, options: Options, watch: Watch) -> dict[int, Any]:
    """The :class:`dpid.run.Asked` of every picture, or the exception that it cannot be explained for.

    Pictures of one size are encoded together.
    """
    tensors = apart(wanted, lambda ones: [opened(one, denoiser) for one in ones], watch)
    whole = {i: (wanted[i], t) for i, t in tensors.items() if isinstance(t, Tensor)}
    same = apart(
        whole, lambda ones: asked(ones, denoiser, options), watch, lambda one: (one[0].image is None, one[1].shape)
    )
    return {**tensors, **same}


def width(denoiser: Denoiser, questions: Sequence[Plan], options: Options) -> int:
    """How many pictures of the native size are evaluated together: as many as fill a call, at most 16.

    One where a picture fills it alone, where each stops at its own ``tolerance``, and of a network on a CPU.
    """
    shape = denoiser.latent_shape
    if not denoiser.joins or shape is None or not questions or options.tolerance is not None:
        return 1
    conditions = max(len(question.texts) for question in questions)
    room = options.max_batch_size or fitting(denoiser, torch.empty(1, *shape, device=denoiser.device), conditions)
    return max(1, min(_MOST, room // (conditions * options.per_round)))
