"""A user's session with the installed command `ada-gan`: from images to a network, pictures, exports and metrics.

Needs nothing of a checkout. Each step is a command in the current folder, and what it should have written is looked at.
The first step that fails ends the program with status 1. Without PyTorch, only the dataset is made.

    python session.py /path/of/the/environment/bin/ada-gan
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

# (arguments, what exists afterwards)
Steps = list[tuple[list[str], str]]
_DATASET: Steps = [(['dataset-tool', '--source=digits', '--dest=digits.zip', '--resolution=16x16'], 'digits.zip')]
_TRAINED: Steps = [
    (['train-detectors', '--data=digits.zip', '--dest=detectors', '--epochs=1'], 'detectors/detectors.json'),
    (
        ['train', '--outdir=runs', '--data=digits.zip', '--cfg=tiny', '--cond=1', '--kimg=0.2', '--snap=1', '--tick=1']
        + ['--metrics=fid50_full', '--detectors=detectors', '--device=cpu', '--workers=1'],
        'runs/00000-*/network-snapshot-*.pkl',
    ),
    (['generate', '--network=RUN', '--seeds=0-3', '--class=3', '--outdir=images'], 'images/seed0003.png'),
    (['style-mixing', '--network=RUN', '--rows=1,2', '--cols=3', '--class=1', '--outdir=mixed'], 'mixed/grid.png'),
    (['legacy', '--source=RUN', '--dest=network.safetensors'], 'network.safetensors'),
    (['generate', '--network=network.safetensors', '--seeds=1', '--class=3', '--outdir=again'], 'again/seed0001.png'),
    (
        ['gen-video', '--network=RUN', '--seeds=0-1', '--class=3', '--grid=1x1', '--w-frames=4', '--output=film.mp4'],
        'film.mp4',
    ),
    (
        ['calc-metrics', '--network=RUN', '--metrics=fid100_full,kid100_full', '--detectors=detectors'],
        'runs/00000-*/metric-fd-digits100_full.jsonl',
    ),
    (['report', 'RUN'], 'runs/00000-*/report.html'),
    (['export', '--network=RUN', '--dest=generator.pt2', '--batch=2'], 'generator.pt2'),
]
_ONNX: Steps = [
    (['export', '--network=RUN', '--dest=generator.onnx', '--trunc=input'], 'generator.onnx'),
]
_IN_PYTHON = """
import sys, torch, ada_gan
G = ada_gan.load(sys.argv[1])
images = G(torch.randn([2, G.z_dim]), torch.eye(G.c_dim)[:2])
assert images.shape == (2, 1, 16, 16) and images.isfinite().all(), images.shape
"""


def run(command: list[str]) -> None:
    """Run a program; exit if it fails."""
    print('$', *command[:1], *(word for word in command[1:] if '\n' not in word), flush=True)
    status = subprocess.run(command, stdin=subprocess.DEVNULL).returncode
    if status != 0:
        sys.exit(f'exit status {status}')


def steps() -> tuple[Steps, str]:
    """Return what this environment can do, and a few words about it."""
    if importlib.util.find_spec('torch') is None:
        return _DATASET, 'dataset only'
    import torch

    if tuple(int(part) for part in torch.__version__.split('.')[:2]) < (2, 6):
        return _DATASET + _TRAINED, 'complete, without ONNX'
    return _DATASET + _TRAINED + _ONNX, 'complete'


def main() -> None:
    """Run all steps."""
    program, run_dir = sys.argv[1], ''
    chosen, words = steps()
    run([program, '--help'])
    for arguments, expected in chosen:
        run([program, *(word.replace('RUN', run_dir) for word in arguments)])
        found = sorted(Path().glob(expected))
        if not found or found[-1].stat().st_size == 0:
            sys.exit(f'{expected} was not written')
        run_dir = os.fspath(found[-1].parent) if arguments[0] == 'train' else run_dir
    if run_dir:
        run([sys.executable, '-c', _IN_PYTHON, run_dir])
    print(words)


if __name__ == '__main__':
    main()
