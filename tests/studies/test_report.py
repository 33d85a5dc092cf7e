"""Files of a study and the page of all studies, read back."""

import base64
import csv
import io
import json
import os
import re
import sys

import pyarrow.parquet
import pytest
from html_page import Page
from matplotlib.figure import Figure
from PIL import Image

from dpid.report.page import number
from dpid.studies.report import ROWS, write_study
from dpid.studies.study import entry


def figure():
    drawn = Figure(figsize=(2, 1))
    drawn.subplots().plot([0, 1], [1, 0])
    return drawn


def page_of(out):
    return Page((out / "report.html").read_text(encoding="utf-8"))


@pytest.fixture
def write(tmp_path):
    """Writes a study with what a test changes of it."""

    def call(study="one", **changes):
        what = {"about": "Why.", "finding": "So.", "summary": {}, "tables": {}, "figures": {}, **changes}
        write_study(tmp_path, study, **{"title": study} | what)
        return tmp_path

    return call


@pytest.mark.parametrize(
    ("value", "stderr", "text"),
    [
        (0.93412, 0.0212, "0.93 ± 0.02"), (0.93412, 0.0123, "0.934 ± 0.012"), (-3.14159, 0.5, "-3.1 ± 0.5"),
        (1234.5, 33.0, "1234 ± 33"), (7, 1.0, "7.0 ± 1.0"), (2.0, 1e-5, "2.000000 ± 0.000010"), (1.0, 0.0, "1 ± 0"),
        (0.123456, None, "0.1235"), (12, None, "12"), (None, None, "–"), (None, 0.1, "–"), (True, None, "yes"),
        ("cow", None, "cow"), (["cow", 1], None, '["cow", 1]'),
    ],
)  # fmt: skip
def test_numbers(value, stderr, text):
    assert number(value, stderr) == text


def test_tables_come_back_from_both_formats(write):
    rows = [{"picture": "a.png", "n": 3, "auc": 0.1 + 0.2}, {"picture": 'b,"c".png', "auc": None, "late": True}]
    out = write(tables={"rows": rows})
    read = pyarrow.parquet.read_table(out / "one" / "rows.parquet").to_pylist()
    assert read == [{"picture": "a.png", "n": 3, "auc": 0.1 + 0.2, "late": None},
                    {"picture": 'b,"c".png', "n": None, "auc": None, "late": True}]  # fmt: skip
    with (out / "one" / "rows.csv").open(newline="") as file:
        cells = list(csv.reader(file))
    assert cells[0] == ["picture", "n", "auc", "late"]
    assert cells[1][0] == "a.png"
    assert float(cells[1][2]) == 0.1 + 0.2  # every digit
    assert cells[2][0] == 'b,"c".png'


def test_summary(write):
    summary = {
        "ours": entry(0.9, 0.02), "DAAM": entry(0.8, 0.5, [0.1, 0.9], 7, "≥ 0.5"), "none": entry(None, n=0),
        "left out": ["cow.png", "dog.png"], "made with": "--seed 3",
    }  # fmt: skip
    out = write(title="Title", about="One.\n\nTwo.", summary=summary)
    content = json.loads((out / "one" / "summary.json").read_text())
    assert content["summary"] == summary
    page = page_of(out)
    assert page.texts["th"] == ["number", "value", "95 % interval", "measurements", "target"]
    assert page.texts["td"] == [
        "ours", "0.90 ± 0.02", "DAAM", "0.8 ± 0.5", "0.1 to 0.9", "7", "≥ 0.5", "none", "–", "0",
    ]  # fmt: skip
    facts = dict(zip(page.texts["dt"], page.texts["dd"], strict=True))
    assert facts == {"left out": "cow.png, dog.png", "made with": "--seed 3"}
    assert {"One.", "Two."} <= set(page.texts["p"])


def test_a_study_begins_with_what_was_found_and_one_figure(write):
    rows = [{"a": 1}]
    out = write(finding="It is so: 0.9 [0.8, 1.0].", summary={"n": entry(1)}, tables={"t": rows},
                figures={"First": figure(), "Second": figure()})  # fmt: skip
    page = (out / "report.html").read_text()
    assert page_of(out).texts["p"][:2] == ["It is so: 0.9 [0.8, 1.0]."] * 2  # in the list of studies, and in its own
    seen = re.sub("<details>.*?</details>", "", page, flags=re.DOTALL)
    assert "First" in seen
    for folded in ("Second", "Why.", "<table>"):
        assert folded in page
        assert folded not in seen


