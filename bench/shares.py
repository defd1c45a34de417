"""Where the time of an image goes on a CPU.

python bench/shares.py                                 about a quarter of a minute on 2 cores
python bench/shares.py --markdown=docs/benchmarks.md   and put the table into the documentation
"""

import contextlib
import functools
import statistics
import sys
import time
from collections import Counter
from pathlib import Path
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import MarkedSection, check_writable, format_seconds, this_machine
from bench.overview import _generator
from dnnlib.cli import PATH, Command
from dnnlib.machine import available_cores
from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, upfirdn2d
from training import networks_stylegan2

CPU = torch.device('cpu')
PARTS = {  # Functions by the names under which they are called; what another part calls counts for itself alone.
    'convolutions': [
        (conv2d_gradfix, 'conv2d'),
        (conv2d_gradfix, 'conv_transpose2d'),
        (networks_stylegan2, '_pointwise_product'),
    ],
    'resampling filters': [(upfirdn2d, 'upfirdn2d'), (conv2d_resample, 'upfirdn2d')],
    'bias and activation': [(bias_act, 'bias_act')],
    'modulation, demodulation, noise': [(networks_stylegan2, 'modulated_conv2d'), (torch, 'randn')],
}
REST = 'everything else'


@contextlib.contextmanager
def timed_parts():
    """Within this context, seconds by part; of nested calls, each has what its own part takes."""
    seconds = Counter()
    running = []

    def charge():
        now = time.perf_counter()
        if running:
            seconds[running[-1]] += now - since[0]
        since[0] = now

    def timed(part, function):
        @functools.wraps(function)
        def run(*args, **kwargs):
            charge()
            running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                charge()
                running.pop()

        return run

    since = [time.perf_counter()]
    with contextlib.ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, timed(part, getattr(owner, name))))
        yield seconds


@torch.no_grad()
def shares(resolution: int, batch: int, quick: bool) -> dict[str, float]:
    """Median seconds of each part, and of the rest, for one batch of images by the networks of --cfg=auto."""
    G = _generator(resolution, quick, CPU)
    z, c = torch.randn([batch, G.z_dim]), torch.zeros([batch, 0])
    G(z, c)
    runs = []
    for _ in range(3 if quick else 9):
        with timed_parts() as seconds:
            start = time.perf_counter()
            G(z, c)
            total = time.perf_counter() - start
        runs.append({**{part: seconds[part] for part in PARTS}, REST: total - sum(seconds.values())})
    return {part: statistics.median(run[part] for run in runs) for part in runs[0]}


@click.command(cls=Command)
@click.option('--quick', is_flag=True, help='Tiny sizes: whether it works, not how fast')
@click.option(
    '--threads', type=click.IntRange(min=1), metavar='N', show_default='one per core', help='Threads of PyTorch'
)
@click.option('--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table in this file')
def main(quick: bool, threads: int | None, markdown_path: str | None) -> None:
    """Measure what the parts of a generator take on the CPU."""
    check_writable('--markdown', markdown_path)
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/shares.py')
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    sizes = [(16, 1), (16, 2)] if quick else [(256, 1), (256, 4), (1024, 1)]
    found = {f'{resolution} px, batch {batch}': shares(resolution, batch, quick) for resolution, batch in sizes}
    lines = [['part', *found]]
    for part in [*PARTS, REST]:
        lines.append(
            [
                part,
                *(
                    f'{format_seconds(times[part])} ({times[part] / sum(times.values()):.0%})'
                    for times in found.values()
                ),
            ]
        )
    table = [f'| {" | ".join(line)} |' for line in lines]
    table.insert(1, f'| --- |{" ---: |" * len(found)}')
    machine = this_machine(CPU)
    print(f'{machine}\n')
    print('\n'.join(table))
    if markdown is not None:
        markdown.replace('\n'.join([f'{machine}.', '', *table]))


if __name__ == '__main__':
    main()
