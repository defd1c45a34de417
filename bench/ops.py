"""The operators against the textbook and against the memory's speed, on a CPU.

python bench/ops.py                                 about a minute on 2 cores
python bench/ops.py --markdown=docs/benchmarks.md   and put the table into the documentation
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import MarkedSection, check_writable, format_number, this_machine
from bench.compare import Comparison, compare, markdown_table, text_table
from bench.peaks import Peaks, measure_peaks
from dnnlib.cli import PATH, Command
from dnnlib.files import atomic_file
from dnnlib.machine import available_cores
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
from training import networks_stylegan2
from training.augment import AugmentPipe
from training.config import augpipe_flags

CPU = torch.device('cpu')
FORMATS = {'NCHW': torch.contiguous_format, 'NHWC': torch.channels_last}
TAPS_12 = [1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1]


def resampling_cases(peaks: Peaks, quick: bool) -> Iterator[tuple]:
    """Forward and backward; each pixel of the input and of the output is read or written once in either direction."""
    f = setup_filter([1, 3, 3, 1])
    shapes = [(1, 4, 16, 16)] if quick else [(4, 64, 256, 256), (8, 256, 64, 64)]
    factors = {'up 2': dict(up=2, padding=[2, 1, 2, 1], gain=4), 'down 2': dict(down=2, padding=1)}
    for shape in shapes:
        x = torch.randn(shape, requires_grad=True)
        for name, options in factors.items():
            dy = torch.randn_like(upfirdn2d(x, f, **options))
            floor = 2 * (x.nbytes + dy.nbytes) / peaks.bytes_per_sec
            textbook = gradients(lambda x, f=f, options=options: upfirdn2d(x, f, **options), [x], dy)
            for layout, memory_format in FORMATS.items():
                here = gradients(
                    lambda x, f=f, options=options: upfirdn2d(x, f, **options),
                    [as_leaf(x, memory_format)],
                    dy.contiguous(memory_format=memory_format),
                )
                yield f'upfirdn2d {name}, {list(shape)} {layout}, both ways', here, textbook, floor


def bias_act_cases(peaks: Peaks, quick: bool) -> Iterator[tuple]:
    """Forward: 2 tensors pass the memory. Backward: 3."""
    shape = (1, 4, 16, 16) if quick else (4, 64, 256, 256)
    x, b = torch.randn(shape), torch.randn(shape[1])
    dy = torch.randn(shape)
    name = f'bias_act lrelu, gain, clamp, {list(shape)}'

    def forward(x, b):
        with torch.no_grad():
            return bias_act(x, b, act='lrelu', clamp=256)

    def backward(memory_format, impl):
        leaves = [as_leaf(x, memory_format), b.clone().requires_grad_()]
        y = bias_act(*leaves, act='lrelu', clamp=256, impl=impl)
        grad = dy.contiguous(memory_format=memory_format)
        return lambda: torch.autograd.grad(y, leaves, grad, retain_graph=True)

    for layout, memory_format in FORMATS.items():
        here = x.contiguous(memory_format=memory_format)
        yield (
            f'{name} {layout}, forward',
            lambda here=here: forward(here, b),
            lambda: forward(x, b),
            2 * x.nbytes / peaks.bytes_per_sec,
        )
    for layout, memory_format in FORMATS.items():
        yield (
            f'{name} {layout}, backward',
            backward(memory_format, 'cuda'),
            backward(torch.contiguous_format, 'ref'),
            3 * x.nbytes / peaks.bytes_per_sec,
        )


def filtered_lrelu_cases(quick: bool) -> Iterator[tuple]:
    """A layer of StyleGAN3-T; forward, and forward and backward."""
    shape = (1, 4, 24, 24) if quick else (4, 64, 148, 148)
    f, b = setup_filter(TAPS_12), torch.randn(shape[1], requires_grad=True)
    x = torch.randn(shape, requires_grad=True)

    def op(x, b):
        return filtered_lrelu(x, f, f, b, up=2, down=2, padding=[9, 10, 9, 10], clamp=256)

    def forward():
        with torch.no_grad():
            return op(x, b)

    dy = torch.randn_like(forward())
    yield f'filtered_lrelu up 2, down 2, 12 taps, {list(shape)}, forward', forward, forward, None
    both = gradients(op, [x, b], dy)
    yield f'filtered_lrelu up 2, down 2, 12 taps, {list(shape)}, both ways', both, both, None


def modulation_cases(peaks: Peaks, quick: bool) -> Iterator[tuple]:
    """As a layer of the generator calls it."""
    n, channels, size = (2, 4, 8) if quick else (4, 64, 128)
    x, styles = torch.randn(n, channels, size, size), torch.randn(n, channels)
    weight = torch.randn(channels, channels, 3, 3)
    f = setup_filter([1, 3, 3, 1])

    def run(x):
        with torch.no_grad():
            return networks_stylegan2.modulated_conv2d(
                x, weight, styles, up=2, padding=1, resample_filter=f, flip_weight=False, fused_modconv=False
            )

    channels_last = x.contiguous(memory_format=torch.channels_last)
    flop = 2 * n * weight.numel() * size**2
    yield (
        f'modulated up-convolution {size} → {2 * size} px, {channels} channels, batch {n}',
        lambda: run(channels_last),
        lambda: run(x),
        flop / peaks.flop_per_sec,
    )


def convolution_cases(peaks: Peaks, quick: bool) -> Iterator[tuple]:
    """The textbook is PyTorch's convolution of the same tensors, channels last. Forward, and with both gradients."""
    n, channels, size = (2, 32, 16) if quick else (8, 128, 128)
    w = torch.randn(channels, channels, 3, 3, requires_grad=True)
    floor = 2 * n * w.numel() * size**2 / peaks.flop_per_sec
    for kind, op, in_size in (
        ('3×3 convolution', lambda x, w: conv2d(x, w, padding=1), size),
        ('3×3 convolution, stride 2', lambda x, w: conv2d(x, w, stride=2), 2 * size + 1),
        ('3×3 convolution, transposed, stride 2', lambda x, w: conv_transpose2d(x, w, stride=2), size),
    ):
        x = as_leaf(torch.randn(n, channels, in_size, in_size), torch.channels_last)

        def forward(op=op, x=x):
            with torch.no_grad():
                return op(x, w)

        yield f'{kind}, {list(x.shape)}, forward', forward, forward, floor
        both = gradients(op, [x, w], torch.randn_like(forward()))
        yield f'{kind}, {list(x.shape)}, both ways', both, both, 3 * floor


