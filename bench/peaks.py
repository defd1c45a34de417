"""Measured peak rates of a machine: convolution in FLOP/s and copying in bytes/s. Floors are work divided by these."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from bench.common import MEMORY_FORMATS, Row, format_number, measure

# 3x3 convolutions as they occur in the networks, as (images, channels in and out, pixels along a side), from the lowest
# resolution to the highest. Each takes 19 GFLOP, so the time to start it does not matter.
CONVOLUTIONS = ((16, 512, 16), (4, 512, 32), (4, 256, 64), (4, 128, 128), (4, 64, 256))
QUICK_CONVOLUTIONS = ((4, 64, 16), (1, 32, 64))
COPY_MIB = 256  # larger than any cache
QUICK_COPY_MIB = 32


@dataclass(frozen=True)
class Peaks:
    """The rates that floors are computed with."""

    flop_per_sec: float
    bytes_per_sec: float

    def __str__(self) -> str:
        return f'{self.convolution_rate}, bytes at {format_number(self.bytes_per_sec / 1e9)} GB/s'

    @property
    def convolution_rate(self) -> str:
        """The rate of convolutions, as text."""
        return f'convolutions at {format_number(self.flop_per_sec / 1e9)} GFLOP/s'


def measure_peaks(device: torch.device, quick: bool) -> tuple[Peaks, list[Row]]:
    """Return the best rates measured, and a row for each candidate."""
    convolutions = list(_convolution_rows(device, quick))
    copy = _copy_row(device, quick)
    best = max(convolutions, key=lambda row: row.rate)
    peaks = Peaks(flop_per_sec=best.rate * 1e9, bytes_per_sec=copy.rate * 1e9)
    return peaks, [*convolutions, copy]


def convolution_flop(num_images: int, channels: int, size: int, kernel_size: int = 3) -> int:
    """Return the multiplications and additions of a convolution with `channels` in and out and a stride of 1."""
    return 2 * num_images * channels**2 * kernel_size**2 * size**2


def _convolution_rows(device: torch.device, quick: bool) -> Iterator[Row]:
    shapes = QUICK_CONVOLUTIONS if quick else CONVOLUTIONS
    # The networks use half precision on CUDA only.
    dtypes = {'float32': torch.float32, **({'float16': torch.float16} if device.type == 'cuda' else {})}
    variants = {
        f'conv2d 3x3 [{n}, {c}, {size}, {size}] {format_name} {dtype_name}': (n, c, size, memory_format, dtype)
        for n, c, size in shapes
        for format_name, memory_format in MEMORY_FORMATS.items()
        for dtype_name, dtype in dtypes.items()
    }
    with torch.inference_mode():
        cases = {what: _convolution(*variant, device) for what, variant in variants.items()}
        times = measure(cases, device, budget_sec=10)
    for what, (n, c, size, _format, _dtype) in variants.items():
        yield Row('peaks', what, times[what], convolution_flop(n, c, size) / 1e9, 'GFLOP')


def _convolution(
    n: int, c: int, size: int, memory_format: torch.memory_format, dtype: torch.dtype, device: torch.device
) -> Callable[[], torch.Tensor]:
    x = torch.randn([n, c, size, size], device=device, dtype=dtype).to(memory_format=memory_format)
    weight = torch.randn([c, c, 3, 3], device=device, dtype=dtype).to(memory_format=memory_format)
    return lambda: F.conv2d(x, weight, padding=1)


def _copy_row(device: torch.device, quick: bool) -> Row:
    mib = QUICK_COPY_MIB if quick else COPY_MIB
    source = torch.ones([mib * 2**18], device=device)  # float32
    target = torch.zeros_like(source)
    what = f'copy of {mib} MiB (bytes read + written)'
    times = measure({what: lambda: target.copy_(source)}, device)
    return Row('peaks', what, times[what], 2 * source.nbytes / 1e9, 'GB')
