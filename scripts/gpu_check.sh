#!/usr/bin/env bash
# Checks and measures everything on the GPU of this machine, in at most 25 minutes: the first thing to run where there is
# one. Results go to out/gpu-check/results.json, and as tables to docs/benchmarks-gpu.md.
#   bash scripts/gpu_check.sh
#   bash scripts/gpu_check.sh --only=tests,kernels      some parts again; the others keep their results
#   bash scripts/gpu_check.sh --quick                   tiny sizes, to see that it works; leaves docs/ alone
#
# It downloads nothing and installs nothing. The Python that runs it is .venv's, or $PYTHON, with these packages:
#   torch           2.4 or newer, a build for CUDA 12 or 13 (cu121 ... cu130), with the nvidia-* wheels that it needs;
#                   among them nvidia-cuda-nvrtc-cu12 or nvidia-cuda-nvrtc, which compiles the kernels
#   numpy scipy pillow click requests urllib3 tqdm
#   pytest pytest-timeout scikit-learn                  for the tests
# From a folder of wheels, without a network:
#   python3 -m venv .venv
#   .venv/bin/pip install --no-index --find-links=WHEELS torch numpy scipy pillow click requests urllib3 tqdm \
#       pytest pytest-timeout scikit-learn
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-.venv/bin/python}"
if ! command -v "$python" >/dev/null; then
    echo "$python was not found: create .venv as the head of scripts/gpu_check.sh says, or use PYTHON=/path/to/python." >&2
    exit 2
fi
exec "$python" scripts/gpu_check.py "$@"
