"""How close are the CUDA kernels to the speed of the memory?

Each row counts the bytes that the operator must move (every input and every output once) and the time that takes. The
floor is the time that a copy of 256 MiB, measured in the same run, needs for as many bytes. `plain` rows are PyTorch's
own operators.

    python bench/gpu_ops.py                     about a minute on one GPU
    python bench/gpu_ops.py --json=gpu.json     and write all times to a file
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import click
import torch

from bench.common import MEMORY_FORMATS, Row, measure, rows_to_json, this_machine
from bench.options import ResultFiles, benchmark_options
from bench.peaks import COPY_MIB, QUICK_COPY_MIB
from bench.tables import text_table_of_rows
from dnnlib.cli import Command
from torch_utils.ops import native
from torch_utils.ops.arguments import BiasActOptions
from torch_utils.ops.bias_act import bias_act
from torch_utils.ops.filtered_lrelu import filtered_lrelu
from torch_utils.ops.finish import finish
from torch_utils.ops.upfirdn2d import downsample2d, filter2d, setup_filter, upsample2d

SHAPES = ((16, 64, 256, 256), (16, 256, 64, 64), (32, 512, 16, 16))  # N C H W
QUICK_SHAPES = ((1, 8, 16, 16),)
DTYPES = {'float32': torch.float32, 'float16': torch.float16}
REPEATS = 20  # calls that are timed together


@click.command(cls=Command)
@benchmark_options('quick', 'json')
def main(quick: bool, json_path: str | None) -> None:
    """Measure the operators on the current CUDA device."""
    if not torch.cuda.is_available():
        raise click.ClickException('This benchmark needs a CUDA device, but PyTorch finds none.')
    results = ResultFiles(json_path=json_path)
    device = torch.device('cuda', torch.cuda.current_device())
    reason = native.backend(device).reason
    if reason is not None:
        raise click.ClickException(f'The CUDA kernels do not run on this machine: {reason}.')
    machine, rows = this_machine(device), list(measure_all(device, quick))
    print(machine, text_table_of_rows(rows), sep='\n\n')
    results.save(rows_to_json(machine, rows))


def measure_all(device: torch.device, quick: bool) -> Iterator[Row]:
    """Measure the copy, then every operator for every shape, type and layout."""
    repeats = 1 if quick else REPEATS
    copy = _copy_row(device, QUICK_COPY_MIB if quick else COPY_MIB, repeats)
    yield copy
    for shape in QUICK_SHAPES if quick else SHAPES:
        for dtype_name, dtype in DTYPES.items():
            for layout, memory_format in MEMORY_FORMATS.items():
                x = torch.randn(shape, device=device).to(dtype).contiguous(memory_format=memory_format)
                yield from _rows(x, f'{list(shape)} {dtype_name} {layout}', copy.rate * 1e9, repeats)


def _copy_row(device: torch.device, mib: int, repeats: int) -> Row:
    source = torch.ones([mib * 2**18], device=device)  # float32
    target = torch.empty_like(source)
    times = _times(lambda: target.copy_(source), device, repeats)
    return Row('copy', f'copy of {mib} MiB', times, 2 * source.nbytes / 1e9, 'GB')


def _rows(x: torch.Tensor, shape_name: str, bytes_per_sec: float, repeats: int) -> Iterator[Row]:
    b = torch.randn([x.shape[1]], device=x.device, dtype=x.dtype)
    scale = torch.randn(x.shape[:2], device=x.device)
    noise = torch.randn([x.shape[0], 1, *x.shape[2:]], device=x.device)
    short, long = setup_filter([1, 3, 3, 1], device=x.device), setup_filter(range(1, 13), device=x.device)
    operators: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        'bias_act lrelu, gain, clamp': lambda x: bias_act(x, b, act='lrelu', clamp=256),
        'bias_act swish': lambda x: bias_act(x, b, act='swish'),
        'finish lrelu, noise, clamp': lambda x: _finish(x, scale, noise, b),
        'up 2, [1,3,3,1]': lambda x: upsample2d(x, short),
        'down 2, [1,3,3,1]': lambda x: downsample2d(x, short),
        'filter [1,3,3,1]': lambda x: filter2d(x, short),
        'up 2, 12 taps': lambda x: upsample2d(x, long),
        'down 2, 12 taps': lambda x: downsample2d(x, long),
        'filtered_lrelu 2/2, 12 taps': lambda x: filtered_lrelu(x, long, long, b, 2, 2, padding=[11, 10, 11, 10]),
    }
    row = functools.partial(_row, bytes_per_sec=bytes_per_sec, device=x.device, repeats=repeats)
    for name, operator in operators.items():
        leaf = x.detach().requires_grad_()
        y = operator(leaf)
        dy = torch.randn_like(y)
        forward_bytes = x.nbytes + y.nbytes
        # Backward also reads the tensor that was kept: x for swish, y for all other activations.
        backward_bytes = forward_bytes + (x.nbytes if name.startswith(('bias_act', 'finish')) else 0)

        def run_backward(leaf: torch.Tensor = leaf, y: torch.Tensor = y, dy: torch.Tensor = dy) -> None:
            torch.autograd.grad(y, leaf, dy, retain_graph=True)

        def run_forward(operator: Callable[[torch.Tensor], torch.Tensor] = operator) -> None:
            operator(x)

        yield row(name, f'{shape_name} forward', run_forward, forward_bytes)
        yield row(name, f'{shape_name} backward', run_backward, backward_bytes)
        with native.reference_only():
            plain = _row(
                name, f'{shape_name} forward, plain', run_forward, forward_bytes, bytes_per_sec, x.device, repeats
            )
        yield plain


def _finish(x: torch.Tensor, scale: torch.Tensor, noise: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    if native.route(x) == 'eager':
        return finish(x, scale, noise, b, BiasActOptions(1, 'lrelu', 0.2, 1.4, 256.0))
    x = x * scale.to(x.dtype)[:, :, None, None] + noise.to(x.dtype)
    return bias_act(x, b, act='lrelu', gain=1.4, clamp=256)


def _row(
    section: str,
    what: str,
    run: Callable[[], object],
    moved_bytes: int,
    bytes_per_sec: float,
    device: torch.device,
    repeats: int,
) -> Row:
    return Row(
        section,
        f'{section}: {what}',
        _times(run, device, repeats),
        moved_bytes / 1e9,
        'GB',
        moved_bytes / bytes_per_sec,
    )


def _times(run: Callable[[], object], device: torch.device, repeats: int) -> list[float]:
    """Return seconds per call, from many calls in a row, so that launching them overlaps with the work of the GPU."""

    def repeated() -> None:
        for _ in range(repeats):
            run()

    return [time / repeats for time in measure({'': repeated}, device)['']]


if __name__ == '__main__':
    main()
