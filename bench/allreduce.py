"""Should gradients be averaged in one flat all-reduce, or in buckets that overlap with the backward pass?

Runs the phases of a training step in several processes (gloo on CPUs, NCCL on CUDA) with both methods, which take
turns. `flat` is what training uses: `torch_utils.distributed.average_gradients`. `buckets` starts an asynchronous
all-reduce as soon as all gradients of a bucket are final. Both must produce the same gradients before they are timed.

    python bench/allreduce.py                                   2 and 4 processes, about 4 minutes on 2 cores
    python bench/allreduce.py --processes=8 --resolution=256    on a machine with 8 GPUs
    python bench/allreduce.py --markdown=docs/scaling.md        and update the table in the documentation
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import Row, rows_to_json, synchronize, this_machine
from bench.networks import TrainingStep, training_setup
from bench.options import PositiveIntList, ResultFiles, benchmark_options
from bench.tables import markdown_table_of_rows, text_table_of_rows
from dnnlib.cli import Command, device_option, resolve_device, usage_errors
from torch_utils import distributed, launcher
from torch_utils.distributed import World
from training.config import TrainingConfig
from training.dataset import ImageFolderDataset
from training.phases import Phase

TIMED_PHASES = ('Gmain', 'Dmain')  # they run in every step, the regularizers once in 4 and in 16 steps

# ---------------------------------------------------------------------------------------------------------------------
# Overlapping buckets


class OverlappedBuckets:
    """Averages the gradients of a phase in buckets, each as soon as it is complete.

    A phase adds to the gradient of a parameter several times: in each of its backward passes, and in each round of
    accumulation. The first run counts how often. From then on, a gradient is final after that many additions.

    Args:
        world: The processes.
        module: The network that is trained.
        bucket_bytes: A bucket is closed when it reaches this size.
    """

    def __init__(self, world: World, module: torch.nn.Module, bucket_bytes: int):
        self._world, self._bucket_bytes = world, bucket_bytes
        self._parameters = list(module.parameters())
        self._additions: dict[int, int] = {}  # index of a parameter → additions in one run; empty before the first run
        self._buckets: list[list[int]] = []

    def run(self, accumulate: Callable[[], None]) -> None:
        """Call `accumulate`, which does all backward passes, and average the gradients over the ranks."""
        if self._additions:
            self._run_overlapped(accumulate)
        else:
            self._run_counting(accumulate)

    def _run_counting(self, accumulate: Callable[[], None]) -> None:
        """Average in one all-reduce, and form buckets from the order in which the gradients become final."""
        last_addition: dict[int, int] = {}
        num_additions = 0

        def added(index: int) -> None:
            nonlocal num_additions
            self._additions[index] = self._additions.get(index, 0) + 1
            last_addition[index] = num_additions
            num_additions += 1

        self._accumulate_with_hooks(accumulate, added)
        self._form_buckets(sorted(last_addition, key=last_addition.__getitem__))
        distributed.average_gradients(self._world, distributed.flatten_gradients(self._parameters))

    def _run_overlapped(self, accumulate: Callable[[], None]) -> None:
        """Start the all-reduce of each bucket as soon as its gradients are final."""
        additions = dict.fromkeys(self._additions, 0)
        missing = [len(bucket) for bucket in self._buckets]
        bucket_of = {index: number for number, bucket in enumerate(self._buckets) for index in bucket}
        started: list[tuple[torch.Tensor, torch.distributed.Work]] = []

        def added(index: int) -> None:
            additions[index] += 1
            if additions[index] == self._additions[index]:
                missing[bucket_of[index]] -= 1
                while len(started) < len(missing) and missing[len(started)] == 0:  # in the same order on all ranks
                    started.append(self._start(self._buckets[len(started)]))

        self._accumulate_with_hooks(accumulate, added)
        for bucket, (flat, work) in zip(self._buckets, started, strict=True):
            work.wait()
            self._finish(bucket, flat)

    def _accumulate_with_hooks(self, accumulate: Callable[[], None], added: Callable[[int], None]) -> None:
        """Call `accumulate`, and `added` with the index of a parameter after each addition to its gradient."""
        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _parameter, index=index: added(index))
            for index, parameter in enumerate(self._parameters)
            if parameter.requires_grad
        ]
        accumulate()
        for hook in hooks:
            hook.remove()

    def _form_buckets(self, final_order: list[int]) -> None:
        """Form buckets in the order in which rank 0's gradients became final."""
        bucket: list[int] = []
        num_bytes = 0
        for index in distributed.broadcast_object(self._world, final_order):
            bucket.append(index)
            num_bytes += self._parameters[index].nbytes
            if num_bytes >= self._bucket_bytes:
                self._buckets.append(bucket)
                bucket, num_bytes = [], 0
        if bucket:
            self._buckets.append(bucket)

    def _start(self, bucket: list[int]) -> tuple[torch.Tensor, torch.distributed.Work]:
        flat = torch.cat([gradient.flatten() for gradient in self._gradients(bucket)])
        return flat, torch.distributed.all_reduce(flat, async_op=True)

    def _finish(self, bucket: list[int], flat: torch.Tensor) -> None:
        flat /= self._world.size
        torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
        gradients = self._gradients(bucket)
        for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(piece.view_as(gradient))

    def _gradients(self, bucket: list[int]) -> list[torch.Tensor]:
        gradients = [self._parameters[index].grad for index in bucket]
        return [gradient for gradient in gradients if gradient is not None]


