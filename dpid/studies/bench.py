"""What all studies work with: a model, how much to evaluate, and the rows that an earlier run has already measured."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpid import __version__
from dpid.denoisers.loading import EMBEDDED, fingerprint, load_pipeline
from dpid.explainer import Explainer
from dpid.images import ImageLike, open_image
from dpid.options import Options
from dpid.prompts.plan import Subset
from dpid.results.result import PIDResult
from dpid.studies.data import CaptionPair, Masks, Problem, Scene
from dpid.studies.study import Row

KEPT = "rows.jsonl.partial"  # the end of the name; what stands before it tells runs with other arguments apart


@dataclass(frozen=True)
class Case:
    """A picture and the concepts to explain it by.

    Attributes
    ----------
    picture : its name in the tables; the noise is drawn by it
    image : the picture, or what makes it when it is needed
    prompt, concepts : as for :meth:`dpid.Explainer.explain`
    conditions : the text of every subset of ``concepts``, in place of those of the prompt
    masks : reads {concept: bool [H,W]}
    columns : further columns of its rows
    row : where the user's data have it; None: the study made it, and it cannot be left out
    """

    picture: str
    image: ImageLike | Callable[[], ImageLike]
    prompt: str
    concepts: tuple[str, ...]
    conditions: dict[Subset, str] | None = None
    masks: Callable[[], Masks] = dict
    columns: Row = field(default_factory=dict)
    row: int | None = None

    def open(self) -> Image.Image:
        """The picture, RGB."""
        return open_image(self.image() if callable(self.image) else self.image)


class Workbench:
    """A model and what to do with it.

    Parameters
    ----------
    model : "emoji", a pipeline folder or a hub id
    samples : evaluations of every condition
    replicates : repeats, from whose spread the errors come; see :class:`dpid.options.Options`
    pictures : of every case (each study says what its cases are); None: the study's own number
    seed : of pictures and noise
    scenes : pictures of the user in place of the study's own
    pairs : pictures of the user with captions, for "retrieval"
    explainer : for a model that is loaded already; it cannot make pictures unless ``pipe`` is given too
    progress : told (pictures done, pictures in all)
    problems : of the user's data, found as they were read

    Attributes
    ----------
    problems : these, and those of the rows that the model or the study could not use

    Raises
    ------
    ValueError
        An argument is out of range.
    """

    def __init__(
        self, model: str = "emoji", *, samples: int = 32, replicates: int | None = None, pictures: int | None = None,
        seed: int = 0, scenes: Sequence[Scene] = (), pairs: Sequence[CaptionPair] = (),
        explainer: Explainer | None = None, pipe: Any = None, progress: Callable[[int, int], None] | None = None,
        problems: Sequence[Problem] = (),
    ) -> None:  # fmt: skip
        chosen = Options(samples=samples, replicates=replicates, seed=seed)
        if pictures is not None and (isinstance(pictures, bool) or not hasattr(pictures, "__index__") or pictures < 1):
            raise ValueError(f"pictures: found {pictures!r}, expected a whole number of at least 1")
        self.model = str(model)
        self.samples, self.replicates, self.seed = chosen.samples, chosen.replicates, chosen.seed
        self.pictures = None if pictures is None else int(pictures)
        self.scenes, self.pairs, self._read = tuple(scenes), tuple(pairs), tuple(problems)
        self.start()
        self._given = (explainer, pipe)
        self._progress = progress
        self._kept = Kept(None, "")
        self._last: tuple[tuple[str, str] | None, Image.Image | None] = (None, None)

    def arguments(self) -> str:
        """Everything that the rows depend on."""
        return (
            f"dpid {__version__}, model {self.model} {fingerprint(self.model)}, samples {self.samples}, "
            f"replicates {self.replicates}, pictures {self.pictures or 'default'}, seed {self.seed}, data {self._data}"
        )

    @cached_property
    def _data(self) -> str:
        """The user's pictures, masks and texts, all that is in them."""
        if not self.scenes and not self.pairs:
            return "own"
        texts = json.dumps([[str(s.image), s.prompt, s.concepts] for s in self.scenes]
                           + [[str(p.image), p.true, p.false, p.box] for p in self.pairs])  # fmt: skip
        crc = zlib.crc32(texts.encode())
        for path in dict.fromkeys([s.image for s in self.scenes] + [p.image for p in self.pairs]):
            crc = zlib.crc32(path.read_bytes(), crc)
        for scene in self.scenes:
            for mask in scene.masks().values():
                crc = zlib.crc32(np.packbits(mask).tobytes(), crc)
        return f"{crc:08x}"

    def start(self) -> None:
        """Begin a study: a row that another could not use may be of use to it."""
        self.problems: list[Problem] = list(self._read)
        self._bad: set[int] = set()

    def keep(self, folder: Path) -> Path:
        """The JSON-lines file in ``folder`` that measured rows are added to, and taken from if this run was stopped."""
        path = folder / f"{zlib.crc32(self.arguments().encode()):08x}.{KEPT}"
        self._kept = Kept(path, self.arguments())
        return path

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
    def exact(self) -> Explainer:
        """A copy of the explainer that rounds nothing: for what no rounding bias is weighed against."""
        return self.explainer.at("float32")

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline of the model."""
        return self._given[1] if self._given[1] is not None else load_pipeline(self.model)

    def seed_of(self, name: str) -> int:
        """A seed of 31 bits for what is called ``name``."""
        return zlib.crc32(f"{self.seed} {name}".encode()) >> 1

    def generate(self, prompt: str, name: str) -> Image.Image:
        """The picture of ``prompt`` with the seed of ``name``; a model that is not embedded is guided by 7.5."""
        from dpid.zoo import GUIDANCE, generate

        if self._last[0] != (prompt, name):  # cases of one picture follow each other
            guidance = GUIDANCE if self.embedded else 7.5
            made = generate(self.pipe, [prompt], seed=self.seed_of(name), guidance=guidance)
            self._last = (prompt, name), made[0]
        assert self._last[1] is not None
        return self._last[1]

    def explain(self, case: Case, by: Explainer | None = None, **options: Any) -> PIDResult:
        """The PID of a case, ``by`` another explainer if given; ``options`` of :meth:`dpid.Explainer.explain`."""
        explain = (by or self.explainer).explain
        chosen = {**self._budget(case), **options}
        if case.conditions is not None:
            return explain(case.open(), conditions=_said(case.conditions), **chosen)
        return explain(case.open(), case.prompt, case.concepts, **chosen)

    def explain_pairs(self, case: Case, **options: Any) -> dict[tuple[str, str], PIDResult]:
        """The PID of every pair of a case's concepts, from one run."""
        return self.explainer.explain_pairs(case.open(), case.prompt, case.concepts, **self._budget(case), **options)

    def _budget(self, case: Case) -> dict[str, Any]:
        return {"samples": self.samples, "replicates": self.replicates, "seed": self.seed_of(case.picture)}

    def measure(self, cases: Sequence[Case], measure: Callable[[Case], Iterable[Row]]) -> list[Row]:
        """The rows of all cases, each with its picture, prompt and columns.

        A row of the user's data that cannot be used is left out, with all its cases, and noted in ``problems``.
        ``ValueError`` where there is no case, or none that can be used.
        """
        if not cases:
            raise ValueError("data: no picture has what this study needs (two concepts; masks for localisation)")
        found: list[tuple[Case, list[Row]]] = []
        for done, case in enumerate(cases, 1):
            known = {"picture": case.picture, **case.columns}
            key = json.dumps([case.picture, case.prompt, case.concepts])
            if case.row not in self._bad:
                try:
                    found.append((case, self._kept.rows(key, partial(_measured, measure, case, known))))
                except (ValueError, FloatingPointError) as error:
                    if case.row is None:
                        raise
                    self._bad.add(case.row)
                    self.problems.append(Problem.of(case.row, "", error))
            if self._progress:
                self._progress(done, len(cases))
        if not self.usable(cases):
            raise ValueError("data: no row can be used by this study")
        return [row for case, rows in found if case.row not in self._bad for row in rows]

    def usable(self, cases: Iterable[Case]) -> list[Case]:
        """Those of ``cases`` whose row was not left out."""
        return [case for case in cases if case.row not in self._bad]

    def own_cases(self, least: int = 2, most: int | None = 2) -> list[Case]:
        """The user's pictures that have at least so many concepts, of which the first ``most`` are taken."""
        cases = [
            Case(f"{i:05d} {s.image.name}", s.image, s.prompt, s.concepts[:most], masks=s.masks, row=s.row or i)
            for i, s in enumerate(self.scenes, 1)
            if len(s.concepts) >= least
        ]
        return self.usable(cases[: self.pictures])


