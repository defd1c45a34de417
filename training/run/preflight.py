"""What can be known before the first step: sound data, enough memory and disk, processes that fit together.

Each check returns a `Finding`, a line of the table that `train.py` prints, or raises click.BadParameter (exit status 2)
where the run could not succeed. What only might go wrong is a warning in the finding. Nothing is written.
`check_same_on_all_ranks` is the one check that needs all processes, so the training loop makes it.
"""

from __future__ import annotations

import concurrent.futures
import contextlib
import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import click
import numpy as np
import torch

import dnnlib
from dnnlib import machine
from dnnlib.progress import progress_bar
from torch_utils import cuda_memory, distributed
from training.config import TrainingConfig, wrong
from training.run import memory_estimate, snapshots

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset

SAMPLE_SIZE = 100  # images that --verify-data=sample decodes


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check: what was found, and what might go wrong (None: nothing)."""

    subject: str
    text: str
    warning: str | None = None


def table(findings: Iterable[Finding]) -> str:
    """A line for each finding, another for each warning."""
    lines = []
    for finding in findings:
        lines.append(f'  {finding.subject:<10}{finding.text}')
        if finding.warning is not None:
            lines.append(f'  {"":<10}Warning: {finding.warning}')
    return '\n'.join(['Checks:', *lines])


def check_run(config: TrainingConfig, dataset: ImageFolderDataset, outdir: str, verify_data: str) -> list[Finding]:
    """All checks of this file that one process can make; quick ones first."""
    return [
        check_processes(config),
        check_memory(config, dataset),
        check_disk(config, dataset, outdir),
        check_data(config, verify_data),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Data


def check_data(config: TrainingConfig, verify: str) -> Finding:
    """Look at the headers of all images, or decode some or all of them; `verify` is one of config.VERIFY_DATA.

    Raises click.BadParameter that names what is wrong; hours later it would end the run.
    """
    if verify == 'none':
        return Finding('data', 'images not verified')
    try:
        # Mirror images come from the same files.
        dataset = dnnlib.util.construct_class_by_name(**dict(config.training_set_kwargs, xflip=False), cache_mib=0)
        count = len(dataset)
        try:
            if verify != 'all':
                with _progress('Checking images', count) as show:
                    dataset.check_shapes(lambda done, _total: show(done))
            indices = range(count)
            if verify == 'sample':
                indices = sorted(np.random.RandomState(0).permutation(count)[:SAMPLE_SIZE].tolist())
            if verify != 'headers':
                _decode(dataset, indices)
        finally:
            dataset.close()
    except (ValueError, OSError) as error:
        raise wrong('--data', str(error)) from error
    what = {'headers': 'headers read', 'sample': f'headers read, {len(indices):,} decoded', 'all': 'all decoded'}
    return Finding('data', f'{count:,} images: {what[verify]}')


def _decode(dataset: ImageFolderDataset, indices: Iterable[int]) -> None:
    """Raises ValueError where images are damaged; where several are, each has a line on stderr before."""

    def problem(index: int) -> str | None:
        try:
            dataset[index]
        except ValueError as error:
            return str(error)
        return None

    indices = list(indices)
    problems = []
    with _progress('Decoding images', len(indices)) as show, concurrent.futures.ThreadPoolExecutor() as pool:
        for first in range(0, len(indices), SAMPLE_SIZE):
            found = pool.map(problem, indices[first : first + SAMPLE_SIZE])
            problems += [sentence for sentence in found if sentence is not None]
            show(min(first + SAMPLE_SIZE, len(indices)))
    if len(problems) > 1:
        for sentence in problems:
            click.echo(sentence, err=True)
        raise ValueError(
            f'{len(problems):,} of {len(indices):,} images cannot be used, all named above: replace or '
            'remove them, or convert with dataset_tool.py --skip-bad.'
        )
    if problems:
        raise ValueError(problems[0])


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on a terminal, once it takes longer than a second; yields a function of the number that is done."""
    with progress_bar(total, 'img', title, delay=1) as bar:
        yield lambda done: bar.update(done - bar.n)


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def check_memory(config: TrainingConfig, dataset: ImageFolderDataset) -> Finding:
    """Compare the estimate of a process's memory with what is free on its device.

    Raises click.BadParameter where that would not suffice even if the estimate were too high by its accuracy.
    """
    estimate = memory_estimate.estimate(config, dataset)
    needed = estimate.num_bytes(config.batch_gpu)
    share, free = _free_share(config)
    text = f'about {_gib(needed)} in each process for {config.batch_gpu} images at once; {free}'
    if share is None or needed <= share:
        return Finding('memory', text)
    fitting = memory_estimate.fitting_batch_gpu(config, estimate, share)
    way_out = (
        f'use --batch-gpu={" or ".join(map(str, fitting))}'
        if fitting
        else 'fewer images at once do not help: use smaller --cbase and --cmax'
    )
    if needed * (1 - memory_estimate.ACCURACY) > share:
        raise wrong(
            '--batch-gpu',
            f'{config.batch_gpu} images at once take about {_gib(needed)} of memory in each '
            f'process, but there is too little ({free}): {way_out}.',
        )
    return Finding('memory', text, f'that may be too little; if memory runs out, {way_out}.')


