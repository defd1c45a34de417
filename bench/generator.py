"""Generators and training iterations on a CPU, compared with the reference implementation and with their floors.

    python bench/generator.py                        generators, about 4 minutes on 2 cores
    python bench/generator.py --training             and training iterations, about 10 minutes
    python bench/generator.py --allocator=default    with the default settings of glibc's allocator

Both sides of a comparison run in the same process. Programs of this project keep freed memory (`dnnlib.machine`). To
see what that alone gains, compare two runs, with and without `--allocator=default`.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import CPU, set_up
from bench.compare import HEADINGS, ComparedCase, Comparison, compare
from bench.networks import TrainingStep, construct_generator, quick_channel_base, training_setup
from bench.options import ResultFiles, benchmark_options
from bench.peaks import Peaks, measure_peaks
from bench.tables import markdown_table, text_table
from dnnlib.cli import Command
from dnnlib.machine import keep_freed_memory
from torch_utils.distributed import World
from training.work import generator_flop

AUGMENT_P = 0.5


def bench_generators(peaks: Peaks, quick: bool) -> list[Comparison]:
    """Compare images from latents with random noise, with the networks of several presets."""
    rows = []
    sizes = [(16, 1), (16, 2)] if quick else [(256, 1), (256, 4), (1024, 1)]
    cases = [('auto', *size) for size in sizes]
    cases += [(cfg, *sizes[0]) for cfg in ('stylegan3-t', 'stylegan3-r')]
    for cfg, resolution, batch in cases:
        G, _channel_base = construct_generator(resolution, quick, CPU, cfg)
        z, c = torch.randn([batch, G.z_dim]), torch.zeros([batch, 0])

        @torch.no_grad()
        def run(G: torch.nn.Module = G, z: torch.Tensor = z, c: torch.Tensor = c) -> torch.Tensor:
            return G(z, c)

        case: ComparedCase = (run, run, generator_flop(G, z, c) / peaks.flop_per_sec)
        rows += compare({f'generator{_of_preset(cfg)}, {resolution} px, batch {batch}': case}, CPU, budget_sec=15)
    return rows


def bench_training(peaks: Peaks, quick: bool) -> list[Comparison]:
    """Compare iterations with the pipe `bgc` at p = 0.5: the main phases alone, and all phases."""
    rows = []
    # The reference keeps several maps of every layer of StyleGAN3 after upsampling: 10 GB for these batches.
    cases_of_presets = [('auto', 64, 16), ('auto', 128, 8), ('stylegan3-t', 64, 2), ('stylegan3-r', 64, 1)]
    for cfg, resolution, batch in [('auto', 16, 4), ('stylegan3-t', 16, 4)] if quick else cases_of_presets:
        config, dataset = training_setup(resolution, batch, 1, CPU, quick_channel_base(quick), AUGMENT_P, cfg)
        step = TrainingStep(World(rank=0, size=1, device=CPU), config, dataset)
        flop = step.flop()
        cases: dict[str, ComparedCase] = {name: (run, run, None) for name, run in step.cases().items()}
        options = dict(rounds=3, min_rounds=2, budget_sec=60, warm_up=quick)
        by_phase = {row.what: row for row in compare(cases, CPU, **options)}
        main = [name for name, interval in step.intervals().items() if interval == 1 and name != 'EMA']
        for what, weights in (
            (' + '.join(main), dict.fromkeys(main, 1.0)),
            ('all phases', {name: 1 / interval for name, interval in step.intervals().items()}),
        ):
            floor_sec = sum(flop.get(name, 0) * weight for name, weight in weights.items()) / peaks.flop_per_sec
            ours = _weighted_sums({name: by_phase[name].times_sec for name in weights}, weights)
            reference = _weighted_sums({name: by_phase[name].reference_sec for name in weights}, weights)
            title = f'training{_of_preset(cfg)}, {resolution} px, batch {batch}, {what}'
            rows.append(Comparison(title, ours, reference, floor_sec))
    return rows


def _of_preset(cfg: str) -> str:
    return '' if cfg == 'auto' else f' of {cfg}'


def _weighted_sums(times_sec: dict[str, list[float]], weights: dict[str, float]) -> list[float]:
    """Return, for each round, the sum of the phases' times multiplied by their weights."""
    num_rounds = min(map(len, times_sec.values()))
    return [sum(times[index] * weights[name] for name, times in times_sec.items()) for index in range(num_rounds)]


@click.command(cls=Command, keep_memory=False)
@click.option('--training', is_flag=True, help='Measure training iterations, too')
@click.option(
    '--allocator',
    type=click.Choice(['kept', 'default']),
    default='kept',
    show_default=True,
    help='Keep freed memory, as the scripts of this project do, or use the default settings of the C library',
)
@benchmark_options('quick', 'threads', 'json', 'markdown')
def main(
    training: bool, allocator: str, quick: bool, threads: int | None, json_path: str | None, markdown_path: str | None
) -> None:
    """Compare generators (and training) on the CPU with the reference implementation, in the same run."""
    section = 'bench/generator.py' + ('' if allocator == 'kept' else f' --allocator={allocator}')
    results = ResultFiles(section, json_path, markdown_path)
    if allocator == 'kept':
        keep_freed_memory()
    machine = set_up(CPU, threads)
    peaks, _rows = measure_peaks(CPU, quick)
    rows = bench_generators(peaks, quick)
    if training:
        rows += bench_training(peaks, quick)
    note = f'Floors: {peaks.convolution_rate}. Allocator: {allocator}.'
    cells = [row.cells() for row in rows]
    print(f'\n{text_table(HEADINGS, cells)}\n\n{note}')
    results.save([row.to_dict() for row in rows], f'{machine}.\n{note}\n\n{markdown_table(HEADINGS, cells)}')


if __name__ == '__main__':
    main()