# ---------------------------------------------------------------------------------------------------------------------
# Measurement in each process


def _phase_runner(step: TrainingStep, phase: Phase, bucket_bytes: int | None) -> Callable[[], None]:
    """Return the phase without the step of the optimizer, so that all runs start from the same weights."""
    module = phase.module
    overlapped = None if bucket_bytes is None else OverlappedBuckets(step.world, module, bucket_bytes)

    def accumulate() -> None:
        gain = phase.interval / len(step.batches)
        for batch in step.batches:
            tensors: dict[str, Any] = dict(batch)
            step.loss.accumulate_gradients(phase=phase.name, gain=gain, **tensors)

    def run() -> None:
        torch.manual_seed(step.world.rank)  # the same noise in all runs of a rank
        phase.optimizer.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        if overlapped is not None:
            overlapped.run(accumulate)
        else:
            accumulate()
            distributed.average_gradients(step.world, distributed.flatten_gradients(module.parameters()))
        module.requires_grad_(False)

    return run


def _check_same_gradients(runs: dict[str, Callable[[], None]], module: torch.nn.Module) -> None:
    """Raise RuntimeError if a method differs from the first one by more than the order of sums explains."""
    reference: list[torch.Tensor] = []
    for name, run in runs.items():
        run()  # with buckets, the first run only counts
        run()
        gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
        reference = reference or gradients
        for index, (gradient, expected) in enumerate(zip(gradients, reference, strict=True)):
            if not torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
                raise RuntimeError(f'{name}: the gradient of parameter {index} differs from that of the flat method')


def _measure_rank(
    world: World,
    config: TrainingConfig,
    dataset: ImageFolderDataset,
    bucket_mib: Sequence[int],
    rounds: int,
    path: str,
) -> None:
    """Time each phase with each method, and write the main rank's times to a JSON file."""
    torch.manual_seed(0)
    step = TrainingStep(world, config, dataset)
    bucket_bytes = {'flat': None} | {f'buckets of {mib} MiB': mib * 2**20 for mib in bucket_mib}
    times: dict[str, list[float]] = {}
    for phase in step.phases:
        if phase.name not in TIMED_PHASES:
            continue
        runs = {method: _phase_runner(step, phase, size) for method, size in bucket_bytes.items()}
        _check_same_gradients(runs, phase.module)
        for _ in range(rounds):
            for method, run in runs.items():
                synchronize(world.device)
                torch.distributed.barrier()
                start = time.perf_counter()
                run()
                synchronize(world.device)
                times.setdefault(f'{phase.name}, {method}', []).append(time.perf_counter() - start)
    if world.is_main:
        Path(path).write_text(json.dumps(times), encoding='utf-8')


# ---------------------------------------------------------------------------------------------------------------------
# Command


def bench_reduction(
    num_processes: int,
    resolution: int,
    batch_gpu: int,
    cbase: int | None,
    bucket_mib: Sequence[int],
    rounds: int,
    device: torch.device,
) -> list[Row]:
    """Time each phase with each method; rates count the images of all processes."""
    config, dataset = training_setup(resolution, batch_gpu, num_processes, device, cbase)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/times.json'
        launcher.launch(_measure_rank, num_processes, str(device), config, dataset, bucket_mib, rounds, path)
        times_sec = json.loads(Path(path).read_text(encoding='utf-8'))
    section, num_images = f'{num_processes} processes', num_processes * batch_gpu
    return [
        Row(section, f'{num_processes} x {batch_gpu}, {what}', seconds, num_images, 'images')
        for what, seconds in times_sec.items()
    ]


@click.command(cls=Command)
@click.option('--processes', type=PositiveIntList(), default='2,4', show_default=True, help='Numbers of processes')
@click.option('--resolution', type=click.IntRange(min=8), default=32, show_default=True, help='Pixels along a side')
@click.option('--batch-gpu', type=click.IntRange(min=1), default=4, show_default=True, help='Images per process')
@click.option('--cbase', type=click.IntRange(min=1), show_default='that of auto', help='Fewer channels are faster')
@click.option('--bucket-mib', type=PositiveIntList(), default='4,25', show_default=True, help='Bucket sizes to try')
@click.option('--rounds', type=click.IntRange(min=1), default=5, show_default=True, help='Runs of each method')
@benchmark_options('json', 'markdown')
@device_option()
def main(
    processes: list[int],
    resolution: int,
    batch_gpu: int,
    cbase: int | None,
    bucket_mib: list[int],
    rounds: int,
    json_path: str | None,
    markdown_path: str | None,
    device: str,
) -> None:
    """Time the phases of a training step with flat and with overlapped averaging of the gradients."""
    torch_device = resolve_device(device)
    results = ResultFiles('bench/allreduce.py', json_path, markdown_path)
    with usage_errors(gpus='--processes'):
        for number in processes:
            launcher.number_of_processes(number, torch_device)
    machine = this_machine(torch_device)
    print(machine, flush=True)
    rows = []
    for number in processes:
        rows += bench_reduction(number, resolution, batch_gpu, cbase, bucket_mib, rounds, torch_device)
    print(f'\n{text_table_of_rows(rows)}')
    results.save(rows_to_json(machine, rows), f'{machine}.\n\n{markdown_table_of_rows(rows)}')


if __name__ == '__main__':
    main()
