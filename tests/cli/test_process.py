"""Streams of any kind, and a line for whatever is raised."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from dpid.errors import told

QUICK = ("noisy.png", "a cow and a giraffe", "-c", "cow", "-c", "giraffe", "--samples", "8")
FILES = {"result.json", "result.safetensors", "maps.png", "profile.png"}


@pytest.mark.parametrize(
    ("streams", "environment"),
    [
        ("", {"PYTHONIOENCODING": "ascii:strict", "COLUMNS": "0", "MPLBACKEND": "module://no.such_backend"}),
        ("2>&-", {"PYTHONIOENCODING": "cp1252:strict", "COLUMNS": "3", "TERM": "dumb"}),
        (
            "2> /dev/full",
            {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0", "COLUMNS": "many", "NO_COLOR": "1"},
        ),
        (">&-", {}), (">&- 2>&- <&-", {}), ("> /dev/full", {}), ("| true", {}),
    ],
)  # fmt: skip
def test_streams_of_any_kind(entry, bad, tmp_path, streams, environment):
    """What was computed is written whoever listens, and printed where anybody does.

    Letters that a code page lacks are replaced, and a terminal of no width shows the numbers all the same.
    """
    line = f'set -o pipefail; exec 3>&2; "$@" {streams}'
    done = subprocess.run(
        ["bash", "-c", line, "bash", *entry, "explain", *QUICK, "--out", str(tmp_path)],
        capture_output=True, text=True, errors="replace", cwd=bad, env=os.environ | environment,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert {p.name for p in tmp_path.iterdir()} == FILES
    warned = "dpid: warning: the table could not be printed: [Errno 28]"
    assert done.stderr[: len(warned)] == (warned if streams == "> /dev/full" else "")
    assert done.stderr.count("\n") <= 1
    if environment:
        value = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))["synergy"]["value"]
        assert f"{value:.2f}" in next(line for line in done.stdout.splitlines() if "synergy" in line)


class Odd(Exception):
    """What nobody expects."""


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (ValueError("samples: found 0"), 2, "samples: found 0"),
        (TypeError("prompt, concepts: found\n 3"), 2, "prompt, concepts: found 3"),
        (FloatingPointError("denoiser: returned NaN"), 2, "denoiser: returned NaN"),
        (RuntimeError("studies: they need pyarrow"), 2, "studies: they need pyarrow"),
        (OSError(28, "No space left on device"), 2, "[Errno 28] No space left on device"),
        (MemoryError(), 2, "not enough memory; give a smaller --size, fewer --frames"),
        (RuntimeError("CUDA out of memory. Tried"), 2, "not enough memory (CUDA out of memory. Tried); give"),
        (RuntimeError("[enforce fail] can't allocate memory: 9 bytes"), 2, "not enough memory ([enforce fail]"),
        (DeprecationWarning("old"), 2, "DeprecationWarning: old (a warning that -W"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (BrokenPipeError(32, "Broken pipe"), 0, ""),
        (ValueError("too many values to unpack (expected 2)"), 1, "ValueError: too many values to unpack"),
        (ValueError("could not convert string to float: 'a'"), 1, "ValueError: could not"),
        (TypeError("unsupported operand type(s) for +: 'int' and 'str'"), 1, "TypeError: unsupported"),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied (1x2 and 3x4)"), 1, "RuntimeError: mat1"),
        (RecursionError("maximum recursion depth exceeded"), 1, "RecursionError: maximum"),
        (NotImplementedError(), 1, "NotImplementedError; this is a fault of dpid"),
        (AttributeError("x"), 1, "AttributeError: x; "), (KeyError("x"), 1, "KeyError: 'x'; "),
        (AssertionError(), 1, "AssertionError; this"), (EOFError("x"), 1, "EOFError: x; "),
        (StopIteration(), 1, "StopIteration; "),
        (UnicodeEncodeError("utf-8", "x", 0, 1, "no"), 1, "UnicodeEncodeError: 'utf-8' codec"),
        (Odd("x\ny"), 1, "Odd: x y; this is a fault of dpid; please report it with the command, "),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)  # fmt: skip
def test_whatever_is_raised_becomes_a_line(command, monkeypatch, error, code, line):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("dpid.denoisers.loading.embedded_path", fail)
    found, out, err = command("info")
    assert found == code
    assert out == ""
    err = err.lstrip()  # click ends the line on which a terminal shows ^C
    assert err.startswith(f"dpid: {line}" if line else "")
    assert err.count("\n") == bool(line)
    if code == 1:
        assert err.rstrip().endswith("with the command, its output with --debug, and that of dpid info")
        assert "Traceback" in command("info", "--debug")[2]
        assert "Traceback" in command("--debug", "info")[2]


def test_a_report_has_what_the_template_asks_for():
    template = Path(__file__).parents[2] / ".github/ISSUE_TEMPLATE/unexpected-error.md"  # which is not installed
    asked, line = template.read_text(encoding="utf-8"), told(KeyError())[0]
    assert all(part in asked and part in line for part in ("the command", "--debug", "dpid info"))
    assert template.name not in line


def test_debug_is_a_word_after_a_double_dash(command):
    code, _, err = command("explain", "none.png", "-c", "a", "-c", "b", "--", "--debug")
    assert code == 2
    assert "Traceback" not in err


@pytest.mark.parametrize(("given", "kept"), [({}, "PASSIVE"), ({"OMP_WAIT_POLICY": "ACTIVE"}, "ACTIVE")])
def test_threads_wait_without_spinning_unless_the_user_says_so(given, kept):
    line = "import os; from dpid.cli.process import prepare; prepare(); print(os.environ['OMP_WAIT_POLICY'])"
    others = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    done = subprocess.run([sys.executable, "-c", line], capture_output=True, text=True, env=others | given)
    assert done.stdout.strip() == kept