def _measured(measure: Callable[[Case], Iterable[Row]], case: Case, known: Row) -> list[Row]:
    """Rows of a case whose picture is made once."""
    return [known | row for row in measure(replace(case, image=case.open()))]


def _said(conditions: dict[Subset, str]) -> dict[Subset, str]:
    """Texts without the mark of "bowl#2", the name of a second bowl, which no text has."""
    marked = {c for subset in conditions for c in subset if re.fullmatch(".+#[0-9]+", c)}  # not "C#"
    for name in marked:
        conditions = {s: text.replace(name, name.rpartition("#")[0]) for s, text in conditions.items()}
    return conditions


class Kept:
    """Rows by key, in a JSON-lines file of runs with the same arguments, of which every line says what they were.

    A line is written at once, so that several such runs may add to one file.
    """

    def __init__(self, path: Path | None, arguments: str) -> None:
        self._path, self._arguments = path, arguments
        self._known: dict[str, list[Row]] = {}
        self._half = False  # whether a run was killed as it wrote
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._half = not text.endswith("\n")
            entries = [e for line in text.splitlines() if isinstance(e := _parsed(line), dict)]
            self._known = {e["key"]: e["rows"] for e in entries if e.get("made with") == arguments}

    def rows(self, key: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of ``key``, measured if they are not known."""
        if key not in self._known:
            # Through JSON in any case, so that a run that was stopped and one that was not give the same rows.
            line = json.dumps({"made with": self._arguments, "key": key, "rows": measure()}, allow_nan=False)
            if self._path is not None:
                with self._path.open("ab", buffering=0) as f:
                    f.write(f"{chr(10) * self._half}{line}\n".encode())
                self._half = False
            self._known[key] = json.loads(line)["rows"]
        return [dict(row) for row in self._known[key]]


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
