"""The Triton kernels compile for GPUs, also where there is none and the interpreter runs them."""

import json
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

from dpid import triton_kernels

SCRIPT = Path(__file__).parent / "compile_kernels.py"
# They read what is next to nothing beside the maps, or pixels of one channel, four bytes a thread of neighbours.
NARROW = {"_group_norm_groups_kernel", "_accumulate_kernel", "_sum_kernel"}


def kernels() -> set[str]:
    """The names of all kernels that are launched."""
    modules = [import_module(f"{triton_kernels.__name__}.{m.name}") for m in iter_modules(triton_kernels.__path__)]
    return {name for module in modules for name in vars(module) if name.endswith("_kernel")}


@pytest.mark.parametrize(("architecture", "dtype"), [("80", "bfloat16"), ("89", "float32"), ("90", "float16")])
def test_every_kernel_compiles_reads_wide_and_spills_nothing(architecture, dtype, tmp_path):
    alone = {**os.environ, "TRITON_CACHE_DIR": str(tmp_path)}  # what an earlier version compiled is no answer
    ran = subprocess.run([sys.executable, SCRIPT, architecture, dtype], env=alone, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout)
    assert {kernel["kernel"] for kernel in found} == kernels()
    assert [kernel for kernel in found if kernel["local"]] == []
    assert {kernel["kernel"] for kernel in found if not kernel["wide"]} <= NARROW
