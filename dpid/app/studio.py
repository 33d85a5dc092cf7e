"""What the page asks of the model: to make a picture, to check one, and to explain it until somebody stops it."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Condition
from typing import Any

from PIL import Image

from dpid.denoisers.families import family_of
from dpid.denoisers.loading import EMBEDDED
from dpid.explainer import Explainer
from dpid.images import open_image
from dpid.many import Stopped, Watch
from dpid.options import Options
from dpid.prompts.phrases import check_text, is_blank, span_of
from dpid.prompts.plan import MOST_CONCEPTS
from dpid.prompts.words import content_words
from dpid.results.words import Result
from dpid.run import Progress
from dpid.zoo import generate


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
        self._line: list[str] = []  # the sessions that wait for the model, or have it, in turn
        self._moved = Condition()

    def start(self, session: str) -> bool:
        """Let the next run of ``session`` begin; whether no other session has one, for which it would wait."""
        self._running.add(session)
        return len(self._running) == 1

    def stop(self, session: str) -> None:
        """End the run of ``session`` after the batch that it computes, or before it begins; returns nothing."""
        with self._moved:
            self._running.discard(session)
            self._moved.notify_all()

    def running(self, session: str) -> bool:
        """Whether a run of ``session`` has started and is not to end."""
        return session in self._running

    @contextmanager
    def _turn(self, session: str) -> Iterator[None]:
        """A context that begins when no run before that of ``session`` goes on; :class:`Stopped` if it is to end."""
        with self._moved:
            self._line.append(session)
        try:
            with self._moved:
                self._moved.wait_for(lambda: not self.running(session) or not self._before(session))
            if not self.running(session):
                raise Stopped
            yield
        finally:
            with self._moved:
                self._line.remove(session)
                self._moved.notify_all()

    def _before(self, session: str) -> list[str]:
        """The sessions before ``session`` in the line whose runs go on."""
        return [other for other in self._line[: self._line.index(session)] if self.running(other)]

    def make(self, session: str, prompt: str, progress: Callable[[float], None]) -> tuple[Image.Image | None, str]:
        """A picture that the model makes of ``prompt``, and a sentence on how; None if it is stopped.

        One that is not embedded makes it at the defaults of its pipeline. ``progress`` as of :meth:`explain`.
        ``ValueError`` without a prompt, and for one that the model would not read to its end, or has unknown words.
        """
        embedded = self.explainer.denoiser.name in EMBEDDED
        settings: dict[str, Any] = {} if embedded else {"steps": None, "guidance": None}
        how = "" if embedded else ", as its pipeline does by default"
        seed = secrets.randbelow(2**31)
        watch = Watch(lambda done, planned: progress(done / planned), lambda: not self.running(session))
        try:
            if is_blank(check_text("prompt", prompt)):
                raise ValueError("prompt: is empty; write what the picture should show")
            with self._turn(session), self.explainer.denoiser.lock:
                family_of(self._pipe).check_texts([prompt])
                watch(0, 1)
                (made,) = generate(self._pipe, [prompt], seed=seed, progress=watch, **settings)
            return made, f"Made by the model{how}, with seed {seed}."
        except Stopped:
            return None, "Stopped before there was a picture."
        finally:
            self.stop(session)

    def explain(
        self, session: str, image: str | None, prompt: str, concepts: Sequence[str], context: bool, samples: int,
        progress: Callable[[float], None],
    ) -> Iterator[tuple[Result | None, str]]:  # fmt: skip
        """Results, each from more samples than the one before, and a sentence on how far the run is.

        Without ``concepts`` they are of every word of the prompt. ``progress`` is called with the share that is done,
        0…1. Errors as of :meth:`dpid.Explainer.stream` and :meth:`dpid.Explainer.stream_words`; also ``ValueError``
        without a picture, or with one concept or more than eight.
        """
        done, result = 0, None

        def tell(evaluated: int, planned: int) -> None:
            progress(evaluated / planned)

        try:
            if len(concepts) == 1 or len(concepts) > MOST_CONCEPTS:
                raise ValueError(f"words: found {len(concepts)}, choose two to eight, or none for every word")
            options = Options(samples=min(samples, Options.samples), max_samples=samples, context=context)
            picture = opened(image)
            with self._turn(session):
                tell(0, 1)
                for result in self._results(session, picture, prompt, concepts, options, tell):
                    done = result.metadata.samples
                    yield result, f"{done} of at most {samples} samples. Stop when the errors are small enough for you."
        except Stopped:
            yield result, f"Stopped after {done} samples."
            return
        finally:
            self.stop(session)
        assert result is not None
        sampled = f"{done} samples of every condition" if concepts else f"at most {done} samples of a condition"
        yield result, f"Done: {sampled}, {result.metadata.unet_evaluations} evaluations of the network."

    def _results(
        self, session: str, picture: Image.Image, prompt: str, concepts: Sequence[str], options: Options, tell: Progress
    ) -> Iterator[Result]:
        """The explainer's stream for ``concepts``, or of every word; raises :class:`Stopped` if it is to end."""
        how: dict[str, Any] = {"progress": tell, "stop": lambda: not self.running(session)}
        if not concepts:
            return self.explainer.stream_words(picture, prompt, samples=options.max_samples, **how)
        how |= {"context": options.context, "samples": options.samples, "max_samples": options.max_samples}
        return self.explainer.stream(picture, prompt, in_order(prompt, concepts), **how)


def opened(image: str | None) -> Image.Image:
    """The picture in the file ``image``; ``ValueError``, as of :func:`dpid.images.open_image`, by its name alone."""
    if not image:
        raise ValueError("picture: there is none yet; drop one, or let the model make one")
    try:
        os.utime(image)  # gradio deletes what has not changed for a day
    except OSError as error:
        raise ValueError("picture: this one was deleted meanwhile; drop it again") from error
    try:
        return open_image(image)
    except ValueError as error:
        raise ValueError(str(error).replace(image, Path(image).name)) from error


def words_of(prompt: str) -> tuple[str, ...]:
    """The content words of ``prompt`` and their phrases, as concepts; none of a prompt that has none."""
    try:
        return content_words(prompt)
    except ValueError:
        return ()


def in_order(prompt: str, concepts: Sequence[str]) -> tuple[str, ...]:
    """``concepts``, each once, sorted by where they stand in ``prompt``; ``ValueError`` if one does not."""
    return tuple(sorted(dict.fromkeys(concepts), key=lambda concept: span_of(prompt, concept)))
