#!/usr/bin/env bash
# Builds the sdist, from it alone the wheel (without git or torch at hand; with CUDA where nvcc is), and runs the demo from
# the wheel in a fresh environment, where there is neither a compiler nor this repository.
#   bash .ci/wheel.sh OUT
set -euo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:?usage: wheel.sh OUT}")
export PATH=$PWD/.venv/bin:$PATH  # the tools of `make lint`
rm -rf "$OUT"
mkdir -p "$OUT/built" "$OUT/elsewhere"

DPID_WHEEL=1 python -m build --installer uv --outdir "$OUT/built" . >"$OUT/build.log" 2>&1 || { cat "$OUT/build.log"; exit 1; }
auditwheel repair --wheel-dir "$OUT" "$OUT"/built/*.whl
python - "$OUT"/*manylinux*.whl <<'PYTHON'
import os
import sys
import zipfile

megabytes = os.path.getsize(sys.argv[1]) / 1e6
folders = {name.split("/")[0] for name in zipfile.ZipFile(sys.argv[1]).namelist()}
print(f"{sys.argv[1]}: {megabytes:.1f} MB")
assert megabytes <= 80
assert all(f == "dpid" or f.endswith(".dist-info") for f in folders), f"{folders}: no library is copied in"
PYTHON

# torch by pip, whose configuration says which build of it this machine wants.
python -m venv "$OUT/venv"
"$OUT/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
uv pip install --quiet --python "$OUT/venv/bin/python" -c constraints.txt "$OUT"/*.whl
cd "$OUT/elsewhere"
alone=(env -i "HOME=$OUT" "PATH=$OUT/venv/bin" HF_HUB_OFFLINE=1)
"${alone[@]}" dpid demo --out demo
"${alone[@]}" dpid info
"${alone[@]}" python - <<'PYTHON'
import sys

from dpid.ops import native

runtimes = {line.split()[-1] for line in open("/proc/self/maps") if "gomp" in line}
assert native.__file__.startswith(sys.prefix), native.__file__
assert all("/torch" in path for path in runtimes), f"{runtimes}: torch's is to be the only one"
PYTHON
