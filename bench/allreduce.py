"""One flat all-reduce after the gradients, or buckets that are reduced while the rest is still computed?

Runs the phases of a training step in several processes (gloo on a CPU, NCCL on CUDA) with both ways of averaging the
gradients, which take turns. `flat` is what training does: `torch_utils.distributed.average_gradients`. `buckets` starts
an asynchronous all-reduce as soon as all gradients of a bucket are final. Before anything is timed, both must give the
same gradients.

    python bench/allreduce.py                                   2 and 4 processes, about 4 minutes on 2 cores
    python bench/allreduce.py --processes=8 --resolution=256    on a machine with 8 GPUs
    python bench/allreduce.py --markdown=docs/scaling.md        and put the table into the documentation
"""

import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import (
    MarkedSection,
    Row,
    check_writable,
    json_text,
    markdown_table,
    synchronize,
    text_table,
    this_machine,
)
from bench.steps import TrainingStep, training_setup
from dnnlib.cli import PATH, Command, device_option, parse_int_list, resolve_device
from dnnlib.files import atomic_file
from torch_utils import distributed
from torch_utils.distributed import World
from training.phases import Phase

TIMED_PHASES = ('Gmain', 'Dmain')  # they run in every step; the regularisers once in 4 and in 16


# ---------------------------------------------------------------------------------------------------------------------
# The other way


class OverlappedBuckets:
    """Averages the gradients of a phase in buckets, each as soon as it is complete.

    A phase adds to the gradient of a parameter more than once: in each of its backward passes, and in each round of
    accumulation. How often is counted in a first run; from then on a gradient is final at its last addition.

    Args:
        world: Ranks.
        module: What is trained.
        bucket_bytes: A bucket is closed once it has this many.
    """

    def __init__(self, world: World, module: torch.nn.Module, bucket_bytes: int):
        self._world, self._bucket_bytes = world, bucket_bytes
        self._parameters = list(module.parameters())
        self._additions: dict[int, int] | None = None  # index of a parameter → in one run of the phase
        self._buckets: list[list[int]] = []

    def run(self, accumulate: Callable[[], None]) -> None:
        """Call `accumulate`, which does all backward passes; then the gradients are averages over the ranks."""
        learning = self._additions is None
        seen = dict.fromkeys(range(len(self._parameters)), 0)
        waiting = [len(bucket) for bucket in self._buckets]
        bucket_of = {index: number for number, bucket in enumerate(self._buckets) for index in bucket}
        under_way: list[tuple[torch.Tensor, torch.distributed.Work]] = []  # the first buckets, in their order
        order: list[int] = []

        def added(index):
            seen[index] += 1
            if learning:
                order.append(index)
            elif seen[index] == self._additions[index]:
                waiting[bucket_of[index]] -= 1
                while len(under_way) < len(waiting) and waiting[len(under_way)] == 0:  # alike on all ranks
                    under_way.append(self._start(self._buckets[len(under_way)]))

        hooks = [
            parameter.register_post_accumulate_grad_hook(lambda _parameter, index=index: added(index))
            for index, parameter in enumerate(self._parameters)
            if parameter.requires_grad
        ]
        accumulate()
        for hook in hooks:
            hook.remove()
        if learning:
            self._learn(seen, order)
            distributed.average_gradients(self._world, self._parameters)
            return
        for bucket, (flat, work) in zip(self._buckets, under_way, strict=True):
            work.wait()
            self._finish(bucket, flat)

    def _learn(self, seen: dict[int, int], order: list[int]) -> None:
        """Make buckets in the order in which the gradients became final, which is the same on all ranks."""
        self._additions = {index: count for index, count in seen.items() if count > 0}
        last = {index: position for position, index in enumerate(order)}
        final_order = sorted(last, key=last.get)
        bucket, num_bytes = [], 0
        for index in distributed.broadcast_object(self._world, final_order):
            bucket.append(index)
            num_bytes += self._parameters[index].nbytes
            if num_bytes >= self._bucket_bytes:
                self._buckets.append(bucket)
                bucket, num_bytes = [], 0
        if bucket:
            self._buckets.append(bucket)

    def _start(self, bucket: list[int]) -> tuple[torch.Tensor, torch.distributed.Work]:
        flat = torch.cat([self._parameters[index].grad.flatten() for index in bucket])
        return flat, torch.distributed.all_reduce(flat, async_op=True)

    def _finish(self, bucket: list[int], flat: torch.Tensor) -> None:
        flat /= self._world.size
        torch.nan_to_num(flat, nan=0, posinf=1e5, neginf=-1e5, out=flat)
        gradients = [self._parameters[index].grad for index in bucket]
        for gradient, piece in zip(gradients, flat.split([gradient.numel() for gradient in gradients])):
            gradient.copy_(piece.view_as(gradient))


