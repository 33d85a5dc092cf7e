"""The options of an explanation, as the command line has them."""

import inspect
import subprocess
import sys
from dataclasses import fields

import pytest

from dpid.cli.explain import explain
from dpid.options import Options

OFFERED = {option.name: option for option in fields(Options) if option.metadata["flag"]}
VALUES = {"reference": "prompt", "estimator": "standard", "measure": "ppid", "priors": "uniform", "level": "pixel",
          "smooth": 1, "tolerance": 0.5, "seed": 3}  # fmt: skip


def test_every_option_with_a_flag_has_its_default():
    parameters = inspect.signature(explain).parameters
    assert {name: parameters[name].default for name in OFFERED} == {name: o.default for name, o in OFFERED.items()}


def test_help_describes_every_option(command):
    code, out, err = command("explain", "--help")
    assert (code, err) == (0, "")
    for name in OFFERED:
        assert f"--{name}" in out


def test_what_is_given_reaches_the_explainer(command, monkeypatch, two_things):
    """``--samples`` is the number of samples, of one round, or the most of them beside ``--tolerance``."""
    path, prompt, concepts = two_things
    asked = []

    class Asked:
        def stream(self, *_, progress, **options):
            asked.append(Options.from_keywords(options))
            raise ValueError("enough: asked")

    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", lambda *_, **__: Asked())

    def options(*given):
        code, _, err = command("explain", path, prompt, "-c", concepts[0], "-c", concepts[1], *given)
        assert (code, err) == (2, "dpid: enough: asked\n")
        return asked.pop()

    assert options() == Options(max_samples=32)
    assert options("--samples", 8) == Options(samples=8, max_samples=8)
    assert options("--tolerance", 0.5) == Options(tolerance=0.5, samples=32, max_samples=1024)
    assert options("--tolerance", 0.5, "--samples", 8) == Options(tolerance=0.5, samples=8, max_samples=8)
    assert options("--tolerance", 0.5, "--samples", 64) == Options(tolerance=0.5, samples=32, max_samples=64)
    assert {*VALUES, "context"} == {*OFFERED}
    given = [word for name, value in VALUES.items() for word in (f"--{name}", value)]
    assert options(*given, "--context") == Options(**VALUES, context=True)


def test_help_breaks_lines_for_the_terminal_alone(command, monkeypatch):
    monkeypatch.setenv("COLUMNS", "300")
    code, out, _ = command("study", "--help")
    assert code == 0
    assert any("retrieval need --data. Rows of the data that cannot be used" in line for line in out.splitlines())


def test_help_does_not_wait_for_large_packages():
    line = "import sys, dpid.cli; print({'torch', 'diffusers', 'matplotlib'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", line], capture_output=True, text=True).stdout == "set()\n"


@pytest.mark.parametrize("name", ["rank", "app", "bench"])
def test_other_commands_load_a_model_as_explain_does(command, bad, monkeypatch, free_port, name):
    if name == "app":
        pytest.importorskip("gradio")
    asked = {}

    def from_pretrained(model, **given):
        asked.update(given)
        raise ValueError("model: none here")

    monkeypatch.setattr("dpid.explainer.Explainer.from_pretrained", from_pretrained)
    own = {"rank": ("a cow", bad / "good.png"), "app": ("--port", free_port()), "bench": ()}[name]
    flags = "--subfolder", "a", "--precision", "float32", "--size", 512, "--no-check"
    assert command(name, *own, *flags) == (2, "", "dpid: model: none here\n")
    given = {"subfolder": "a", "precision": "float32", "size": 512, "check": False}
    assert {option: value for option, value in asked.items() if value is not None} == given
