"""The operators on a CPU, compared with the reference implementation and with the speed of the memory.

python bench/ops.py                                 about a minute on 2 cores
python bench/ops.py --markdown=docs/benchmarks.md   and update the table in the documentation
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import CPU, MEMORY_FORMATS, set_up
from bench.compare import HEADINGS, ComparedCase, Comparison, compare
from bench.networks import construct_augment_pipe
from bench.options import ResultFiles, benchmark_options
from bench.peaks import Peaks, convolution_flop, measure_peaks
from bench.tables import markdown_table, text_table
from dnnlib.cli import Command
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.conv2d_gradfix import conv2d, conv_transpose2d
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.upfirdn2d import setup_filter, upfirdn2d
from training import networks_stylegan2

TAPS_12 = [1, 2, 4, 7, 9, 10, 10, 9, 7, 4, 2, 1]
AUGMENT_P = 0.5

NamedCases = Iterator[tuple[str, ComparedCase]]


def resampling_cases(peaks: Peaks, quick: bool) -> NamedCases:
    """Forward and backward. Floor: each pixel of input and output is read or written once in each direction."""
    f = setup_filter([1, 3, 3, 1])
    shapes = [(1, 4, 16, 16)] if quick else [(4, 64, 256, 256), (8, 256, 64, 64)]
    factors: dict[str, dict[str, Any]] = {
        'up 2': dict(up=2, padding=[2, 1, 2, 1], gain=4),
        'down 2': dict(down=2, padding=1),
    }
    for shape in shapes:
        x = torch.randn(shape, requires_grad=True)
        for name, options in factors.items():

            def op(x: torch.Tensor, options: dict[str, Any] = options) -> torch.Tensor:
                return upfirdn2d(x, f, **options)

            dy = torch.randn_like(op(x))
            floor_sec = 2 * (x.nbytes + dy.nbytes) / peaks.bytes_per_sec
            reference = forward_backward(op, [x], dy)
            for layout, memory_format in MEMORY_FORMATS.items():
                ours = forward_backward(op, [as_leaf(x, memory_format)], dy.contiguous(memory_format=memory_format))
                yield f'upfirdn2d {name}, {list(shape)} {layout}, forward + backward', (ours, reference, floor_sec)


def bias_act_cases(peaks: Peaks, quick: bool) -> NamedCases:
    """Floor: forward reads or writes 2 tensors, backward 3."""
    shape = (1, 4, 16, 16) if quick else (4, 64, 256, 256)
    x, b = torch.randn(shape), torch.randn(shape[1])
    dy = torch.randn(shape)
    name = f'bias_act lrelu, gain, clamp, {list(shape)}'
    tensor_sec = x.nbytes / peaks.bytes_per_sec

    def forward(x: torch.Tensor) -> Callable[[], torch.Tensor]:
        @torch.no_grad()
        def run() -> torch.Tensor:
            return bias_act(x, b, act='lrelu', clamp=256)

        return run

    def backward(memory_format: torch.memory_format, impl: str) -> Callable[[], object]:
        leaf, bias = as_leaf(x, memory_format), b.clone().requires_grad_()
        y = bias_act(leaf, bias, act='lrelu', clamp=256, impl=impl)
        grad = dy.contiguous(memory_format=memory_format)
        return lambda: torch.autograd.grad(y, [leaf, bias], grad, retain_graph=True)

    for layout, memory_format in MEMORY_FORMATS.items():
        ours = forward(x.contiguous(memory_format=memory_format))
        yield f'{name} {layout}, forward', (ours, forward(x), 2 * tensor_sec)
    for layout, memory_format in MEMORY_FORMATS.items():
        reference = backward(torch.contiguous_format, 'ref')
        yield f'{name} {layout}, backward', (backward(memory_format, 'cuda'), reference, 3 * tensor_sec)


def filtered_lrelu_cases(quick: bool) -> NamedCases:
    """A layer of StyleGAN3-T: forward, and forward with backward."""
    shape = (1, 4, 24, 24) if quick else (4, 64, 148, 148)
    f, b = setup_filter(TAPS_12), torch.randn(shape[1], requires_grad=True)
    x = torch.randn(shape, requires_grad=True)

    def op(x: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return filtered_lrelu(x, f, f, b, up=2, down=2, padding=[9, 10, 9, 10], clamp=256)

    @torch.no_grad()
    def forward() -> torch.Tensor:
        return op(x, b)

    name = f'filtered_lrelu up 2, down 2, 12 taps, {list(shape)}'
    yield f'{name}, forward', (forward, forward, None)
    both = forward_backward(op, [x, b], torch.randn_like(forward()))
    yield f'{name}, forward + backward', (both, both, None)


def modulation_cases(peaks: Peaks, quick: bool) -> NamedCases:
    """A modulated convolution, with the arguments of a layer of the generator."""
    n, channels, size = (2, 4, 8) if quick else (4, 64, 128)
    x, styles = torch.randn(n, channels, size, size), torch.randn(n, channels)
    x_channels_last = x.contiguous(memory_format=torch.channels_last)
    weight = torch.randn(channels, channels, 3, 3)
    f = setup_filter([1, 3, 3, 1])

    @torch.no_grad()
    def run(x: torch.Tensor) -> torch.Tensor:
        return networks_stylegan2.modulated_conv2d(
            x, weight, styles, up=2, padding=1, resample_filter=f, flip_weight=False, fused_modconv=False
        )

    floor_sec = convolution_flop(n, channels, size) / peaks.flop_per_sec
    yield (
        f'modulated up-convolution {size} → {2 * size} px, {channels} channels, batch {n}',
        (lambda: run(x_channels_last), lambda: run(x), floor_sec),
    )


def convolution_cases(peaks: Peaks, quick: bool) -> NamedCases:
    """Forward, and forward with both gradients. The reference is PyTorch's convolution of the same NHWC tensors."""
    n, channels, size = (2, 32, 16) if quick else (8, 128, 128)
    w = torch.randn(channels, channels, 3, 3, requires_grad=True)
    floor_sec = convolution_flop(n, channels, size) / peaks.flop_per_sec
    for kind, op, in_size in (
        ('3×3 convolution', lambda x, w: conv2d(x, w, padding=1), size),
        ('3×3 convolution, stride 2', lambda x, w: conv2d(x, w, stride=2), 2 * size + 1),
        ('3×3 convolution, transposed, stride 2', lambda x, w: conv_transpose2d(x, w, stride=2), size),
    ):
        x = as_leaf(torch.randn(n, channels, in_size, in_size), torch.channels_last)

        @torch.no_grad()
        def forward(op: Callable[..., torch.Tensor] = op, x: torch.Tensor = x) -> torch.Tensor:
            return op(x, w)

        yield f'{kind}, {list(x.shape)}, forward', (forward, forward, floor_sec)
        both = forward_backward(op, [x, w], torch.randn_like(forward()))
        yield f'{kind}, {list(x.shape)}, forward + backward', (both, both, 3 * floor_sec)


