"""Compiles the Triton kernels for a GPU that need not be there: ``python compile_kernels.py 90 float16``.

Every op is called on tensors of Stable Diffusion's shapes, and its launches compile the kernel and go no further.
Prints JSON, a list of {"kernel": its name, "wide": whether it reads 16 bytes at once, "local": bytes of local memory of
a thread, which are spilled registers}.
"""

import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace

os.environ.pop("TRITON_INTERPRET", None)  # which is read when the kernels are decorated

import torch
import triton
from triton.backends.compiler import GPUTarget
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from dpid.ops import triton as kernels

OBJDUMP = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
WIDE = re.compile(r"ld\.global\.[\w:.]*v4\.b32")


def pretend(architecture: int) -> list[tuple[str, object]]:
    """(name, compiled kernel) of every launch from now on; ``architecture`` 90 is compute capability 9.0."""
    compiled, run = [], JITFunction.run

    def compile_only(self, *args, grid, warmup, **options):
        compiled.append((self.__name__, run(self, *args, grid=grid, warmup=True, **options)))

    JITFunction.run = compile_only
    target = GPUTarget("cuda", architecture, 32)
    driver.set_active(
        SimpleNamespace(
            get_current_device=lambda: 0, get_current_stream=lambda device: 0, get_current_target=lambda: target,
            get_active_torch_device=lambda: torch.device("cpu"),
        )
    )  # fmt: skip
    return compiled


def call_all(dtype: torch.dtype) -> None:
    """Call every op in ``dtype``, with and without what may be left out."""

    def x(*shape):
        return torch.empty(shape, dtype=dtype)

    n, k, pairs, b, c, side = 4, 3, 2, 2, 4, 64
    maps, weights = x(4, 320, 8, 8), (x(320), x(320))
    kernels.layer_norm(x(4, 64, 320), *weights, 1e-5)
    kernels.add_layer_norm(x(4, 64, 1280), x(2, 64, 1280), x(1280), x(1280), 1e-5)
    kernels.geglu(x(4, 64, 2560))
    kernels.add_maps(maps, maps, None)
    kernels.add_maps(maps, None, x(320))
    kernels.add_maps(maps, x(2, 320, 8, 8), x(320))
    kernels.group_norm_silu(maps, 32, *weights, 1e-5, False)
    kernels.group_norm_silu(maps, 32, *weights, 1e-5, True, x(2, 320))
    kernels.group_norm_silu(maps, 32, torch.empty(320), torch.empty(320), 1e-5, True)
    kernels.group_norm_silu(maps, 32, x(640), x(640), 1e-5, True, None, maps)
    index = torch.zeros(n, dtype=torch.int64)
    kernels.noisy_channel(x(b, c, side, side), torch.zeros(n), index, 7)
    gaps, residuals = torch.zeros(1, pairs, b, side, side), torch.zeros(1, k, b, side, side)
    between = torch.zeros(pairs, 2, dtype=torch.int64)
    kernels.accumulate(gaps, residuals, x(n, k, b, c, side, side), torch.ones(n), index, between, index, 7)


def local_memory(binary: bytes) -> int:
    """Bytes of local memory that a thread of a compiled kernel needs."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(binary)
        file.flush()
        said = subprocess.run([OBJDUMP, "-res-usage", file.name], check=True, capture_output=True, text=True).stdout
    return sum(int(n) for n in re.findall(r"(?:STACK|LOCAL):(\d+)", said))


def main(architecture: str, dtype: str) -> None:
    """Compile all, and print what was found."""
    compiled = pretend(int(architecture))
    call_all(getattr(torch, dtype))
    found = [
        {"kernel": name, "wide": bool(WIDE.search(kernel.asm["ptx"])), "local": local_memory(kernel.asm["cubin"])}
        for name, kernel in compiled
    ]
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
