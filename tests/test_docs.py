"""Every example of the README and of docs/ runs, page by page and in order, and prints what the page shows below it.

A block of Python or of the shell under the comment ``<!-- not run: why -->`` is only compiled, or parsed by the command
line. A block of ``text`` is what the block before it prints.
"""

import io
import json
import math
import re
import shlex
import shutil
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from unittest import mock

import measurements
import pytest
import torch
import typer
from PIL import Image
from safetensors import safe_open
from sybil import Document
from sybil.evaluators.python import PythonEvaluator
from sybil.parsers.markdown import CodeBlockParser

import dpid.cli
from dpid.denoisers.families.family import FAMILIES
from dpid.pid.measures import MEASURES

pytestmark = pytest.mark.filterwarnings("default")  # what other libraries deprecate is not for users to mend
ROOT = Path(__file__).parents[1]
GENERATED = {"ledger.md", "measurements.md"}
PAGES = [ROOT / "README.md", *sorted(p for p in (ROOT / "docs").glob("*.md") if p.name not in GENERATED)]
MODULES = sorted(p for p in (ROOT / "dpid").rglob("*.py") if "triton_kernels" not in p.parts)
NUMBER = re.compile(r"-?\d+\.\d+")


def skipped(example):
    """Whether the line above the block says that it is not run."""
    return example.document.text[: example.region.start].rstrip().rsplit("\n", 1)[-1].startswith("<!-- not run: ")


def python(example):
    if skipped(example):
        compile(example.parsed, example.path, "exec")
        return
    with redirect_stdout(io.StringIO()) as out:
        PythonEvaluator()(example)
    example.namespace["printed"] = out.getvalue()


def command(words):
    """What the command line makes of ``words``, without doing it; raises where it does not understand them."""
    group = typer.main.get_command(dpid.cli.program)
    with group.make_context("dpid", words[1:2], resilient_parsing=True) as context:
        name, sub, _ = group.resolve_command(context, words[1:2])
        with sub.make_context(name, words[2:], parent=context):
            pass


def shell(example):
    out = io.StringIO()
    for line in example.parsed.splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "make":
            assert f"\n{words[1]}:" in (ROOT / "Makefile").read_text()
            continue
        if words and words[0] == "source":
            assert words == ["source", ".venv/bin/activate"]
            assert "\nVENV := .venv\n" in (ROOT / "Makefile").read_text()
            continue
        assert words[0] == "dpid"
        command(words)
        if not skipped(example):
            if words == ["dpid", "demo"]:
                out.write(example.namespace["demo"])
                continue
            sys.argv = words
            if words[1] == "explain" and not {"--samples", "--tolerance", "--time"} & {*words}:
                sys.argv += ["--samples", "8"]  # whose numbers no page shows
            with redirect_stdout(out):
                assert dpid.cli.run() == 0
    example.namespace["printed"] = out.getvalue()


def same(shown, printed):
    """Whether two texts differ in spaces and decimal numbers only, and the numbers hardly.

    Sums in another order and another machine's kernels change the last digits of float32; the picture of the demo, made
    in 25 steps, comes out the same but for a few levels of grey, which moves an information by a percent or so.
    """
    if NUMBER.sub("#", shown).split() != NUMBER.sub("#", printed).split():
        return False
    pairs = zip(NUMBER.findall(shown), NUMBER.findall(printed), strict=True)
    return all(math.isclose(float(a), float(b), rel_tol=0.05, abs_tol=0.05) for a, b in pairs)


def text(example):
    printed = example.namespace.pop("printed")
    if not same(example.parsed, printed):
        return f"the page shows\n{example.parsed}\nand the example prints\n{printed}"
    return None


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """The folder that ``dpid demo`` makes, and what it prints."""
    folder, out, errors = tmp_path_factory.mktemp("demo"), io.StringIO(), io.StringIO()
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(errors):
        patch.chdir(folder)
        patch.setattr(sys, "argv", ["dpid", "demo"])
        assert dpid.cli.run() == 0
    assert errors.getvalue() == ""
    return folder / "demo", out.getvalue()


def test_demo_makes_a_picture_and_explains_it(demo):
    folder, out = demo
    assert {p.name for p in folder.iterdir()} == {
        "report.html", "picture.png", "maps.png", "profile.png", "result.json", "result.safetensors",
        "words.json", "words.png", "words.safetensors",
    }  # fmt: skip
    with Image.open(folder / "picture.png") as picture:
        assert picture.size == (64, 64)
    words = json.loads((folder / "words.json").read_text())["words"]
    assert {word: found["verdict"] for word, found in words.items()} == {"cow": "used", "giraffe": "used"}
    for said in ("unique: giraffe", "iʳ", "iˢ"):
        assert said in out
    assert out.endswith("\nA page of all this: demo/report.html\n")
    with safe_open(folder / "result.safetensors", "pt") as f:
        assert {"maps/redundancy", "maps/unique/cow", "maps/stderr/synergy"} <= set(f.keys())


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_examples(page, request, tmp_path, monkeypatch):
    parsers = [CodeBlockParser(*p) for p in (("python", python), ("bash", shell), ("text", text))]
    document = Document.parse(str(page), *parsers)
    if "demo/" in document.text:  # which takes seconds to make
        made, document.namespace["demo"] = request.getfixturevalue("demo")
        shutil.copytree(made, tmp_path / "demo")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    # One precision on every machine: what "auto" chooses depends on the processor.
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with mock.patch.dict(MEASURES), mock.patch.dict(FAMILIES):  # which docs/extending.md adds to
        for example in document:
            example.evaluate()


def test_figures_are_those_of_the_ledger():
    for path, expected in measurements.pages().items():
        assert path.read_text(encoding="utf-8") == expected, f"run python benchmarks/measurements.py: {path.name}"


def test_equations_are_numbered_and_cited_by_number():
    found = [int(n) for n in re.findall(r"\\tag\{(\d+)\}", (ROOT / "docs" / "theory.md").read_text(encoding="utf-8"))]
    assert found == list(range(1, len(found) + 1))
    for path in MODULES:
        for cited in re.findall(r"theory\.md, eqs?\. \((\d+)\)", path.read_text(encoding="utf-8")):
            assert int(cited) in found, f"{path} cites eq. ({cited})"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 130


def test_links_between_pages_lead_somewhere():
    for page in [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
        for link in re.findall(r"\]\(([^)#]+?)(?:#[^)]*)?\)", prose):
            assert link.startswith("http") or (page.parent / link).exists(), f"{page.name}: {link}"
