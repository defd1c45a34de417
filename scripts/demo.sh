#!/usr/bin/env bash
# From nothing to a trained generator, without a GPU and without a download beyond the Python packages:
# handwritten digits → class-conditional GAN → labelled image grid, animation of the training, quality figures. The
# detectors of the metrics are small ones, trained on the digits themselves: fd-digits is to them what FID is to Inception.
#   bash scripts/demo.sh                 under 10 minutes on 2 cores, into out/demo
#   bash scripts/demo.sh OUTDIR KIMG     another folder (seen from the project's root), another length of training
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

outdir="${1:-out/demo}"
data="$outdir/digits.zip"
detectors="$outdir/detectors"
runs="$outdir/runs"
mkdir -p "$outdir"

echo "== 1/5  dataset: 1,797 handwritten digits"
"$VENV_PYTHON" dataset_tool.py --source=digits --dest="$data" --resolution=16x16

echo "== 2/5  detectors for the metrics"
"$VENV_PYTHON" scripts/train_digits_detector.py --data="$data" --dest="$detectors"

echo "== 3/5  training: --cfg=tiny"
"$VENV_PYTHON" train.py --outdir="$runs" --data="$data" --cfg=tiny --cond=1 --snap=1 ${2:+--kimg="$2"} \
    --metrics=fid1k_full --detectors="$detectors"
run_dir="$(ls -d "$runs"/[0-9][0-9][0-9][0-9][0-9]-* | tail -n 1)"

echo "== 4/5  metrics"
"$VENV_PYTHON" calc_metrics.py --network="$run_dir" --metrics=fid5k_full,kid5k_full,prdc5k3_full > "$outdir/metrics.jsonl"

echo "== 5/5  pictures and quality"
"$VENV_PYTHON" scripts/demo_report.py --run-dir="$run_dir" --data="$data" --outdir="$outdir"
