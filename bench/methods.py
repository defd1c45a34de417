"""What do the methods for few images cost?

Times training steps with each of the methods in `bench.networks.METHODS`, in turns, so that other load on the machine
affects all of them alike. A step is the mean of 16, so that it includes what is done in some steps only.

    python bench/methods.py                                about 5 minutes on 2 cores: --cfg=tiny at 32 pixels
    python bench/methods.py --cfg=auto --size=256:2 --device=cuda
"""

from __future__ import annotations

import functools
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import format_seconds, measure, set_up
from bench.networks import METHODS, TrainingStep, training_setup
from bench.options import BatchSizeList, benchmark_options
from bench.tables import markdown_table
from dnnlib.cli import Command, device_option, resolve_device
from torch_utils.distributed import World
from training.config import DEFAULT_D_REG_INTERVAL
from training.presets import PRESET_NAMES

STEPS = DEFAULT_D_REG_INTERVAL
ROUNDS, BUDGET_SEC = 7, 600


def step_of(method: str, resolution: int, batch_gpu: int, cfg: str, device: torch.device, quick: bool) -> TrainingStep:
    """Return a training step with a method."""
    config, dataset = training_setup(
        resolution, batch_gpu, 1, device, channel_base=64 if quick else None, cfg=cfg, methods=METHODS[method]
    )
    return TrainingStep(World(rank=0, size=1, device=device), config, dataset)


@click.command(cls=Command)
@click.option(
    '--size', type=BatchSizeList(), default='32:16', show_default=True, help='Resolution and the number of images'
)
@click.option('--cfg', type=click.Choice(PRESET_NAMES), default='tiny', show_default=True, help='Preset')
@benchmark_options('quick', 'threads')
@device_option()
def main(size: list[tuple[int, int]], cfg: str, quick: bool, threads: int | None, device: str) -> None:
    """Time training steps with each method for few images."""
    torch_device = resolve_device(device)
    set_up(torch_device, threads)
    for resolution, batch_gpu in size:
        cases = {
            name: functools.partial(step_of(name, resolution, batch_gpu, cfg, torch_device, quick).run_steps, STEPS)
            for name in METHODS
        }
        times = measure(cases, torch_device, rounds=1 if quick else ROUNDS, min_rounds=1, budget_sec=BUDGET_SEC)
        step_sec = {name: statistics.median(runs) / STEPS for name, runs in times.items()}
        rows = [
            [f'`{name}`', format_seconds(seconds), f'{seconds / step_sec["noaug"]:.2f}']
            for name, seconds in step_sec.items()
        ]
        print(f'\n--cfg={cfg}, {resolution}x{resolution}, {batch_gpu} images\n')
        print(markdown_table(['method', 'step', 'times `noaug`'], rows), flush=True)


if __name__ == '__main__':
    main()
