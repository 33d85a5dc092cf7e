"""What all studies work with: a model, how much to evaluate, and the rows that an earlier run has already measured."""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from dpid.conditions import Subset
from dpid.explainer import Explainer, check_options
from dpid.images import ImageLike
from dpid.loading import EMBEDDED, load_pipeline
from dpid.result import PIDResult
from dpid.studies.data import CaptionPair, Masks, Scene
from dpid.studies.study import Row


@dataclass(frozen=True)
class Case:
    """A picture and two concepts to explain it by.

    Attributes
    ----------
    picture : its name in the tables; the noise is drawn by it
    image : makes or opens the picture
    prompt, concepts : as for :meth:`dpid.Explainer.explain`
    conditions : the text of every subset of ``concepts``, in place of those of the prompt
    masks : reads {concept: bool [H,W]}
    facts : further columns of its rows
    """

    picture: str
    image: Callable[[], ImageLike]
    prompt: str
    concepts: tuple[str, ...]
    conditions: dict[Subset, str] | None = None
    masks: Callable[[], Masks] = dict
    facts: Row = field(default_factory=dict)


class Workbench:
    """A model and what to do with it.

    Parameters
    ----------
    model : "emoji", a pipeline folder or a hub id
    samples : evaluations of every condition
    replicates : independent repeats, from whose spread the errors come
    pictures : of every case (each study says what its cases are); None: the study's own number
    seed : of pictures and noise
    scenes : pictures of the user in place of the study's own
    pairs : pictures of the user with captions, for "retrieval"
    kept : a JSON-lines file: measured rows are added to it, and those of an earlier run with the same arguments reused
    explainer : for a model that is loaded already; it cannot make pictures unless ``pipe`` is given too
    progress : told (pictures done, pictures in all)

    Raises
    ------
    ValueError
        An argument is out of range.
    """

    def __init__(
        self, model: str = "emoji", *, samples: int = 32, replicates: int = 4, pictures: int | None = None,
        seed: int = 0, scenes: Sequence[Scene] = (), pairs: Sequence[CaptionPair] = (), kept: Path | None = None,
        explainer: Explainer | None = None, pipe: Any = None, progress: Callable[[int, int], None] | None = None,
    ) -> None:  # fmt: skip
        check_options(samples=samples, replicates=replicates, seed=seed)
        if pictures is not None and (not isinstance(pictures, int) or pictures < 1):
            raise ValueError(f"pictures: found {pictures!r}, expected a whole number of at least 1")
        self.model, self.samples, self.replicates, self.seed = str(model), samples, replicates, seed
        self.pictures, self.scenes, self.pairs = pictures, tuple(scenes), tuple(pairs)
        self._given = (explainer, pipe)
        self._progress = progress
        self._kept = Kept(kept, {"model": self.model, "samples": samples, "replicates": replicates, "seed": seed})

    @property
    def embedded(self) -> bool:
        """Whether the model is an embedded one, whose world is known."""
        return self.model in EMBEDDED

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of the model; it shares the weights of ``pipe`` unless the model is embedded."""
        if self._given[0] is not None:
            return self._given[0]
        return Explainer.from_pretrained(self.model) if self.embedded else Explainer(self.pipe)

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline of the model."""
        return self._given[1] if self._given[1] is not None else load_pipeline(self.model)

    def seed_of(self, name: str) -> int:
        """A seed of 31 bits for what is called ``name``."""
        return zlib.crc32(f"{self.seed} {name}".encode()) >> 1

    def generate(self, prompt: str, name: str) -> Image.Image:
        """The picture of ``prompt`` with the seed of ``name``; guided by 3 where the model is embedded, else by 7.5."""
        from dpid.zoo import generate

        return generate(self.pipe, [prompt], seed=self.seed_of(name), guidance=3.0 if self.embedded else 7.5)[0]

    def explain(self, case: Case, **options: Any) -> PIDResult:
        """The PID of a case; ``options`` of :meth:`dpid.Explainer.explain`."""
        chosen = {"samples": self.samples, "replicates": self.replicates, "seed": self.seed_of(case.picture), **options}
        if case.conditions is not None:
            return self.explainer.explain(case.image(), conditions=case.conditions, **chosen)
        return self.explainer.explain(case.image(), case.prompt, case.concepts, **chosen)

    def measure(self, cases: Sequence[Case], measure: Callable[[Case], Iterable[Row]]) -> list[Row]:
        """The rows of all cases, each with its picture, prompt and facts; ``ValueError`` where there is no case."""
        if not cases:
            raise ValueError("data: no picture has what this study needs (two concepts; masks for localisation)")
        rows: list[Row] = []
        for done, case in enumerate(cases, 1):
            known = {"picture": case.picture, **case.facts}
            key = json.dumps([case.picture, case.prompt, case.concepts])
            rows += self._kept.rows(key, lambda known=known, case=case: [known | row for row in measure(case)])
            if self._progress:
                self._progress(done, len(cases))
        return rows

    def own_cases(self, concepts: int = 2) -> list[Case]:
        """The user's pictures that have at least so many concepts, of which the first so many are taken."""
        return [
            Case(f"{i:05d} {s.image.name}", lambda s=s: s.image, s.prompt, s.concepts[:concepts], masks=s.masks)  # type: ignore[misc]
            for i, s in enumerate(self.scenes, 1)
            if len(s.concepts) >= concepts
        ][: self.pictures]


class Kept:
    """Rows by key, in a JSON-lines file whose first line is the arguments that they were measured with."""

    def __init__(self, path: Path | None, arguments: Row) -> None:
        self._path, self._known = path, {}  # type: ignore[var-annotated]
        if path is None:
            return
        lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
        read = [_parsed(line) for line in lines]
        if not read or read[0] != arguments:
            path.write_text(json.dumps(arguments) + "\n", encoding="utf-8")
        else:
            # The last line may be half of one, where a run was killed.
            self._known = {entry["key"]: entry["rows"] for entry in read[1:] if entry}
            whole = [line for line, entry in zip(lines, read, strict=True) if entry is not None]
            path.write_text("".join(line + "\n" for line in whole), encoding="utf-8")

    def rows(self, key: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of ``key``, measured if they are not known."""
        if key not in self._known:
            # Through JSON in any case, so that a run that was stopped and one that was not give the same rows.
            line = json.dumps({"key": key, "rows": measure()}, allow_nan=False)
            if self._path:
                with self._path.open("a", encoding="utf-8") as f:
                    f.write(line + "\n")
            self._known[key] = json.loads(line)["rows"]
        return list(self._known[key])


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
