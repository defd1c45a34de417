"""Generators and training iterations on a GPU in every precision, beside the reference implementation in the same run.

Images per second of generators, one at a time and in batches, also replayed as a CUDA graph; seconds per 1000 images of
training with the pipe `bgc` at p = 0.5, also with `--cuda-graphs=1`, beside the published times of an A100, and the
peak of PyTorch's memory. The modes are the values of `--precision`.

    python bench/gpu_networks.py                                  about 10 minutes on one GPU
    python bench/gpu_networks.py --only=generator --resolutions=256
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import format_number, measure, set_up
from bench.networks import TrainingStep, construct_generator, quick_channel_base, training_setup
from bench.options import PositiveIntList, ResultFiles, benchmark_options, sections_option
from bench.published import ONE_GPU_SEC_PER_KIMG
from bench.reference import with_reference
from bench.tables import markdown_table
from dnnlib.cli import Command
from torch_utils import inference_graphs, precision
from torch_utils.distributed import World
from training.config import TrainingConfig
from training.cuda_graphs import WARM_UP_ROUNDS
from training.dataset import ImageFolderDataset
from training.presets import auto_preset

AUGMENT_P = 0.5
PUBLISHED_GPU = 'A100'
# Options of train.py
MODES: dict[str, dict[str, Any]] = {
    'fp32': dict(precision='fp32'),
    'tf32': dict(precision='tf32'),
    'bf16': dict(precision='bf16'),
    'fp16': dict(precision='fp16'),
    'fp16, NHWC': dict(precision='fp16', nhwc=True),
}
BUDGET_SEC = {'generator': 2.2, 'training': 1.2}  # of each measurement (of a phase), for both implementations together


@dataclass(frozen=True)
class GpuRow:
    """One case. Times are seconds per image, None where memory did not suffice."""

    section: str
    resolution: int
    mode: str
    batch: int
    image_sec: float | None
    reference_image_sec: float | None
    graph_image_sec: float | None = None  # replayed as CUDA graphs
    peak_bytes: int | None = None

    def cells(self) -> tuple[str, ...]:
        """The cells of the table of the section."""
        ratio = self.reference_image_sec / self.image_sec if self.image_sec and self.reference_image_sec else None
        speedup = '' if ratio is None else f'{ratio:.2f}'
        first = str(self.resolution), self.mode, str(self.batch)
        if self.section == 'generator':
            return (
                *first,
                *(_rate(sec) for sec in (self.image_sec, self.reference_image_sec, self.graph_image_sec)),
                speedup,
            )
        published = ONE_GPU_SEC_PER_KIMG.get(self.resolution, {}).get(PUBLISHED_GPU)
        times = (_sec_per_kimg(sec) for sec in (self.image_sec, self.reference_image_sec, self.graph_image_sec))
        is_comparable = published is not None and self.mode.startswith('fp16')
        memory = '' if self.peak_bytes is None else f'{self.peak_bytes / 2**30:.2f} GiB'
        return *first, *times, speedup, f'{published:.2f}' if is_comparable else '', memory


HEADINGS = {
    'generator': ('pixels', 'mode', 'batch', 'images/s', 'reference', 'CUDA graph', 'speedup'),
    'training': (
        *('pixels', 'mode', 'batch', 's/kimg', 'reference', 'CUDA graphs', 'speedup'),
        *(f'published, {PUBLISHED_GPU}', 'memory'),
    ),
}
OUT_OF_MEMORY = 'out of memory'


def _rate(image_sec: float | None) -> str:
    return OUT_OF_MEMORY if image_sec is None else format_number(1 / image_sec)


def _sec_per_kimg(image_sec: float | None) -> str:
    return OUT_OF_MEMORY if image_sec is None else format_number(image_sec * 1000)


def seconds(
    cases: Mapping[str, Callable[[], object]], device: torch.device, budget_sec: float
) -> dict[str, list[float] | None]:
    """Return the times of several runs of each case, made in turns; None if the memory of the GPU does not suffice."""
    times: dict[str, list[float] | None] = {}
    try:
        times |= measure(cases, device, min_rounds=2 if budget_sec else 1, budget_sec=budget_sec)
    except torch.cuda.OutOfMemoryError:
        torch.cuda.empty_cache()
        if len(cases) == 1:
            return dict.fromkeys(cases)
        for name, run in cases.items():
            times |= seconds({name: run}, device, budget_sec / len(cases))
    return times


def per_image(times: list[float] | None, num_images: int) -> float | None:
    """Return the median of seconds per image."""
    return None if times is None else median(times) / num_images


# ---------------------------------------------------------------------------------------------------------------------
# Sections


def bench_generator(resolution: int, mode: str, device: torch.device, quick: bool) -> Iterator[GpuRow]:
    """Time images from latents with random noise: one at a time, and in a batch as large as a training step's."""
    G, _channel_base = construct_generator(resolution, quick, device, **MODES[mode])
    for batch in (1, 2 if quick else auto_preset(resolution, 1).batch_size):
        z, c = torch.randn([batch, G.z_dim], device=device), torch.zeros([batch, 0], device=device)
        calls = 1 if quick else max(16 // batch, 1)  # in a row, so that launching overlaps with the work of the GPU

        @torch.no_grad()
        def run(G: torch.nn.Module = G, z: torch.Tensor = z, c: torch.Tensor = c, calls: int = calls) -> None:
            for _ in range(calls):
                inference_graphs.call(G, z, c)

        times = seconds({'ours': run, 'reference': with_reference(run)}, device, BUDGET_SEC['generator'])
        with inference_graphs.replaying():
            for _ in range(inference_graphs.WARM_UPS):
                run()
            times |= seconds({'graph': run}, device, BUDGET_SEC['generator'] / 2)
        ours, reference, graph = (per_image(each, batch * calls) for each in times.values())
        yield GpuRow('generator', resolution, mode, batch, ours, reference, graph)


def bench_training(resolution: int, mode: str, device: torch.device, quick: bool) -> Iterator[GpuRow]:
    """Time an iteration of --cfg=auto with its own batch size; phases that do not run in every iteration count less."""
    batch = 4 if quick else auto_preset(resolution, 1).batch_size
    config, dataset = training_setup(resolution, batch, 1, device, quick_channel_base(quick), AUGMENT_P, **MODES[mode])
    step = TrainingStep(World(rank=0, size=1, device=device), config, dataset)
    torch.cuda.reset_peak_memory_stats(device)
    ours = reference = 0.0
    peak_bytes = 0
    for name, run in step.cases().items():
        images = batch * step.intervals()[name]
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            run()
        peak_bytes = max(peak_bytes, torch.cuda.max_memory_allocated(device))
        times = seconds({'ours': run, 'reference': with_reference(run)}, device, BUDGET_SEC['training'])
        torch.cuda.reset_peak_memory_stats(device)  # without what the reference implementation needs
        ours += per_image(times['ours'], images) or math.nan
        reference += per_image(times['reference'], images) or math.nan
    del step
    graph = _graph_image_sec(replace(config, cuda_graphs=True), dataset, device, batch)
    image_sec, reference_sec, graph_sec = (None if math.isnan(sec) else sec for sec in (ours, reference, graph))
    yield GpuRow('training', resolution, mode, batch, image_sec, reference_sec, graph_sec, peak_bytes)


def _graph_image_sec(config: TrainingConfig, dataset: ImageFolderDataset, device: torch.device, batch: int) -> float:
    """Return the seconds per image of an iteration as CUDA graphs, NaN if memory does not suffice.

    Styles are always mixed, since those of one kind are enough to record.
    """
    torch.cuda.empty_cache()
    step = TrainingStep(World(rank=0, size=1, device=device), config, dataset)
    step.loss.style_mixing_prob = 1
    total = 0.0
    for name, run in step.cases().items():
        times = None
        with contextlib.suppress(torch.cuda.OutOfMemoryError):
            if name != 'EMA':
                for _ in range(WARM_UP_ROUNDS + 2):  # the last one records
                    run()
            times = seconds({'graph': run}, device, BUDGET_SEC['training'] / 2)['graph']
        total += per_image(times, batch * step.intervals()[name]) or math.nan
    return total


SECTIONS: dict[str, Callable[[int, str, torch.device, bool], Iterator[GpuRow]]] = {
    'generator': bench_generator,
    'training': bench_training,
}

# ---------------------------------------------------------------------------------------------------------------------
# Command


def tables(rows: list[GpuRow]) -> str:
    """Return the Markdown tables of all sections that have rows."""
    by_section = {name: [row.cells() for row in rows if row.section == name] for name in SECTIONS}
    return '\n\n'.join(
        markdown_table(HEADINGS[name], cells, left_columns=2) for name, cells in by_section.items() if cells
    )


@click.command(cls=Command)
@sections_option(list(SECTIONS))
@click.option(
    '--resolutions',
    type=PositiveIntList(),
    show_default='128,256,512,1024, with --quick 16',
    help='Pixels along a side',
)
@benchmark_options('quick', 'json')
def main(only: tuple[str, ...], resolutions: list[int] | None, quick: bool, json_path: str | None) -> None:
    """Measure generators and training iterations on the current CUDA device."""
    if not torch.cuda.is_available():
        raise click.ClickException('This benchmark needs a CUDA device, but PyTorch finds none.')
    if quick:
        BUDGET_SEC.update(generator=0, training=0)
    results = ResultFiles(json_path=json_path)
    device = torch.device('cuda', torch.cuda.current_device())
    machine = set_up(device)
    torch.backends.cudnn.benchmark = True  # as in train.py
    rows: list[GpuRow] = []
    cases = [
        functools.partial(SECTIONS[name], resolution, mode, device, quick)
        for name in SECTIONS
        if name in only
        for resolution in resolutions or ([16] if quick else ONE_GPU_SEC_PER_KIMG)
        for mode in MODES
    ]
    for case in cases:
        with precision.tensor_float32(case.args[1] == 'tf32'):
            for row in case():
                rows.append(row)
                print('  '.join(cell for cell in (row.section, *row.cells()) if cell), flush=True)
                # After each row, so that a run that is stopped leaves what it has measured.
                results.save({'machine': asdict(machine), 'rows': [asdict(each) for each in rows]})
        torch.cuda.empty_cache()
    print(f'\n{tables(rows)}')


if __name__ == '__main__':
    main()
