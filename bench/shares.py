"""Where the time of a generated image goes on a CPU.

python bench/shares.py                                 about 15 seconds on 2 cores
python bench/shares.py --markdown=docs/benchmarks.md   and update the table in the documentation
"""

from __future__ import annotations

import contextlib
import functools
import statistics
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import CPU, format_seconds, set_up
from bench.networks import construct_generator
from bench.options import ResultFiles, benchmark_options
from bench.tables import markdown_table
from dnnlib.cli import Command
from torch_utils.ops import bias_act, conv2d_gradfix, conv2d_resample, cpu_kernels, upfirdn2d
from training import networks_stylegan2

# Functions by the modules and names under which they are called. If one part calls another, the time inside counts for
# the inner one only.
PARTS: dict[str, list[tuple[Any, str]]] = {
    'convolutions': [
        (conv2d_gradfix, 'conv2d'),
        (conv2d_gradfix, 'conv_transpose2d'),
        (cpu_kernels, 'conv3x3'),
        (networks_stylegan2, '_pointwise_product'),
    ],
    'resampling filters': [(upfirdn2d, 'upfirdn2d'), (conv2d_resample, 'upfirdn2d'), (cpu_kernels, 'upfirdn2d')],
    'bias and activation': [(bias_act, 'bias_act')],
    'modulation, demodulation, noise': [
        (networks_stylegan2, 'modulated_conv2d'),
        (conv2d_resample, 'modulated_layer'),
        (torch, 'randn'),
    ],
}
REST = 'everything else'


class PartTimer:
    """Seconds by part; a nested call counts for the inner part only."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._running: list[str] = []
        self._since = time.perf_counter()

    def timed(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function` with its time added to `part`."""

        @functools.wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            self._charge()
            self._running.append(part)
            try:
                return function(*args, **kwargs)
            finally:
                self._charge()
                self._running.pop()

        return run

    def _charge(self) -> None:
        """Add the time since the last call to the innermost part that is running."""
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now


@contextlib.contextmanager
def timed_parts() -> Iterator[dict[str, float]]:
    """Within this context, collect the seconds that each part takes."""
    timer = PartTimer()
    with contextlib.ExitStack() as stack:
        for part, functions in PARTS.items():
            for owner, name in functions:
                stack.enter_context(mock.patch.object(owner, name, timer.timed(part, getattr(owner, name))))
        yield timer.seconds


@torch.no_grad()
def shares(resolution: int, batch: int, quick: bool) -> dict[str, float]:
    """Return the median seconds of each part, and of the rest, for one batch of images with --cfg=auto."""
    G, _channel_base = construct_generator(resolution, quick, CPU)
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


def _seconds_and_share(times: dict[str, float], part: str) -> str:
    return f'{format_seconds(times[part])} ({times[part] / sum(times.values()):.0%})'


@click.command(cls=Command)
@benchmark_options('quick', 'threads', 'markdown')
def main(quick: bool, threads: int | None, markdown_path: str | None) -> None:
    """Measure how much time each part of a generator takes on the CPU."""
    results = ResultFiles('bench/shares.py', markdown_path=markdown_path)
    machine = set_up(CPU, threads)
    sizes = [(16, 1), (16, 2)] if quick else [(256, 1), (256, 4), (1024, 1)]
    columns = {f'{resolution} px, batch {batch}': shares(resolution, batch, quick) for resolution, batch in sizes}
    rows = []
    for part in [*PARTS, REST]:
        rows.append([part, *(_seconds_and_share(times, part) for times in columns.values())])
    table = markdown_table(['part', *columns], rows)
    print(f'\n{table}')
    results.save(markdown=f'{machine}.\n\n{table}')


if __name__ == '__main__':
    main()