# ---------------------------------------------------------------------------------------------------------------------
# Measurement, in each process


def _phase_runner(step: TrainingStep, phase: Phase, bucket_bytes: int | None) -> Callable[[], None]:
    """The phase without the step of the optimiser, so that all runs start from the same weights."""
    module = phase.module
    overlapped = None if bucket_bytes is None else OverlappedBuckets(step.world, module, bucket_bytes)

    def accumulate():
        for batch in step.batches:
            step.loss.accumulate_gradients(phase=phase.name, gain=phase.interval / len(step.batches), **batch)

    def run():
        torch.manual_seed(step.world.rank)  # the same noise in all runs of a rank
        phase.optimizer.zero_grad(set_to_none=True)
        module.requires_grad_(True)
        if overlapped is not None:
            overlapped.run(accumulate)
        else:
            accumulate()
            distributed.average_gradients(step.world, module.parameters())
        module.requires_grad_(False)

    return run


def _check_same_gradients(runs: dict[str, Callable], module: torch.nn.Module) -> None:
    """Raise RuntimeError where a way gives other gradients than `flat`, beyond what the order of a sum makes."""
    reference = None
    for name, run in runs.items():
        run()  # with buckets, the first run only counts
        run()
        gradients = [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]
        reference = reference or gradients
        for index, (gradient, expected) in enumerate(zip(gradients, reference, strict=True)):
            if not torch.allclose(gradient, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max())):
                raise RuntimeError(f'{name}: the gradient of parameter {index} is not that of the flat way')


def _measure(world: World, config, resolution: int, bucket_mib: Sequence[int], rounds: int, path: str) -> None:
    torch.manual_seed(0)
    step = TrainingStep(world, config, resolution)
    ways = {'flat': None} | {f'buckets of {mib} MiB': mib * 2**20 for mib in bucket_mib}
    times: dict[str, list[float]] = {}
    for phase in step.phases:
        if phase.name not in TIMED_PHASES:
            continue
        runs = {way: _phase_runner(step, phase, bucket_bytes) for way, bucket_bytes in ways.items()}
        _check_same_gradients(runs, phase.module)
        for _ in range(rounds):
            for way, run in runs.items():
                synchronize(world.device)
                torch.distributed.barrier()
                start = time.perf_counter()
                run()
                synchronize(world.device)
                times.setdefault(f'{phase.name}, {way}', []).append(time.perf_counter() - start)
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
    """Each phase with each way; a rate is images of all processes."""
    config, _dataset = training_setup(resolution, batch_gpu, num_processes, device, cbase)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/times.json'
        distributed.launch(_measure, num_processes, str(device), config, resolution, bucket_mib, rounds, path)
        times = json.loads(Path(path).read_text(encoding='utf-8'))
    return [
        Row(
            f'{num_processes} processes',
            f'{num_processes} x {batch_gpu}, {what}',
            of_what,
            num_processes * batch_gpu,
            'images',
        )
        for what, of_what in times.items()
    ]


class Numbers(click.ParamType):
    name = 'N,...'

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> list[int]:
        try:
            numbers = value if isinstance(value, list) else parse_int_list(str(value))
        except ValueError as error:
            self.fail(str(error), param, ctx)
        if min(numbers) < 1:
            self.fail(f'{value!r} has a number below 1.', param, ctx)
        return numbers


@click.command(cls=Command)
@click.option('--processes', type=Numbers(), default='2,4', show_default=True, help='How many, one measurement each')
@click.option('--resolution', type=click.IntRange(min=8), default=32, show_default=True, help='Of --cfg=auto')
@click.option('--batch-gpu', type=click.IntRange(min=1), default=4, show_default=True, help='Images in a process')
@click.option('--cbase', type=click.IntRange(min=1), show_default='that of auto', help='Fewer make it faster')
@click.option('--bucket-mib', type=Numbers(), default='4,25', show_default=True, help='Sizes of buckets to try')
@click.option('--rounds', type=click.IntRange(min=1), default=5, show_default=True, help='Runs of each way')
@click.option('--json', 'json_path', type=PATH, metavar='FILE', help='Write machine and rows')
@click.option('--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table in this file')
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
    device = resolve_device(device)
    check_writable('--json', json_path)
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/allreduce.py')
    for number in processes:
        distributed.number_of_processes(number, device)
    machine = this_machine(device)
    print(machine, flush=True)
    rows = []
    for number in processes:
        rows += bench_reduction(number, resolution, batch_gpu, cbase, bucket_mib, rounds, device)
    print(f'\n{text_table(rows)}')
    if json_path is not None:
        with atomic_file(json_path) as file:
            file.write(json_text(machine, rows).encode())
    if markdown is not None:
        markdown.replace(f'{machine}.\n\n{markdown_table(rows)}')


if __name__ == '__main__':
    main()
