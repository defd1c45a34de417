"""Generators and training iterations on a CPU, against the textbook and against the work of the convolutions.

    python bench/generator.py                     generators, about 2 minutes on 2 cores
    python bench/generator.py --training          and training iterations, about 4 minutes
    python bench/generator.py --allocator=default with glibc's allocator as it is, for both sides

Both sides of a ratio run in the same process. Programs of this project keep freed memory (`dnnlib.machine`); what that
alone gains shows between two runs, with and without `--allocator=default`.
"""

import json
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import MarkedSection, check_writable, format_number, this_machine
from bench.compare import Comparison, compare, markdown_table, text_table
from bench.overview import _generator, _training_cases, _training_config
from bench.peaks import Peaks, measure_peaks
from bench.work import layer_work
from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from dnnlib.machine import available_cores, keep_freed_memory

CPU = torch.device('cpu')


def bench_generators(peaks: Peaks, quick: bool) -> list[Comparison]:
    """Images from latents with random noise, by the networks of --cfg=auto."""
    rows = []
    for resolution, batch in [(16, 1), (16, 2)] if quick else [(256, 1), (256, 4), (1024, 1)]:
        G = _generator(resolution, quick, CPU)
        z, c = torch.randn([batch, G.z_dim]), torch.zeros([batch, 0])

        def run(G=G, z=z, c=c):
            with torch.no_grad():
                return G(z, c)

        with torch.no_grad():
            flop = batch * sum(layer.flop for layer in layer_work(G, z[:1], c[:1]))
        what = f'generator, {resolution} px, batch {batch}'
        rows += compare({what: (run, run, flop / peaks.flop_per_sec)}, CPU, budget_sec=15)
    return rows


def bench_training(peaks: Peaks, quick: bool) -> list[Comparison]:
    """An iteration of --cfg=auto with the pipe `bgc` at p = 0.5: main phases, and with those that run less often."""
    rows = []
    for resolution, batch in [(16, 4)] if quick else [(64, 16), (128, 8)]:
        config = _training_config(resolution, batch, CPU, quick)
        cases, intervals, flop = _training_cases(config, resolution, CPU)
        pairs = {name: (run, run, None) for name, run in cases.items()}
        found = {row.what: row for row in compare(pairs, CPU, rounds=3, min_rounds=2, budget_sec=60, warm_up=quick)}
        for what, weights in (
            ('Gmain + Dmain', {'Gmain': 1, 'Dmain': 1}),
            ('all phases', {name: 1 / interval for name, interval in intervals.items()}),
        ):
            floor = sum(flop.get(name, 0) * weight for name, weight in weights.items()) / peaks.flop_per_sec
            runs = [
                [
                    sum(times[index] * weights[name] for name, times in chosen.items())
                    for index in range(min(map(len, chosen.values())))
                ]
                for chosen in (
                    {name: found[name].times_sec for name in weights},
                    {name: found[name].textbook_sec for name in weights},
                )
            ]
            rows.append(Comparison(f'training, {resolution} px, batch {batch}, {what}', *runs, floor))
    return rows


@click.command(cls=Command, keep_memory=False)
@click.option('--training', is_flag=True, help='Measure training iterations too')
@click.option(
    '--allocator',
    type=click.Choice(['kept', 'default']),
    default='kept',
    show_default=True,
    help='Keep freed memory, as the scripts of this project do, or leave the C library as it is',
)
@click.option('--quick', is_flag=True, help='Tiny sizes: whether it works, not how fast')
@click.option(
    '--threads', type=click.IntRange(min=1), metavar='N', show_default='one per core', help='Threads of PyTorch'
)
@click.option('--json', 'json_path', type=PATH, metavar='FILE', help='Write the rows, each run with its time')
@click.option(
    '--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table of this --allocator in this file'
)
def main(
    training: bool, allocator: str, quick: bool, threads: int | None, json_path: str | None, markdown_path: str | None
) -> None:
    """Measure generators (and training) on the CPU against the textbook in the same run."""
    check_writable('--json', json_path)
    section = 'bench/generator.py' + ('' if allocator == 'kept' else f' --allocator={allocator}')
    markdown = None if markdown_path is None else MarkedSection(markdown_path, section)
    if allocator == 'kept':
        keep_freed_memory()
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    machine = this_machine(CPU)
    print(machine, flush=True)
    peaks, _rows = measure_peaks(CPU, quick)
    rows = bench_generators(peaks, quick)
    if training:
        rows += bench_training(peaks, quick)
    note = f'Floors: convolutions at {format_number(peaks.flop_per_sec / 1e9)} GFLOP/s. Allocator: {allocator}.'
    print(f'\n{text_table(rows)}\n\n{note}')
    if json_path is not None:
        with atomic_file(json_path) as file:
            file.write(json.dumps([row.to_dict() for row in rows], indent=2).encode())
    if markdown is not None:
        markdown.replace(f'{machine}.\n{note}\n\n{markdown_table(rows)}')


if __name__ == '__main__':
    main()
