"""The command ``dpid study``: its files, its notes on rows that are left out, its one-line errors."""

import json
from functools import partial

import pytest

from dpid.studies import STUDIES
from dpid.studies.runner import Entry
from dpid.studies.study import Study

pytestmark = pytest.mark.usefixtures("fewer")


@pytest.fixture
def command(command):
    """Runs ``dpid study`` in a folder of its own: (exit code, output, errors)."""
    return partial(command, "study")


def test_command(command, tmp_path):
    arguments = ("retrieval", "--pictures", 2, "--samples", 8, "--out", "made")
    code, out, err = command(*arguments)
    assert code == 0, err
    assert "retrieval: written" in out
    assert (tmp_path / "made/report.html").is_file()
    assert "was there already" in command(*arguments)[1]


def test_a_terminal_has_the_bar_and_a_pipe_the_lines(command, monkeypatch):
    """Each in one piece, however long."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # which rich takes for a terminal
    monkeypatch.setenv("COLUMNS", "80")
    out = "of-synonyms-" * 8
    code, lines, err = command("synonyms", "--pictures", 1, "--samples", 8, "--out", out)
    assert code == 0, err
    assert lines == f"synonyms: written: {out}/synonyms\n{out}/report.html\n"
    assert "1/1" in err
    assert "written" not in err


def test_command_names_bad_rows_and_goes_on(command, own, tmp_path):
    (tmp_path / "data.csv").write_text(
        f"image,true,false\n{own[0].image},a cow and a giraffe,a dog\nnone.png,a cow,a dog\n"
    )
    code, _, err = command("retrieval", "--data", "data.csv", "--samples", 8)
    assert code == 0, err
    assert "row 3, column image: none.png does not exist" in " ".join(err.split())


def test_command_names_rows_that_the_model_cannot_use(command, own, tmp_path):
    image = own[0].image
    rows = f"{image},a cow and a unicorn,cow;unicorn\n{image},a cow and a giraffe,cow;giraffe\n"
    (tmp_path / "data.csv").write_text("image,prompt,concepts\n" + rows)
    code, out, err = command("features", "--data", "data.csv", "--samples", 8)
    assert code == 0, err
    assert err.startswith("note: data.csv: row 2, column prompt: this model does not know 'unicorn'")
    assert err.count("\n") == 1
    assert "features: written" in out
    summary = json.loads((tmp_path / "report/features/summary.json").read_text())["summary"]
    (left_out,) = summary["left out"]
    assert left_out.startswith("row 2, column prompt: this model does not know 'unicorn'")
    assert "row 2, column prompt" in (tmp_path / "report/report.html").read_text()
    (tmp_path / "data.csv").write_text("image,prompt,concepts\n" + rows.splitlines()[0])
    code, out, err = command("features", "--data", "data.csv", "--samples", 8, "--out", "none")
    assert code == 2
    assert [line[:20] for line in err.splitlines()] == ["note: data.csv: row ", "dpid: data: no row c"]
    assert not (tmp_path / "none").exists()


def test_command_loads_a_model_as_explain_does(command, monkeypatch):
    asked = {}

    def load(model, **given):
        asked.update(given, model=model)
        raise ValueError("model: none here")

    monkeypatch.setattr("dpid.studies.workbench.load_pipeline", load)
    flags = "--variant", "fp16", "--subfolder", "a", "--device", "cpu", "--precision", "float32", "--no-check"
    assert command("synonyms", "--model", "./mine", *flags) == (2, "", "dpid: model: none here\n")
    assert asked == {"model": "./mine", "variant": "fp16", "subfolder": "a", "device": "cpu"}


def test_all_leaves_out_by_name_what_needs_data(command, monkeypatch, tiny):
    pipe = tiny()
    monkeypatch.setattr("dpid.studies.workbench.load_pipeline", lambda *_, **__: pipe)
    rows = {"table": [{"picture": "one"}]}
    listed = {name: Entry(name, lambda bench, name=name: Study(name, rows)) for name in ("features", "complex-prompts")}
    monkeypatch.setattr("dpid.studies.runner.STUDIES", STUDIES | listed)
    monkeypatch.setattr("dpid.cli.study._names", lambda *_: [*listed, "localisation", "retrieval"])
    code, out, err = command("all", "--model", "./mine")
    assert code == 0, err
    assert [line.partition(":")[0] for line in out.splitlines()] == [*listed, "report/report.html"]
    told = [line for line in err.splitlines() if line.startswith(("note: ", "dpid: "))]  # libraries speak, too
    assert told == ["note: localisation and retrieval need --data with this model; they are left out"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("biases",), "name: found 'biases'"),
        (("all", "--data", "bad.csv"), "data: found with all"),
        (("retrieval", "--data", "nowhere.csv"), "data: nowhere.csv is not a file"),
        (("retrieval", "--data", "bad.csv"), "has no row that can be used"),
        (("bias", "--data", "bad.csv"), "dpid: data: bad.csv has no column prompt, concepts; its first row is "),
        (("retrieval", "--data", "bad.txt"), "dpid: data: bad.txt is not JSON ("),
        (("bias", "--data", "bad.txt", "--images", "."), "dpid: data: bad.txt is not JSON ("),
        (("bias", "--pictures", "0"), "pictures: found 0"),
        (("bias", "--samples", "0"), "samples: found 0"),
        (("bias", "--model", "./nowhere"), "nowhere is not a folder"),
        (("localisation", "--model", "./nowhere"), "localisation needs pictures with masks"),
    ],
)
def test_command_refuses_in_a_line(command, tmp_path, arguments, message):
    for name in ("bad.csv", "bad.txt"):
        (tmp_path / name).write_text("image,true,false\nnone.png,a cow,a dog\n")
    code, out, err = command(*arguments, "--out", "bad")
    assert code == 2
    assert message in err
    assert err.splitlines()[-1].startswith("dpid: ")
    assert out == ""
    assert not (tmp_path / "bad").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "data: instances.json is JSON, which is read as COCO's with --images or --captions; expected CSV"),
        (("--images", "val2O17"), "images: val2O17 is not a folder"),
    ],
)
def test_command_names_the_wrong_option_in_a_line(command, tmp_path, options, message):
    (tmp_path / "instances.json").write_text(json.dumps({"images": [{"file_name": "0.jpg"}] * 5000}))
    code, _, err = command("localisation", "--data", "instances.json", *options)
    assert (code, err) == (2, f"dpid: {message}\n")
