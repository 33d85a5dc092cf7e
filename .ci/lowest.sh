#!/usr/bin/env bash
# The tests on the lowest versions that pyproject.toml allows, in the environment OUT/venv.
#   [TORCH=2.5.0] bash .ci/lowest.sh OUT WHEEL  makes the environment and installs WHEEL into it
#   [TORCH=2.5.0] bash .ci/lowest.sh OUT        runs the tests there
# .ci/lowest.txt pins them and what they need, so that a run can be repeated; uv changes it where a bound has changed.
# torch is that of constraints.txt unless TORCH names one: the lowest one's wheel for Linux brings CUDA, several GB.
set -euo pipefail
cd "$(dirname "$0")/.."
ROOT=$PWD
OUT=$(realpath -m "${1:?usage: lowest.sh OUT [WHEEL]}") WHEEL=${2:-}
export PATH=$PWD/.venv/bin:$PATH  # the tools of `make lint`

if [ -n "$WHEEL" ]; then
  rm -rf "$OUT"
  mkdir -p "$OUT"
  echo 'torch; python_version < "3"' >"$OUT/without-torch.txt"
  uv pip compile pyproject.toml --quiet --extra test --resolution lowest-direct --python-version 3.11 --no-header \
    --override "$OUT/without-torch.txt" --output-file .ci/lowest.txt
  git diff --exit-code .ci/lowest.txt || { echo "a lower bound has changed: commit .ci/lowest.txt"; exit 1; }
  python -m venv "$OUT/venv"
  "$OUT/venv/bin/python" -m pip install --quiet --disable-pip-version-check -c constraints.txt torch${TORCH:+==$TORCH}
  uv pip install --quiet --python "$OUT/venv/bin/python" --no-deps -r .ci/lowest.txt "$WHEEL"
  exit
fi
cd "$OUT"  # where the repository's sources are not found
# What computes with torch alone gives the same again with the torch of `make test`.
same=(estimation test_calibration.py test_known_answers.py zoo/test_exact.py zoo/test_training.py zoo/test_flow_training.py)
[ -z "${TORCH:-}" ] || same=()
same+=(test_docs.py examples)  # of the newest versions, and in minutes
# What old releases say about their own age is no error.
OMP_NUM_THREADS=1 "$OUT/venv/bin/python" -m pytest -n auto --dist worksteal -c "$ROOT/pyproject.toml" --rootdir "$ROOT" \
  -o filterwarnings= "${same[@]/#/--ignore=$ROOT/tests/}" "$ROOT/tests"
