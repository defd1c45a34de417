"""An experiment: train on the same few images without augmentation and with ADA.

Two runs of `train.py --cfg=tiny` differ in `--aug` alone. The curves show, over the course of the training,
  * the mean sign of the discriminator's output for its training images, which ADA controls;
  * the heuristic r_v = (train - validation) / (train - generated) of the discriminator's mean outputs (arXiv
    2006.06676, equation 1): 0 while it cannot tell training images from other real ones, 1 once it has memorized them;
  * the strength of the augmentation.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from dnnlib.outputs import OutputFolder
from network_files.reading import open_network
from network_files.snapshots import kimg_of
from training.dataset import ImageFolderDataset
from training.run.run_dir import RunDir, list_run_dirs

ROOT = Path(__file__).resolve().parents[1]
TITLES = {'noaug': 'no augmentation', 'ada': 'ADA'}  # by value of --aug
ADA_TARGET = 0.6
NUM_PROBES = 500
BATCH_SIZE = 100  # a multiple of the minibatch standard deviation's group size


def train_all(data: str, outdir: str, subset: int, kimg: int, seed: int) -> dict[str, RunDir]:
    """Train with each kind of augmentation at the same time, on equal shares of the cores; return the runs."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(max((os.cpu_count() or 1) // len(TITLES), 1)))
    processes = {}
    for aug in TITLES:
        command = [
            sys.executable,
            str(ROOT / 'train.py'),
            f'--outdir={outdir}/{aug}',
            f'--data={data}',
            f'--subset={subset}',
            f'--kimg={kimg}',
            f'--seed={seed}',
            f'--aug={aug}',
            '--cfg=tiny',
            '--tick=2',
            '--snap=1',
            '--metrics=none',
        ]
        output = None if aug == 'ada' else subprocess.DEVNULL  # Only one of them shows its progress.
        processes[aug] = subprocess.Popen(command, env=environment, stdout=output)
    for aug, process in processes.items():
        if process.wait() != 0:
            raise click.ClickException(f'Training with --aug={aug} failed; the message is above.')
    return {aug: RunDir(list_run_dirs(os.path.join(outdir, aug))[0]) for aug in TITLES}


# ---------------------------------------------------------------------------------------------------------------------
# Overfitting


@torch.no_grad()
def mean_logit(D: Any, images: torch.Tensor) -> float:
    """Return the mean output of an unconditional D for [N, C, H, W] images in [-1, +1]."""
    return float(torch.cat([D(batch, None) for batch in images.split(BATCH_SIZE)]).mean())


def load_images(dataset: ImageFolderDataset, indices: Sequence[int]) -> torch.Tensor:
    """Return float32 [N, C, H, W] images in [-1, +1]."""
    return torch.from_numpy(np.stack([dataset[int(i)][0] for i in indices])).to(torch.float32) / 127.5 - 1


def load_probes(data: str, subset: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return images that D is trained on, and images of the same dataset that it is not trained on."""
    training_set = ImageFolderDataset(data, max_size=subset, random_seed=seed)
    full_set = ImageFolderDataset(data)
    trained_on = {training_set.get_details(i).raw_idx for i in range(len(training_set))}
    rng = np.random.RandomState(seed)
    others = [i for i in rng.permutation(len(full_set)) if i not in trained_on][:NUM_PROBES]
    return load_images(full_set, sorted(trained_on)[:NUM_PROBES]), load_images(full_set, others)


@torch.no_grad()
def overfitting(network_pkl: Path, training: torch.Tensor, validation: torch.Tensor) -> float:
    """Return r_v of the discriminator in a network pickle."""
    networks = open_network(str(network_pkl))
    G, D = networks['G'], networks['D']
    z = torch.randn([NUM_PROBES, G.z_dim], generator=torch.Generator().manual_seed(0))
    fakes = torch.cat([G(batch, None, noise_mode='const') for batch in z.split(BATCH_SIZE)])
    on_training, on_validation, on_fakes = (mean_logit(D, x) for x in (training, validation, fakes))
    return (on_training - on_validation) / max(on_training - on_fakes, 1e-6)


# ---------------------------------------------------------------------------------------------------------------------
# Curves


def read_curves(run_dir: RunDir, training: torch.Tensor, validation: torch.Tensor) -> dict[str, list[Any]]:
    """Return the curves of one run: lists over its ticks, and over its network snapshots."""
    rows = [json.loads(line) for line in Path(run_dir.stats_jsonl).read_text().splitlines()]
    network_pkls = run_dir.network_pkls()
    return dict(
        kimg=[row['Progress/kimg']['mean'] for row in rows],
        signs=[row['Loss/signs/real']['mean'] for row in rows],
        augment=[row['Progress/augment']['mean'] for row in rows],
        snapshot_kimg=[kimg_of(path) for path in network_pkls],
        r_v=[overfitting(path, training, validation) for path in network_pkls],
    )


def draw(curves: dict[str, dict[str, list[Any]]], path: Path) -> None:
    """Write the plot of all curves as a PNG."""
    import matplotlib.pyplot as plt

    plt.switch_backend('Agg')  # needs no display
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout='constrained')
    for aug, title in TITLES.items():
        run = curves[aug]
        axes[0].plot(run['kimg'], run['signs'], label=title)
        axes[1].plot(run['snapshot_kimg'], run['r_v'], label=title)
        axes[2].plot(run['kimg'], run['augment'], label=title)
    axes[0].axhline(ADA_TARGET, color='gray', linestyle=':', label=f'target of ADA, {ADA_TARGET}')
    titles = ('mean sign of D for training images', 'overfitting $r_v$', 'augmentation strength p')
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel='thousand images shown')
        axis.grid(alpha=0.3)
        axis.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format='png', dpi=110)


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, help='Dataset of 16 or 32 pixels, much larger than --subset')
@click.option('--outdir', type=OutputFolder(), required=True, help='Where to write runs, figures and curves')
@click.option('--subset', type=click.IntRange(min=100), default=500, show_default=True, help='Images to train on')
@click.option('--kimg', type=click.IntRange(min=1), default=80, show_default=True, help='Length of each training')
@click.option('--seed', type=int, default=0, show_default=True, help='Seed of the subset and of the training')
def main(data: str, outdir: str, subset: int, kimg: int, seed: int) -> None:
    """Compare overfitting without augmentation and with ADA."""
    training, validation = load_probes(data, subset, seed)
    run_dirs = train_all(data, outdir, subset, kimg, seed)
    curves = {aug: read_curves(run_dir, training, validation) for aug, run_dir in run_dirs.items()}
    with atomic_file(Path(outdir) / 'overfitting.json') as file:
        file.write(json.dumps(curves, indent=1).encode())
    draw(curves, Path(outdir) / 'overfitting.png')
    print(f'\n{"kimg":>6}' + ''.join(f'{TITLES[aug] + " " + what:>24}' for aug in TITLES for what in ('sign', 'r_v')))
    for i, tick_kimg in enumerate(curves['noaug']['kimg']):
        row = [curves[aug][what][i] for aug in TITLES for what in ('signs', 'r_v')]
        print(f'{tick_kimg:6.1f}' + ''.join(f'{value:24.3f}' for value in row))
    print(f'\nfigure  {outdir}/overfitting.png')


if __name__ == '__main__':
    main()
