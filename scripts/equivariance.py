"""An experiment: does a moved input move the image? Generators of StyleGAN3 beside one that sees its borders.

Trains `--cfg=tiny-t`, the same without a margin around its feature maps, and `--cfg=tiny-r` on the same images, two at
a time. Then it computes the metrics of equivariance, in dB, and renders one latent of each network shifted and turned.

Without a margin, the padding of each convolution lies within the image, so that the network can tell where a feature
is. A generator of -t follows shifts only: its 3x3 convolutions and separable filters tell directions apart.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import json
import multiprocessing
import os
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from bench.common import run_command
from bench.tables import markdown_table
from dataset_format.sizes import describe_size, sides
from dnnlib.cli import PATH, Command, FiniteFloat, usage_error, usage_errors
from dnnlib.files import atomic_file
from dnnlib.machine import keep_freed_memory
from dnnlib.outputs import OutputFolder
from generation.image_transforms import make_transform
from generation.rendering import render_seeds
from network_files.reading import open_network
from network_files.snapshots import complete_snapshots
from torch_utils.images import enlarge_with_margin, save_image_grid
from training import training_loop
from training.options import Options, build_config, open_training_set
from training.run.run_dir import RunDir, create_run_dir

ROOT = Path(__file__).resolve().parents[1]
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {  # name → preset, other keywords of the generator
    'T': ('tiny-t', {}),
    'R': ('tiny-r', {}),
    'T-no-margin': ('tiny-t', {'margin_size': 0}),
}
METRICS = {'eqt1k_int': 'EQ-T, whole pixels', 'eqt1k_frac': 'EQ-T, fractions', 'eqr1k': 'EQ-R'}
TRANSFORMS = {  # label → shift in image sides, turn in degrees
    'as it is': ((0, 0), 0),
    '1/8 right': ((0.125, 0), 0),
    '1/4 right': ((0.25, 0), 0),
    '30°': ((0, 0), 30),
    '60°': ((0, 0), 60),
    '90°': ((0, 0), 90),
}
MIN_SIDE = 96  # pixels of the picture along one image
MIN_RESOLUTION = 32  # The filters of the metrics reach 12 pixels far, so that little of a smaller image would remain.


def check_dataset(options: Options) -> None:
    """Require images that are large enough for the metrics, before hours are spent on training."""
    with usage_errors():
        dataset = open_training_set(options)
    if min(sides(dataset.resolution)) < MIN_RESOLUTION:
        size = describe_size(dataset.resolution)
        raise usage_error(
            '--data',
            f'{options.data!r} has images of {size}, but their equivariance can be measured from {MIN_RESOLUTION} '
            f'pixels on: convert them with dataset_tool.py --resolution={MIN_RESOLUTION}x{MIN_RESOLUTION}.',
        )
    dataset.close()


def train(name: str, options: Options, num_threads: int) -> str:
    """Train one of NETWORKS in this process, and return the directory of the run."""
    keep_freed_memory()
    torch.set_num_threads(num_threads)
    cfg, more_kwargs = NETWORKS[name]
    options = dataclasses.replace(options, cfg=cfg)
    dataset = open_training_set(options)
    config = build_config(options, dataset, 'cpu', num_gpus=1)
    dataset.close()
    config.G_kwargs.update(more_kwargs)
    config.run_dir = create_run_dir(options.outdir, name)
    config.save(RunDir(config.run_dir).options_json)
    if not training_loop.launch(config):
        raise click.ClickException(f'The training of {name} was stopped.')
    return config.run_dir


def measure(run_dir: str) -> dict[str, float]:
    """Return the metrics of the newest network of a run."""
    command = [sys.executable, str(ROOT / 'calc_metrics.py'), f'--network={run_dir}', f'--metrics={",".join(METRICS)}']
    results = [json.loads(line) for line in run_command(command).splitlines() if line.startswith('{')]
    return {result['metric']: result['results'][result['metric']] for result in results}


def moved_images(run_dir: str, seed: int) -> list[np.ndarray]:
    """Return uint8 [C, H, W] images of one latent of the newest network, with each of TRANSFORMS."""
    G = open_network(str(complete_snapshots(run_dir)[-1]))['G_ema'].eval().requires_grad_(False)
    transforms = [make_transform(shift, degrees) for shift, degrees in TRANSFORMS.values()]
    return list(render_seeds(G, [seed], torch.zeros([1, G.c_dim]), transforms=transforms))


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, help='Dataset of 32 pixels or a little more')
@click.option('--outdir', type=OutputFolder(), required=True, help='Where to write runs, figures and the picture')
@click.option(
    '--kimg', type=FiniteFloat(min=0, min_open=True), default=12, show_default=True, help='Length of each training'
)
@click.option(
    '--seed', type=click.IntRange(min=0), default=0, show_default=True, help='Seed of the training and of the picture'
)
def main(data: str, outdir: str, kimg: float, seed: int) -> None:
    """Compare the equivariance of generators that were trained in the same way."""
    options = Options(outdir=outdir, data=data, kimg=kimg, seed=seed, metrics=(), snap=10)
    check_dataset(options)
    at_once = min(2, os.cpu_count() or 1)
    num_threads = max((os.cpu_count() or 1) // at_once, 1)
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(at_once, mp_context=context) as pool:
        runs = {name: pool.submit(train, name, options, num_threads) for name in NETWORKS}
        run_dirs = {name: run.result() for name, run in runs.items()}
    figures = {name: measure(run_dir) for name, run_dir in run_dirs.items()}
    with atomic_file(Path(outdir) / 'equivariance.json') as file:
        file.write((json.dumps(figures, indent=2) + '\n').encode())
    cells = [image for run_dir in run_dirs.values() for image in moved_images(run_dir, seed)]
    path = Path(outdir) / 'equivariance.png'
    save_image_grid(
        enlarge_with_margin(np.stack(cells), MIN_SIDE),
        path,
        (len(TRANSFORMS), len(NETWORKS)),
        row_labels=list(NETWORKS),
        column_labels=list(TRANSFORMS),
    )
    rows = [[name, *(f'{figures[name][metric]:.1f}' for metric in METRICS)] for name in NETWORKS]
    print(f'\n{markdown_table(["network", *METRICS.values()], rows)}\n\npicture  {path}')


if __name__ == '__main__':
    main()
