"""How does training grow with the number of processes? A model, what confirms it here, and what it says of GPUs.

Measures the constants of the model on this machine (time of each phase in one process, gradient bytes, all-reduce,
decoding), predicts the time of a step in 1, 2 and 4 processes, measures that too, and then evaluates the model for GPUs
whose constants are assumptions. docs/scaling.md explains it.

    python bench/scaling.py                                 about 3 minutes on 2 cores
    python bench/scaling.py --markdown=docs/scaling.md      and put the tables into the documentation
"""

import dataclasses
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import numpy as np
import torch

from bench.common import MarkedSection, format_seconds, synchronize, this_machine
from bench.steps import TrainingStep, training_setup
from dataset_format.images import encode_png
from dnnlib.cli import PATH, Command
from dnnlib.machine import available_cores
from torch_utils import distributed
from torch_utils.distributed import World
from training.config import auto_preset
from training.dataset import decode_image
from training.phases import run_phase

PHASES = {'Gmain': 1, 'Greg': 4, 'Dmain': 1, 'Dreg': 16}  # name → steps from one to the next
CPU = torch.device('cpu')

# ---------------------------------------------------------------------------------------------------------------------
# The model


@dataclasses.dataclass(frozen=True)
class Compute:
    """Time of one phase in a process: `start_sec`, and `image_sec` for each of its images."""

    start_sec: float
    image_sec: float

    def sec(self, num_images: float) -> float:
        return self.start_sec + self.image_sec * num_images


@dataclasses.dataclass(frozen=True)
class Link:
    """Of what connects the processes: time of a message, and bytes a second that one of them sends."""

    latency_sec: float
    bytes_per_sec: float


def ring_sec(num_bytes: float, num_processes: int, link: Link) -> float:
    """All-reduce in a ring: 2 (P - 1) messages one after the other, each with 1 / P of the bytes."""
    messages = 2 * (num_processes - 1)
    return messages * (link.latency_sec + num_bytes / num_processes / link.bytes_per_sec)


def step_sec(
    compute: dict[str, Compute],
    gradient_bytes: dict[str, float],
    num_images: float,
    num_processes: int,
    link: Link,
    crowding: float = 1,
) -> float:
    """A step on average, with `num_images` in each process; `crowding`: how much
    longer a process computes for the others beside it."""
    return average_step(
        {
            name: of_phase.sec(num_images) * crowding + ring_sec(gradient_bytes[name[0]], num_processes, link)
            for name, of_phase in compute.items()
        }
    )


def average_step(phases: dict[str, float]) -> float:
    """Time of a step from the times of its phases, which run every so many steps."""
    return sum(sec / PHASES[name] for name, sec in phases.items())


# ---------------------------------------------------------------------------------------------------------------------
# Constants of this machine, and steps


def _seconds(run, rounds: int, world: World) -> float:
    """Median over the rounds, of which one more comes first; all ranks run together."""
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


