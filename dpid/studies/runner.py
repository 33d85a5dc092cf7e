"""The list of all studies, and the functions that run one and write it into a folder."""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from inspect import getdoc
from pathlib import Path

from dpid.files import PathLike, as_path
from dpid.results.metadata import remarks_on_model
from dpid.studies.bias import bias
from dpid.studies.complex_prompts import complex_prompts
from dpid.studies.features import features
from dpid.studies.homonyms import homonyms
from dpid.studies.intervention import intervention
from dpid.studies.localisation import localisation
from dpid.studies.pairs import pairs
from dpid.studies.report import check_installed, write_page, write_study
from dpid.studies.retrieval import retrieval
from dpid.studies.study import Study
from dpid.studies.workbench import Workbench


@dataclass(frozen=True)
class Entry:
    """A study in the list: its heading, and the function that runs it."""

    title: str
    run: Callable[[Workbench], Study]

    @property
    def about(self) -> str:
        """The description of the study: the docstring of the function that runs it."""
        run = self.run.func if isinstance(self.run, partial) else self.run
        return (getdoc(run) or "").replace("``", "")


STUDIES = {
    "bias": Entry("Gender and ethnicity over occupations", bias),
    "homonyms": Entry("Homonyms and their modifiers", homonyms),
    "synonyms": Entry("Synonyms", partial(pairs, name="synonyms", relation="synonym")),
    "co-hyponyms": Entry("Co-hyponyms", partial(pairs, name="co-hyponyms", relation="co-hyponym")),
    "features": Entry("Representative features", features),
    "complex-prompts": Entry("Complex prompts", complex_prompts),
    "intervention": Entry("Intervention: a word is deleted", intervention),
    "localisation": Entry("Localisation against masks", localisation),
    "retrieval": Entry("Retrieval of captions", retrieval),
}


def run(name: str, bench: Workbench) -> Study:
    """The tables, figures and summary of the study ``name``; its finding ends with what limits the model's numbers.

    Raises
    ------
    ValueError
        There is no study of this name; none of the data can be used by it; it needs nats, and the model has none.
    """
    if name not in STUDIES:
        raise ValueError(f"name: found {name!r}, allowed are {', '.join(STUDIES)}")
    bench.start(name)
    study = STUDIES[name].run(bench)
    denoiser = bench.explainer.denoiser
    limits = [f"Note: {line}." for line in remarks_on_model(denoiser.distilled, denoiser.caveat)]
    study.finding = " ".join([study.finding, *limits])
    return study


def write(name: str, bench: Workbench, out: PathLike) -> bool:
    """Whether a study had to be run; its files are then in ``out``/``name``.

    It is not run if it is there already, made with the same arguments. An interrupted run is resumed, since measured
    rows are kept until the study is complete. Raises as :func:`run`.
    """
    check_installed()
    out = as_path(out, "out")
    made_with = bench.arguments()
    folder = out / name
    if _finished(folder / "summary.json") == made_with:
        if not (out / "report.html").exists():
            write_page(out)
        return False
    folder.mkdir(parents=True, exist_ok=True)
    kept = bench.keep(folder)
    try:
        study = run(name, bench)
    except BaseException:
        with suppress(OSError):  # not empty: it has kept rows, or files of another run
            folder.rmdir()
        raise
    entry = STUDIES[name]
    left_out = {"left out": [str(problem) for problem in bench.problems]} if bench.problems else {}
    summary = {**study.summary, **left_out, "made with": made_with}
    write_study(
        out, name, title=entry.title, about=entry.about, finding=study.finding, summary=summary,
        tables=study.tables, figures=study.figures,
    )  # fmt: skip
    kept.remove()
    return True


def _finished(path: Path) -> str | None:
    """The arguments that a finished study was made with; None if there is none."""
    try:
        made_with: str = json.loads(path.read_text(encoding="utf-8"))["summary"]["made with"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return made_with
