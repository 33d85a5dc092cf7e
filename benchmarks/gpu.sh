#!/usr/bin/env bash
# The GPU check: build, test, sanitise and measure on a bare CUDA machine, without a network, within 9 minutes.
#   bash benchmarks/gpu.sh OUT [WHEELS] [kernels|models|autotune]
# "models" builds, and measures transformers of true size, the largest with 24 GB of weights; "autotune" builds, and measures
# the UNets beside diffusers under torch.compile's slowest mode.
# Needs nvcc, cmake, ninja, pybind11, scikit-build-core and what dpid[test] needs; WHEELS is a folder of wheels for what is
# missing there. Writes logs and ledger rows to OUT.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:?usage: gpu.sh OUT [WHEELS] [kernels|models|autotune]}")
WHEELS=${2:-}
PART=${3:-kernels}
case $PART in kernels | models | autotune) ;; *) echo "part: found $PART, expected kernels, models or autotune" && exit 2 ;; esac
mkdir -p "$OUT"
PYTHON=${PYTHON:-python3}
failed=0

# The limits of every part add up to 540 s.
step() { # name, seconds, command…
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$OUT/$name.log" 2>&1
  local code=$?
  echo "$name: exit $code, $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
  [ $code -eq 0 ] || { failed=1; tail -n 15 "$OUT/$name.log"; }
}

# The machine's own architecture alone: all of them would take minutes.
ARCH=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
nvidia-smi >"$OUT/machine.txt" 2>&1
"$PYTHON" -m torch.utils.collect_env >>"$OUT/machine.txt" 2>&1

PIP=("$PYTHON" -m pip install --no-index --no-build-isolation)
[ -n "$WHEELS" ] && step wheels 20 "${PIP[@]}" --no-deps "$WHEELS"/*.whl
step build 100 "${PIP[@]}" --no-deps --force-reinstall . -C cmake.define.DPID_CUDA=ON \
  -C cmake.define.CMAKE_CUDA_ARCHITECTURES="$ARCH"

# From another folder, so that the installed package is imported.
ROOT=$PWD
cd "$OUT" || exit 1

kernels() {
  local test=("$PYTHON" -m pytest -q -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -p no:cacheprovider -p no:benchmark)
  "$PYTHON" -c 'import xdist' 2>/dev/null && test+=(-n 8)
  step tests 100 env OMP_NUM_THREADS=2 "${test[@]}" "$ROOT"/tests/{ops,denoisers,estimation,test_cuda.py,test_explainer.py}
  for tool in memcheck racecheck; do
    step "$tool" 30 compute-sanitizer --tool "$tool" --error-exitcode 1 "$PYTHON" "$ROOT/benchmarks/gpu_smoke.py"
  done
  step bench_ops 60 "$PYTHON" "$ROOT/benchmarks/bench_ops.py" --budget 0.3
  step unet-emoji 30 "${UNET[@]}" emoji
  step unet-sd2.1 80 "${UNET[@]}" sd2.1 --compile default
  step unet-sdxl 90 "${UNET[@]}" sdxl --side 128 --compile default
}

models() {
  local dit=("$PYTHON" "$ROOT/benchmarks/bench_transformers.py" --rounds 2 --compile --model)
  step sd3.5-512 60 "${dit[@]}" "Stable Diffusion 3.5 medium" --samples 8 --side 512
  step sd3.5-1024 70 "${dit[@]}" "Stable Diffusion 3.5 medium" --samples 8
  step sana-512 40 "${dit[@]}" "Sana 1.6B" --samples 8 --side 512
  step sana-1024 50 "${dit[@]}" "Sana 1.6B" --samples 8
  step flux-512 80 "${dit[@]}" "Flux.1 dev" --samples 4 --side 512
  step flux-1024 120 "${dit[@]}" "Flux.1 dev" --samples 4
}

autotune() {
  step unet-sd2.1-autotune 210 "${UNET[@]}" sd2.1 --compile max-autotune-no-cudagraphs
  step unet-sdxl-autotune 210 "${UNET[@]}" sdxl --side 128 --compile max-autotune-no-cudagraphs
}

# At native sizes, beside what a user of diffusers has: its UNet under torch.compile.
UNET=("$PYTHON" "$ROOT/benchmarks/bench_unet.py" --precision float16 --rounds 2 --model)
"$PART"
cp "$ROOT/benchmarks/results.csv" "$OUT/results.csv" 2>/dev/null
exit $failed
