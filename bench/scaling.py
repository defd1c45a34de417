"""How does training scale with the number of processes? A model, its test on this machine, and its results for GPUs.

Measures the constants of the model on this machine (time of each phase in one process, gradient bytes, all-reduce,
decoding), predicts the time of a step in 1, 2 and 4 processes, and measures that, too. Then evaluates the model for
GPUs, whose constants are assumptions. docs/scaling.md explains it.

    python bench/scaling.py                                 about 3 minutes on 2 cores
    python bench/scaling.py --markdown=docs/scaling.md      and update the tables in the documentation
"""

from __future__ import annotations

import dataclasses
import functools
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import torch

from bench.common import CPU, format_seconds, synchronize, this_machine
from bench.networks import TrainingStep, gradient_bytes, training_setup
from bench.options import ResultFiles, benchmark_options
from bench.published import EIGHT_GPUS_SEC_PER_KIMG, ONE_GPU_SEC_PER_KIMG, PUBLISHED_BATCH
from bench.tables import markdown_table
from dataset_format.images import encode_png
from dnnlib.cli import Command, usage_error
from dnnlib.machine import available_cores
from torch_utils import launcher
from torch_utils.distributed import World
from training import setup
from training.config import TrainingConfig
from training.data.decoding import decode_image
from training.dataset import ImageFolderDataset
from training.presets import auto_preset

PHASES = {'Gmain': 1, 'Greg': 4, 'Dmain': 1, 'Dreg': 16}  # name → steps between two runs

# ---------------------------------------------------------------------------------------------------------------------
# The model


@dataclasses.dataclass(frozen=True)
class Compute:
    """Time of one phase in a process: `start_sec`, plus `image_sec` for each of its images."""

    start_sec: float
    image_sec: float

    def sec(self, num_images: float) -> float:
        """Time of the phase for this many images."""
        return self.start_sec + self.image_sec * num_images


@dataclasses.dataclass(frozen=True)
class Link:
    """A connection between processes: latency of a message, and bytes per second that one process sends."""

    latency_sec: float
    bytes_per_sec: float


def ring_sec(num_bytes: float, num_processes: int, link: Link) -> float:
    """Return the time of an all-reduce in a ring: 2 (P - 1) messages in sequence, each with 1 / P of the bytes."""
    messages = 2 * (num_processes - 1)
    return messages * (link.latency_sec + num_bytes / num_processes / link.bytes_per_sec)


def step_sec(
    compute: dict[str, Compute],
    gradient_sizes: dict[str, float],
    num_images: float,
    num_processes: int,
    link: Link,
    slowdown: float = 1,
) -> float:
    """Return the average time of a step.

    Args:
        compute: Time of each phase in one process.
        gradient_sizes: Bytes of the gradients of G and D.
        num_images: Images of each process.
        num_processes: How many processes share a batch.
        link: What connects them.
        slowdown: How much longer a process computes because others compute at the same time.
    """
    return average_step(
        {
            name: phase.sec(num_images) * slowdown + ring_sec(gradient_sizes[name[0]], num_processes, link)
            for name, phase in compute.items()
        }
    )


def average_step(phases: dict[str, float]) -> float:
    """Return the average time of a step from the times of its phases, some of which do not run in every step."""
    return sum(sec / PHASES[name] for name, sec in phases.items())


# ---------------------------------------------------------------------------------------------------------------------
# Constants of this machine, and steps


@dataclasses.dataclass(frozen=True)
class MeasuredStep:
    """Medians of the main rank's times in seconds, and the sizes of the gradients."""

    phases: dict[str, float]
    gradient_sizes: dict[str, float]
    messages: list[float]


