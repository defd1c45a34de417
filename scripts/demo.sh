#!/usr/bin/env bash
# From nothing to a trained generator, without a GPU and without a download beyond the Python packages:
# handwritten digits → class-conditional GAN → labelled image grid, animation of the training, quality figures.
#   bash scripts/demo.sh                 under 10 minutes on 2 cores, into out/demo
#   bash scripts/demo.sh OUTDIR KIMG     another folder (seen from the project's root), another length of training
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

outdir="${1:-out/demo}"
data="$outdir/digits.zip"
runs="$outdir/runs"
mkdir -p "$outdir"

# glibc gives large tensors back to the system after each use and fetches them anew; other systems ignore these.
export MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=4294967296

echo "== 1/3  dataset: 1,797 handwritten digits"
"$VENV_PYTHON" dataset_tool.py --source=digits --dest="$data" --resolution=16x16

echo "== 2/3  training: --cfg=tiny"
"$VENV_PYTHON" train.py --outdir="$runs" --data="$data" --cfg=tiny --cond=1 --snap=1 ${2:+--kimg="$2"}
run_dir="$(ls -d "$runs"/[0-9][0-9][0-9][0-9][0-9]-* | tail -n 1)"

echo "== 3/3  pictures and quality"
"$VENV_PYTHON" scripts/demo_report.py --run-dir="$run_dir" --data="$data" --outdir="$outdir"
