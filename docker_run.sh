#!/usr/bin/env bash
# Runs a command in the container, in the current folder, under your user id, with all GPUs of the machine:
#
#   ./docker_run.sh python generate.py --network=network.pkl --seeds=0-7 --outdir=out
#   DATA_DIR=/mnt/datasets ./docker_run.sh python train.py --data=/data/faces.zip --outdir=runs
#
# DATA_DIR   another folder to mount, as /data
# IMAGE      image to run (default: ada-gan, built from the Dockerfile next to this script)
set -euo pipefail

here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
image="${IMAGE:-ada-gan}"

if [ $# -eq 0 ]; then
    echo "Usage: $0 COMMAND [ARGUMENTS ...]   for example: $0 python train.py --help" >&2
    exit 2
fi
if ! command -v docker >/dev/null; then
    echo "docker was not found: install it, or use the virtual environment that scripts/test.sh creates." >&2
    exit 1
fi
if [ -z "${IMAGE:-}" ]; then
    docker build --quiet --tag "$image" "$here" >/dev/null      # instant if nothing has changed
fi

options=(--rm --init --ipc=host --user "$(id -u):$(id -g)" --volume "$PWD:/workspace" --workdir /workspace
         --volume ada-gan-cache:/cache)
if [ -t 0 ] && [ -t 1 ]; then
    options+=(--interactive --tty)
fi
if command -v nvidia-smi >/dev/null && nvidia-smi >/dev/null 2>&1; then
    options+=(--gpus all)
fi
if [ -n "${DATA_DIR:-}" ]; then
    options+=(--volume "$(cd "$DATA_DIR" && pwd):/data")
fi
exec docker run "${options[@]}" "$image" "$@"