def augment_cases(quick: bool) -> NamedCases:
    """The augmentation pipe without gradients."""
    pipe = construct_augment_pipe(AUGMENT_P, CPU)
    images = torch.randn((2, 3, 16, 16) if quick else (16, 3, 256, 256))

    @torch.no_grad()
    def run() -> torch.Tensor:
        torch.manual_seed(0)
        return pipe(images)

    yield f'AugmentPipe bgc, p = {AUGMENT_P}, {list(images.shape)}', (run, run, None)


def forward_backward(
    op: Callable[..., torch.Tensor], leaves: Sequence[torch.Tensor], dy: torch.Tensor
) -> Callable[[], object]:
    """Return a function that runs `op(*leaves)` forward and backward."""
    return lambda: torch.autograd.grad(op(*leaves), leaves, dy)


def as_leaf(x: torch.Tensor, memory_format: torch.memory_format) -> torch.Tensor:
    """Return a copy of `x` in a memory format that gradients are computed for."""
    return x.detach().clone(memory_format=memory_format).requires_grad_()


def bench_ops(peaks: Peaks, quick: bool) -> list[Comparison]:
    """Compare all operators with the reference implementation."""
    rows = []
    for cases in (
        resampling_cases(peaks, quick),
        bias_act_cases(peaks, quick),
        filtered_lrelu_cases(quick),
        modulation_cases(peaks, quick),
        convolution_cases(peaks, quick),
        augment_cases(quick),
    ):
        for what, case in cases:
            rows += compare({what: case}, CPU, rounds=3 if quick else 9, budget_sec=6)
    return rows


@click.command(cls=Command)
@benchmark_options('quick', 'threads', 'json', 'markdown')
def main(quick: bool, threads: int | None, json_path: str | None, markdown_path: str | None) -> None:
    """Compare the operators on the CPU with the reference implementation (plain PyTorch, step by step).

    The floor is the time of the bytes to move, or of the convolution work, at rates measured in the same run.
    """
    results = ResultFiles('bench/ops.py', json_path, markdown_path)
    machine = set_up(CPU, threads)
    peaks, _rows = measure_peaks(CPU, quick)
    rows = bench_ops(peaks, quick)
    cells = [row.cells() for row in rows]
    print(f'\n{text_table(HEADINGS, cells)}\n\nFloors: {peaks}.')
    results.save([row.to_dict() for row in rows], f'{machine}.\nFloors: {peaks}.\n\n{markdown_table(HEADINGS, cells)}')


if __name__ == '__main__':
    main()
