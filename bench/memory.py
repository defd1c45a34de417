"""How good is the estimate of memory that train.py makes before it starts?

Runs one training step with all phases for several sizes, each in a process of its own, and prints the peak of that
process beside the estimate of `training.run.memory_estimate`.

    python bench/memory.py                                            about 3 minutes on 2 cores
    python bench/memory.py --sizes=256:16,1024:4 --device=cuda        resolution:images at once
"""

import concurrent.futures
import copy
import multiprocessing
import re
import resource
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import this_machine
from bench.steps import TrainingStep, training_setup
from dnnlib.cli import Command, device_option, resolve_device
from dnnlib.machine import keep_freed_memory
from torch_utils.distributed import World
from training.run import memory_estimate

AUGMENT_P = 0.5


def _peak_bytes(config, resolution: int) -> int:
    """Peak of this process after a step with all phases; on CUDA with what the context takes, as the GPU reports it."""
    keep_freed_memory()
    device = torch.device(config.device)
    step = TrainingStep(World(rank=0, size=1, device=device), config, resolution)
    step.loss.augment_pipe.p.fill_(AUGMENT_P)
    _averaged = copy.deepcopy(step.G)
    step.run(batch_idx=0)
    if device.type == 'cuda':
        free, total = torch.cuda.mem_get_info(device)
        return total - free  # PyTorch keeps what it has got.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == 'darwin' else 1024)


def measure(resolution: int, batch_gpu: int, cbase: int | None, device: torch.device) -> tuple[int, int]:
    """(bytes estimated, bytes measured) of a process."""
    config, dataset = training_setup(resolution, batch_gpu, 1, device, cbase)
    estimated = memory_estimate.estimate(config, dataset).num_bytes(batch_gpu)
    context = multiprocessing.get_context('spawn')
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        return estimated, pool.submit(_peak_bytes, config, resolution).result()


class Sizes(click.ParamType):
    name = 'RES:N,...'

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[tuple[int, int]]:
        if isinstance(value, list):
            return value
        if re.fullmatch(r'\d+:\d+(,\d+:\d+)*', str(value)) is None:
            self.fail(f'{value!r} is no list of resolutions and numbers of images, such as 64:4,256:1.', param, ctx)
        return [tuple(map(int, pair.split(':'))) for pair in str(value).split(',')]


@click.command(cls=Command)
@click.option(
    '--sizes',
    type=Sizes(),
    default='16:32,32:16,64:4,128:4,256:1,256:2',
    show_default=True,
    help='Resolutions of --cfg=auto, with the images at once',
)
@click.option('--cbase', type=click.IntRange(min=1), show_default='that of auto', help='Fewer make it faster')
@device_option()
def main(sizes: list[tuple[int, int]], cbase: int | None, device: str) -> None:
    """Measure the peak of memory of training steps beside its estimate."""
    device = resolve_device(device)
    print(f'{this_machine(device)}\n\nresolution  images  estimate   peak  estimate/peak')
    for resolution, batch_gpu in sizes:
        estimated, peak = measure(resolution, batch_gpu, cbase, device)
        print(
            f'{resolution:10d}  {batch_gpu:6d}  {estimated / 2**20:8,.0f}  {peak / 2**20:5,.0f}  '
            f'{estimated / peak:13.2f}  MiB',
            flush=True,
        )


if __name__ == '__main__':
    main()
