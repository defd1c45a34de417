"""Checks before the first step: sound data, enough memory and disk space, and a sensible division into processes.

Each check returns a `Finding`, one line of the table that `train.py` prints, or raises InvalidArgument if the run could
not succeed. Something that may go wrong becomes a warning in the finding. Nothing is written.
`training.setup.check_same_on_all_ranks` is the one check that needs all processes, so the training loop runs it.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import math
import os
import shutil
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from dataset_format.labels import describe_classes
from dnnlib import machine
from dnnlib.errors import InvalidArgument
from dnnlib.progress import progress_bar
from dnnlib.text import message_line
from torch_utils import cuda_memory, launcher
from training import known_classes
from training.batch_sizes import mbstd_group_of
from training.config import TrainingConfig
from training.run import memory_estimate, snapshots

if TYPE_CHECKING:
    from training.dataset import ImageFolderDataset

SAMPLE_SIZE = 100  # images that --verify-data=sample decodes
_PROGRESS_DELAY_SEC = 1
_SUBJECT_WIDTH = 11  # of the longest subject and a blank


@dataclasses.dataclass(frozen=True)
class Finding:
    """The result of one check, with a warning if something may go wrong."""

    subject: str
    text: str
    warning: str | None = None


def table(findings: Iterable[Finding]) -> str:
    """Return one line for each finding and another for each warning."""
    lines = []
    for finding in findings:
        lines.append(f'  {finding.subject:<{_SUBJECT_WIDTH}}{finding.text}')
        if finding.warning is not None:
            lines.append(f'  {"":<{_SUBJECT_WIDTH}}Warning: {finding.warning}')
    return '\n'.join(['Checks:', *lines])


def check_run(config: TrainingConfig, dataset: ImageFolderDataset, outdir: str, verify_data: str) -> list[Finding]:
    """Run all checks that need only one process, quick ones first."""
    return [
        check_processes(config),
        check_memory(config, dataset),
        check_disk(config, dataset, outdir),
        *check_classes(dataset),
        check_data(config, verify_data),
        *check_validation(config, verify_data),
    ]


# ---------------------------------------------------------------------------------------------------------------------
# Data


def check_classes(dataset: ImageFolderDataset) -> list[Finding]:
    """Return a warning if there are classes without images, such as class 0 where numbers begin at 1."""
    classes = dataset.classes_without_images
    if not classes:
        return []
    warning = (
        f'no images of {describe_classes(classes, dataset.class_names)}: the networks will learn nothing about such '
        'classes. Number the classes from 0 without gaps to be rid of them.'
    )
    return [Finding('classes', f'{dataset.label_dim:,}, of which {len(classes):,} without images', warning)]


def check_data(config: TrainingConfig, verify: str) -> Finding:
    """Read the headers of all images, or decode some or all of them.

    Args:
        config: Configuration of the run.
        verify: One of `training.options.VERIFY_DATA`.

    Raises:
        InvalidArgument: An image cannot be used, which would otherwise end the run hours later. The message names it.
    """
    # Mirror images come from the same files.
    return _verify('data', dict(config.training_set_kwargs, xflip=False, cache_mib=0), verify)


def check_validation(config: TrainingConfig, verify: str) -> list[Finding]:
    """Do the same with the images that are held out, if there are any."""
    if config.validation_set_kwargs is None:
        return []
    return [_verify('validation', dict(config.validation_set_kwargs, cache_mib=0), verify)]


def _verify(argument: str, kwargs: dict[str, Any], verify: str) -> Finding:
    if verify == 'none':
        return Finding(argument, 'images not verified')
    try:
        dataset: ImageFolderDataset = known_classes.construct(kwargs, known_classes.DATASETS)
        count = len(dataset)
        indices = list(range(count))
        try:
            if verify != 'all':
                with progress_bar(count, 'img', 'Checking images', delay=_PROGRESS_DELAY_SEC) as bar:
                    dataset.check_shapes(lambda done, _total: bar.update(done - bar.n))
            if verify == 'sample':
                indices = sorted(np.random.RandomState(0).permutation(count)[:SAMPLE_SIZE].tolist())
            if verify != 'headers':
                _decode(dataset, indices)
        finally:
            dataset.close()
    except (ValueError, OSError) as error:
        raise InvalidArgument(argument, str(error)) from error
    extent = {'headers': 'headers read', 'sample': f'headers read, {len(indices):,} decoded', 'all': 'all decoded'}
    return Finding(argument, f'{count:,} images: {extent[verify]}')


def _decode(dataset: ImageFolderDataset, indices: list[int]) -> None:
    """Decode images; several damaged ones are first listed on stderr.

    Raises:
        ValueError: Some images are damaged.
    """

    def error_of(index: int) -> str | None:
        try:
            dataset[index]
        except ValueError as error:
            return str(error)
        return None

    errors: list[str] = []
    with (
        progress_bar(len(indices), 'img', 'Decoding images', delay=_PROGRESS_DELAY_SEC) as bar,
        concurrent.futures.ThreadPoolExecutor() as pool,
    ):
        for first in range(0, len(indices), SAMPLE_SIZE):
            chunk = indices[first : first + SAMPLE_SIZE]
            errors += [error for error in pool.map(error_of, chunk) if error is not None]
            bar.update(len(chunk))
    if len(errors) > 1:
        for error in errors:
            print(message_line(error), file=sys.stderr)
        raise ValueError(
            f'{len(errors):,} of {len(indices):,} images cannot be used (listed above): replace or remove them, or '
            'convert the dataset with dataset_tool.py --skip-bad.'
        )
    if errors:
        raise ValueError(errors[0])


# ---------------------------------------------------------------------------------------------------------------------
# Memory


def check_memory(config: TrainingConfig, dataset: ImageFolderDataset) -> Finding:
    """Compare the estimated memory of a process with the free memory of its device.

    Raises:
        InvalidArgument: The process would run out of memory even if the estimate were too high by its error.
    """
    estimate = memory_estimate.estimate(config, dataset)
    needed = estimate.num_bytes(config.batch_gpu)
    available, description = _available_memory(config)
    text = f'about {_gib(needed)} in each process for {config.batch_gpu} images at once; {description}'
    if available is None or needed <= available:
        return Finding('memory', text)
    fitting = memory_estimate.fitting_batch_gpu(config, estimate, available)
    remedy = (
        f'use --batch-gpu={" or ".join(map(str, fitting))}'
        if fitting
        else 'fewer images at once do not help: use smaller --cbase and --cmax'
    )
    if needed * (1 - memory_estimate.ACCURACY) > available:
        raise InvalidArgument(
            'batch_gpu',
            f'{config.batch_gpu} images at once need about {_gib(needed)} of memory in each process, but that is not '
            f'available ({description}): {remedy}.',
        )
    return Finding('memory', text, f'this may not be enough; if memory runs out, {remedy}.')


def _available_memory(config: TrainingConfig) -> tuple[float | None, str]:
    """Return the bytes available to one process (None: unknown), and a description for the user."""
    device = torch.device(config.device)
    here = launcher.processes_on_this_machine(config.num_gpus)
    free: int | None
    if device.type == 'cuda':
        free = cuda_memory.free_cuda_bytes(list(range(here)) if here > 1 else [device.index or 0])
        sharing, where = 1, 'on the fullest GPU' if here > 1 else 'on the GPU'
    else:
        free = machine.free_ram_bytes()
        sharing, where = here, 'on this machine' + (f' for {here} processes' if here > 1 else '')
    if free is None:
        return None, 'this system does not report how much is free'
    return free / sharing, f'{_gib(free)} free {where}'


def _gib(num_bytes: float) -> str:
    return f'{num_bytes / 2**30:.1f} GiB'


# ---------------------------------------------------------------------------------------------------------------------
# Disk


@dataclasses.dataclass(frozen=True)
class ExpectedOutput:
    """Bytes that a run writes; log and statistics are negligible."""

    num_snapshots: int
    snapshot_bytes: int  # a network pickle and an image grid
    state_bytes: int  # a training state
    num_states: int  # at the same time: an old one is deleted when the new one is complete

    @property
    def states_bytes(self) -> int:
        """Bytes of all training states that exist at the same time."""
        return self.state_bytes * self.num_states


def expected_output(config: TrainingConfig, dataset: ImageFolderDataset) -> ExpectedOutput:
    """Return an upper bound: parameters do not compress, and an image grid takes at most its pixels."""
    sizes = memory_estimate.network_sizes(config, dataset)
    columns, rows = snapshots.grid_size_for(dataset.resolution, torch.device(config.device))
    averages = len(config.posthoc_ema or [])
    return ExpectedOutput(
        num_snapshots=_num_snapshots(config),
        snapshot_bytes=(2 + averages) * sizes.G_bytes + sizes.D_bytes + columns * rows * math.prod(dataset.image_shape),
        state_bytes=(4 + averages) * sizes.G_bytes
        + 3 * sizes.D_bytes,  # G, D, G_ema, and two moments of Adam for G and D
        num_states=config.keep_states + 1,
    )


def _num_snapshots(config: TrainingConfig) -> int:
    """Count the snapshots: after the first tick, which is a single batch, then every so many ticks, and at the end."""
    batches_per_tick = max(math.ceil(config.kimg_per_tick * 1000 / config.batch_size), 1)
    batches_after_first_tick = math.ceil(config.total_kimg * 1000 / config.batch_size) - 1
    last_tick = math.ceil(batches_after_first_tick / batches_per_tick)
    return 1 + math.ceil(last_tick / config.network_snapshot_ticks)


def check_disk(config: TrainingConfig, dataset: ImageFolderDataset, outdir: str) -> Finding:
    """Compare the expected output of the run with the free space where `outdir` is or will be.

    Raises:
        InvalidArgument: Not even one snapshot fits. If only some of them fit, the finding has a warning: a resumed run
            has already written some, and others may be moved away in time.
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
    minimum = output.snapshot_bytes + output.state_bytes
    if free < minimum:
        raise InvalidArgument(
            'outdir',
            f'{outdir!r} has {_gb(free)} free, but a snapshot and a training state take {_gb(minimum)}: choose '
            'another folder, or free some space.',
        )
    fitting = max((free - output.states_bytes) // output.snapshot_bytes, 1)
    return Finding(
        'disk',
        text,
        f'there is room for {fitting:,} snapshots: delete old ones in time, or write fewer (--snap, --tick).',
    )


def _gb(num_bytes: float) -> str:
    return f'{num_bytes / 1e9:.1f} GB' if num_bytes >= 1e8 else f'{num_bytes / 1e6:.1f} MB'


# ---------------------------------------------------------------------------------------------------------------------
# Processes


def check_processes(config: TrainingConfig) -> Finding:
    """Describe how processes and batch are divided, and warn about a division that is probably unintended."""
    here = launcher.processes_on_this_machine(config.num_gpus)
    machines = launcher.number_of_machines()
    if machines == 1:
        where = f'{here} on this machine'
    else:
        where = f'{config.num_gpus} on {machines} machines, {here} on this one'
    backend = f', {launcher.backend_for(config.device)}' if config.num_gpus > 1 else ''
    rounds = config.batch_size // (config.batch_gpu * config.num_gpus)
    batch = f'{config.num_gpus} x {config.batch_gpu} images' + (f' x {rounds} rounds' if rounds > 1 else '')
    text = f'{where}{backend}; batch of {config.batch_size} = {batch}'
    return Finding('processes', text, _warning_about_processes(config, here))


def _warning_about_processes(config: TrainingConfig, here: int) -> str | None:
    tasks = int(os.environ.get('SLURM_STEP_NUM_TASKS') or 1)
    if tasks > 1 and not launcher.under_torchrun():
        return (
            f'Slurm has started {tasks} tasks, and each of them trains on its own: start one torchrun on each node '
            '(srun --ntasks-per-node=1 torchrun ...).'
        )
    machines = launcher.number_of_machines()
    if machines > 1 and here * machines != config.num_gpus:
        return f'not every machine has {here} processes like this one: check --nproc-per-node on all of them.'
    if config.device == 'cpu' and here > (os.cpu_count() or here):
        return f'{here} processes share {os.cpu_count()} cores.'
    if config.num_gpus > 1 and mbstd_group_of(config) == 1:
        return (
            'the discriminator compares images with each other (minibatch standard deviation), but its groups '
            f'have only one image: use --batch={4 * config.num_gpus} --mbstd-group=4, or fewer processes.'
        )
    return None
