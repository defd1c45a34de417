#!/usr/bin/env bash
# From nothing to a trained generator, without a GPU and without a download beyond the Python packages:
# handwritten digits → class-conditional GAN → labelled image grid, animation of the training, quality figures.
#   bash scripts/demo.sh                 about 10 minutes on 2 cores, into out/demo
#   bash scripts/demo.sh OUTDIR KIMG     another folder, another length of training
set -euo pipefail
started_in="$PWD"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

outdir="${1:-out/demo}"
kimg="${2:-}"
case "$outdir" in /*) ;; *) [ $# -eq 0 ] || outdir="$started_in/$outdir" ;; esac
data="$outdir/digits.zip"
mkdir -p "$outdir"

echo "== 1/3  dataset: 1,797 handwritten digits"
rm -f "$data"
"$VENV_PYTHON" dataset_tool.py --source=digits --dest="$data" --resolution=32x32

echo "== 2/3  training: --cfg=tiny"
runs="$outdir/runs"
"$VENV_PYTHON" train.py --outdir="$runs" --data="$data" --cfg=tiny --cond=1 --snap=1 ${kimg:+--kimg="$kimg"}
run_dir="$(ls -d "$runs"/[0-9][0-9][0-9][0-9][0-9]-* | tail -n 1)"

echo "== 3/3  pictures and quality"
PYTHONPATH=. "$VENV_PYTHON" scripts/demo_report.py --run-dir="$run_dir" --data="$data" --outdir="$outdir"
