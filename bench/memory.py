"""How accurate is the estimate of memory that train.py makes before it starts?

Runs one training step with all phases for several sizes, each in a process of its own, and prints the peak memory of
that process beside the estimate of `training.run.memory_estimate`.

    python bench/memory.py                                       about 3 minutes on 2 cores
    python bench/memory.py --sizes=256:16,1024:4 --device=cuda   resolution:images at once
    python bench/memory.py --sizes=64:4 --cfg=stylegan3-t        another preset
    python bench/memory.py --sizes=64:4 --method=bcr             another method
"""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import this_machine
from bench.networks import METHODS, TrainingStep, training_setup
from bench.options import BatchSizeList, ResultFiles, benchmark_options
from dnnlib.cli import Command, device_option, resolve_device
from dnnlib.machine import keep_freed_memory
from torch_utils.distributed import World
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.presets import PRESET_NAMES
from training.run import memory_estimate

AUGMENT_P = 0.5


def _peak_bytes(config: TrainingConfig, dataset: ImageFolderDataset) -> int:
    """Return the peak of this process in a step with all phases; on CUDA as the GPU reports it, with the context."""
    keep_freed_memory()
    device = torch.device(config.device)
    step = TrainingStep(World(rank=0, size=1, device=device), config, dataset)
    if step.augment_pipe is not None:
        step.augment_pipe.p.fill_(AUGMENT_P)
    step.run_steps(1)
    if device.type == 'cuda':
        free, total = torch.cuda.mem_get_info(device)
        return total - free  # PyTorch keeps what it has allocated.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def estimate_and_measure(
    resolution: int, batch_gpu: int, channel_base: int | None, device: torch.device, cfg: str, method: str
) -> tuple[int, int]:
    """Return the estimated and the measured bytes of a process."""
    config, dataset = training_setup(resolution, batch_gpu, 1, device, channel_base, cfg=cfg, methods=METHODS[method])
    estimated = memory_estimate.estimate(config, dataset).num_bytes(batch_gpu)
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return estimated, pool.submit(_peak_bytes, config, dataset).result()


@click.command(cls=Command)
@click.option(
    '--sizes',
    type=BatchSizeList(),
    default='16:32,32:16,64:4,128:4,256:1,256:2',
    show_default=True,
    help='Resolutions, each with the number of images at once',
)
@click.option('--cfg', type=click.Choice(PRESET_NAMES), default='auto', show_default=True, help='Preset')
@click.option(
    '--cbase', type=click.IntRange(min=1), show_default='that of the preset', help='Fewer channels are faster'
)
@click.option(
    '--method', type=click.Choice(list(METHODS)), default='ada', show_default=True, help='Method to train with'
)
@benchmark_options('json')
@device_option()
def main(
    sizes: list[tuple[int, int]], cfg: str, cbase: int | None, method: str, json_path: str | None, device: str
) -> None:
    """Measure the peak memory of training steps and compare it with the estimate."""
    results, rows = ResultFiles(json_path=json_path), []
    torch_device = resolve_device(device)
    print(f'{this_machine(torch_device)}\n\nresolution  images  estimate   peak  estimate/peak')
    for resolution, batch_gpu in sizes:
        estimated, peak = estimate_and_measure(resolution, batch_gpu, cbase, torch_device, cfg, method)
        rows.append(dict(resolution=resolution, images=batch_gpu, estimated_bytes=estimated, peak_bytes=peak))
        results.save(rows)
        print(
            f'{resolution:10d}  {batch_gpu:6d}  {estimated / 2**20:8,.0f}  {peak / 2**20:5,.0f}  '
            f'{estimated / peak:13.2f}  MiB',
            flush=True,
        )


if __name__ == '__main__':
    main()