def _median_sec(run: Callable[[], object], rounds: int, world: World) -> float:
    """Return the median time over the rounds, after one round to warm up; all ranks run together."""
    times = []
    for _ in range(rounds + 1):
        synchronize(world.device)
        if world.is_distributed:
            torch.distributed.barrier()
        start = time.perf_counter()
        run()
        synchronize(world.device)
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def _measure_rank(
    world: World,
    config: TrainingConfig,
    dataset: ImageFolderDataset,
    message_bytes: Sequence[int],
    rounds: int,
    path: str,
) -> None:
    """Measure each phase and all-reduces, and write the main rank's `MeasuredStep` to a JSON file.

    If the configuration is for one process, each process trains on its own, at the same time as the others.
    """
    torch.set_num_threads(1)  # A process uses one core, however many there are.
    torch.manual_seed(0)
    step = TrainingStep(world if config.num_gpus > 1 else World(0, 1, world.device), config, dataset)
    phases, messages = {}, []
    for phase in step.phases:
        phases[phase.name] = _median_sec(step.runner(phase), rounds, world)
    if world.is_distributed:
        for num_bytes in message_bytes:
            all_reduce = functools.partial(torch.distributed.all_reduce, torch.ones([num_bytes // 4]))
            messages.append(_median_sec(all_reduce, 5 * rounds, world))
    if world.is_main:
        measured = MeasuredStep(phases, gradient_bytes(step.G, step.D), messages)
        Path(path).write_text(json.dumps(dataclasses.asdict(measured)), encoding='utf-8')


def measure_step(
    resolution: int,
    cbase: int | None,
    batch_gpu: int,
    num_processes: int,
    rounds: int,
    message_bytes: Sequence[int] = (),
    together: bool = True,
) -> MeasuredStep:
    """Measure a training step in several processes, which share a batch or, if not `together`, train on their own."""
    config, dataset = training_setup(resolution, batch_gpu, num_processes if together else 1, CPU, cbase)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/result.json'
        launcher.launch(_measure_rank, num_processes, 'cpu', config, dataset, message_bytes, rounds, path)
        return MeasuredStep(**json.loads(Path(path).read_text(encoding='utf-8')))


def fit_compute(few: dict[str, float], num_few: int, many: dict[str, float], num_many: int) -> dict[str, Compute]:
    """Fit a line through the times of two batch sizes, for each phase."""
    lines = {}
    for name in few:
        image_sec = max(many[name] - few[name], 0) / (num_many - num_few)
        lines[name] = Compute(max(few[name] - image_sec * num_few, 0), image_sec)
    return lines


def fit_link(message_bytes: Sequence[int], seconds: Sequence[float], num_processes: int) -> Link:
    """Compute a link's constants from the times of a short and a long message."""
    messages = 2 * (num_processes - 1)
    latency_sec = seconds[0] / messages
    long_sec = max(seconds[1] / messages - latency_sec, 1e-9)
    return Link(latency_sec, message_bytes[1] / num_processes / long_sec)


def decoding_rate(resolution: int) -> float:
    """Return the images per second that one core decodes, from PNGs of noise, which are the slowest."""
    pixels = np.random.RandomState(0).randint(0, 256, [resolution, resolution, 3], dtype=np.uint8)
    content = encode_png(pixels)
    single = World(rank=0, size=1, device=CPU)
    return 50 / _median_sec(lambda: [decode_image(content) for _ in range(50)], 3, single)


# ---------------------------------------------------------------------------------------------------------------------
# GPUs, by assumption

GPU = 'A100'
GPUS_PER_MACHINE = 8
NVLINK = Link(latency_sec=10e-6, bytes_per_sec=150e9)  # between the GPUs of a machine
NETWORK = Link(latency_sec=30e-6, bytes_per_sec=20e9)  # between machines: 200 Gbit/s for all 8 GPUs of one


def gpu_compute(resolution: int, gradient_sizes: dict[str, float]) -> Compute:
    """Return the time of a step's computation on a GPU, from the published speeds of one and of eight GPUs."""
    one_sec, eight_sec = (
        seconds[resolution][GPU] * PUBLISHED_BATCH / 1000 for seconds in (ONE_GPU_SEC_PER_KIMG, EIGHT_GPUS_SEC_PER_KIMG)
    )
    eight_sec -= gpu_reduce_sec(8, gradient_sizes)
    return fit_compute({GPU: eight_sec}, PUBLISHED_BATCH // 8, {GPU: one_sec}, PUBLISHED_BATCH)[GPU]


def gpu_reduce_sec(num_gpus: int, gradient_sizes: dict[str, float]) -> float:
    """Return the time of the all-reduces of a step.

    Between machines, NCCL is modeled as a ring inside each machine and a ring of the machines for the sums.
    """
    machines = -(-num_gpus // GPUS_PER_MACHINE)
    return average_step(
        {
            name: ring_sec(gradient_sizes[name[0]], min(num_gpus, GPUS_PER_MACHINE), NVLINK)
            + ring_sec(gradient_sizes[name[0]], machines, NETWORK)
            for name in PHASES
        }
    )


def gpu_step(resolution: int, batch: int, num_gpus: int, gradient_sizes: dict[str, float]) -> tuple[float, float]:
    """Return the seconds of a step and of its all-reduces, under the assumptions above."""
    reduce_sec = gpu_reduce_sec(num_gpus, gradient_sizes)
    return gpu_compute(resolution, gradient_sizes).sec(batch / num_gpus) + reduce_sec, reduce_sec


def auto_gradient_sizes(resolution: int) -> dict[str, float]:
    """Return the bytes of the gradients with --cfg=auto, without allocating the networks."""
    config, dataset = training_setup(resolution, 1, 1, CPU)
    with torch.device('meta'):
        return gradient_bytes(*setup.construct_networks(config, dataset))


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def machine_tables(resolution: int, cbase: int | None, batch: int, rounds: int) -> str:
    """Return the constants of this machine, and predicted beside measured steps of `batch` images."""
    num_many = max(batch // 2, 2)
    few, many = (measure_step(resolution, cbase, number, 1, rounds) for number in (num_many // 2, num_many))
    compute = fit_compute(few.phases, num_many // 2, many.phases, num_many)
    cores = available_cores()
    all_busy = measure_step(resolution, cbase, num_many, cores, rounds, together=False)
    slowdown = average_step(all_busy.phases) / average_step(many.phases)

    constants = [
        (f'{name}: fixed time + time per image', f'{format_seconds(line.start_sec)} + {format_seconds(line.image_sec)}')
        for name, line in compute.items()
    ]
    sizes = ', '.join(f'{few.gradient_sizes[name] / 1e6:.1f} MB' for name in ('G', 'D'))
    constants.append(('gradients of G, D', sizes))
    constants.append((f'slowdown of {cores} independent processes at once', f'{slowdown:.2f} times'))
    steps = []
    message_bytes = (4, 32 * 2**20)
    for number in (1, 2, 4):
        measured = measure_step(resolution, cbase, batch // number, number, rounds, message_bytes)
        link = Link(0, 1)
        if number > 1:
            link = fit_link(message_bytes, measured.messages, number)
            rates = f'{format_seconds(link.latency_sec)}, {link.bytes_per_sec / 1e9:.2f} GB/s'
            constants.append((f'all-reduce in {number} processes: latency, bandwidth of a process', rates))
        crowding = 1 if number == 1 else slowdown * max(number / cores, 1)
        predicted = step_sec(compute, few.gradient_sizes, batch // number, number, link, crowding)
        steps.append(_step_row(number, batch // number, predicted, average_step(measured.phases)))
    constants.append((f'decoding a PNG of {resolution} pixels, one core', f'{decoding_rate(resolution):,.0f} images/s'))
    step_headings = ['processes', 'images per process', 'predicted step', 'measured step', 'error']
    return f'{markdown_table(["constant", "measured"], constants)}\n\n{markdown_table(step_headings, steps)}'


def _step_row(num_processes: int, num_images: int, predicted_sec: float, measured_sec: float) -> tuple[object, ...]:
    error = f'{predicted_sec / measured_sec - 1:+.0%}'
    return num_processes, num_images, format_seconds(predicted_sec), format_seconds(measured_sec), error


GPU_HEADINGS = (
    'GPUs',
    'batch',
    'images per GPU',
    'step',
    'all-reduce',
    'images/s',
    'efficiency',
    'data',
    'days for 25,000 kimg',
)


def gpu_table(resolution: int) -> str:
    """Return the steps of GPUs under the assumptions: with auto's own batch, and with 8 images per GPU."""
    gradient_sizes = auto_gradient_sizes(resolution)
    rows = []
    for num_gpus in (1, 8, 64, 512):
        auto_batch = auto_preset(resolution, num_gpus).batch_size
        for batch in dict.fromkeys([auto_batch, 8 * num_gpus]) if num_gpus > 1 else [auto_batch]:
            sec, reduce_sec = gpu_step(resolution, batch, num_gpus, gradient_sizes)
            single_sec, _ = gpu_step(resolution, batch, 1, gradient_sizes)
            rows.append(
                (
                    num_gpus,
                    f'{batch}, auto' if batch == auto_batch else str(batch),
                    f'{batch / num_gpus:g}',
                    format_seconds(sec),
                    f'{reduce_sec / sec:.0%}',
                    f'{batch / sec:,.0f}',
                    f'{single_sec / num_gpus / sec:.0%}',
                    f'{batch / sec * 3 * resolution**2 / 1e6:,.0f} MB/s',
                    f'{25e6 / (batch / sec) / 86400:.2g}',
                )
            )
    return markdown_table(GPU_HEADINGS, rows)


def gpu_tables() -> str:
    """Return the constants of a GPU, and the steps of many, for each resolution with published speeds."""
    parts = []
    for resolution in EIGHT_GPUS_SEC_PER_KIMG:
        compute = gpu_compute(resolution, auto_gradient_sizes(resolution))
        parts.append(
            f'{resolution} pixels, {format_seconds(compute.start_sec)} + {format_seconds(compute.image_sec)} per image '
            f'in each step:\n\n{gpu_table(resolution)}'
        )
    return '\n\n'.join(parts)


def measured_section(resolution: int, cbase: int | None, batch: int, rounds: int) -> str:
    """Return what is said about this machine."""
    return (
        f'Measured on {this_machine(CPU)}, one thread per process, {resolution} pixels, {batch} images per step:\n\n'
        f'{machine_tables(resolution, cbase, batch, rounds)}'
    )


# Sections of the page, by the name in their markers
SECTIONS: dict[str, Callable[[int, int | None, int, int], str]] = {
    'bench/scaling.py': measured_section,
    'bench/scaling.py --only-gpus': lambda *_args: f'From assumptions, not measured:\n\n{gpu_tables()}',
}

# ---------------------------------------------------------------------------------------------------------------------
# Command


@click.command(cls=Command)
@click.option('--resolution', type=click.IntRange(min=8), default=32, show_default=True, help='Pixels along a side')
@click.option('--cbase', type=click.IntRange(min=1), show_default='that of auto', help='Fewer channels are faster')
@click.option('--batch', type=click.IntRange(min=4), default=8, show_default=True, help='Images per step, in total')
@click.option('--rounds', type=click.IntRange(min=1), default=3, show_default=True, help='Runs of each phase')
@click.option('--only-gpus', is_flag=True, help='Measure nothing, and only evaluate the model for GPUs')
@benchmark_options('markdown')
def main(
    resolution: int, cbase: int | None, batch: int, rounds: int, only_gpus: bool, markdown_path: str | None
) -> None:
    """Measure the constants of the scaling model, compare its steps with real ones, and evaluate it for GPUs."""
    if batch % 4 != 0:
        raise usage_error('--batch', f'{batch} images cannot be split over 4 processes: use a multiple of 4.')
    names = list(SECTIONS)[only_gpus:]
    for name in names:
        ResultFiles(name, markdown_path=markdown_path)  # an unsuitable page is found before anything is measured
    machine = this_machine(CPU)
    print(f'{machine}\n', flush=True)
    for name in names:
        text = SECTIONS[name](resolution, cbase, batch, rounds)
        print(f'{text}\n', flush=True)
        ResultFiles(name, markdown_path=markdown_path).save(markdown=text)


if __name__ == '__main__':
    main()