def _measure_rank(world: World, config, resolution: int, message_bytes: Sequence[int], rounds: int, path: str) -> None:
    """Times of each phase and of all-reduces, by the main rank's clock, to a JSON file.

    A configuration for one process trains in each of them by itself, at the same time.
    """
    torch.set_num_threads(1)  # A process is a core, however many there are.
    torch.manual_seed(0)
    step = TrainingStep(world if config.num_gpus > 1 else World(0, 1, world.device), config, resolution)
    result = {
        'phases': {
            phase.name: _seconds(
                lambda phase=phase: run_phase(phase, step.loss, step.batches, step.world), rounds, world
            )
            for phase in step.phases
        },
        'gradient_bytes': {
            name: sum(parameter.nbytes for parameter in module.parameters())
            for name, module in (('G', step.G), ('D', step.D))
        },
        'messages': [],
    }
    if world.is_distributed:
        for num_bytes in message_bytes:
            message = torch.ones([num_bytes // 4])
            result['messages'].append(_seconds(lambda m=message: torch.distributed.all_reduce(m), 5 * rounds, world))
    if world.is_main:
        Path(path).write_text(json.dumps(result), encoding='utf-8')


def measure(
    resolution: int,
    cbase: int | None,
    batch_gpu: int,
    num_processes: int,
    rounds: int,
    message_bytes: Sequence[int] = (),
    together: bool = True,
) -> dict:
    """Medians of {phases: {name: sec}, gradient_bytes: {G, D}, messages: [sec]}; else each process is alone."""
    config, _dataset = training_setup(resolution, batch_gpu, num_processes if together else 1, CPU, cbase)
    with tempfile.TemporaryDirectory() as folder:
        path = f'{folder}/result.json'
        distributed.launch(_measure_rank, num_processes, 'cpu', config, resolution, message_bytes, rounds, path)
        return json.loads(Path(path).read_text(encoding='utf-8'))


def fit_compute(few: dict[str, float], num_few: int, many: dict[str, float], num_many: int) -> dict[str, Compute]:
    """A line through the times of two batch sizes, for each phase."""
    lines = {}
    for name in few:
        image_sec = max(many[name] - few[name], 0) / (num_many - num_few)
        lines[name] = Compute(max(few[name] - image_sec * num_few, 0), image_sec)
    return lines


def fit_link(message_bytes: Sequence[int], seconds: Sequence[float], num_processes: int) -> Link:
    """From a short and a long message."""
    messages = 2 * (num_processes - 1)
    latency_sec = seconds[0] / messages
    long_sec = max(seconds[1] / messages - latency_sec, 1e-9)
    return Link(latency_sec, message_bytes[1] / num_processes / long_sec)


def decoding_rate(resolution: int) -> float:
    """Images a second and core, from PNGs as dataset_tool.py writes them: of noise, the slowest kind."""
    pixels = np.random.RandomState(0).randint(0, 256, [resolution, resolution, 3], dtype=np.uint8)
    content = encode_png(pixels)
    alone = World(rank=0, size=1, device=CPU)
    return 50 / _seconds(lambda: [decode_image(content) for _ in range(50)], 3, alone)


# ---------------------------------------------------------------------------------------------------------------------
# GPUs, by assumption

# Seconds for 1000 images on one V100 with --cfg=auto, as published for the original implementation.
V100_SEC_PER_KIMG = {128: 13, 256: 23, 512: 74, 1024: 158}
GPU_SPEED = 2.5  # of the assumed GPU (A100 class), in V100s
LAUNCH_SEC = 0.010  # a phase takes at least this long, to start its kernels, however few its images
GPUS_PER_MACHINE = 8
NVLINK = Link(latency_sec=10e-6, bytes_per_sec=150e9)  # between the GPUs of a machine
NETWORK = Link(latency_sec=30e-6, bytes_per_sec=20e9)  # between machines: 200 Gbit/s for all 8 GPUs of one


def gpu_step(resolution: int, batch: int, num_gpus: int, gradient_bytes: dict[str, float]) -> tuple[float, float]:
    """(step, its share of all-reduce) in seconds, under the assumptions above.

    NCCL's way between machines is taken as a ring inside of each, and one of the machines for the sums.
    """
    machines = -(-num_gpus // GPUS_PER_MACHINE)
    image_sec = V100_SEC_PER_KIMG[resolution] / 1000 / GPU_SPEED
    compute_sec = max(image_sec * batch / num_gpus, average_step(dict.fromkeys(PHASES, LAUNCH_SEC)))
    reduce_sec = average_step(
        {
            name: ring_sec(gradient_bytes[name[0]], min(num_gpus, GPUS_PER_MACHINE), NVLINK)
            + ring_sec(gradient_bytes[name[0]], machines, NETWORK)
            for name in PHASES
        }
    )
    return compute_sec + reduce_sec, reduce_sec


def auto_gradient_bytes(resolution: int) -> dict[str, float]:
    """Of the networks that --cfg=auto trains; they are not made."""
    config, _dataset = training_setup(resolution, 1, 1, CPU)
    with torch.device('meta'):
        step = TrainingStep(World(0, 1, torch.device('meta')), config, resolution)
    return {
        name: sum(parameter.nbytes for parameter in module.parameters())
        for name, module in (('G', step.G), ('D', step.D))
    }


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [headings, ['---', *['---:'] * (len(headings) - 1)], *rows]
    return '\n'.join('| ' + ' | '.join(map(str, line)) + ' |' for line in lines)


def machine_tables(resolution: int, cbase: int | None, batch: int, rounds: int) -> str:
    """Constants of this machine, and predicted beside measured steps of `batch` images."""
    message_bytes = [4, 32 * 2**20]
    num_many = max(batch // 2, 2)
    few, many = (measure(resolution, cbase, number, 1, rounds) for number in (num_many // 2, num_many))
    cores = available_cores()
    all_busy = measure(resolution, cbase, num_many, cores, rounds, together=False)
    slower = average_step(all_busy['phases']) / average_step(many['phases'])
    compute = fit_compute(few['phases'], num_many // 2, many['phases'], num_many)
    gradient_bytes = few['gradient_bytes']
    constants = [
        (
            f'{name}: start of the phase + each image',
            f'{format_seconds(line.start_sec)} + {format_seconds(line.image_sec)}',
        )
        for name, line in compute.items()
    ]
    constants.append(('gradients of G, D', f'{gradient_bytes["G"] / 1e6:.1f} MB, {gradient_bytes["D"] / 1e6:.1f} MB'))

    constants.append((f'{cores} processes at once, each by itself, take', f'{slower:.2f} times as long as one'))
    steps = []
    for number in (1, 2, 4):
        measured = measure(resolution, cbase, batch // number, number, rounds, message_bytes)
        link = Link(0, 1)
        if number > 1:
            link = fit_link(message_bytes, measured['messages'], number)
            constants.append(
                (
                    f'all-reduce in {number} processes: a message, bytes of one process',
                    f'{format_seconds(link.latency_sec)}, {link.bytes_per_sec / 1e9:.2f} GB/s',
                )
            )
        crowding = 1 if number == 1 else slower * max(number / cores, 1)
        predicted = step_sec(compute, gradient_bytes, batch // number, number, link, crowding)
        actual = average_step(measured['phases'])
        steps.append(
            (
                number,
                batch // number,
                format_seconds(predicted),
                format_seconds(actual),
                f'{predicted / actual - 1:+.0%}',
            )
        )
    constants.append((f'decoding a PNG of {resolution} pixels, one core', f'{decoding_rate(resolution):,.0f} images/s'))
    return (
        table(['constant', 'measured'], constants)
        + '\n\n'
        + table(['processes', 'images in each', 'step predicted', 'step measured', 'error'], steps)
    )


def gpu_table(resolution: int) -> str:
    """Steps of GPUs under the assumptions: auto's own batch, and 8 images in each GPU."""
    gradient_bytes = auto_gradient_bytes(resolution)
    rows = []
    for num_gpus in (1, 8, 64, 512):
        auto_batch = auto_preset(resolution, num_gpus).batch_size
        for batch in dict.fromkeys([auto_batch, 8 * num_gpus]) if num_gpus > 1 else [auto_batch]:
            sec, reduce_sec = gpu_step(resolution, batch, num_gpus, gradient_bytes)
            alone_sec, _ = gpu_step(resolution, batch, 1, gradient_bytes)
            name = f'{batch}, auto' if batch == auto_batch else str(batch)
            rows.append(
                (
                    num_gpus,
                    name,
                    f'{batch / num_gpus:g}',
                    format_seconds(sec),
                    f'{reduce_sec / sec:.0%}',
                    f'{batch / sec:,.0f}',
                    f'{alone_sec / num_gpus / sec:.0%}',
                    f'{batch / sec * 3 * resolution**2 / 1e6:,.0f} MB/s',
                    f'{25e6 / (batch / sec) / 86400:.2g}',
                )
            )
    headings = [
        'GPUs',
        'batch',
        'images in each',
        'step',
        'of it all-reduce',
        'images/s',
        'of ideal speed',
        'data',
        'days for 25,000 kimg',
    ]
    return f'{resolution} pixels:\n\n' + table(headings, rows)


@click.command(cls=Command)
@click.option('--resolution', type=click.IntRange(min=8), default=32, show_default=True, help='Measured here')
@click.option('--cbase', type=click.IntRange(min=1), show_default='that of auto', help='Fewer make it faster')
@click.option('--batch', type=click.IntRange(min=4), default=8, show_default=True, help='Images in a step, over all')
@click.option('--rounds', type=click.IntRange(min=1), default=3, show_default=True, help='Runs of each phase')
@click.option('--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the tables in this file')
def main(resolution: int, cbase: int | None, batch: int, rounds: int, markdown_path: str | None) -> None:
    """Measure the constants of the model of scaling, compare its steps with real ones, evaluate it for GPUs."""
    if batch % 4 != 0:
        raise click.BadParameter(
            f'{batch} images cannot be split over 4 processes: give a multiple of 4.', param_hint="'--batch'"
        )
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/scaling.py')
    machine = this_machine(CPU)
    print(f'{machine}\n', flush=True)
    here = machine_tables(resolution, cbase, batch, rounds)
    print(f'{here}\n', flush=True)
    gpus = '\n\n'.join(gpu_table(of_gpu) for of_gpu in (256, 1024))
    print(gpus)
    if markdown is not None:
        markdown.replace(
            f'Measured on {machine}, one thread in each process, {resolution} pixels, a step of {batch} '
            f'images:\n\n{here}\n\nBy assumption, not measured:\n\n{gpus}'
        )


if __name__ == '__main__':
    main()