def augment_cases(quick: bool) -> Iterator[tuple]:
    pipe = AugmentPipe(**augpipe_flags('bgc')).train().requires_grad_(False)
    pipe.p.fill_(0.5)
    images = torch.randn((2, 3, 16, 16) if quick else (16, 3, 256, 256))

    def run():
        torch.manual_seed(0)
        with torch.no_grad():
            return pipe(images)

    yield f'AugmentPipe bgc, p = 0.5, {list(images.shape)}', run, run, None


def gradients(op, leaves, dy):
    """A function that runs `op` forward and backward."""
    return lambda: torch.autograd.grad(op(*leaves), leaves, dy)


def as_leaf(x, memory_format):
    return x.detach().clone(memory_format=memory_format).requires_grad_()


def bench_ops(peaks: Peaks, quick: bool) -> list[Comparison]:
    rows = []
    for cases in (
        resampling_cases(peaks, quick),
        bias_act_cases(peaks, quick),
        filtered_lrelu_cases(quick),
        modulation_cases(peaks, quick),
        convolution_cases(peaks, quick),
        augment_cases(quick),
    ):
        for what, here, textbook, floor in cases:
            rows += compare({what: (here, textbook, floor)}, CPU, rounds=3 if quick else 9, budget_sec=6)
    return rows


@click.command(cls=Command)
@click.option('--quick', is_flag=True, help='Tiny sizes: whether it works, not how fast')
@click.option(
    '--threads', type=click.IntRange(min=1), metavar='N', show_default='one per core', help='Threads of PyTorch'
)
@click.option('--json', 'json_path', type=PATH, metavar='FILE', help='Write the rows, each run with its time')
@click.option('--markdown', 'markdown_path', type=PATH, metavar='FILE', help='Replace the table in this file')
def main(quick: bool, threads: int | None, json_path: str | None, markdown_path: str | None) -> None:
    """Measure the operators on the CPU against the textbook (plain PyTorch, step by step) in the same run.

    The floor is the time that the bytes, or the convolution work, take at the rates measured in the same run.
    """
    check_writable('--json', json_path)
    markdown = None if markdown_path is None else MarkedSection(markdown_path, 'bench/ops.py')
    torch.set_num_threads(threads or available_cores())
    torch.manual_seed(0)
    machine = this_machine(CPU)
    print(machine, flush=True)
    peaks, _rows = measure_peaks(CPU, quick)
    rows = bench_ops(peaks, quick)
    note = (
        f'Floors: convolutions at {format_number(peaks.flop_per_sec / 1e9)} GFLOP/s, '
        f'bytes at {format_number(peaks.bytes_per_sec / 1e9)} GB/s.'
    )
    print(f'\n{text_table(rows)}\n\n{note}')
    if json_path is not None:
        with atomic_file(json_path) as file:
            file.write(json.dumps([row.to_dict() for row in rows], indent=2).encode())
    if markdown is not None:
        markdown.replace(f'{machine}.\n{note}\n\n{markdown_table(rows)}')


if __name__ == '__main__':
    main()
