#!/usr/bin/env bash
# From nothing to a trained generator, without a GPU and without downloads except for the Python packages:
# handwritten digits → class-conditional GAN → labeled image grid, animation of the training, quality figures. The
# detectors of the metrics are small networks trained on the digits themselves; fd-digits compares them as FID does with
# Inception.
#   bash scripts/demo.sh                 under 10 minutes on 2 cores, writes to out/demo
#   bash scripts/demo.sh OUTDIR KIMG     another folder (relative to the project's root) and length of training
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

outdir="${1:-out/demo}"
data="$outdir/digits.zip"
detectors="$outdir/detectors"
runs="$outdir/runs"
mkdir -p "$outdir"

echo "== 1/5  Dataset: 1,797 handwritten digits"
"$VENV_PYTHON" dataset_tool.py --source=digits --dest="$data" --resolution=16x16

echo "== 2/5  Detectors for the metrics"
"$VENV_PYTHON" scripts/train_detectors.py --data="$data" --dest="$detectors"

# Without ADA: the discriminator does not overfit in so short a training, and a step takes less time.
echo "== 3/5  Training: --cfg=small-data"
"$VENV_PYTHON" train.py --outdir="$runs" --data="$data" --cfg=small-data --aug=noaug --cond=1 --snap=2 \
    ${2:+--kimg="$2"} --metrics=fid1k_full --detectors="$detectors"
run_dir="$(ls -d "$runs"/[0-9][0-9][0-9][0-9][0-9]-* | tail -n 1)"

echo "== 4/5  Metrics"
"$VENV_PYTHON" calc_metrics.py --network="$run_dir" --metrics=fid5k_full,kid5k_full,prdc5k3_full \
    --detectors="$detectors" > "$outdir/metrics.jsonl"

echo "== 5/5  Images and quality"
"$VENV_PYTHON" scripts/demo_report.py --run-dir="$run_dir" --data="$data" --outdir="$outdir"
echo "browser         python studio.py --network=$run_dir --open    (after: source .venv/bin/activate)"