def test_the_page_shows_numbers_with_errors_and_the_first_rows(write):
    rows = [
        {"word": f"w{i}", "auc": None if i == 0 else 0.5, "auc_stderr": 0.02, "lone_stderr": 1.5} for i in range(150)
    ]
    out = write(tables={"scores": rows})
    page = page_of(out)
    assert page.texts["th"] == ["word", "auc", "lone_stderr"]
    assert len(page.texts["td"]) == 3 * ROWS
    assert page.texts["td"][:6] == ["w0", "–", "1.5", "w1", "0.50 ± 0.02", "1.5"]
    assert [a.get("class") for a in page.all("td")[:3]] == [None, "n", "n"]
    assert "The first 100 of 150 rows" in " ".join(page.texts["p"])
    links = [a["href"] for a in page.all("a") if not a["href"].startswith("#")]
    assert links == ["one/scores.csv", "one/scores.parquet"]
    assert all((out / link).is_file() for link in links)


def test_figures_are_in_the_page_itself(write):
    out = write(figures={"A line": figure(), "Another": figure()})
    page = page_of(out)
    assert [i["alt"] for i in page.all("img")] == page.texts["figcaption"] == ["A line", "Another"]
    for i, image in enumerate(page.all("img"), 1):
        kind, data = image["src"].split(",")
        assert kind == "data:image/png;base64"
        raw = base64.b64decode(data)
        assert raw == (out / "one" / f"figure-{i}.png").read_bytes()
        assert Image.open(io.BytesIO(raw)).size == (200, 100)


def test_the_page_is_for_phones_and_needs_nothing_else(write):
    out = write(tables={"t": [{"a": 1}]}, figures={"f": figure()})
    text, page = (out / "report.html").read_text(), page_of(out)
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.all("meta")
    assert "prefers-color-scheme: dark" in text
    assert {a.get("class") for a in page.all("div")} >= {"scroll"}
    assert "http" not in text
    assert not {"script", "link", "iframe"} & {tag for tag, _ in page.elements}


def test_one_page_of_all_studies_in_their_order(write):
    write("zebra", title="Zebras")
    write("ant", title="Ants")
    write("zebra", title="Zebras again")
    out = write("bee", title="Bees & <b>co</b>")
    page = page_of(out)
    assert page.texts["h2"] == ["Zebras again", "Ants", "Bees & <b>co</b>"]
    assert [a["href"] for a in page.all("a")] == ["#zebra", "#ant", "#bee"]
    assert [a["id"] for a in page.all("section")] == ["zebra", "ant", "bee"]
    assert page.texts["a"] == page.texts["h2"]


def test_markup_in_names_is_text(write):
    evil = "<script>alert(1)</script>"
    out = write(about=evil, summary={evil: evil}, tables={"t": [{evil: evil}]}, figures={evil + '"': figure()})
    page = page_of(out)
    assert not page.all("script")
    assert page.texts["td"] == page.texts["th"] == page.texts["dt"] == [evil]


def test_nothing_is_half_written(write, monkeypatch):
    out = write(summary={"n": entry(1)}, figures={"f": figure()})
    before = {p: p.read_bytes() for p in out.rglob("*") if p.is_file()}
    broken = figure()

    def fail(file, **_):
        file.write_bytes(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(broken, "savefig", fail)
    with pytest.raises(OSError, match="disk full"):
        write(summary={"n": entry(2)}, figures={"f": broken})
    assert {p: p.read_bytes() for p in before} == before
    write(summary={"n": entry(2)}, figures={"f": figure()})
    assert not [p for p in out.rglob("*") if "partial" in p.name]


def test_a_figure_that_cannot_be_drawn_is_left_out(write, caplog):
    broken = figure()
    broken.suptitle("$\\nosuch$")  # a formula that is none
    out = write(summary={"n": entry(1)}, figures={"broken": broken, "whole": figure()})
    assert page_of(out).texts["figcaption"] == ["whole"]
    assert sorted(p.name for p in (out / "one").iterdir()) == ["figure-2.png", "summary.json"]
    assert "figure-1.png could not be drawn" in caplog.text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"summary": {"a": {"value": 1.0, "stderr": float("inf")}}}, r"summary: a\.stderr: found inf"),
        ({"tables": {"t": [{"a": 1.0}, {"a": float("nan")}]}}, r"tables: t\[1\]\.a: found nan"),
    ],
)
def test_refusals_write_nothing(write, tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        write(**changes)
    assert os.listdir(tmp_path) == []


def test_needs_its_extra(write, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RuntimeError, match=r"pip install \"dpid\[studies\]\""):
        write()
