"""The list of models that can be explained."""

import json
import re
import socket
import sys

import pytest

import dpid.cli.models
from dpid.denoisers.families import FAMILIES


def test_every_family_is_listed_without_a_download(command, monkeypatch):
    def refuse(*_):
        raise AssertionError("a connection is opened")

    monkeypatch.setenv("COLUMNS", "240")
    monkeypatch.setattr(socket.socket, "connect", refuse)
    code, out, errors = command("models")
    assert (code, errors) == (0, "")
    listed = set(re.findall(r"\w+Pipeline", out))
    own = {family for family in FAMILIES.values() if family.__module__.startswith("dpid.")}
    # What a ControlNet controls is one of the networks that are listed.
    own = {family for family in own if not all("ControlNet" in name for name in family.pipelines)}
    assert [family.__name__ for family in own if not listed & set(family.pipelines)] == []
    assert listed <= set(FAMILIES)


def test_a_terminal_of_80_columns_and_more_breaks_no_word(command, monkeypatch):
    def words(columns):
        monkeypatch.setenv("COLUMNS", str(columns))
        out = command("models")[1]
        assert max(map(len, out.splitlines())) <= columns
        assert "e+03" not in out
        return set(re.findall(r"[\w.²]+", out))

    whole = words(400)
    assert {"StableDiffusionXLPipeline", "distilled", "H200"} <= whole
    for columns in (80, 120, 160, 200):
        found = words(columns)
        assert found <= whole
        assert whole - found <= {"pipeline", "no"}  # the name of a column, and of models that are not distilled


@pytest.mark.parametrize("columns", [80, 240])
def test_what_the_table_of_the_documentation_has_is_printed(command, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))
    _, out, _ = command("models")
    printed = set(re.findall(r"[\d.]+", out))
    for model in json.loads(dpid.cli.models._FIGURES.read_text(encoding="utf-8"))["models"]:
        assert {f"{model[name]:.3g}" for name in ("parameters", "small", "bfloat16")} <= printed
        assert model["saved"] is None or f"{100 * model['saved']:.1f}" in printed


def test_pipelines_that_the_installed_library_lacks_are_marked(command, monkeypatch, tmp_path):
    (tmp_path / "diffusers").mkdir()
    (tmp_path / "diffusers/__init__.py").write_text('_import_structure = {"pipelines": ["FluxPipeline"]}')
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "diffusers", raising=False)
    monkeypatch.setenv("COLUMNS", "240")
    _, out, _ = command("models")
    marked = {line.split(",")[0].strip("│ "): "not in diffusers" in line for line in out.splitlines() if "²" in line}
    assert not marked["Flux.1 dev"]
    assert marked["CogView4"]