def _free_share(config: TrainingConfig) -> tuple[float | None, str]:
    """Free bytes for one process (None: not known), and words for what is free."""
    device = torch.device(config.device)
    here = distributed.processes_on_this_machine(config.num_gpus)
    if device.type == 'cuda':
        free, sharing = cuda_memory.free_cuda_bytes(list(range(here)) if here > 1 else [device.index or 0]), 1
        where = 'on the fullest GPU' if here > 1 else 'on the GPU'
    else:
        free, sharing = machine.free_ram_bytes(), here
        where = 'on this machine' + (f' for {here} processes' if here > 1 else '')
    if free is None:
        return None, 'this system does not tell how much is free'
    return free / sharing, f'{_gib(free)} free {where}'


def _gib(num_bytes: float) -> str:
    return f'{num_bytes / 2**30:.1f} GiB'


# ---------------------------------------------------------------------------------------------------------------------
# Disk


@dataclasses.dataclass(frozen=True)
class ExpectedOutput:
    """Bytes of what a run writes; log and statistics are nothing beside it."""

    num_snapshots: int
    snapshot_bytes: int  # a network pickle and an image grid
    state_bytes: int  # a training state
    num_states: int  # that are there at once: an old one goes when the new one is complete

    @property
    def states_bytes(self) -> int:
        return self.state_bytes * self.num_states


def expected_output(config: TrainingConfig, dataset: ImageFolderDataset) -> ExpectedOutput:
    """An upper bound: parameters do not compress, and a grid of images takes at most its pixels."""
    sizes = memory_estimate.network_sizes(config, dataset)
    columns, rows = snapshots.grid_size_for(dataset.resolution, torch.device(config.device))
    return ExpectedOutput(
        num_snapshots=_num_snapshots(config),
        snapshot_bytes=2 * sizes.G_bytes + sizes.D_bytes + columns * rows * math.prod(dataset.image_shape),
        state_bytes=4 * sizes.G_bytes + 3 * sizes.D_bytes,  # G, D, G_ema, and two means of Adam for G and D
        num_states=config.keep_states + 1,
    )


def _num_snapshots(config: TrainingConfig) -> int:
    """One after the first tick, which is a single batch, then one every so many ticks, and one at the end."""
    batches_of_tick = max(math.ceil(config.kimg_per_tick * 1000 / config.batch_size), 1)
    batches_after_first_tick = math.ceil(config.total_kimg * 1000 / config.batch_size) - 1
    last_tick = math.ceil(batches_after_first_tick / batches_of_tick)
    return 1 + math.ceil(last_tick / config.network_snapshot_ticks)


def check_disk(config: TrainingConfig, dataset: ImageFolderDataset, outdir: str) -> Finding:
    """Compare what the run will write with what is free where `outdir` is or will be.

    Raises click.BadParameter where not even one snapshot fits. That not all do is a warning: some may be there already,
    where a run goes on, and others may be moved away meanwhile.
    """
    output = expected_output(config, dataset)
    folder = os.path.abspath(outdir)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    free = shutil.disk_usage(folder).free
    total = output.num_snapshots * output.snapshot_bytes + output.states_bytes
    text = (
        f'{_gb(total)} to write: {output.num_snapshots:,} snapshots of {_gb(output.snapshot_bytes)}, '
        f'{_gb(output.states_bytes)} of training states; {_gb(free)} free'
    )
    if free >= total:
        return Finding('disk', text)
    least = output.snapshot_bytes + output.state_bytes
    if free < least:
        raise wrong(
            '--outdir',
            f'{outdir!r} has {_gb(free)} free, but a snapshot and a training state take '
            f'{_gb(least)}: give another place, or make room.',
        )
    fitting = max((free - output.states_bytes) // output.snapshot_bytes, 1)
    return Finding(
        'disk',
        text,
        f'that is enough for {fitting:,} snapshots: delete old ones in time, or write fewer (--snap, --tick).',
    )


def _gb(num_bytes: float) -> str:
    return f'{num_bytes / 1e9:.1f} GB' if num_bytes >= 1e8 else f'{num_bytes / 1e6:.1f} MB'


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def check_processes(config: TrainingConfig) -> Finding:
    """How the processes are spread, and how the batch is; nothing here is an error that has not been one before."""
    here = distributed.processes_on_this_machine(config.num_gpus)
    machines = distributed.number_of_machines()
    where = f'{here} on this machine' if machines == 1 else f'{config.num_gpus} on {machines} machines, {here} on this'
    backend = f', {distributed.backend_for(config.device)}' if config.num_gpus > 1 else ''
    rounds = config.batch_size // (config.batch_gpu * config.num_gpus)
    batch = f'{config.num_gpus} x {config.batch_gpu} images' + (f' x {rounds} rounds' if rounds > 1 else '')
    return Finding('processes', f'{where}{backend}; batch of {config.batch_size} = {batch}', _doubts(config, here))


def _doubts(config: TrainingConfig, here: int) -> str | None:
    tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS') or 1)
    if tasks > 1 and not distributed.under_torchrun():
        return (
            f'Slurm has started {tasks} tasks, and each trains by itself: start one torchrun on each node '
            '(srun --ntasks-per-node=1 torchrun ...).'
        )
    machines = distributed.number_of_machines()
    if machines > 1 and here * machines != config.num_gpus:
        return f'not every machine has {here} processes like this one: check --nproc-per-node on all of them.'
    if config.device == 'cpu' and here > (os.cpu_count() or here):
        return f'{here} processes share {os.cpu_count()} cores.'
    if config.num_gpus > 1 and config.D_kwargs.get('epilogue_kwargs', {}).get('mbstd_group_size') == 1:
        return (
            'the discriminator compares images with each other (minibatch standard deviation), but its groups '
            f'have one: use --batch={4 * config.num_gpus} --mbstd-group=4, or fewer processes.'
        )
    return None
