"""Time and size of a training state: how long a run stands still for it, and what it takes on the disk.

python -m bench.state --resolution=256
"""

import os
import statistics
import tempfile
import time
from pathlib import Path

import click
import numpy as np
import PIL.Image
import torch

from dnnlib.cli import Command
from dnnlib.util import construct_class_by_name
from torch_utils.distributed import World
from training import config as cfg
from training.phases import build_phases
from training.run import checkpoint, snapshots
from training.run.stats_writer import RunStatistics

CPU = torch.device('cpu')


def parts_of(config, dataset, run_dir):
    """What a run with this configuration has after its first step, on the CPU."""
    sizes = dict(c_dim=0, img_resolution=dataset.resolution, img_channels=dataset.num_channels)
    G, D, G_ema = (
        construct_class_by_name(**kwargs, **sizes).requires_grad_(False)
        for kwargs in (config.G_kwargs, config.D_kwargs, config.G_kwargs)
    )
    phases = build_phases(G, D, config)
    optimizers = {phase.name[0]: phase.optimizer for phase in phases}
    for optimizer in optimizers.values():
        for parameter in optimizer.param_groups[0]['params']:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    loss = construct_class_by_name(device=CPU, G=G, D=D, **config.loss_kwargs)
    run_statistics = RunStatistics(run_dir, World(0, 1, CPU), config.total_kimg)
    return checkpoint.Parts(dict(G=G, D=D, G_ema=G_ema), optimizers, loss, None, None, run_statistics)


def median_seconds(function, rounds):
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        function()
        times.append(time.monotonic() - start)
    return statistics.median(times)


@click.command(cls=Command)
@click.option('--resolution', type=int, default=256, show_default=True, help='Of the images')
@click.option('--preset', type=click.Choice(cfg.PRESET_NAMES), default='auto', show_default=True)
@click.option('--rounds', type=click.IntRange(min=1), default=5, show_default=True, help='The median counts')
def main(resolution, preset, rounds):
    """Write, read and measure the state of networks for images of a resolution."""
    with tempfile.TemporaryDirectory(dir=os.curdir) as folder:
        PIL.Image.fromarray(np.zeros([resolution, resolution, 3], np.uint8)).save(Path(folder, 'image.png'))
        options = cfg.Options(outdir=folder, data=folder, cfg=preset, aug='noaug', metrics=())
        dataset = cfg.open_training_set(options)
        config = cfg.build_config(options, dataset, 'cpu', num_gpus=1)
        parts = parts_of(config, dataset, folder)
        world, progress = World(0, 1, CPU), checkpoint.Progress(cur_nimg=1000)
        state_path = Path(folder, checkpoint.state_name(progress.cur_nimg))
        pickle_path = Path(folder, 'network-snapshot-000001.pkl')
        modules = dict(parts.networks, augment_pipe=None)
        rows = [
            (
                'network pickle, written',
                pickle_path,
                median_seconds(
                    lambda: snapshots.save_network_pickle(pickle_path, modules, config.training_set_kwargs), rounds
                ),
            ),
            (
                'training state, written',
                state_path,
                median_seconds(lambda: checkpoint.save(world, folder, config, parts, progress), rounds),
            ),
            (
                'training state, read and checked',
                state_path,
                median_seconds(lambda: checkpoint.read(state_path), rounds),
            ),
        ]
        print(
            f'{preset}, {resolution}x{resolution}: {sum(p.numel() for p in parts.networks["G"].parameters()):,} '
            f'parameters in G, {sum(p.numel() for p in parts.networks["D"].parameters()):,} in D'
        )
        for what, path, seconds in rows:
            print(f'{what:<34}{path.stat().st_size / 1e6:8.0f} MB{seconds:8.2f} s')
        parts.statistics.close()


if __name__ == '__main__':
    main()
