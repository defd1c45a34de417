"""An experiment: the same few images, trained on without augmentation and with ADA.

Two runs of `train.py --cfg=tiny` differ in `--aug` alone. Drawn are, over the training,
  * the mean sign of the discriminator's output for the images that it trains on: what ADA controls;
  * the heuristic r_v = (train - validation) / (train - generated) of its mean outputs (arXiv 2006.06676,
    equation 1): 0 while it cannot tell training images from others of their kind, 1 once it knows them by heart;
  * the strength of the augmentation.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import click
import numpy as np
import torch

from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from network_files.reading import open_network
from training.dataset import ImageFolderDataset

ROOT = Path(__file__).resolve().parents[1]
KINDS = {'noaug': 'no augmentation', 'ada': 'ADA'}
NUM_PROBES = 500
BATCH_SIZE = 100  # A multiple of the group of the minibatch standard deviation.


def train_all(data, outdir, subset, kimg, seed):
    """Run train.py for all kinds at once, on equal shares of the cores; returns {kind: the run's folder}."""
    environment = dict(os.environ, OMP_NUM_THREADS=str(max((os.cpu_count() or 1) // len(KINDS), 1)))
    processes = {}
    for kind in KINDS:
        command = [
            sys.executable,
            str(ROOT / 'train.py'),
            f'--outdir={outdir}/{kind}',
            f'--data={data}',
            f'--subset={subset}',
            f'--kimg={kimg}',
            f'--seed={seed}',
            f'--aug={kind}',
            '--cfg=tiny',
            '--tick=2',
            '--snap=1',
            '--metrics=none',
        ]
        output = None if kind == 'ada' else subprocess.DEVNULL  # One of them shows how far things are.
        processes[kind] = subprocess.Popen(command, env=environment, stdout=output)
    for kind, process in processes.items():
        if process.wait() != 0:
            raise click.ClickException(f'training with --aug={kind} failed: see the message above')
    return {kind: sorted(Path(outdir, kind).iterdir())[-1] for kind in KINDS}


@torch.no_grad()
def mean_logit(D, images):
    """Mean output of an unconditional D for [N, C, H, W] images in [-1, +1]."""
    return float(torch.cat([D(batch, None) for batch in images.split(BATCH_SIZE)]).mean())


def as_network_input(dataset, indices):
    return torch.from_numpy(np.stack([dataset[int(i)][0] for i in indices])).to(torch.float32) / 127.5 - 1


def probes(data, subset, seed):
    """Images that D trained on, and images of the same dataset that it did not."""
    shown = ImageFolderDataset(data, max_size=subset, random_seed=seed)
    everything = ImageFolderDataset(data)
    known = {shown.get_details(i).raw_idx for i in range(len(shown))}
    rng = np.random.RandomState(seed)
    others = [i for i in rng.permutation(len(everything)) if i not in known][:NUM_PROBES]
    return as_network_input(everything, sorted(known)[:NUM_PROBES]), as_network_input(everything, others)


@torch.no_grad()
def overfitting_of(pickle_path, training, validation):
    """r_v of the discriminator in a network pickle."""
    content = open_network(str(pickle_path))
    G, D = content['G'], content['D']
    z = torch.randn([NUM_PROBES, G.z_dim], generator=torch.Generator().manual_seed(0))
    fakes = torch.cat([G(batch, None, noise_mode='const') for batch in z.split(BATCH_SIZE)])
    on_training, on_validation, on_fakes = (mean_logit(D, x) for x in (training, validation, fakes))
    return (on_training - on_validation) / max(on_training - on_fakes, 1e-6)


def curves(run_dir, training, validation):
    """What is drawn of one run: lists over its ticks, and over its snapshots."""
    rows = [json.loads(line) for line in (run_dir / 'stats.jsonl').read_text().splitlines()]
    pickles = {int(re.search(r'(\d+)\.pkl$', path.name)[1]): path for path in sorted(run_dir.glob('*.pkl'))}
    return dict(
        kimg=[row['Progress/kimg']['mean'] for row in rows],
        signs=[row['Loss/signs/real']['mean'] for row in rows],
        augment=[row['Progress/augment']['mean'] for row in rows],
        snapshot_kimg=list(pickles),
        r_v=[overfitting_of(path, training, validation) for path in pickles.values()],
    )


def draw(results, target, path):
    import matplotlib.pyplot as plt

    plt.switch_backend('Agg')  # Needs no display.
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.4), layout='constrained')
    for kind, name in KINDS.items():
        result = results[kind]
        axes[0].plot(result['kimg'], result['signs'], label=name)
        axes[1].plot(result['snapshot_kimg'], result['r_v'], label=name)
        axes[2].plot(result['kimg'], result['augment'], label=name)
    axes[0].axhline(target, color='gray', linestyle=':', label=f'target of ADA, {target}')
    titles = ('mean sign of D for training images', 'overfitting $r_v$', 'augmentation strength p')
    for axis, title in zip(axes, titles):
        axis.set(title=title, xlabel='thousand images shown')
        axis.grid(alpha=0.3)
        axis.legend()
    with atomic_file(path) as file:
        figure.savefig(file, format='png', dpi=110)


@click.command(cls=Command)
@click.option('--data', type=PATH, required=True, help='Dataset of 16 or 32 pixels, much larger than --subset')
@click.option('--outdir', type=PATH, required=True, help='Where runs, figures and curves go')
@click.option('--subset', type=click.IntRange(min=100), default=500, show_default=True, help='Images to train on')
@click.option('--kimg', type=click.IntRange(min=1), default=80, show_default=True, help='Length of each training')
@click.option('--seed', type=int, default=0, show_default=True, help='Of the subset and of the training')
def main(data, outdir, subset, kimg, seed):
    """Compare overfitting without augmentation and with ADA."""
    training, validation = probes(data, subset, seed)
    run_dirs = train_all(data, outdir, subset, kimg, seed)
    results = {kind: curves(run_dir, training, validation) for kind, run_dir in run_dirs.items()}
    with atomic_file(Path(outdir) / 'overfitting.json') as file:
        file.write(json.dumps(results, indent=1).encode())
    draw(results, 0.6, Path(outdir) / 'overfitting.png')
    print(f'\n{"kimg":>6}' + ''.join(f'{KINDS[kind] + " " + what:>24}' for kind in KINDS for what in ('sign', 'r_v')))
    for i, kimg_ in enumerate(results['noaug']['kimg']):
        row = [results[kind][what][i] for kind in KINDS for what in ('signs', 'r_v')]
        print(f'{kimg_:6.1f}' + ''.join(f'{value:24.3f}' for value in row))
    print(f'\nfigure  {outdir}/overfitting.png')


if __name__ == '__main__':
    main()
