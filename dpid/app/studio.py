"""What the page asks of the model: to make a picture, to check one, and to explain it until somebody stops it."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import regex
from PIL import Image

from dpid.explainer import Explainer
from dpid.images import open_image
from dpid.options import Options
from dpid.prompts.phrases import check_text, is_blank, span_of
from dpid.results.result import PIDResult
from dpid.zoo import generate

_WORD = regex.compile(r"[\p{L}\p{M}\p{N}][\p{L}\p{M}\p{N}'’-]*")


class Stopped(Exception):
    """What ends a run in the middle: its stop button was pressed, or its page is gone."""


class Studio:
    """One model for all open pages, each of which has a name, its session.

    Parameters
    ----------
    explainer : of the model
    pipe : the pipeline that makes pictures
    """

    def __init__(self, explainer: Explainer, pipe: Any) -> None:
        self.explainer, self._pipe = explainer, pipe
        self._running: set[str] = set()

    def start(self, session: str) -> bool:
        """Let the next run of ``session`` begin; whether no other session has one, for which it would wait."""
        self._running.add(session)
        return len(self._running) == 1

    def stop(self, session: str) -> None:
        """End the run of ``session`` after the batch that it computes, or before it begins; returns nothing."""
        self._running.discard(session)

    def make(self, prompt: str) -> tuple[Image.Image, str]:
        """A picture that the model makes of ``prompt``, and a sentence on how; ``ValueError`` without a prompt."""
        seed = secrets.randbelow(2**31)
        if is_blank(check_text("prompt", prompt)):
            raise ValueError("prompt: is empty; write what the picture should show")
        with self.explainer.denoiser.lock:
            return generate(self._pipe, [prompt], seed=seed)[0], f"Made by the model, with seed {seed}."

    def explain(
        self, session: str, image: str | None, prompt: str, concepts: Sequence[str], context: bool, samples: int,
        progress: Callable[[float], None],
    ) -> Iterator[tuple[PIDResult | None, str]]:  # fmt: skip
        """Results, each from more samples than the one before, and a sentence on how far the run is.

        ``progress`` is called with the share that is done, 0…1. Errors as of :meth:`dpid.Explainer.stream`; also
        ``ValueError`` without a picture, or with fewer than two or more than eight concepts.
        """
        if not 2 <= len(concepts) <= 8:
            raise ValueError(f"words: found {len(concepts)}, choose two to eight of the prompt")
        options = Options(samples=min(samples, Options.samples), max_samples=samples, context=context)
        total, done = options.rounds * options.per_round, 0
        result = None

        def tell(evaluated: int, planned: int) -> None:
            if session not in self._running:
                raise Stopped
            progress(min(1.0, evaluated / (planned * options.rounds)))

        picture = opened(image)
        try:
            tell(0, 1)
            for result in self.explainer.stream(
                picture, prompt, in_order(prompt, concepts), context=context, samples=options.samples,
                max_samples=samples, progress=tell,
            ):  # fmt: skip
                done = result.metadata.samples
                yield result, f"{done} of {total} samples. You may stop at any time: the errors say what is known."
        except Stopped:
            yield result, f"Stopped after {done} of {total} samples."
            return
        finally:
            self.stop(session)
        assert result is not None
        evaluations = result.metadata.unet_evaluations
        yield result, f"Done: {done} samples of every condition, {evaluations} evaluations of the network."


def opened(image: str | None) -> Image.Image:
    """The picture in the file ``image``; ``ValueError``, as of :func:`dpid.images.open_image`, by its name alone."""
    if not image:
        raise ValueError("picture: there is none yet; drop one, or let the model make one")
    try:
        return open_image(image)
    except ValueError as error:
        raise ValueError(str(error).replace(image, Path(image).name)) from error


def words_of(prompt: str) -> list[str]:
    """The words of ``prompt`` as concepts, in order; "bowl#2" is the second "bowl"."""
    names: list[str] = []
    for match in _WORD.finditer(check_text("prompt", prompt)):
        tries = [match[0], *(f"{match[0]}#{n}" for n in range(2, 2 + len(names)))]
        names.append(next(name for name in tries if span_of(prompt, name)[0] == match.start()))
    return names


def in_order(prompt: str, concepts: Sequence[str]) -> tuple[str, ...]:
    """``concepts`` in the order of ``prompt``; ``ValueError`` if one is not in it."""
    return tuple(sorted(dict.fromkeys(concepts), key=lambda concept: span_of(prompt, concept)))
