#!/usr/bin/env bash
# The GPU check on a bare CUDA machine, without a network.
#   bash benchmarks/gpu.sh OUT [WHEELS] [kernels|compile|models|autotune|autotune-models]
# Parts, each within 540 s:
#   kernels   the tests of the ops, networks, engine and explainer, not all; compute-sanitizer; the ops beside
#             torch.compile; latencies and batches of the embedded model; the UNets' first explanation of a process, their
#             speed beside diffusers' batches and ITD's loop, and their rounding
#   compile   the UNets beside diffusers' batches under torch.compile, then under it themselves
#   models    transformers of true size, the largest with 24 GB of weights, beside a loop, both under torch.compile, too
#   autotune  the UNets beside diffusers' batches under torch.compile's slowest mode
#   autotune-models  the loop of the transformers under it
# Memcheck runs all kernels, racecheck those of CUDA alone: under it Triton takes too long to compile its own.
# Each builds first, unless what is installed on the machine was built of these sources. So "kernels" and then "compile" on
# the same machine take 800 s at most, which with its start fits 15 minutes.
# Needs nvcc, cmake, ninja, pybind11, scikit-build-core and what dpid[test] needs; WHEELS is a folder of wheels for what is
# missing there, or "". Writes ledger rows, a summary and the logs, as one file, to OUT; DPID_COMMIT names the sources
# without git.
set -uo pipefail
cd "$(dirname "$0")/.."
OUT=$(realpath -m "${1:?usage: gpu.sh OUT [WHEELS] [kernels|compile|models|autotune|autotune-models]}")
WHEELS=${2:-}
PART=${3:-kernels}
ROOT=$PWD
if [ -n "$WHEELS" ] && [ ! -d "$WHEELS" ]; then
  echo "WHEELS: found $WHEELS, expected a folder of wheels, or \"\" for none" && exit 2
fi
case $PART in
  kernels | compile | models | autotune | autotune-models) ;;
  *) echo "part: found $PART, expected kernels, compile, models, autotune or autotune-models" && exit 2 ;;
esac
mkdir -p "$OUT"
LOGS=$(mktemp -d)
PYTHON=${PYTHON:-python3}
failed=0

step() { # name, seconds, command…
  local name=$1 limit=$2 began=$SECONDS
  shift 2
  timeout "$limit" "$@" >"$LOGS/$name.log" 2>&1
  local code=$?
  echo "$name: exit $code, $((SECONDS - began)) s" | tee -a "$OUT/summary.txt"
  [ $code -eq 0 ] || { failed=1; tail -n 15 "$LOGS/$name.log"; }
  tar -C "$LOGS" -czf "$OUT/logs.tar.gz" .
  cp "$ROOT/benchmarks/results.csv" "$OUT/results.csv"  # so far: the machine may be gone before the end
  return $code
}

# The machine's own architecture alone: all of them would take minutes.
ARCH=$("$PYTHON" -c 'import torch; print("%d%d" % torch.cuda.get_device_capability())') || exit 1
nvidia-smi >"$OUT/machine.txt" 2>&1

SOURCES=$(find csrc dpid triton_kernels CMakeLists.txt pyproject.toml -type f ! -name '*.pyc' -exec sha256sum {} +)
HASH=$(sort <<<"$SOURCES" | sha256sum)
BUILT=${TMPDIR:-/tmp}/dpid-built  # has the hash of what is installed
if [ "$(cat "$BUILT" 2>/dev/null)" != "$HASH" ]; then
  rm -f "$BUILT"
  PIP=("$PYTHON" -m pip install --no-index --no-build-isolation)
  [ -z "$WHEELS" ] || step wheels 20 "${PIP[@]}" --no-deps "$WHEELS"/*.whl || exit 1
  step build 100 "${PIP[@]}" --no-deps --force-reinstall . -C cmake.define.DPID_CUDA=ON \
    -C cmake.define.CMAKE_CUDA_ARCHITECTURES="$ARCH" || exit 1
  echo "$HASH" >"$BUILT"
fi

# From another folder, so that the installed package is imported.
cd "$OUT" || exit 1

kernels() {
  local test=("$PYTHON" -m pytest -q -c "$ROOT/pyproject.toml" --rootdir "$ROOT" -p no:cacheprovider -p no:benchmark)
  "$PYTHON" -c 'import xdist' 2>/dev/null && test+=(-n 16 --dist worksteal)
  step environment 10 "$PYTHON" -m torch.utils.collect_env
  step tests 95 env OMP_NUM_THREADS=1 "${test[@]}" "$ROOT"/tests/{ops,denoisers,estimation,test_cuda.py,test_explainer.py}
  local smoke=("$PYTHON" "$ROOT/benchmarks/gpu_smoke.py")
  # Every tensor in an allocation of its own, beyond which nothing is valid.
  step memcheck 45 env PYTORCH_NO_CUDA_MEMORY_CACHING=1 compute-sanitizer --error-exitcode 1 "${smoke[@]}" --eager
  step racecheck 30 compute-sanitizer --tool racecheck --error-exitcode 1 "${smoke[@]}"
  step batch 55 "$PYTHON" "$ROOT/benchmarks/bench_batch.py" --runs 2
  step unet-sd2.1 45 "${UNET[@]}" sd2.1
  step unet-sdxl 70 "${UNET[@]}" sdxl --side 128 --samples 8
  step bench_ops 70 "$PYTHON" "$ROOT/benchmarks/bench_ops.py" --budget 0.3
}

# The limits are of diffusers' UNet, then ours, compiled for the first time.
compile() {
  step unet-sd2.1-compile 100 "${UNET[@]}" sd2.1 --compile default
  step unet-sdxl-compile 160 "${UNET[@]}" sdxl --side 128 --samples 8 --compile default
}

models() {
  local dit=("${DIT[@]}" --compile default --model)
  step sd3.5-512 60 "${dit[@]}" "Stable Diffusion 3.5 medium" --samples 8 --side 512
  step sd3.5-1024 70 "${dit[@]}" "Stable Diffusion 3.5 medium" --samples 8
  step sana-512 40 "${dit[@]}" "Sana 1.6B" --samples 8 --side 512
  step sana-1024 50 "${dit[@]}" "Sana 1.6B" --samples 8
  step flux-512 80 "${dit[@]}" "Flux.1 dev" --samples 4 --side 512
  step flux-1024 120 "${dit[@]}" "Flux.1 dev" --samples 4
}

autotune() {
  step unet-sd2.1-autotune 210 "${UNET[@]}" sd2.1 --compile max-autotune-no-cudagraphs
  step unet-sdxl-autotune 210 "${UNET[@]}" sdxl --side 128 --samples 8 --compile max-autotune-no-cudagraphs
}

autotune-models() {
  local dit=("${DIT[@]}" --compile max-autotune-no-cudagraphs --model)
  step sd3.5-1024-autotune 140 "${dit[@]}" "Stable Diffusion 3.5 medium" --samples 8
  step sana-1024-autotune 110 "${dit[@]}" "Sana 1.6B" --samples 8
  step flux-1024-autotune 170 "${dit[@]}" "Flux.1 dev" --samples 4
}

# At native sizes, beside what a user of diffusers has.
UNET=("$PYTHON" "$ROOT/benchmarks/bench_unet.py" --precision float16 --rounds 2 --model)
DIT=("$PYTHON" "$ROOT/benchmarks/bench_transformers.py" --rounds 2)
"$PART"
exit $failed
