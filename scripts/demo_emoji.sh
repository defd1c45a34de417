#!/usr/bin/env bash
# Emoji with transparent backgrounds, by category, without a GPU: the npm package of Noto Emoji → checked dataset → GAN
# with a class for each category and an alpha channel → labeled image grid, memorization, and a report as one HTML page.
#   npm pack emoji-datasource-google                                  # the package as one file, 74 MB
#   bash scripts/demo_emoji.sh emoji-datasource-google-16.0.0.tgz     # about an hour on a core, to
#                                                                     # out/demo-emoji
#   bash scripts/demo_emoji.sh PATH_OF_TARBALL OUTDIR KIMG            # another folder and length of training
#
# The same command continues what was cut off: the training goes on after its last snapshot, and what is complete is not
# made again. A larger KIMG trains a finished network further. Relative paths start at the current folder.
set -euo pipefail
if [ $# -lt 1 ] || [ $# -gt 3 ]; then
    echo "Usage: bash scripts/demo_emoji.sh PATH_OF_TARBALL [OUTDIR [KIMG]], after: npm pack emoji-datasource-google" >&2
    exit 2
fi
absolute() {
    case "$1" in
        /*) echo "$1" ;;
        *) echo "$PWD/$1" ;;
    esac
}
tarball="$(absolute "$1")"
if [ ! -f "$tarball" ]; then
    echo "$1 does not exist. \`npm pack emoji-datasource-google\` downloads the package as one file." >&2
    exit 2
fi
outdir="$(absolute "${2:-$(dirname "${BASH_SOURCE[0]}")/../out/demo-emoji}")"
kimg="${3:-300}"
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source scripts/setup_env.sh

data="$outdir/emoji.zip"
detectors="$outdir/detectors"
runs="$outdir/runs"
mkdir -p "$outdir"

echo "== 1/5  Dataset: emoji at 32x32 with alpha, without those that are there twice"
if [ ! -f "$data" ]; then
    "$VENV_PYTHON" dataset_tool.py --check="$tarball" --findings="$outdir/tarball-check"
    "$VENV_PYTHON" dataset_tool.py --source="$tarball" --dest="$data" --exclude="$outdir/tarball-check/exclude.txt" \
        --alpha=keep --channels=rgb --resolution=32x32
fi
if [ ! -f "$outdir/emoji-check/findings.json" ]; then
    "$VENV_PYTHON" dataset_tool.py --check="$data" # the report shows what it finds
fi

echo "== 2/5  Detectors for the metrics"
if [ ! -f "$detectors/detectors.json" ]; then
    "$VENV_PYTHON" scripts/train_detectors.py --data="$data" --dest="$detectors" --label=emoji
fi

# The README has the results of this recipe; --cfg=small-data has not been measured with emoji.
echo "== 3/5  Training: --cfg=tiny with the relativistic loss, $kimg kimg"
"$VENV_PYTHON" train.py --outdir="$runs" --data="$data" --cfg=tiny --loss=relativistic --d-reg-interval=1 --gamma=0.5 \
    --cond=1 --kimg="$kimg" --snap=5 --metrics=kid1k_full \
    --detectors="$detectors" --resume-run=latest
run_dir="$(ls -d "$runs"/[0-9][0-9][0-9][0-9][0-9]-* | tail -n 1)"

echo "== 4/5  Memorization: does it draw its training images?"
"$VENV_PYTHON" calc_metrics.py --network="$run_dir" --metrics=memorization2k --detectors="$detectors" \
    > "$outdir/memorization.jsonl"
cat "$outdir/memorization.jsonl"

echo "== 5/5  Images and report"
"$VENV_PYTHON" scripts/class_grid.py --network="$run_dir" --columns=12 --outdir="$outdir"
"$VENV_PYTHON" report.py "$run_dir" --output="$outdir/report.html"
