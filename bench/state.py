"""Time and size of a training state: how long a run pauses to write it, and how much disk space it takes.

python -m bench.state --resolution=256
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import PIL.Image
import torch

from bench.common import CPU
from dnnlib.cli import Command
from torch_utils.distributed import World
from training import setup
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.options import Options, build_config, open_training_set
from training.phases import build_phases
from training.presets import PRESET_NAMES
from training.run import checkpoint, snapshots
from training.run.state import Counters, TrainingRun, run_dir_of
from training.run.stats_writer import RunStatistics


def run_after_first_step(config: TrainingConfig, dataset: ImageFolderDataset) -> TrainingRun:
    """Return a run with this configuration as it is after its first step, on the CPU."""
    world = World(rank=0, size=1, device=CPU)
    G, D, G_ema = setup.build_networks(world, config, dataset, resume_pkl=None)
    run = TrainingRun(
        world=world,
        config=config,
        counters=Counters(cur_nimg=1000),
        networks=dict(G=G, D=D, G_ema=G_ema),
        phases=build_phases(G, D, config),
        loss=setup.build_loss(config, CPU, G, D),
        augment_pipe=None,
        ada=None,
        statistics=RunStatistics(run_dir_of(config), world, config.total_kimg),
    )
    for optimizer in run.optimizers.values():
        for parameter in optimizer.param_groups[0]['params']:
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
    return run


def median_sec(function: Callable[[], object], rounds: int) -> float:
    """Return the median time of a function."""
    times = []
    for _ in range(rounds):
        start = time.monotonic()
        function()
        times.append(time.monotonic() - start)
    return statistics.median(times)


@click.command(cls=Command)
@click.option('--resolution', type=int, default=256, show_default=True, help='Resolution of the images')
@click.option('--preset', type=click.Choice(PRESET_NAMES), default='auto', show_default=True, help='Value of --cfg')
@click.option('--rounds', type=click.IntRange(min=1), default=5, show_default=True, help='Runs to take the median of')
def main(resolution: int, preset: str, rounds: int) -> None:
    """Write and read the training state of a run, and report its size and the times."""
    with tempfile.TemporaryDirectory(dir=os.curdir) as folder:
        PIL.Image.fromarray(np.zeros([resolution, resolution, 3], np.uint8)).save(Path(folder, 'image.png'))
        options = Options(outdir=folder, data=folder, cfg=preset, aug='noaug', metrics=())
        dataset = open_training_set(options)
        config = dataclasses.replace(build_config(options, dataset, 'cpu', num_gpus=1), run_dir=folder)
        run = run_after_first_step(config, dataset)
        network_pkl = run.run_dir.network_pkl(run.counters.cur_nimg)
        training_state = run.run_dir.training_state(run.counters.cur_nimg)

        def save_networks() -> None:
            modules = dict(run.networks, augment_pipe=run.augment_pipe)
            snapshots.save_network_pickle(network_pkl, modules, config.training_set_kwargs)

        num_parameters = {
            name: sum(parameter.numel() for parameter in run.networks[name].parameters()) for name in ('G', 'D')
        }
        print(
            f'{preset}, {resolution}x{resolution}: {num_parameters["G"]:,} parameters in G, '
            f'{num_parameters["D"]:,} in D'
        )
        for what, path, function in (
            ('network pickle, written', network_pkl, save_networks),
            ('training state, written', training_state, lambda: checkpoint.save(run)),
            ('training state, read and checked', training_state, lambda: checkpoint.read(training_state)),
        ):
            seconds = median_sec(function, rounds)
            print(f'{what:<34}{os.path.getsize(path) / 1e6:8.0f} MB{seconds:8.2f} s')
        run.statistics.close()


if __name__ == '__main__':
    main()
