"""The common setting of all studies: model, number of evaluations, pictures, and rows kept from an interrupted run."""

from __future__ import annotations

import json
import re
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from dpid import __version__
from dpid.denoisers.families import family_of
from dpid.denoisers.loading import EMBEDDED, folder_of, load_pipeline
from dpid.explainer import Explainer
from dpid.images import ImageLike, open_image
from dpid.options import Options
from dpid.prompts.plan import Subset, plan
from dpid.results.result import PIDResult
from dpid.results.word import REST
from dpid.studies.data import CaptionPair, Masks, Problem, Scene
from dpid.studies.depends import checksum, fixed_rule, sampling
from dpid.studies.study import Row
from dpid.zoo import GUIDANCE

_OF_EXPLAINER = "precision", "check"  # options of loading that its pipeline does not take
_OF_ROWS = "variant", "revision", "subfolder", "precision"  # those on which rows depend
KEPT = "rows.jsonl.partial"  # end of the file name, after a checksum of the arguments of the run


@dataclass(frozen=True)
class Case:
    """A picture to be explained, and the concepts of the explanation.

    Attributes
    ----------
    picture : name of the picture in the tables, from which the seed of the noise follows
    image : the picture, or a function that makes it when it is needed
    prompt, concepts : as for :meth:`dpid.Explainer.explain`
    conditions : {subset of ``concepts``: text}, in place of texts made from the prompt
    masks : function that returns {concept: bool [H,W]}, where the concept's object is
    columns : further columns of the rows of this case
    row : row number in the user's data; None for a case made by the study, where an error is not a problem of the data
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
        """The picture in RGB; raises as :func:`dpid.images.open_image`."""
        return open_image(self.image() if callable(self.image) else self.image)

    def without(self, word: str) -> str:
        """The prompt without ``word``."""
        return str(plan(self.prompt, (word,), context=True).texts[0])


class Workbench:
    """The setting of a study: the model, its explainer, the pictures and the number of evaluations.

    Parameters
    ----------
    model : "emoji", "emoji-flow", a pipeline folder or a hub id
    samples : network evaluations of every condition
    replicates : independent repeats that give the standard errors, see :class:`dpid.options.Options`
    pictures : number of pictures of every kind that a study distinguishes; None: the study's default
    seed : seed of the noise, of generated pictures, and of which things are shown; where a drawn picture has them
        follows from its name alone
    scenes : the user's pictures, in place of those of the study
    pairs : the user's pictures with two captions each, for "retrieval"
    explainer, pipe : a model that is already loaded; without ``pipe`` it cannot generate pictures
    progress : called with (pictures done, number of pictures)
    problems : rows that were left out when the user's data were read
    loading : how the model is loaded where it is not: ``variant``, ``revision``, ``subfolder``, ``device``,
        ``precision`` and ``check`` as of :meth:`dpid.Explainer.from_pretrained`

    Attributes
    ----------
    problems : these, and the rows that the model or the study could not use

    Raises
    ------
    ValueError
        An argument is out of range.
    """

    def __init__(
        self, model: str = "emoji", *, samples: int = 32, replicates: int | None = None, pictures: int | None = None,
        seed: int = 0, scenes: Sequence[Scene] = (), pairs: Sequence[CaptionPair] = (),
        explainer: Explainer | None = None, pipe: Any = None, progress: Callable[[int, int], None] | None = None,
        problems: Sequence[Problem] = (), loading: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        options = Options(samples=samples, replicates=replicates, seed=seed)
        if pictures is not None and (isinstance(pictures, bool) or not hasattr(pictures, "__index__") or pictures < 1):
            raise ValueError(f"pictures: found {pictures!r}, expected a whole number of at least 1")
        self.model = str(model)
        self.samples, self.replicates, self.seed = options.samples, options.replicates, options.seed
        self.pictures = None if pictures is None else int(pictures)
        self.scenes, self.pairs, self._unusable = tuple(scenes), tuple(pairs), tuple(problems)
        self.start()
        self._loaded, self._loading = (explainer, pipe), dict(loading or {})
        self._progress = progress
        self._kept = Kept(None, "")
        self._last: tuple[tuple[str, str] | None, Image.Image | None] = (None, None)

    def arguments(self) -> str:
        """A text of all that the rows depend on: rows of two runs with the same text are interchangeable."""
        given = self._loaded[0]
        how = sampling(given) if given is not None else f"rule {'adaptive' if self.embedded else 'shifted-grid'}"
        how += "".join(f", {name} {self._loading[name]}" for name in _OF_ROWS if name in self._loading)
        files = checksum(folder_of(self.model) / self._loading.get("subfolder", ""))
        return (
            f"dpid {__version__}, model {self.model} {files}, {how}, samples {self.samples}, "
            f"replicates {self.replicates or 'by default'}, pictures a case {self.pictures or 'as the study sets'}, "
            f"generated at guidance {GUIDANCE if self.embedded else 'of the pipeline'}, seed {self.seed}, "
            f"data {self._data}"
        )

    @cached_property
    def _data(self) -> str:
        """A checksum of the user's pictures, masks and texts; "made by the study" where it makes them."""
        if not self.scenes and not self.pairs:
            return "made by the study"
        texts = json.dumps([[str(s.image), s.prompt, s.concepts] for s in self.scenes]
                           + [[str(p.image), p.true, p.false, p.box] for p in self.pairs])  # fmt: skip
        crc = zlib.crc32(texts.encode())
        for path in dict.fromkeys([s.image for s in self.scenes] + [p.image for p in self.pairs]):
            crc = zlib.crc32(path.read_bytes(), crc)
        for scene in self.scenes:
            for concept, mask in scene.masks().items():
                crc = zlib.crc32(f"{concept} {mask.shape}".encode() + np.packbits(mask).tobytes(), crc)
        return f"{crc:08x}"

    def start(self, study: str = "") -> None:
        """Forget which rows another study could not use, before the one of this name begins."""
        self._study = study
        self.problems: list[Problem] = list(self._unusable)
        self._bad: set[int] = set()

    def keep(self, folder: Path) -> Kept:
        """The measured rows, kept in a JSON-lines file in ``folder`` so that an interrupted run can be resumed."""
        path = folder / f"{zlib.crc32(self.arguments().encode()):08x}.{KEPT}"
        self._kept = Kept(path, self.arguments())
        return self._kept

    @property
    def embedded(self) -> bool:
        """Whether the model is an embedded one, whose training distribution is known."""
        return self.model in EMBEDDED

    @cached_property
    def explainer(self) -> Explainer:
        """The explainer of the model. It shares its weights with ``pipe`` unless the model is embedded."""
        if self._loaded[0] is not None:
            return self._loaded[0]
        if self.embedded:
            return Explainer.from_pretrained(self.model, **self._loading)
        return Explainer(self.pipe, **{name: self._loading[name] for name in _OF_EXPLAINER if name in self._loading})

    @cached_property
    def exact(self) -> Explainer:
        """The explainer in float32, for estimates whose rounding bias is not measured."""
        return self.explainer.at("float32")

    @cached_property
    def pipe(self) -> Any:
        """The diffusers pipeline of the model."""
        if self._loaded[1] is not None:
            return self._loaded[1]
        return load_pipeline(self.model, **{n: v for n, v in self._loading.items() if n not in _OF_EXPLAINER})

    def seed_of(self, name: str) -> int:
        """A seed of 31 bits, a function of ``name`` and the seed of the workbench."""
        return zlib.crc32(f"{self.seed} {name}".encode()) >> 1

    def generate(self, prompt: str, name: str) -> Image.Image:
        """A picture that the model generates from ``prompt``, with the seed of ``name``.

        At the guidance that the pipeline has by default, which is not the same for all families.
        """
        from dpid.zoo import generate

        if self._last[0] != (prompt, name):  # cases of one picture follow each other
            guidance = GUIDANCE if self.embedded else family_of(self.pipe).default("guidance_scale")
            made = generate(self.pipe, [prompt], seed=self.seed_of(name), guidance=guidance)
            self._last = (prompt, name), made[0]
        assert self._last[1] is not None
        return self._last[1]

    def explain(self, case: Case, by: Explainer | None = None, **options: Any) -> PIDResult:
        """The explanation of a case by ``by``, by default the explainer of the model.

        ``options`` and errors are those of :meth:`dpid.Explainer.explain`.
        """
        explainer = by or self.explainer
        explain = explainer.explain
        arguments = {**self._budget(case), "rule": fixed_rule(explainer), **options}
        if case.conditions is not None:
            return explain(case.open(), conditions=_without_marks(case.conditions, case.prompt), **arguments)
        return explain(case.open(), case.prompt, case.concepts, **arguments)

    def explain_pairs(self, case: Case, **options: Any) -> dict[tuple[str, str], PIDResult]:
        """The explanations {pair: result} of all pairs of a case's concepts, from one run of the network."""
        arguments = {**self._budget(case), "rule": fixed_rule(self.explainer), **options}
        return self.explainer.explain_pairs(case.open(), case.prompt, case.concepts, **arguments)

    def explain_beside_rest(self, case: Case, word: str, **options: Any) -> PIDResult:
        """The explanation by ``word`` and the rest of a case's prompt; otherwise as :meth:`explain`."""
        texts = {(): "", (word,): word, (REST,): case.without(word), (word, REST): case.prompt}
        return self.explain(replace(case, concepts=(), conditions=texts), **options)

    def _budget(self, case: Case) -> dict[str, Any]:
        """The keyword arguments {"samples", "replicates", "seed"} with which ``case`` is explained."""
        return {"samples": self.samples, "replicates": self.replicates, "seed": self.seed_of(case.picture)}

    def measure(
        self, cases: Sequence[Case], measure: Callable[[Case], Iterable[Row]], nats: bool = True
    ) -> list[Row]:  # fmt: skip
        """The rows of all cases, with the columns that ``measure`` returns, the picture's name and the case's own.

        A row of the user's data that cannot be used is left out, with all its cases, and listed in ``problems``.
        ``ValueError`` where there is no case, or none that can be used, and of a model distilled to a few steps, which
        has no nats, unless the study goes without them (``nats``).
        """
        if not cases:
            raise ValueError("data: no picture has what this study needs (two concepts; masks for localisation)")
        if nats and (why := self.explainer.denoiser.distilled):
            raise ValueError(f"model: has no nats, which this study needs (localisation goes without), since {why}")
        found: list[tuple[Case, list[Row]]] = []
        for done, case in enumerate(cases, 1):
            columns = {"picture": case.picture, **case.columns}
            key = json.dumps([self._study, case.picture, case.prompt, case.concepts])
            if case.row not in self._bad:
                try:
                    found.append((case, self._kept.rows(key, partial(_measured, measure, case, columns))))
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
        """Those of ``cases`` whose row in the user's data was not left out."""
        return [case for case in cases if case.row not in self._bad]

    def own_cases(self, least: int = 2, most: int | None = 2, masked: bool = False) -> list[Case]:
        """Cases of the user's pictures with at least ``least`` concepts, of which the first ``most`` are used.

        ``masked``: only of those with a mask.
        """
        cases = [
            Case(f"{i:05d} {s.image.name}", s.image, s.prompt, s.concepts[:most], masks=s.masks, row=s.row or i)
            for i, s in enumerate(self.scenes, 1)
            if len(s.concepts) >= least and (not masked or s.masks())
        ]
        return self.usable(cases[: self.pictures])


