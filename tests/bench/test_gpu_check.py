"""The GPU check with programs that stand for Python, the sanitizer and the clock of its steps."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "gpu.sh"
PYTHON = """#!/bin/sh
case "$*" in *get_device_capability*) echo 90 ;; *force-reinstall*) exit ${BUILD:-0} ;; esac
"""
TIMEOUT = """#!/bin/sh
echo "$1" >>"$LIMITS"
shift
exec "$@"
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="a script for Linux")


@pytest.fixture
def check(tmp_path):
    """A function that runs the check: (its exit code, what it printed, the sum of the limits of its steps)."""
    stubs = {"python": PYTHON, "timeout": TIMEOUT, "compute-sanitizer": "#!/bin/sh\n", "nvidia-smi": "#!/bin/sh\n"}
    for name, text in stubs.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    limits = tmp_path / "limits"

    def run(*arguments, **more):
        limits.write_text("")
        changed = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHON": "python", "TMPDIR": str(tmp_path),
                   "LIMITS": str(limits), **more}  # fmt: skip
        done = subprocess.run(
            ["bash", SCRIPT, tmp_path / "out", *arguments], env=os.environ | changed, capture_output=True, text=True
        )
        return done.returncode, done.stdout, sum(map(int, limits.read_text().split()))

    return run


@pytest.mark.parametrize("part", ["kernels", "compile", "models", "autotune", "autotune-models"])
def test_every_part_ends_in_its_time(check, tmp_path, part):
    (tmp_path / "wheels").mkdir()
    code, printed, seconds = check(tmp_path / "wheels", part)
    assert code == 0, printed
    assert printed.startswith("wheels: exit 0")
    assert 120 < seconds <= 540
    assert (tmp_path / "out" / "summary.txt").read_text() == printed


def test_kernels_and_compile_on_one_machine_build_once(check, tmp_path):
    (tmp_path / "wheels").mkdir()
    first, second = (check(tmp_path / "wheels", part) for part in ("kernels", "compile"))
    assert "build: exit 0" in first[1]
    assert "build" not in second[1]
    assert first[2] + second[2] <= 800


def test_nothing_is_run_after_a_build_that_failed(check):
    for _ in range(2):
        code, printed, _ = check(BUILD="3")
        assert (code, printed.split(",")[0]) == (1, "build: exit 3")
        assert "tests" not in printed


def test_what_is_no_folder_of_wheels_is_refused(check):
    assert check("models")[:2] == (2, 'WHEELS: found models, expected a folder of wheels, or "" for none\n')
    parts = "kernels, compile, models, autotune or autotune-models"
    assert check("", "model")[:2] == (2, f"part: found model, expected {parts}\n")