def _measured(measure: Callable[[Case], Iterable[Row]], case: Case, columns: Row) -> list[Row]:
    """The rows of a case with its ``columns``; its picture is made once, however often ``measure`` opens it."""
    return [columns | row for row in measure(replace(case, image=case.open()))]


def _without_marks(conditions: dict[Subset, str], prompt: str) -> dict[Subset, str]:
    """``conditions`` with "bowl" in the texts for a concept "bowl#2", the second of that name in ``prompt``."""
    concepts = {c for subset in conditions for c in subset}
    marked = {c for c in concepts if re.fullmatch(".+#[0-9]+", c) and c not in prompt}  # not "C#", nor "route #66"
    for name in marked:
        conditions = {s: text.replace(name, name.rpartition("#")[0]) for s, text in conditions.items()}
    return conditions


class Kept:
    """Measured rows by key, kept in a JSON-lines file; every line names the arguments of the run that measured it.

    A line is written by a single call, so that several runs with the same arguments may append to one file.
    """

    def __init__(self, path: Path | None, arguments: str) -> None:
        self.path, self._arguments = path, arguments
        self._known: dict[str, list[Row]] = {}
        self._half = False  # whether the last line is incomplete, since a run was killed while writing
        if path is not None and path.exists():
            text = path.read_text(encoding="utf-8", errors="replace")
            self._half = not text.endswith("\n")
            entries = [e for line in text.splitlines() if isinstance(e := _parsed(line), dict)]
            self._known = {e["key"]: e["rows"] for e in entries if e.get("made with") == arguments}

    def rows(self, key: str, measure: Callable[[], list[Row]]) -> list[Row]:
        """The rows of ``key``, read from the file if they are there, else measured and added to it."""
        if key not in self._known:
            # Always through JSON, so that an interrupted and an uninterrupted run give the same rows.
            line = json.dumps({"made with": self._arguments, "key": key, "rows": measure()}, allow_nan=False)
            if self.path is not None:
                with self.path.open("ab", buffering=0) as f:
                    f.write(f"{chr(10) * self._half}{line}\n".encode())
                self._half = False
            self._known[key] = json.loads(line)["rows"]
        return [dict(row) for row in self._known[key]]

    def remove(self) -> None:
        """Delete the file, and write no other: the study is complete."""
        if self.path is not None:
            self.path.unlink(missing_ok=True)
        self.path = None


def _parsed(line: str) -> Any:
    """The content of a line of JSON; None if it is incomplete."""
    try:
        return json.loads(line)
    except json.JSONDecodeError:
        return None
